"""The list leaves out what no person has asked for, and says so; what a person has set stands."""

from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons.view import View
from mitmproxy.test import taddons, tflow, tutils

from ccflare_mitm.inspector import hidden


def is_listed(method: str, path: str, *headers: tuple[bytes, bytes], scheme: bytes = b"http") -> bool:
    request = tutils.treq(method=method.encode(), path=path.encode(), scheme=scheme, port=8080)
    request.headers.fields = headers
    return not hidden.is_poll(request)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ccflare/health"),
        ("GET", "/ccflare/ready?x=1"),
        ("GET", "/ccflare/%00.."),
        ("POST", "/ccflare/a/b"),
        ("HEAD", "/"),
        ("HEAD", "/api/hello"),
        ("HEAD", "/api/hello?x"),
    ],
)
def test_polls_and_preconnects_are_left_out(method: str, path: str) -> None:
    assert not is_listed(method, path)
    assert not is_listed(method, path, scheme=b"https")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages"),
        ("GET", "/"),
        ("HEAD", "/v1/models"),
        ("POST", "/v1/messages?x=/ccflare/health"),
        ("GET", "/v1/ccflare/health"),
        ("HEAD", "/api/hello/x"),
    ],
)
def test_all_others_are_listed(method: str, path: str) -> None:
    assert is_listed(method, path)


def test_the_doctors_probe_is_left_out_and_nobody_hides_under_its_name() -> None:
    doctor = (b"User-Agent", b"ccflare-doctor")
    assert not is_listed("GET", "/v1/models", doctor)
    assert is_listed("GET", "/v1/models")
    assert is_listed("POST", "/v1/messages", doctor)
    assert is_listed("GET", "/v1/models", (b"x", b"ccflare-doctor"))


@pytest.fixture
def view() -> Iterator[View]:
    view = View()
    with taddons.context(view):
        yield view


def test_a_list_without_a_filter_gets_ours(view: View) -> None:
    hidden.hide()
    for path in (b"/ccflare/health", b"/v1/messages"):
        flow = tflow.tflow(req=tutils.treq(path=path))
        hidden.mark(flow)
        view.requestheaders(flow)
    view.tcp_start(tflow.ttcpflow())
    assert [flow.request.path for flow in view if isinstance(flow, http.HTTPFlow)] == ["/v1/messages"]
    assert len(view) == 2
    assert hidden.told() == "Health polls, preconnects and the doctor's probes are hidden (option view_filter)."


@pytest.mark.parametrize(
    ("said", "told"), [("", ""), ("~m POST", "Only flows that match ~m POST are shown (option view_filter).")]
)
def test_what_a_person_has_set_stands(said: str, told: str) -> None:
    with taddons.context(View()) as context:
        context.options.view_filter = said
        hidden.hide()
        assert context.options.view_filter == said
        assert hidden.told() == told


def test_a_program_without_a_list_hides_nothing() -> None:
    with taddons.context():
        hidden.hide()
        assert hidden.told() == ""
