"""The gate: what each request is, by which door it came, and whether it may go on. First in a request's way."""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.net.http import url
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ReverseMode

from ccflare_core.agents import with_model
from ccflare_core.answers import Answer
from ccflare_core.auditor import Auditor
from ccflare_core.exchange import Exchange, Exchanges
from ccflare_core.facts import Facts, read_facts
from ccflare_core.heads import Line, refuse_request
from ccflare_core.options import Origin
from ccflare_core.provenance import read_provenance
from ccflare_core.routes import Route, classify
from ccflare_core.steps import Opening, Outcome
from ccflare_mitm.messages import make_response

FORBIDDEN = 403
_LOOPBACK_NAME = re.compile(r"(?:.+\.)?localhost\.?", re.IGNORECASE)


class Gate:
    """Sends each request on its way: with an account, as it came, answered here, or refused."""

    def __init__(
        self,
        exchanges: Exchanges,
        answer_control: Callable[[http.HTTPFlow], Answer],
        *,
        auditor: Auditor | None = None,
    ) -> None:
        self._exchanges = exchanges
        self._answer_control = answer_control
        self._auditor = auditor
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()
        self._claims: WeakKeyDictionary[http.Request, str] = WeakKeyDictionary()

    def find(self, flow: http.HTTPFlow) -> Exchange | None:
        """The exchange of this flow; None if the gate has not let it in."""
        return self._of_flow.get(flow)

    def note_claim(self, request: http.Request) -> None:
        """Remember which host a request names: in reverse mode it shows the upstream's by the time of our hook."""
        self._claims[request] = request.host_header or ""

    def enter(self, flow: http.HTTPFlow) -> None:
        """The head is here: find out what it wants, and aim it at the upstream or answer it."""
        request = flow.request
        door = door_of(flow)
        origin = self._exchanges.settings.upstream
        for_upstream = self._is_for_us(flow, origin)
        route = classify(request.method, request.path)
        if for_upstream and route is Route.PRECONNECT:
            flow.response = http.Response.make(200, b"", {"content-type": "text/plain"})
            return
        if for_upstream and route is Route.CONTROL:
            flow.response = make_response(self._answer_control(flow))
            return
        exchange = self._open(flow, door)
        try:
            self._decide(flow, exchange, route, for_upstream)
        except BaseException:
            exchange.finish(Outcome.REFUSED, "an error inside the proxy")
            raise
        # Only now can it be found: a request that an error kept from being decided on has no way upstream.
        self._of_flow[flow] = exchange

    def _decide(self, flow: http.HTTPFlow, exchange: Exchange, route: Route, for_upstream: bool) -> None:
        settings, data = self._exchanges.settings, flow.request.data
        line = Line(data.method, data.path, data.http_version, flow.client_conn.alpn)
        if flow.error is not None:
            exchange.refuse(400, flow.error.msg)  # mitmproxy's validation did, and answers itself
        elif refusal := refuse_request(line, data.headers.fields):
            self._refuse(flow, exchange, *refusal)
        elif not for_upstream and (is_reverse(flow) or not settings.forward_other_hosts):
            self._refuse(flow, exchange, 403, not_ours(*self._named(flow), settings.upstream))
        elif for_upstream and route is Route.MALFORMED:
            self._refuse(flow, exchange, 400, "The request's path has dot segments or encoded separators.")
        elif self._auditor is not None and (halted := self._auditor.halted()):
            self._refuse(flow, exchange, 503, halted)
        elif for_upstream and route is Route.INFERENCE and is_cross_site(flow.request):
            self._refuse(flow, exchange, 403, "A web page of another site may not use the accounts.")
        elif for_upstream:
            aim(flow.request, settings.upstream)

    def admit(self, flow: http.HTTPFlow) -> None:
        """The whole request is here: give it a ticket."""
        exchange = self.find(flow)
        if exchange is None or flow.response is not None or exchange.outcome is not None:
            return
        request, origin = flow.request, self._exchanges.settings.upstream
        is_ours = (request.scheme, request.host, request.port) == origin
        if not is_ours or classify(request.method, request.path) is not Route.INFERENCE:
            exchange.let_pass()
            return
        encoding = request.headers.get("content-encoding", "")
        if not encoding:
            self._look_for_agent(request, exchange)
        body = request.raw_content or b""
        exchange.provenance = read_provenance(request.method, exchange.opening.path, request.headers.get, body)
        exchange.admit(self._facts(flow, body, encoding), body, encoding)

    def _look_for_agent(self, request: http.Request, exchange: Exchange) -> None:
        """Note whose request it is. If its model is another one, that is all that changes in the body."""
        agents = self._exchanges.agents
        body = request.raw_content or b""
        if not agents or (agent := agents.find(body)) is None:
            return
        exchange.agent = agent.name
        asked_for = read_facts(body).model
        if agent.model in (None, asked_for):
            return
        changed = with_model(body, agent.model)
        if changed is not None:
            exchange.original_model = asked_for
            request.content = changed  # the setter makes the Content-Length follow

    def _facts(self, flow: http.HTTPFlow, body: bytes, encoding: str) -> Facts:
        return read_facts(
            body,
            content_encoding=encoding,
            session_header=flow.request.headers.get("x-claude-code-session-id"),
            client=address_of(flow),
        )

    def _open(self, flow: http.HTTPFlow, door: str) -> Exchange:
        request = flow.request
        opening = Opening(
            method=request.method[:20],
            path=request.path.partition("?")[0][:300],
            client=address_of(flow),
            door=door,
            user_agent=request.headers.get("user-agent", "")[:200],
        )
        return self._exchanges.begin(opening)

    def _refuse(self, flow: http.HTTPFlow, exchange: Exchange, status: int, message: str) -> None:
        flow.response = make_response(exchange.refuse(status, message))
        if status == FORBIDDEN and self._auditor is not None:
            self._auditor.denied(
                address_of(flow), message, target=flow.request.path.partition("?")[0], request_id=exchange.id
            )

    def _is_for_us(self, flow: http.HTTPFlow, origin: Origin) -> bool:
        """Whether a plain request to the proxy means the upstream: by its name, or by our own address.

        A foreign name in front of our port is refused too: that is what a web page's DNS rebinding looks like.
        """
        host, port = self._named(flow)
        if host == origin.host and port in (origin.port, 80, 443):
            return True
        if port != flow.client_conn.sockname[1]:
            return False
        return self._exchanges.settings.allow_remote or is_loopback(host) or host == flow.client_conn.sockname[0]

    def _named(self, flow: http.HTTPFlow) -> tuple[str, int]:
        """The host and port that the client asked for."""
        if not is_reverse(flow):
            return flow.request.host.lower(), flow.request.port
        try:
            host, port = url.parse_authority(self._claims.get(flow.request, flow.request.host_header or ""), check=True)
        except ValueError:
            return "", 0
        return host.lower(), port or (443 if flow.client_conn.tls_established else 80)


def is_reverse(flow: http.HTTPFlow) -> bool:
    """Whether the request came in by `--mode reverse:…`."""
    return isinstance(flow.client_conn.proxy_mode, ReverseMode)


def door_of(flow: http.HTTPFlow) -> str:
    """How the request came in: `reverse`, `https-proxy` (inside an intercepted CONNECT) or `base-url`."""
    if is_reverse(flow):
        return "reverse"
    # Only a CONNECT has told by now which server is meant; TLS alone can also be TLS to the proxy itself.
    return "https-proxy" if flow.client_conn.tls_established and flow.server_conn.address else "base-url"


def is_cross_site(request: http.Request) -> bool:
    """Whether a browser says that a page from elsewhere is asking. CORS would not keep a plain POST of it away."""
    if request.headers.get("sec-fetch-site", "") == "cross-site":
        return True
    origin = request.headers.get("origin")
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
    """The client's address, from the socket."""
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
    said = {name.lower() for name in (request.headers.get("host"), request.authority) if name}
    return not said <= {origin.host, f"{origin.host}:{origin.port}", url.hostport(*origin)}


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine by an address or name that no DNS server decides on."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return _LOOPBACK_NAME.fullmatch(host) is not None
