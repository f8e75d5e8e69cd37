"""The gate: what each request is, by which door it came, and whether it may go on. First in a request's way.

Who calls is asked here and nowhere else, of every request and every CONNECT, and everything needs a permission: an
inference or any other path that goes upstream `api.request`, one of our own pages what its line in `admin.PAGES` says.
"""

import asyncio
from collections.abc import Awaitable
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.net.http import url
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ReverseMode

from ccflare_core import browser
from ccflare_core.access import Caller
from ccflare_core.agents import with_model
from ccflare_core.answers import Answer
from ccflare_core.auditor import Auditor
from ccflare_core.browser import Sites, is_loopback
from ccflare_core.client_keys import ClientKey, Permission
from ccflare_core.entrance import Entrance, Refusal
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange import Exchange, Exchanges
from ccflare_core.facts import Facts, models_asked, read_facts
from ccflare_core.guard import TUNNEL_OVER, Denied, Guard, Principal, Why, forbidden, has_credential, take_keys
from ccflare_core.heads import Line, refuse_request
from ccflare_core.options import Origin
from ccflare_core.provenance import read_provenance
from ccflare_core.recorder import total_tokens
from ccflare_core.routes import Route, classify, runs_model
from ccflare_core.steps import Opening, Outcome
from ccflare_core.totp import SecondFactor
from ccflare_mitm.admin import NO_METHOD, NO_PAGE, Admin, Page, Visit, actor, find_page, refusal
from ccflare_mitm.messages import make_response
from ccflare_mitm.threshold import Threshold, refused

FORBIDDEN = 403


