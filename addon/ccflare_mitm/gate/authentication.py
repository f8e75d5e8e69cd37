"""The reception: who asks, whether he may, and our own pages.

Who calls is asked here and nowhere else, of every request and every CONNECT, and everything needs a permission: an
inference or any other path that goes upstream `api.request`, one of our own pages what its line in `admin.PAGES` says.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients import browser
from ccflare_core.clients.access import Caller
from ccflare_core.clients.admission import Entrance
from ccflare_core.clients.authentication import TUNNEL_OVER, Denied, Guard, Principal, forbidden, take_keys
from ccflare_core.clients.keys import Permission
from ccflare_core.errors import CCFlareError
from ccflare_core.http.origins import Origin
from ccflare_core.writer.auditor import Auditor
from ccflare_mitm.gate.browser_checks import Threshold, refused
from ccflare_mitm.gate.ingress import address_of
from ccflare_mitm.gate.pages import NO_PAGE, Admin, Page, Visit, actor, find_page, no_method, refusal
from ccflare_mitm.host.decisions import Decisions

logger = logging.getLogger("ccflare")


class Reception:
    """Tells callers apart. Whoever is denied is told so here, and audited."""

    def __init__(
        self,
        guard: Guard,
        admin: Admin,
        entrance: Entrance,
        threshold: Threshold,
        decisions: Decisions,
        *,
        upstream: Callable[[], Origin],
        auditor: Auditor | None,
    ) -> None:
        self._guard = guard
        self._admin = admin
        self._entrance = entrance
        self._threshold = threshold
        self._decisions = decisions
        self._upstream = upstream
        self._auditor = auditor
        self._tunnels: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()
        self._asking: WeakKeyDictionary[http.HTTPFlow, Principal] = WeakKeyDictionary()
        self._upgraded: WeakKeyDictionary[Client, Principal] = WeakKeyDictionary()
        self._working: set[asyncio.Task[None]] = set()

    def connect(self, flow: http.HTTPFlow) -> None:
        """A CONNECT is here: whoever opens a tunnel has to say who he is; what is asked inside it counts as his."""
        caller, problem = self._entrance.meet(address_of(flow), flow.request.headers.fields)
        who = self.identify(flow, caller)
        refusal: Answer | None = None
        if problem is not None:
            self._audit(flow, who, caller, problem.message)
            refusal = refused(problem)
        elif isinstance(who, Denied):
            self._audit(flow, who, caller, who.why)
            refusal = self._guard.refuse(who, caller.text, is_tunnel=True)
        else:
            origin, request = self._upstream(), flow.request
            is_foreign = (request.host.lower(), request.port) != (origin.host, origin.port)
            refusal = self.refusal(flow, who, caller, Permission.API_REQUEST) if is_foreign else None
        if refusal is not None:
            self._decisions.give(flow, refusal)
        elif isinstance(who, Principal):
            self._tunnels[flow.client_conn] = who

    def has_entered(self, client: Client) -> bool:
        """Whether this connection is a tunnel that `connect` has let in."""
        return client in self._tunnels

    def upgraded(self, flow: http.HTTPFlow) -> None:
        """The connection goes on in another protocol, a tunnel in all but name, for whoever has asked for that."""
        if (who := self._asking.get(flow)) is not None:
            self._upgraded[flow.client_conn] = who

    def is_over(self, client: Client) -> bool:
        """Whether this connection is a tunnel, and what it was opened with would not open it again."""
        opened = (self._tunnels.get(client), self._upgraded.get(client))
        try:
            return any(self._has_lost(who) for who in opened if who is not None)
        except Exception:
            logger.exception("A tunnel's key could not be looked at; the tunnel ends")
            return True

    def _has_lost(self, known: Principal) -> bool:
        who = self._guard.recall(known)
        return isinstance(who, Denied) or not known.permissions <= who.permissions

    def identify(self, flow: http.HTTPFlow, caller: Caller) -> Principal | Denied:
        """Who asks, by the key that is presented, or else by the one that the tunnel was opened with.

        From here on no key is in the flow.
        """
        presented, fields = take_keys(flow.request.headers.fields)
        flow.request.headers.fields = fields
        tunnel = self._tunnels.get(flow.client_conn)
        if not presented and tunnel is not None and tunnel.key is not None:
            who = self._guard.recall(tunnel)
        else:
            who = self._guard.identify(presented, is_local=caller.is_local)
        if isinstance(who, Principal):
            self._asking[flow] = who
        return who

    def refusal(
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

    def serve_page(self, flow: http.HTTPFlow, who: Principal | Denied, caller: Caller) -> None:
        """Answer a request for one of our own pages, now or later."""
        request = flow.request
        found = find_page(request.path.partition("?")[0])
        page, name = found or (None, "")
        needed = Permission.DASHBOARD_VIEW if page is None else page.permission
        if needed is not None and (refusal := self.refusal(flow, who, caller, needed)) is not None:
            self._decisions.give(flow, refusal)
        elif page is None or request.method not in page.methods:
            self._decisions.give(flow, no_method(page) if page else NO_PAGE)
        elif browser.is_unsafe(request.method):
            self._answer_later(flow, self._do(page, Visit(flow, who, caller.text, name)))
        else:
            answer = page.handler(self._admin, Visit(flow, who, caller.text, name))
            if isinstance(answer, Answer):
                self._decisions.give(flow, answer)
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
                    self._decisions.give(flow, await answer)
                except CCFlareError as problem:
                    self._decisions.give(flow, refusal(problem))
            finally:
                flow.resume()  # without a response, if all failed: then the wire gives a 500

        flow.intercept()
        task = asyncio.get_running_loop().create_task(work())
        self._working.add(task)
        task.add_done_callback(self._working.discard)
