"""How a request came in, what its head says, and where it is aimed."""

import itertools
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.net.http import url
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ReverseMode

from ccflare_core.clients.authentication import Principal
from ccflare_core.clients.checks import OTP
from ccflare_core.clients.credentials import may_hold_key, misplaced_key, run_label, take_keys, without_keys
from ccflare_core.clients.request_head import RequestHead
from ccflare_core.clients.sessions import take_cookies
from ccflare_core.http.headers import Line
from ccflare_core.http.origins import Origin
from ccflare_mitm.pages.table import find_page


class Names:
    """The hosts that requests name, as their clients have sent them."""

    def __init__(self) -> None:
        self._claims: WeakKeyDictionary[http.Request, str] = WeakKeyDictionary()

    def note(self, request: http.Request) -> None:
        """Remember which host a request names: in reverse mode it shows the upstream's by the time of our hook."""
        self._claims[request] = request.host_header or ""

    def of(self, flow: http.HTTPFlow) -> tuple[str, int]:
        """The host and port that the client asked for."""
        if not is_reverse(flow):
            return flow.request.host.lower(), flow.request.port
        try:
            host, port = url.parse_authority(self._claims.get(flow.request, flow.request.host_header or ""), check=True)
        except ValueError:
            return "", 0
        return host.lower(), port or (443 if flow.client_conn.tls_established else 80)


def read_request_head(
    flow: http.HTTPFlow, names: Names, tunnel: Principal | None, *, is_connect: bool = False
) -> RequestHead:
    """A request's head as the gate decides by it. From here on no client key is in the flow, and no cookie of ours."""
    request, client, data = flow.request, flow.client_conn, flow.request.data
    sent = request.headers.fields
    presented, fields = take_keys(sent)
    host, port = (request.host.lower(), request.port) if is_connect else names.of(flow)
    sessions, request.headers.fields = take_cookies(fields, port)  # by what the browser knows us, as behind a front
    misplaced = take_misplaced_keys(request)
    found = find_page(request.path.partition("?")[0])
    return RequestHead(
        line=Line(data.method, data.path, data.http_version, client.alpn),
        fields=request.headers.fields,
        presented=tuple(presented),
        peer=address_of(flow),
        host=host,
        port=port,
        here=(client.sockname[0], client.sockname[1]),
        is_reverse=is_reverse(flow),
        is_tls=client.tls_established,
        is_connect=is_connect,
        tunnel=tunnel,
        problem=flow.error.msg if flow.error else "",
        page=found.page.access if found else None,
        code=request.headers.get(OTP.decode()) if found else None,
        sessions=sessions,
        misplaced_key=misplaced,
        run=run_label(sent) if len(fields) < len(sent) else "",  # what is for a proxy is taken out
    )


def take_misplaced_keys(request: http.Request) -> str:
    """Where a client key stands that does not belong there; "" if there is none. No such key is left in the flow."""
    data, fields = request.data, request.headers.fields
    host = data.host.encode(errors="surrogateescape")
    if not may_hold_key((data.path, data.authority, host, data.method, *itertools.chain.from_iterable(fields))):
        return ""
    line = (("the path", data.path), ("the host", data.authority + host), ("the method", data.method))
    names = (("the name of a header", name) for name, _ in fields)  # before any is told
    values = ((f"the header {name.decode('latin-1')[:40]}", value) for name, value in fields)
    place = misplaced_key((*line, *names, *values))
    if place:
        data.path, data.authority, data.method = map(without_keys, (data.path, data.authority, data.method))
        data.host = without_keys(host).decode(errors="surrogateescape")
        request.headers.fields = tuple((without_keys(name), without_keys(value)) for name, value in fields)
    return place


def is_reverse(flow: http.HTTPFlow) -> bool:
    """Whether the request came in by `--mode reverse:…`."""
    return isinstance(flow.client_conn.proxy_mode, ReverseMode)


def ingress_of(flow: http.HTTPFlow) -> str:
    """How the request came in: `reverse`, `https-proxy` (inside an intercepted CONNECT) or `base-url`."""
    if is_reverse(flow):
        return "reverse"
    # Only a CONNECT has told by now which server is meant; TLS alone can also be TLS to the proxy itself.
    return "https-proxy" if flow.client_conn.tls_established and flow.server_conn.address else "base-url"


def is_foreign_tunnel(context: Context, origin: Origin) -> bool:
    """Whether a connection leads through a CONNECT to another host than the upstream: none of our business."""
    if isinstance(context.client.proxy_mode, ReverseMode) or context.server.address is None:
        return False
    host, port = context.server.address[:2]
    return (host.lower(), port) != (origin.host, origin.port)


def tells_of_leaving(message: str) -> bool:
    """Whether mitmproxy's error message means that the client went away, by HTTP/1 or HTTP/2."""
    return any(words in message for words in ("disconnected", "closed connection", "reset by client"))


def address_of(flow: http.HTTPFlow) -> str:
    """The peer's address, from the socket."""
    return str(flow.client_conn.peername[0]) if flow.client_conn.peername else ""


def aim(request: http.Request, origin: Origin) -> None:
    """Send `request` to the upstream, whatever it was addressed to."""
    if (request.scheme, request.host, request.port) != origin:
        request.data.scheme, request.data.host = origin.scheme.encode(), origin.host
    elif not _names_another(request, origin):
        return
    request.port = origin.port  # this setter makes the Host header follow, and needs to do so but once


def _names_another(request: http.Request, origin: Origin) -> bool:
    """Whether a request for the upstream has a Host or authority that says something else (RFC 9112, 3.2.2)."""
    said = {name for name in (request.headers.get("host"), request.authority) if name}
    return not said <= {url.hostport(*origin)}
