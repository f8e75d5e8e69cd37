"""By which door a request came in, which host it names, and where it is aimed."""

from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.net.http import url
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ReverseMode

from ccflare_core.http.origins import Origin, Origins, is_loopback


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

    def mean(self, flow: http.HTTPFlow, origin: Origin, *, allow_remote: bool) -> bool:
        """Whether a plain request to the proxy means the upstream: by its name, or by our own address.

        A foreign name in front of our port is refused too: that is what a web page's DNS rebinding looks like.
        """
        host, port = self.of(flow)
        if host == origin.host and port in (origin.port, 80, 443):
            return True
        if port != flow.client_conn.sockname[1]:
            return False
        return allow_remote or is_loopback(host) or host == flow.client_conn.sockname[0]


def is_reverse(flow: http.HTTPFlow) -> bool:
    """Whether the request came in by `--mode reverse:…`."""
    return isinstance(flow.client_conn.proxy_mode, ReverseMode)


def door_of(flow: http.HTTPFlow) -> str:
    """How the request came in: `reverse`, `https-proxy` (inside an intercepted CONNECT) or `base-url`."""
    if is_reverse(flow):
        return "reverse"
    # Only a CONNECT has told by now which server is meant; TLS alone can also be TLS to the proxy itself.
    return "https-proxy" if flow.client_conn.tls_established and flow.server_conn.address else "base-url"


def is_cross_site(request: http.Request, sites: Origins) -> bool:
    """Whether a browser says that a page from elsewhere is asking. CORS would not keep a plain POST of it away."""
    origin = request.headers.get("origin")
    if origin is not None and sites.have(origin):
        return False
    if request.headers.get("sec-fetch-site", "") == "cross-site":
        return True
    if origin is None:
        return False
    try:
        return not is_loopback(urlsplit(origin).hostname or "")
    except ValueError:
        return True


def not_ours(host: str, port: int, origin: Origin) -> str:
    """What to tell a client that wants another host."""
    return (
        f"This proxy serves {origin.host} only, not {host[:100]}:{port}; "
        "set ccflare_forward_other_hosts to pass plain requests for other hosts."
    )


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
