"""The gate: what each request is, by which door it came, and whether it may go on. First in a request's way."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.anthropic import routes
from ccflare_core.anthropic.agents import with_model
from ccflare_core.anthropic.claude_code import read_provenance
from ccflare_core.anthropic.request import Facts, models_asked, read_facts
from ccflare_core.anthropic.routes import Route
from ccflare_core.clients.access import Caller
from ccflare_core.clients.admission import Entrance, Refusal
from ccflare_core.clients.authentication import Denied, Guard, Principal, has_credential
from ccflare_core.clients.keys import ClientKey, Permission
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.exchange.exchange import Exchange, Exchanges
from ccflare_core.exchange.recorder import total_tokens
from ccflare_core.exchange.steps import Opening, Outcome
from ccflare_core.http.headers import Line, refuse_request
from ccflare_core.http.origins import Origin
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.gate.authentication import Reception
from ccflare_mitm.gate.browser_checks import Threshold
from ccflare_mitm.gate.ingress import Names, address_of, aim, door_of, is_cross_site, is_reverse, not_ours
from ccflare_mitm.gate.pages import Admin
from ccflare_mitm.host.decisions import Decisions
from ccflare_mitm.host.messages import method_of, route_of

FORBIDDEN = 403
SWITCHING = 101
_LENDABLE = (Route.INFERENCE, Route.WRONG_METHOD)
"""The routes of paths that get an account's credential, if the method is one of theirs."""


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
        def upstream() -> Origin:
            return exchanges.settings.upstream

        self._exchanges = exchanges
        self._entrance = entrance
        self._auditor = auditor
        self.names = Names()
        self.decisions = Decisions()
        self.threshold = Threshold(entrance, factor, named=self.names.of, upstream=upstream)
        self.reception = Reception(
            guard, admin, entrance, self.threshold, self.decisions, upstream=upstream, auditor=auditor
        )
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()

    def find(self, flow: http.HTTPFlow) -> Exchange | None:
        """The exchange of this flow; None if the gate has not let it in."""
        return self._of_flow.get(flow)

    def enter(self, flow: http.HTTPFlow) -> None:
        """The head is here: find out who asks for what, and aim it at the upstream or answer it."""
        request = flow.request
        door = door_of(flow)
        caller, problem = self._entrance.meet(address_of(flow), request.headers.fields)
        who = self.reception.identify(flow, caller)
        settings = self._exchanges.settings
        for_upstream = self.names.mean(flow, settings.upstream, allow_remote=settings.allow_remote)
        route = route_of(request)
        if problem is None:
            if for_upstream and self._serve(flow, route, who, caller):
                return
            if (refusal := self.reception.refusal(flow, who, caller, Permission.API_REQUEST)) is not None:
                self.decisions.give(flow, refusal)
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

    def _serve(self, flow: http.HTTPFlow, route: Route, who: Principal | Denied, caller: Caller) -> bool:
        """Whether it is answered here: a warm-up, a browser's question, one of our own pages."""
        if (answer := self.threshold.answer(flow, route)) is not None:
            self.decisions.give(flow, answer)
        elif route is Route.CONTROL:
            self.reception.serve_page(flow, who, caller)
        else:
            return False
        return True

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
            self._refuse(flow, exchange, 403, not_ours(*self.names.of(flow), settings.upstream))
        elif self._auditor is not None and (halted := self._auditor.halted()):
            self._refuse(flow, exchange, 503, halted)
        elif for_upstream and route in _LENDABLE and is_cross_site(flow.request, self._entrance.sites):
            self._refuse(flow, exchange, 403, "A web page of another site may not use the accounts.")
        elif for_upstream and (refused := routes.refuse(method_of(flow.request), flow.request.path)):
            self._refuse(flow, exchange, refused.status, refused.message, allow=refused.allow)
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

    def share(self, flow: http.HTTPFlow) -> None:
        """The answer's head goes out: say which pages may read it. That is a part of the answer, if it is ours."""
        is_ours = self.decisions.uphold(flow)
        if flow.response is not None and flow.response.status_code == SWITCHING:
            self.reception.upgraded(flow)
        self.threshold.share(flow)
        if is_ours and flow.response is not None:
            self.decisions.keep(flow, flow.response)

    # Its ticket

    def admit(self, flow: http.HTTPFlow) -> None:
        """The whole request is here: give it a ticket."""
        exchange = self.find(flow)
        if exchange is None or flow.response is not None or exchange.outcome is not None:
            return
        request, origin = flow.request, self._exchanges.settings.upstream
        is_ours = (request.scheme, request.host, request.port) == origin
        if not is_ours or route_of(request) is not Route.INFERENCE:
            exchange.let_pass()
            return
        encoding = request.headers.get("content-encoding", "")
        if not encoding:
            self._look_for_agent(request, exchange)
        body = request.raw_content or b""
        exchange.provenance = read_provenance(request.method, exchange.opening.path, request.headers.get, body)
        if (key := exchange.opening.key) is not None and not self._may_run(key, request, body, encoding):
            self._refuse(flow, exchange, 403, "This client key may not use this model.")
            return
        exchange.admit(self._facts(flow, body, encoding, exchange.opening.client), body, encoding)

    def _may_run(self, key: ClientKey, request: http.Request, body: bytes, encoding: str) -> bool:
        """Whether the key may use every model that the body asks for, as it goes upstream."""
        if not key.models or not routes.runs_model(method_of(request), request.path.partition("?")[0]):
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
        allow: Sequence[str] = (),
    ) -> None:
        answer = exchange.refuse(status, message, retry_after, is_final=is_final)
        self.decisions.give(flow, answer.allowing(allow) if allow else answer)
        if status == FORBIDDEN and self._auditor is not None:
            self._auditor.denied(
                exchange.opening.client, message, target=flow.request.path.partition("?")[0], request_id=exchange.id
            )
