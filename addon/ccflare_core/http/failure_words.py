"""Turns texts from outside into words of ours. Pure.

What mitmproxy, the operating system or an upstream says of a failure may quote what the other side sent, and that may
hold the credential that it was sent. So none of it is logged, stored or passed on: `of` and `known` turn each such
text into one of a closed set. What the upstream itself said stands in the recorded body, which is sealed.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

UNKNOWN: Final = "a failure of another kind"
HEAD_TOO_LARGE: Final = "the answer's head is too large"
COMES_BACK: Final = "it leads back to this proxy"
NO_REQUEST: Final = "the client sends what is no request"
ON_THE_WAY: Final = "no way through the proxy: "
"""Before what the proxy on the way has failed with, so that the upstream does not get the blame."""
NOT_VERIFIED: Final = "the certificate cannot be verified"
"""What follows in brackets, if anything, is the flaw."""

ERROR_TYPES: Final = frozenset(
    [
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    ]
)
"""https://docs.anthropic.com/en/api/errors"""

OAUTH_CODES: Final = ERROR_TYPES | frozenset(
    [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "invalid_refresh_token",
        "invalid_scope",
        "invalid_token",
        "access_denied",
        "refresh_token_reused",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
    ]
)
"""RFC 6749, sections 4.1.2.1 and 5.2, and what the token endpoint says besides."""

_HTTP2_CODES: Final = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
]
_CODES: Final = {name: name for name in _HTTP2_CODES} | {str(code): name for code, name in enumerate(_HTTP2_CODES)}
"""RFC 9113, section 7; mitmproxy gives the name of some, the number of others."""

_FLAWS: Final = {
    flaw: flaw
    for flaw in (
        "certificate has expired",
        "certificate is not yet valid",
        "certificate revoked",
        "hostname mismatch",
        "IP address mismatch",
        "invalid CA certificate",
        "self-signed certificate",
        "self-signed certificate in certificate chain",
        "unable to get issuer certificate",
        "unable to get local issuer certificate",
        "unable to verify the first certificate",
        "unsuitable certificate purpose",
    )
}
"""What OpenSSL's X509_verify_cert_error_string says."""

_SYSTEM: Final = {
    "-2": "its name is not known",
    "-3": "its name cannot be looked up",
    "-5": "its name has no address",
    "101": "the network cannot be reached",
    "104": "the connection was reset",
    "110": "the connection timed out",
    "111": "the connection was refused",
    "113": "there is no route to it",
    "51": "the network cannot be reached",
    "54": "the connection was reset",
    "60": "the connection timed out",
    "61": "the connection was refused",
    "65": "there is no route to it",
}
"""By the number in a text such as "[Errno 111] Connect call failed"; those of Linux, then those of macOS."""


class _Sign(NamedTuple):
    """How a text begins, our phrase for it, and what may be said of the detail that follows."""

    begins: str
    phrase: str
    detail: re.Pattern[str] | None = None
    details: Mapping[str, str] = {}

    def said(self, text: str) -> str:
        found = self.detail.match(text) if self.detail else None
        detail = self.details.get(found[1]) if found else None
        return f"{self.phrase} ({detail})" if detail else self.phrase

    def sayings(self) -> set[str]:
        """All that `said` can say."""
        return {self.phrase, *(f"{self.phrase} ({detail})" for detail in self.details.values())}


_CUT_BODY: Final = "the connection was closed in the middle of the body"
_CUT_HEAD: Final = "the connection was closed in the middle of the head"
_CLOSED: Final = "the connection was closed"
_AGAINST_HTTP2: Final = "the rules of HTTP/2 were broken"
_REFUSES: Final = "refused the tunnel"
_REFUSED_TUNNEL: Final = f"it {_REFUSES}"
_WHY_NO_TUNNEL: Final = {
    "403": "403: it forbids it",
    "407": "407: it wants another user and password",
    "502": "502: it does not reach the host",
    "503": "503: it cannot serve now",
    "504": "504: it does not reach the host in time",
}
"""By the status that a proxy answers a CONNECT with."""
_SMUGGLING: Final = "the request's head can be read in two ways, as in request smuggling"
_VERIFY: Final = re.compile(r"(?:Server TLS handshake failed\. )?Certificate verify failed: (.*)")

