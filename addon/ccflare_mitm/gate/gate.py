"""The gate: what each request is, how it came in, and whether it may go on. First in a request's way."""

import logging
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.anthropic.answers import Answer, rejected
from ccflare_core.anthropic.request import repeatable, repeatable_query
from ccflare_core.clients import browser
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.admission import Count, Decision, Ending, admit
from ccflare_core.clients.authentication import Authenticator
from ccflare_core.clients.checks import OTP, Admitted, Way
from ccflare_core.clients.client_runs import ClientRuns
from ccflare_core.clients.credentials import has_credential
from ccflare_core.clients.rate_limits import Moment, RateLimits
from ccflare_core.clients.request_head import GateState
from ccflare_core.clients.sessions import Sessions
from ccflare_core.clients.strangers import Strangers
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.exchange.batch_records import tells_of_batches
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.final_row import budgeted
from ccflare_core.exchange.log_line import PassedRequests
from ccflare_core.exchange.steps import Opening, Outcome
from ccflare_core.exchange.story import Story
from ccflare_core.http.addresses import Address
from ccflare_core.http.rejection import Rejection
from ccflare_core.text import composed
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.gate.admin_server import AdminServer
from ccflare_mitm.gate.batch_reader import BatchReader
from ccflare_mitm.gate.browser_checks import BrowserChecks
from ccflare_mitm.gate.ingress import Names, address_of, aim, ingress_of, read_request_head
from ccflare_mitm.gate.ticketing import Ticketing
from ccflare_mitm.gate.tunnels import AskedFor, Tunnels
from ccflare_mitm.host.decisions import Decisions
from ccflare_mitm.host.messages import by_name, is_streamed_upload
from ccflare_mitm.host.replays import Replays
from ccflare_mitm.pages.html import LOGIN, to_login
from ccflare_mitm.pages.logins import LINK_ACTOR
from ccflare_mitm.pages.server import PageServer, refused
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import Visit

logger = logging.getLogger("ccflare")

SWITCHING = 101
WARMED_UP = Answer(200, ((b"content-type", b"text/plain"), (b"content-length", b"0")), b"", "")


