"""What others say of a failure, in words of ours."""

import h11
import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net.http import http1

from ccflare_core.http import failure_words
from ccflare_core.secrets.echo import Echo, trace

SECRET = "sk-ant-api03-echoed-0123456789"


def goodbye() -> ConnectionTerminated:
    event = ConnectionTerminated()
    event.error_code, event.last_stream_id, event.additional_data = ErrorCodes.ENHANCE_YOUR_CALM, 1, SECRET.encode()
    return event


def complaint(head: bytes) -> str:
    """What mitmproxy says of a head that is no answer."""
    with pytest.raises(ValueError, match="sk-ant") as found:
        http1.read_response_head(head.split(b"\r\n"))
    return str(found.value)


def broken_chunk() -> str:
    """What h11 says of a chunk whose size is no number."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % SECRET.encode())
    connection.next_event()
    with pytest.raises(h11.RemoteProtocolError, match="sk-ant") as found:
        connection.next_event()
    return str(found.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Cannot parse HTTP response: {complaint(SECRET.encode())}", "the answer is no HTTP"),
        (f"Cannot parse HTTP response: {complaint(b'HTTP/1.1 200 OK\r\n' + SECRET.encode())}", "the answer is no HTTP"),
        (f"HTTP/1 protocol error: {broken_chunk()}", "the body's framing is broken"),
        (
            "HTTP/1 protocol error: peer closed connection without sending complete message body (received 0 bytes)",
            "the connection was closed in the middle of the body",
        ),
        (f"unexpected server response: {SECRET.encode()!r}", "the connection was closed in the middle of the head"),
        ("server closed connection", "the connection was closed"),
        ("stream reset by client (REFUSED_STREAM)", "the stream was reset (REFUSED_STREAM)"),
        (f"stream reset by client ({SECRET})", "the stream was reset"),
        (f"HTTP/2 connection closed: {goodbye()!r}", "the HTTP/2 connection was closed (ENHANCE_YOUR_CALM)"),
        (f"HTTP/2 protocol error: Invalid HTTP header field: {SECRET}", "the rules of HTTP/2 were broken"),
        (f"Unexpected data from server: {SECRET.encode()!r}", "the upstream sent what nobody had asked for"),
        ("Certificate verify failed: hostname mismatch", "the certificate cannot be verified (hostname mismatch)"),
        (f"Certificate verify failed: {SECRET}", "the certificate cannot be verified"),
        (
            "Server TLS handshake failed. Certificate verify failed: certificate has expired",
            "the certificate cannot be verified (certificate has expired)",
        ),
        (
            f"Upstream proxy a:1 refused HTTP CONNECT request: 407 {SECRET}",
            "it refused the tunnel (407: it wants another user and password)",
        ),
        ("[Errno 111] Connect call failed ('127.0.0.1', 9)", "no connection (the connection was refused)"),
        ("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno", "no connection (the connection"),
        ("[Errno -2] Name or service not known", "no connection (its name is not known)"),
        (f"[Errno 111{SECRET}]", "no connection"),
        (
            f"Received multiple content-length headers: [{SECRET}] from client, refusing to prevent request smuggling",
            "the request's head can be read in two ways, as in request smuggling",
        ),
        (SECRET, failure_words.UNKNOWN),
        ("", failure_words.UNKNOWN),
    ],
)
def test_a_failure_is_told_by_its_kind_and_never_quoted(text: str, told: str) -> None:
    said = failure_words.of(text)

    assert said.startswith(told)
    assert said in failure_words.PHRASES
    assert SECRET not in said


@given(
    st.text()
    | st.sampled_from(sorted(failure_words.PHRASES))
    | st.sampled_from([s.begins for s in failure_words._SIGNS]),
    st.text(),
)
def test_whatever_is_said_becomes_one_of_the_phrases_which_stay(text: str, more: str) -> None:
    said = failure_words.of(text + more)

    assert said in failure_words.PHRASES
    assert failure_words.of(said) == said


@pytest.mark.parametrize("value", [SECRET, "", None, 1, ["api_error"], "api_error ", "API_ERROR"])
def test_a_type_is_repeated_only_if_it_is_known(value: object) -> None:
    assert failure_words.known(value) == ""
    assert failure_words.known("api_error") == "api_error"


@pytest.mark.parametrize(("secret", "echo"), [(SECRET, None), ("of-no-known-shape", Echo("of-no-known-shape"))])
def test_an_exception_is_told_whole_but_for_what_is_secret(secret: str, echo: Echo | None) -> None:
    try:
        raise ValueError(f"cannot read {secret}") from KeyError(secret)
    except ValueError as error:
        told = trace(error, echo)

    assert "ValueError: cannot read [redacted" in told
    assert "test_failure_words.py" in told
    assert secret not in told
