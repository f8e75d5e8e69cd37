"""Checks at the start that mitmproxy's inside is as we need it, and makes our changes to it in one place."""

import re
from typing import Any

from mitmproxy import version
from mitmproxy.net.http import http1, status_codes
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HttpStream, _http1
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError

from ccflare_core import MITMPROXY
from ccflare_core.anthropic.answers import error
from ccflare_core.errors import ConfigError
from ccflare_core.program import has_scripts
from ccflare_mitm.host import peers
from ccflare_mitm.host.internals import differences
from ccflare_mitm.host.messages import make_response


def install() -> None:
    """Check the contract, put our ends of connections in their places, keep mitmproxy's own streams from connecting."""
    check_contract()
    _http1.make_error_response = json_error_page
    layers: Any = http_layers
    layers.Http1Client, layers.Http1Server, layers.Http2Server = peers.Http1Client, peers.Http1Server, peers.Http2Server
    HttpStream.make_server_connection = refuse_connection  # type: ignore[method-assign]


def check_contract(found: str = version.VERSION) -> None:
    """Raise ConfigError unless mitmproxy is of a version that this was made for, and its inside as it is used."""
    by_itself = ", as `scripts/run` does" if has_scripts() else ""
    remedy = f"install mitmproxy>={_dotted(MITMPROXY.oldest)},<{_dotted(MITMPROXY.before)}{by_itself}."
    numbers = tuple(map(int, re.findall(r"\d+", found)))
    if not MITMPROXY.oldest <= numbers < MITMPROXY.before:
        raise ConfigError(f"mitmproxy {found} has not been tried; {remedy}")
    if changed := differences():
        raise ConfigError(f"mitmproxy {found} differs inside ({', '.join(changed)}); {remedy}")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def refuse_connection(self: HttpStream) -> CommandGenerator[bool]:
    """What a stream that is not one of ours gets in the place of a server connection: a 502.

    If anything kept our layer out of its place, mitmproxy's own would send whatever it is given.
    """
    problem = "the request has not come through the gate"
    yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, problem, ErrorCode.CONNECT_FAILED))
    return False


def json_error_page(status_code: int, message: str = "") -> bytes:
    """mitmproxy's own error (a malformed request, a broken answer) as JSON in Anthropic's shape.

    The message may quote what the other side sent, so it stays in mitmproxy's log.
    """
    reason = status_codes.RESPONSES.get(status_code, "Error")
    response = make_response(error(status_code, f"The proxy could not handle this: {reason}."))
    response.headers["connection"] = "close"
    page: bytes = http1.assemble_response(response)
    return page
