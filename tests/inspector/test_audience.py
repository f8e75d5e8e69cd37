"""mitmweb's page is told of flows without a look at their bodies, and nothing is made while nobody looks on."""

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import flowfilter
from mitmproxy.addons.view import View
from mitmproxy.test import taddons, tflow
from mitmproxy.tools.web import app

from ccflare_mitm.inspector.audience import Audience, light
from ccflare_mitm.inspector.stand_ins import keep_searches_short
from held_kit import Desk, finished


class Browser:
    """A connection of mitmweb's page."""

    def __init__(self, search: str = "~all") -> None:
        self.told: list[dict[str, Any]] = []
        self._search = flowfilter.parse(search)

    def _broadcast_flow(self, kind: str, flow: Any, as_json: dict[str, Any]) -> None:
        is_found = bool(self._search(flow))
        self.told.append({"type": kind, "flow": json.loads(json.dumps(as_json)), "is_found": is_found})


class Web:
    """mitmweb's master, as far as it has to do with the list."""

    def __init__(self) -> None:
        self.view = View()
        self.view.sig_view_add.connect(self._sig_view_add)
        self.view.sig_view_update.connect(self._sig_view_update)

    def _sig_view_add(self, flow: Any) -> None:
        app.ClientConnection.broadcast_flow("flows/add", flow)

    def _sig_view_update(self, flow: Any) -> None:
        app.ClientConnection.broadcast_flow("flows/update", flow)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    web, audience = Web(), Audience()
    monkeypatch.setattr(app.ClientConnection, "connections", set())
    audience.attend(web)
    with taddons.context(web.view):
        yield web


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of bodies were hashed."""
    seen: list[int] = []

    def sha256(data: bytes) -> Any:
        seen.append(memoryview(data).nbytes)
        return hashlib.sha256(data)

    monkeypatch.setattr(app, "hashlib", SimpleNamespace(sha256=sha256))
    return seen


def test_nothing_is_made_while_nobody_looks_on(web: Web, hashed: list[int]) -> None:
    flow = finished()
    web.view.add([flow])
    web.view.update([flow])
    assert hashed == []


def test_a_browser_is_told_of_each_change_and_no_body_is_hashed(web: Web, hashed: list[int]) -> None:
    browser: Any = Browser()
    app.ClientConnection.connections.add(browser)
    flow = finished(b"q" * 500_000)

    web.view.add([flow])
    web.view.update([flow])

    assert [told["type"] for told in browser.told] == ["flows/add", "flows/update"]
    assert browser.told[0]["flow"]["request"]["contentLength"] == 500_000
    assert max(hashed) < 100


def test_a_search_looks_into_the_bodies_themselves(web: Web) -> None:
    keep_searches_short()
    browser: Any = Browser("~b qqqq")
    app.ClientConnection.connections.add(browser)
    web.view.add([finished(), finished(b"other")])
    assert [told["is_found"] for told in browser.told] == [True, False]


def test_a_flow_is_told_as_mitmproxy_does_but_for_the_hashes() -> None:
    flow = finished(content_type="text/plain")
    flow.comment = "told"

    ours, theirs = (app.flow_to_json(one) for one in (light(flow), flow))

    for part in ("request", "response"):
        assert ours[part].pop("contentHash") != theirs[part].pop("contentHash")
    assert ours == theirs


def test_a_hash_changes_with_the_body_and_only_with_it() -> None:
    desk, flow = Desk(), finished()

    def told() -> str:
        return str(app.flow_to_json(light(flow))["request"]["contentHash"])

    first = told()
    flow.comment = "changed"
    assert told() == first
    flow.request.raw_content = b"r" * 3000
    assert told() != first
    desk.held.hold(flow)
    desk.write()
    away = told()
    assert told() == away


def test_a_body_that_is_missing_is_told_as_missing() -> None:
    flow = finished()
    flow.request.raw_content = None
    assert app.flow_to_json(light(flow))["request"]["contentLength"] is None


def test_what_was_modified_is_told_as_modified() -> None:
    flow = finished()
    assert not app.flow_to_json(light(flow))["modified"]
    flow.backup()
    flow.request.method = "PUT"
    assert app.flow_to_json(light(flow))["modified"]


def test_other_flows_are_told_as_they_are() -> None:
    flow = tflow.ttcpflow()
    assert light(flow) is flow
