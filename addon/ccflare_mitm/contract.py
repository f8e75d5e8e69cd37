"""What of mitmproxy's inside we stand on: checked at the start, and changed in one place."""

import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import version
from mitmproxy.net.http import http1, status_codes
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, _http1, _http2
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError
from mitmproxy.proxy.server import ConnectionHandler

from ccflare_core.answers import error
from ccflare_core.errors import ConfigError
from ccflare_mitm import peers
from ccflare_mitm.messages import make_response


def install() -> None:
    """Check the contract, put our ends of connections in their places, keep mitmproxy's own streams from connecting."""
    check_contract()
    _http1.make_error_response = json_error_page
    layers: Any = http_layers
    layers.Http1Client, layers.Http1Server, layers.Http2Server = peers.Http1Client, peers.Http1Server, peers.Http2Server
    HttpStream.make_server_connection = refuse_connection  # type: ignore[method-assign]


def check_contract() -> None:
    """Raise ConfigError unless mitmproxy's inside is as this module knows it."""
    expected: dict[Callable[..., Any], list[str]] = {
        HttpLayer.make_stream: ["self", "stream_id"],
        HttpLayer.event_to_child: ["self", "child", "event"],
        HttpStream.__init__: ["self", "context", "stream_id"],
        HttpStream.check_body_size: ["self", "request"],
        HttpStream.make_server_connection: ["self"],
        HttpStream.state_wait_for_response_headers: ["self", "event"],
        HttpStream.send_response: ["self", "already_streamed"],
        HttpStream.check_killed: ["self", "emit_error_hook"],
        _http1.make_error_response: ["status_code", "message"],
        _http1.Http1Client.read_headers: ["self", "event"],
        _http1.Http1Connection.read_body: ["self", "event"],
        _http2.Http2Server.handle_h2_event: ["self", "event"],
        _http2.Http2Server.protocol_error: ["self", "message", "error_code"],
        ConnectionHandler.server_event: ["self", "event"],
        ConnectionHandler.close_connection: ["self", "connection", "half_close"],
    }
    changed = [f.__qualname__ for f, names in expected.items() if list(inspect.signature(f).parameters) != names]
    if changed:
        raise ConfigError(
            f"mitmproxy {version.VERSION} differs inside ({', '.join(changed)}); install a version >= 12.2 and < 13."
        )


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
    response = make_response(error(status_code, f"The proxy could not handle this: {reason}.", request_id="req_none"))
    response.headers["connection"] = "close"
    page: bytes = http1.assemble_response(response)
    return page