_SIGNS: Final = (
    _Sign("HTTP/1 protocol error: peer closed", _CUT_BODY),
    _Sign("HTTP/1 protocol error", "the body's framing is broken"),
    _Sign("Cannot parse HTTP response", "the answer is no HTTP"),
    _Sign("unexpected server response", _CUT_HEAD),
    _Sign("Client closed connection before", _CUT_HEAD),
    _Sign("Unexpected data from server", "the upstream sent what nobody had asked for"),
    _Sign("server closed connection", _CLOSED),
    _Sign("peer closed connection", _CLOSED),
    _Sign("connection closed", _CLOSED),
    _Sign("Client disconnected", _CLOSED),
    _Sign("stream reset by", "the stream was reset", re.compile(r"stream reset by client \((\w+)\)"), _CODES),
    _Sign(
        "HTTP/2 connection closed",
        "the HTTP/2 connection was closed",
        re.compile(r"[^:]*: <ConnectionTerminated error_code:(\d+)"),
        _CODES,
    ),
    _Sign("HTTP/2 protocol error", _AGAINST_HTTP2),
    _Sign("Received HTTP/2 data frame", _AGAINST_HTTP2),
    _Sign("Received HTTP/2 push promise", _AGAINST_HTTP2),
    _Sign("Ignoring unknown HTTP/2 frame", "an HTTP/2 frame of an unknown type was left out"),
    _Sign("too many frames for nothing", "too many HTTP/2 frames for nothing"),
    _Sign("Invalid request scheme", "the request's target has an unknown scheme"),
    _Sign("HTTP request has no host header", "the request names no host"),
    _Sign("Received message with both", _SMUGGLING),
    _Sign("Received multiple", _SMUGGLING),
    _Sign("Received unexpected HTTP transfer-encoding", _SMUGGLING),
    _Sign("Received unknown transfer-encoding", _SMUGGLING),
    _Sign("Received invalid transfer-encoding", _SMUGGLING),
    _Sign("Received invalid content-length", _SMUGGLING),
    _Sign("Received invalid header name", "a header field of the request has no name"),
    _Sign("Bad HTTP request line", "the request is no HTTP"),
    _Sign("Invalid header", "the request's head is no HTTP"),
    _Sign("Request body exceeds", "the request's body is too large"),
    _Sign("Certificate verify failed", NOT_VERIFIED, _VERIFY, _FLAWS),
    _Sign("Server TLS handshake failed. Certificate", NOT_VERIFIED, _VERIFY, _FLAWS),
    _Sign("Server TLS handshake failed", "the TLS handshake failed"),
    _Sign("Unable to establish", "there is no connection to the upstream"),
    _Sign("The remote server does not speak TLS", "it does not speak TLS"),
    _Sign("The remote server and mitmproxy cannot agree", "there is no version of TLS that both sides speak"),
    _Sign("OpenSSL", "the TLS handshake failed"),
    _Sign(
        "Upstream proxy",
        _REFUSED_TUNNEL,
        re.compile(r"Upstream proxy \S+ refused HTTP CONNECT request: (\d{3}) "),
        _WHY_NO_TUNNEL,
    ),
    _Sign("Error connecting to", _REFUSED_TUNNEL),
    _Sign(f"Connection killed: {COMES_BACK}", COMES_BACK),
    _Sign("Connection killed", "the connection was refused by an addon"),
    _Sign("connection cancelled", "the connection was given up"),
    _Sign("Multiple exceptions", "no connection", re.compile(r"[^\[]*\[Errno (-?\d+)\]"), _SYSTEM),
    _Sign("[Errno", "no connection", re.compile(r"\[Errno (-?\d+)\]"), _SYSTEM),
)
"""The first that fits counts."""

_PHRASES: Final = {UNKNOWN, HEAD_TOO_LARGE, NO_REQUEST}.union(*(sign.sayings() for sign in _SIGNS))
PHRASES: Final = frozenset(_PHRASES | {f"{ON_THE_WAY}{phrase}" for phrase in _PHRASES})


def of(text: str) -> str:
    """One of PHRASES for what `text` tells of a failure. What is one already stays."""
    if text in PHRASES:
        return text
    return next((sign.said(text) for sign in _SIGNS if text.startswith(sign.begins)), UNKNOWN)


def on_the_way(text: str) -> str:
    """What of a failure's text is told if it is that of the proxy on the way; a way back to here stays one."""
    told = of(text)
    return told if told == COMES_BACK else f"{ON_THE_WAY}{told}"


def tunnel_refused(status: int) -> str:
    """What a proxy has done that answers a CONNECT with this status, to be said of it."""
    why = _WHY_NO_TUNNEL.get(str(status))
    return f"{_REFUSES} ({why})" if why else _REFUSES


def known(value: object, words: frozenset[str] = ERROR_TYPES) -> str:
    """`value` if it is one of these words, else ""."""
    return value if isinstance(value, str) and value in words else ""