class Gate:
    """Sends each request on its way: with an account, as it came, answered here, or refused."""

    def __init__(
        self,
        exchanges: Exchanges,
        guard: Guard,
        admin: Admin,
        entrance: Entrance,
        factor: SecondFactor,
        *,
        auditor: Auditor | None = None,
    ) -> None:
        self._exchanges = exchanges
        self._guard = guard
        self._admin = admin
        self._entrance = entrance
        self._threshold = Threshold(entrance, factor, named=self._named, upstream=lambda: exchanges.settings.upstream)
        self._auditor = auditor
        self._tunnels: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()
        self._working: set[asyncio.Task[None]] = set()
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()
        self._claims: WeakKeyDictionary[http.Request, str] = WeakKeyDictionary()

    def find(self, flow: http.HTTPFlow) -> Exchange | None:
        """The exchange of this flow; None if the gate has not let it in."""
        return self._of_flow.get(flow)

    def note_claim(self, request: http.Request) -> None:
        """Remember which host a request names: in reverse mode it shows the upstream's by the time of our hook."""
        self._claims[request] = request.host_header or ""

    def enter(self, flow: http.HTTPFlow) -> None:
        """The head is here: find out who asks for what, and aim it at the upstream or answer it."""
        request = flow.request
        door = door_of(flow)
        caller, problem = self._entrance.meet(address_of(flow), request.headers.fields)
        who = self._identify(flow, caller)
        origin = self._exchanges.settings.upstream
        for_upstream = self._is_for_us(flow, origin)
        route = classify(request.method, request.path)
        if for_upstream and problem is None and (answer := self._threshold.answer(flow, route)) is not None:
            flow.response = make_response(answer)
            return
        if for_upstream and problem is None and route is Route.CONTROL:
            self._serve_page(flow, who, caller)
            return
        if problem is None and (answer := self._refusal(flow, who, caller, Permission.API_REQUEST)) is not None:
            flow.response = make_response(answer)
            return
        exchange = self._open(flow, door, caller, who.key if isinstance(who, Principal) else None)
        try:
            problem = problem or self._entrance.lack_of_room(len(self._exchanges.open))
            self._decide(flow, exchange, route, for_upstream, problem)
        except BaseException:
            exchange.finish(Outcome.REFUSED, "an error inside the proxy")
            raise
        # Only now can it be found: a request that an error kept from being decided on has no way upstream.
        self._of_flow[flow] = exchange

    def share(self, flow: http.HTTPFlow) -> None:
        """The answer goes out now: say which web page may read it."""
        self._threshold.share(flow)

    def _decide(
        self, flow: http.HTTPFlow, exchange: Exchange, route: Route, for_upstream: bool, problem: Refusal | None
    ) -> None:
        settings, data = self._exchanges.settings, flow.request.data
        line = Line(data.method, data.path, data.http_version, flow.client_conn.alpn)
        if flow.error is not None:
            exchange.refuse(400, flow.error.msg)  # mitmproxy's validation did, and answers itself
        elif problem is not None:
            self._refuse(flow, exchange, *problem)
        elif refusal := refuse_request(line, data.headers.fields):
            self._refuse(flow, exchange, *refusal)
        elif not for_upstream and (is_reverse(flow) or not settings.forward_other_hosts):
            self._refuse(flow, exchange, 403, not_ours(*self._named(flow), settings.upstream))
        elif for_upstream and route is Route.MALFORMED:
            self._refuse(flow, exchange, 400, "The request's path has dot segments or encoded separators.")
        elif self._auditor is not None and (halted := self._auditor.halted()):
            self._refuse(flow, exchange, 503, halted)
        elif for_upstream and route is Route.INFERENCE and is_cross_site(flow.request, self._entrance.sites):
            self._refuse(flow, exchange, 403, "A web page of another site may not use the accounts.")
        elif (problem := self._over_its_limits(exchange)) is not None:
            self._refuse(flow, exchange, *problem)
        elif for_upstream:
            aim(flow.request, settings.upstream)

    def _over_its_limits(self, exchange: Exchange) -> Refusal | None:
        """Why the client key may not ask now. If it may, this counts as asked, and what it uses as used."""
        key = exchange.opening.key
        if key is None:
            return None
        problem = self._entrance.admit_key(key)
        if problem is None:
            exchange.at_end = lambda ended: self._entrance.ended(key, ended.started_at, total_tokens(ended), ended.cost)
        return problem

    # Who asks

    def connect(self, flow: http.HTTPFlow) -> None:
        """A CONNECT is here: whoever opens a tunnel has to say who he is; what is asked inside it counts as his."""
        caller, problem = self._entrance.meet(address_of(flow), flow.request.headers.fields)
        who = self._identify(flow, caller)
        refusal: Answer | None = None
        if problem is not None:
            self._audit(flow, who, caller, problem.message)
            refusal = refused(problem)
        elif isinstance(who, Denied):
            self._audit(flow, who, caller, who.why)
            refusal = self._guard.refuse(who, caller.text, is_tunnel=True)
        else:
            origin, request = self._exchanges.settings.upstream, flow.request
            is_foreign = (request.host.lower(), request.port) != (origin.host, origin.port)
            refusal = self._refusal(flow, who, caller, Permission.API_REQUEST) if is_foreign else None
        if refusal is not None:
            flow.response = make_response(refusal)
        elif isinstance(who, Principal):
            self._tunnels[flow.client_conn] = who

    def has_entered(self, client: Client) -> bool:
        """Whether this connection is a tunnel that `connect` has let in."""
        return client in self._tunnels

    def _identify(self, flow: http.HTTPFlow, caller: Caller) -> Principal | Denied:
        """Who asks, by the key that is presented, or else by the one that the tunnel was opened with.

        From here on no key is in the flow.
        """
        presented, fields = take_keys(flow.request.headers.fields)
        flow.request.headers.fields = fields
        tunnel = self._tunnels.get(flow.client_conn)
        if not presented and tunnel is not None and tunnel.key is not None:
            return self._guard.recall(tunnel.key.id) or Denied(Why.EXPIRED, tunnel.key)
        return self._guard.identify(presented, is_local=caller.is_local)

    def _refusal(
        self, flow: http.HTTPFlow, who: Principal | Denied, caller: Caller, needed: Permission
    ) -> Answer | None:
        """What to say to somebody who may not do this; None if he may."""
        if isinstance(who, Principal):
            if who.may(needed):
                return None
            self._audit(flow, who, caller, f"no permission {needed}")
            return forbidden(needed)
        self._audit(flow, who, caller, who.why)
        if flow.client_conn in self._tunnels and flow.request.method != "CONNECT":
            # Never a 401 in here: the client may have a login of its own, and take it for refused.
            return TUNNEL_OVER
        return self._guard.refuse(who, caller.text)

    def _audit(self, flow: http.HTTPFlow, who: Principal | Denied, caller: Caller, reason: str) -> None:
        """Note a refusal. Those of one burst become one entry."""
        if self._auditor is not None:
            target = flow.request.path.partition("?")[0] or f"{flow.request.host}:{flow.request.port}"
            self._auditor.denied(caller.text, reason, actor=actor(who), target=target)

    # Our own pages

    def _serve_page(self, flow: http.HTTPFlow, who: Principal | Denied, caller: Caller) -> None:
        request = flow.request
        found = find_page(request.path.partition("?")[0])
        page, name = found or (None, "")
        needed = Permission.DASHBOARD_VIEW if page is None else page.permission
        if needed is not None and (refusal := self._refusal(flow, who, caller, needed)) is not None:
            flow.response = make_response(refusal)
        elif page is None or request.method not in page.methods:
            flow.response = make_response(NO_METHOD if page else NO_PAGE)
        elif browser.is_unsafe(request.method):
            self._answer_later(flow, self._do(page, Visit(flow, who, caller.text, name)))
        else:
            answer = page.handler(self._admin, Visit(flow, who, caller.text, name))
            if isinstance(answer, Answer):
                flow.response = make_response(answer)
            else:
                self._answer_later(flow, answer)

    async def _do(self, page: Page, visit: Visit) -> Answer:
        """The answer to a request that changes something: the second factor is asked for first, if there is one."""
        if (answer := await self._threshold.second_factor(visit.flow)) is not None:
            if self._auditor is not None:
                target = visit.flow.request.path.partition("?")[0]
                self._auditor.denied(visit.address, "no valid second factor", actor=visit.actor, target=target)
            return answer
        done = page.handler(self._admin, visit)
        return done if isinstance(done, Answer) else await done

    def _answer_later(self, flow: http.HTTPFlow, answer: Awaitable[Answer]) -> None:
        """Hold the flow as one that a user intercepts, until its answer is there."""

        async def work() -> None:
            try:
                try:
                    flow.response = make_response(await answer)
                except CCFlareError as problem:
                    flow.response = make_response(refusal(problem))
            finally:
                flow.resume()  # without a response, if all failed: then the wire gives a 500

        flow.intercept()
        task = asyncio.get_running_loop().create_task(work())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    # Its ticket

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
        if (key := exchange.opening.key) is not None and not self._may_run(key, exchange.opening, body, encoding):
            self._refuse(flow, exchange, 403, "This client key may not use this model.")
            return
        exchange.admit(self._facts(flow, body, encoding, exchange.opening.client), body, encoding)

    def _may_run(self, key: ClientKey, opening: Opening, body: bytes, encoding: str) -> bool:
        """Whether the key may use every model that the body asks for, as it goes upstream."""
        if not key.models or not runs_model(opening.method, opening.path):
            return True
        models = models_asked(body, content_encoding=encoding)
        return bool(models) and all(key.may_use_model(model) for model in models or ())

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

    def _facts(self, flow: http.HTTPFlow, body: bytes, encoding: str, client: str) -> Facts:
        return read_facts(
            body,
            content_encoding=encoding,
            session_header=flow.request.headers.get("x-claude-code-session-id"),
            client=client,
        )

    def _open(self, flow: http.HTTPFlow, door: str, caller: Caller, key: ClientKey | None) -> Exchange:
        request = flow.request
        opening = Opening(
            method=request.method[:20],
            path=request.path.partition("?")[0][:300],
            client=caller.text,
            door=door,
            user_agent=request.headers.get("user-agent", "")[:200],
            key=key,
            has_credential=has_credential(request.headers.fields),
        )
        return self._exchanges.begin(opening)

    def _refuse(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        status: int,
        message: str,
        retry_after: int | None = None,
        is_final: bool = False,
    ) -> None:
        flow.response = make_response(exchange.refuse(status, message, retry_after, is_final=is_final))
        if status == FORBIDDEN and self._auditor is not None:
            self._auditor.denied(
                exchange.opening.client, message, target=flow.request.path.partition("?")[0], request_id=exchange.id
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


def is_cross_site(request: http.Request, sites: Sites) -> bool:
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
    said = {name.lower() for name in (request.headers.get("host"), request.authority) if name}
    return not said <= {origin.host, f"{origin.host}:{origin.port}", url.hostport(*origin)}