class Gate:
    """Sends each request on its way: with an account, as it came, answered here, or rejected."""

    def __init__(
        self,
        exchanges: Exchanges,
        authenticator: Authenticator,
        access: AccessLists,
        rates: RateLimits,
        pages: PageServer,
        factor: SecondFactor,
        *,
        auditor: Auditor | None = None,
        sessions: Sessions | None = None,
        strangers: Strangers | None = None,
        runs: ClientRuns | None = None,
        own_names: Callable[[], frozenset[str]] = frozenset[str],
    ) -> None:
        self._exchanges = exchanges
        self._authenticator = authenticator
        self._access = access
        self._rates = rates
        self._factor = factor
        self._auditor = auditor
        self._sessions = sessions or Sessions()
        self._strangers = strangers or Strangers()
        self._runs = runs or ClientRuns()
        self._own_names = own_names
        self.names = Names()
        self.decisions = Decisions()
        self.replays = Replays()
        self.tunnels = Tunnels(authenticator)
        self._refused_tunnels = PassedRequests(exchanges.wall)
        self._browsers = BrowserChecks(self.names, lambda: exchanges.settings)
        self._tickets = Ticketing(exchanges, BatchReader(rates, exchanges, self._deny), self._reject)
        self._pages = AdminServer(pages, self.decisions)
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()

    def find(self, flow: http.HTTPFlow) -> Exchange | None:
        """The exchange of this flow; None if the gate has not let it in."""
        return self._of_flow.get(flow)

    def enter(self, flow: http.HTTPFlow, *, is_connect: bool = False) -> None:
        """The head of a request, or of a CONNECT, is here: decide on it, count it, and do what was decided.

        All in one turn of the event loop, so that no other request is decided on by counters that are out of date.
        """
        replay = self.replays.recognise(flow)
        opener = replay.principal if replay else self.tunnels.opener(flow.client_conn)
        head = read_request_head(flow, self.names, opener, is_connect=is_connect)
        now = Moment(self._exchanges.clock(), self._exchanges.wall())
        self.apply(flow, admit(head, self.state(), now), now, is_connect=is_connect)
        if not is_connect and is_streamed_upload(flow.request) and (exchange := self._undecided(flow)) is not None:
            self._tickets.issue_for_upload(flow, exchange)

    def state(self) -> GateState:
        """What a decision depends on beside the head, as it is now."""
        settings = self._exchanges.settings
        return GateState(
            settings=settings,
            access=self._access.access,
            ring=self._authenticator.ring,
            open_loopback=self._authenticator.open_loopback,
            rates=self._rates,
            waits=self._authenticator.throttle,
            open_requests=len(self._exchanges.open),
            audit_problem=self._auditor.halted() if self._auditor else None,
            needs_code=self._factor.is_needed,
            sessions=self._sessions,
            runs=self._runs,
            has_room=self._strangers.has_room,
            own_names=self._own_names() if settings.allow_remote else frozenset(),  # a system call; else nobody asks
        )

    # What follows from a decision

    def apply(self, flow: http.HTTPFlow, decision: Decision, now: Moment, *, is_connect: bool) -> None:
        """Count what the decision uses up, and carry it out. Nothing is awaited in here."""
        self._count(decision, now, is_connect=is_connect)
        self._place(flow, decision)
        match decision.outcome:
            case Rejection(is_recorded=is_recorded) as rejection:
                if is_recorded and not is_connect:
                    self._open(flow, decision, now)
                else:
                    answer = self._refusal(flow, decision, rejection, now)
                    self.decisions.give(flow, answer, is_last=decision.ending is not Ending.NONE)
                    self._audit(flow, rejection, decision.caller.text, actor=decision.identity.actor)
                    if is_connect:
                        self._tell_of_tunnel(flow, decision, rejection)
            case Admitted(way=Way.WARM_UP):
                self.decisions.give(flow, WARMED_UP)
            case Admitted(way=Way.PREFLIGHT):
                self.decisions.give(flow, self._browsers.allow(flow))
            case Admitted(way=Way.PAGE):
                self._serve_page(flow, decision, now)
            case Admitted(way=Way.TUNNEL, principal=principal) if principal is not None:
                self.tunnels.open(flow, principal)
            case Admitted(way=Way.TUNNEL_ELSEWHERE, principal=principal) if principal is not None:
                self._ask_for_tunnel(flow, AskedFor(principal, decision.caller.text, now))
            case Admitted(way=Way.UPSTREAM | Way.STATEFUL | Way.ELSEWHERE):
                self._open(flow, decision, now)
            case other:
                raise ValueError(f"nothing is known of {other}")

    def _count(self, decision: Decision, now: Moment, *, is_connect: bool) -> None:
        caller, settings = decision.caller, self._exchanges.settings
        self._authenticator.renew(decision.identity)
        if decision.session is not None:
            self._sessions.used(decision.session, now.wall)
        if Count.ADDRESS in decision.counts:
            self._rates.count_address(caller.address, settings.requests_per_minute_per_ip, now)
        principal = decision.identity.principal
        if Count.DENIED in decision.counts and principal is not None and principal.key is not None:
            self._rates.count_denied(principal.key, spends=not is_connect)
        if Count.FAILURE in decision.counts:
            self._authenticator.count_failure(caller.text, decision.identity, now.clock)

    def _place(self, flow: http.HTTPFlow, decision: Decision) -> None:
        """Note whose the connection is by this request, and what becomes of it."""
        strangers, connection, peer = self._strangers, flow.client_conn.id, Address.parse(address_of(flow))
        if decision.is_identified:
            strangers.identified(connection)
        else:
            strangers.asks(connection, peer, decision.caller.address)
        if decision.ending is not Ending.NONE:
            strangers.refused(connection, peer)
        if decision.ending is Ending.AT_ONCE and not flow.request.is_http2:  # there others ask beside it
            strangers.expel(connection)

    def _open(self, flow: http.HTTPFlow, decision: Decision, now: Moment) -> None:
        """Begin the exchange, and send it on or end it with the rejection."""
        principal, request = decision.identity.principal, flow.request
        replay, said = self.replays.of(flow), by_name(request.headers)
        path, _, query = request.path.partition("?")
        if principal is not None:
            self.tunnels.note(flow, principal)
        opening = Opening(
            method=request.method[:20],
            path=path[:300],
            client=decision.caller.text,
            door=ingress_of(flow),
            user_agent=said.get("user-agent", "")[:200],
            key=principal.key if principal else None,
            query=repeatable_query(query) if query else "",
            api_version=repeatable(said.get("anthropic-version", "")),
            betas=repeatable(said.get("anthropic-beta", "")),
            account=composed(said["x-ccflare-account"][:200])[:100] if "x-ccflare-account" in said else "",
            has_credential=has_credential(request.headers.fields),
            stateful_account=self._stateful_account(decision),
            only_account=replay.account if replay else "",
            replay_of=replay.of if replay else "",
            run=decision.run,
            tags=decision.tags,
            traceparent=said.get("traceparent", "")[:200],
        )
        exchange = self._exchanges.begin(opening)
        try:
            if isinstance(decision.outcome, Rejection):
                self._reject(flow, exchange, decision.outcome)
            else:
                self._send_on(flow, exchange, decision.outcome.way, now)
        except BaseException:
            exchange.finish(Outcome.REFUSED, "an error inside the proxy")
            raise
        # Only now can it be found: a request that an error kept from being decided on has no way upstream.
        self._of_flow[flow] = exchange

    def _stateful_account(self, decision: Decision) -> str:
        match decision.outcome:
            case Admitted(way=Way.STATEFUL):
                return self._exchanges.settings.stateful_account
            case _:
                return ""

    def _ask_for_tunnel(self, flow: http.HTTPFlow, asked: AskedFor) -> None:
        """Count it for its client key, until it ends. Where it leads takes a while to find out, see tunnel_opener."""
        if (key := asked.principal.key) is not None:
            self._rates.count_key(key, asked.at, spends=False)
        self.tunnels.ask(flow, asked)

    def _tell_of_tunnel(self, flow: http.HTTPFlow, decision: Decision, rejection: Rejection) -> None:
        """Log the hour's first tunnel that a client key is refused: few programs show the words of such an answer."""
        principal = decision.identity.principal
        if principal is not None and (key := principal.key) and self._refused_tunnels.is_first("tunnel", key.id):
            host, port = flow.request.host[:255], flow.request.port
            logger.warning("no tunnel to %s:%d for %s: %s", host, port, key.name, rejection.message)

    def refuse_tunnel(self, flow: http.HTTPFlow, asked: AskedFor, rejection: Rejection) -> None:
        """It leads where it may not lead."""
        self.decisions.give(flow, rejected(rejection))
        key = asked.principal.key
        self._audit(flow, rejection, asked.client_ip, actor=f"client:{key.name}" if key else "")

    def _send_on(self, flow: http.HTTPFlow, exchange: Exchange, way: Way, now: Moment) -> None:
        """Count it for its client key, until it ends, and aim it at the upstream if it is meant for it."""
        if (key := exchange.opening.key) is not None:
            self._rates.count_key(key, now)
        if key is not None or exchange.opening.run is not None:
            exchange.when_ended(self._ended)
        if way in (Way.UPSTREAM, Way.STATEFUL):
            aim(flow.request, self._exchanges.settings.upstream)

    def _ended(self, exchange: Story) -> None:
        used, opening = budgeted(exchange), exchange.opening
        if opening.run is not None:
            self._runs.add(opening.run, *used)
        if opening.key is None:
            return
        self._rates.ended(opening.key, exchange.started_at, *used)
        if tells_of_batches(exchange):
            self._rates.budgets.batch_ended(exchange.id, may_be_made=bool(exchange.counted.tokens))

    def _reject(self, flow: http.HTTPFlow, exchange: Exchange, rejection: Rejection) -> None:
        answer = rejected(rejection, exchange.id)
        exchange.answered(answer)
        if flow.error is None:  # else mitmproxy answers
            self.decisions.give(flow, answer)
        self._deny(flow, exchange, rejection)

    def _deny(self, flow: http.HTTPFlow, exchange: Exchange, rejection: Rejection) -> None:
        self._audit(flow, rejection, exchange.opening.client, request_id=exchange.id)

    def _audit(
        self, flow: http.HTTPFlow, rejection: Rejection, address: str, *, actor: str = "", request_id: str = ""
    ) -> None:
        """Note a rejection, if it is to be noted. Those of one burst become one entry."""
        if rejection.audit and self._auditor is not None:
            target = flow.request.path.partition("?")[0] or f"{flow.request.host}:{flow.request.port}"
            self._auditor.denied(address, rejection.audit, actor=actor, target=target, request_id=request_id)

    def _serve_page(self, flow: http.HTTPFlow, decision: Decision, now: Moment) -> None:
        visit = _visit(flow, decision, now, self.names.of(flow)[1])
        if (found := find_page(visit.path)) is None:
            raise ValueError("the gate has admitted a request to a page that is not there")
        visit = replace(visit, name=found.name)
        if found.page.path == LOGIN:
            flow.request.path = visit.path  # what is left of it in the flow holds no link
        self._pages.serve(flow, found.page, visit)

    def _refusal(self, flow: http.HTTPFlow, decision: Decision, rejection: Rejection, now: Moment) -> Answer:
        """The rejection as an answer; a person whom a login could help is sent to it."""
        if not decision.is_for_page:
            return rejected(rejection)
        visit = _visit(flow, decision, now, self.names.of(flow)[1])
        found, principal = find_page(visit.path), decision.identity.principal
        needed = found.page.permission if found else None
        is_lacking = needed is not None and (principal is None or not principal.may(needed))
        if visit.is_browsers and is_lacking and decision.session is None and not browser.is_unsafe(visit.method):
            return to_login(visit.path, visit.query)
        return refused(rejection, visit)

    def share(self, flow: http.HTTPFlow) -> None:
        """The answer's head goes out: say which pages may read it. That is a part of the answer, if it is ours."""
        is_ours = self.decisions.uphold(flow)
        if flow.response is not None and flow.response.status_code == SWITCHING:
            self.tunnels.upgraded(flow)
        self._browsers.share(flow)
        if is_ours and flow.response is not None:
            self.decisions.keep(flow, flow.response)

    # Its ticket

    def issue_ticket(self, flow: http.HTTPFlow) -> None:
        """The whole request is here: say what may go upstream for it, or answer it if it is for a page of ours."""
        self._pages.read(flow)
        if (exchange := self._undecided(flow)) is not None and not exchange.is_streamed:
            self._tickets.issue(flow, exchange)

    def _undecided(self, flow: http.HTTPFlow) -> Exchange | None:
        """The exchange of a flow that is neither answered nor over."""
        exchange = self.find(flow)
        return None if exchange is None or flow.response is not None or exchange.outcome is not None else exchange


HTTPS = 443


def _visit(flow: http.HTTPFlow, decision: Decision, now: Moment, port: int) -> Visit:
    """What a page is told of a request: no client key and no cookie of ours is in its fields any more.

    `port` is the one that the client has asked.

    Bytes that are no UTF-8 are told as what stands for them: no database, template or URL takes half a character.
    """
    request, session = flow.request, decision.session
    path, _, query = request.data.path.decode(errors="replace").partition("?")
    return Visit(
        decision.identity,
        decision.caller.text,
        path,
        code=request.headers.get(OTP.decode()),
        method=request.method.upper(),
        query=query,
        headers={key.lower(): value for key, value in request.headers.items()},
        at=now.wall,
        by=LINK_ACTOR if session is not None else "",
        session=session,
        token=("token", session.token) if session is not None else ("", ""),
        port=port,
        is_tls=flow.client_conn.tls_established or port == HTTPS,  # or that of a front of ours
    )
