"""The law for heads: what is refused, and what goes no further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.http.headers import (
    HEAD_BYTES,
    HEAD_FIELDS,
    TARGET_BYTES,
    Header,
    Line,
    refuse_request,
    toward_client,
    toward_upstream,
    unfit_answer,
)
from harness import claude_request

FIELD = (b"X-A", b"1")
PLAIN = st.tuples(
    st.sampled_from([b"Accept", b"X-A", b"anthropic-beta", b"Connection", b"Content-Length", b"Cookie", b"Upgrade"]),
    st.sampled_from([b"1", b"keep-alive", b"close, X-A", b"upgrade", b"websocket", b""]),
)


@pytest.mark.parametrize("leased", [True, False])
def test_what_a_genuine_client_sends_goes_on_as_it_is(leased: bool) -> None:
    fields = claude_request(2000).headers

    assert refuse_request(Line(b"POST", b"/v1/messages?beta=true"), fields) is None
    assert toward_upstream(fields, leased=leased) == fields


@pytest.mark.parametrize(
    ("method", "target", "fields", "status"),
    [
        (b"POST", b"/", (FIELD,) * (HEAD_FIELDS + 1), 431),
        (b"POST", b"/", ((b"X", b"y" * HEAD_BYTES),), 431),
        (b"POST", b"/" + b"x" * TARGET_BYTES, (), 414),
        (b"PO ST", b"/", (), 400),
        (b"GET /x HTTP/1.1\r\nX:", b"/", (), 400),
        (b"X" * 21, b"/", (), 400),
        (b"POST", b"/v1/messages HTTP/1.1\r\nX-A: 1", (), 400),
        (b"POST", b"/v1/messages HTTP/1.1", (), 400),
        (b"POST", b"/\x00", (), 400),
        (b"POST", b"", (), 400),
        (b"POST", b"/", ((b"X-A", b"a\rb"),), 400),
        (b"POST", b"/", ((b"X\n", b"a"),), 400),
        (b"POST", b"/", ((b"Host", b"a"), (b"host", b"a")), 400),
        (b"POST", b"/", ((b"Transfer-Encoding", b"gzip, chunked"),), 400),
    ],
)
def test_heads_that_are_refused(method: bytes, target: bytes, fields: tuple[Header, ...], status: int) -> None:
    refusal = refuse_request(Line(method, target), fields)

    assert refusal is not None
    assert refusal.status == status


@pytest.mark.parametrize(
    ("version", "protocol", "fits"),
    [
        (b"HTTP/1.0", None, True),
        (b"HTTP/1.1", b"http/1.1", True),
        (b"HTTP/2.0", b"h2", True),
        (b"HTTP/3", b"h3", True),
        (b"HTTP/2.0", None, False),
        (b"HTTP/1.1", b"h2", False),
        (b"HTTP/1.2", None, False),
    ],
)
def test_a_version_fits_its_connection(version: bytes, protocol: bytes | None, fits: bool) -> None:
    assert (refuse_request(Line(b"GET", b"/", version, protocol), ()) is None) is fits


@pytest.mark.parametrize("fields", [(FIELD,) * (HEAD_FIELDS + 1), ((b"X", b"y" * HEAD_BYTES),), ((b"X", b"a\nb"),)])
def test_heads_that_are_no_answer(fields: tuple[Header, ...]) -> None:
    assert unfit_answer(fields)
    assert unfit_answer((FIELD,) * HEAD_FIELDS) is None


@pytest.mark.parametrize(
    "name",
    ["Keep-Alive", "Proxy-Authorization", "proxy-connection", "X-CCFlare-Anything", "HTTP2-Settings"],
)
def test_what_is_about_one_connection_never_goes_on(name: str) -> None:
    field = (name.encode(), b"1")
    for leased in (True, False):
        assert toward_upstream((FIELD, field), leased=leased) == (FIELD,)
        assert toward_client((FIELD, field), leased=leased) == (FIELD,)


@pytest.mark.parametrize(
    "name",
    [
        *("Cookie", "Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Real-IP", "Via", "TE", "Trailer", "Upgrade"),
        *("anthropic-workspace-id", "Anthropic-User-Profile-ID", "anthropic_workspace_id"),
    ],
)
def test_what_tells_of_the_client_does_not_reach_an_account(name: str) -> None:
    assert toward_upstream(((name.encode(), b"1"), FIELD), leased=True) == (FIELD,)


@pytest.mark.parametrize(
    "name",
    [
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
        "x_rewrite_url",
    ],
)
def test_what_names_another_method_or_path_does_not_reach_an_account(name: str) -> None:
    fields = ((name.encode(), b"/v1/organizations"), FIELD)
    assert toward_upstream(fields, leased=True) == (FIELD,)
    assert toward_upstream(fields, leased=False) == fields


@pytest.mark.parametrize(
    "name",
    ["Set-Cookie", "set-cookie2", "anthropic-organization-id", "Anthropic-Workspace-ID", "Alt-Svc", "upgrade"],
)
def test_what_tells_of_the_account_does_not_reach_the_client(name: str) -> None:
    field = (name.encode(), b"1")
    assert toward_client((field, FIELD), leased=True) == (FIELD,)


@pytest.mark.parametrize("name", ["Set-Cookie", "anthropic-organization-id", "anthropic-workspace-id", "Alt-Svc"])
def test_with_its_own_credential_the_client_gets_all(name: str) -> None:
    fields = ((name.encode(), b"1"), FIELD)
    assert toward_client(fields, leased=False) == fields


@pytest.mark.parametrize("name", ["anthropic-workspace-id", "anthropic-user-profile-id"])
def test_with_its_own_credential_a_client_may_name_what_it_has(name: str) -> None:
    fields = ((name.encode(), b"wrkspc_1"), FIELD)
    assert toward_upstream(fields, leased=False) == fields


def test_what_connection_names_stays_behind() -> None:
    fields = ((b"Connection", b"close, X-A ,x-b"), FIELD, (b"x-B", b"2"), (b"X-C", b"3"))

    assert toward_upstream(fields, leased=True) == ((b"X-C", b"3"),)
    assert toward_client(fields, leased=True) == ((b"Connection", b"close"), (b"X-C", b"3"))


@pytest.mark.parametrize("leased", [True, False])
@pytest.mark.parametrize(("said", "left"), [(b"close", ()), (b"Close", ()), (b"keep-alive", (b"keep-alive",))])
def test_the_end_of_a_clients_connection_is_not_told_upstream(
    said: bytes, left: tuple[bytes, ...], leased: bool
) -> None:
    fields = ((b"Connection", said), FIELD)

    assert toward_upstream(fields, leased=leased) == (*((b"Connection", value) for value in left), FIELD)
    assert toward_client(fields, leased=leased) == fields


def test_a_message_keeps_its_length_and_host_whatever_connection_names() -> None:
    framing = ((b"Host", b"a"), (b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked"))
    named = (b"Connection", b"host, content-length, transfer-encoding")

    assert toward_upstream((named, *framing), leased=True) == framing


def test_an_upgrade_goes_on_with_the_clients_own_credential_and_to_a_websocket_only() -> None:
    websocket = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), FIELD)
    h2c = ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMAAABk"), FIELD)

    assert toward_upstream(websocket, leased=False) == websocket
    assert toward_upstream(websocket, leased=True) == (FIELD,)
    assert toward_upstream(h2c, leased=False) == (FIELD,)
    assert toward_upstream((websocket[1], FIELD), leased=False) == (FIELD,)


@given(st.lists(PLAIN, max_size=8), st.booleans())
def test_doing_it_twice_changes_nothing_and_the_order_stays(fields: list[Header], leased: bool) -> None:
    once = toward_upstream(fields, leased=leased)

    assert toward_upstream(once, leased=leased) == once
    rest = iter([name for name, _ in fields])
    assert all(name in rest for name, _ in once)
