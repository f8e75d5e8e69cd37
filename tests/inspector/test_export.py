"""Exports of a flow lead to the proxy and hold no placeholder of a secret; mitmweb's menu gives them too."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from mitmproxy import http
from mitmproxy.addons import export
from mitmproxy.test import taddons, tflow, tutils

from ccflare_core.clients.keys import ClientKey
from ccflare_core.errors import StoreError
from ccflare_core.exchange.story import Story
from ccflare_core.secrets.redact import HIDDEN
from ccflare_mitm.inspector.export import Address, Exports
from ccflare_mitm.inspector.stand_ins import AWAY, StandIn
from exchange_kit import ASKED, Bench

BODY = b'{"model": "it\'s"}'


def a_flow() -> http.HTTPFlow:
    request = tutils.treq(
        method=b"POST",
        scheme=b"https",
        host="api.anthropic.com",
        port=443,
        path=b"/v1/messages?beta=true",
        content=BODY,
    )
    request.headers.fields = (
        (b"Host", b"api.anthropic.com"),
        (b"authorization", HIDDEN),
        (b"anthropic-beta", b"one"),
        (b"content-length", b"17"),
    )
    flow: http.HTTPFlow = tflow.tflow(req=request, resp=True)
    return flow


def exports_of(story: Story | None) -> Exports:
    return Exports(lambda flow: story, lambda: Address("http", "127.0.0.1", 8080), lambda flow, view: view)


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    formats = dict(export.formats)
    with taddons.context(export.Export()):
        yield
    export.formats.update(formats)


def test_curl_sends_it_to_the_proxy_without_a_credential() -> None:
    flow = a_flow()
    assert exports_of(Bench("a").begin()).export(flow, "curl") == (
        "curl -H 'anthropic-beta: one' -X POST 'http://127.0.0.1:8080/v1/messages?beta=true' "
        '-d \'{"model": "it\'"\'"\'s"}\''
    )
    assert flow.request.host == "api.anthropic.com"


def test_a_client_key_has_its_place() -> None:
    story = Bench("a").exchanges.begin(replace(ASKED, key=ClientKey("k", "laptop")))
    assert "-H 'x-api-key: YOUR-CLIENT-KEY'" in exports_of(story).export(a_flow(), "curl")
    assert "x-api-key: YOUR-CLIENT-KEY" in exports_of(story).export(a_flow(), "httpie")


def test_mitmproxys_own_command_and_menu_give_the_same() -> None:
    exports, flow = exports_of(Bench("a").begin()), a_flow()
    exports.install()
    assert export.formats["curl"](flow) == exports.export(flow, "curl")
    assert "127.0.0.1:8080" in str(export.formats["httpie"](flow))


def test_a_flow_that_is_none_of_ours_is_exported_as_ever() -> None:
    exports = exports_of(None)
    exports.install()
    assert "https://api.anthropic.com/v1/messages" in str(export.formats["curl"](a_flow()))


def test_texts_are_those_of_the_views() -> None:
    exports = exports_of(None)
    assert exports.export(a_flow(), "conversation") == "Claude"
    assert exports.export(a_flow(), "events") == "Claude events"


def test_a_body_that_is_not_in_memory_is_not_waited_for() -> None:
    flow = a_flow()
    flow.request.raw_content = StandIn(AWAY, 17, "1", lambda: None)
    with pytest.raises(StoreError, match="open the flow first"):
        exports_of(None).export(flow, "curl")
