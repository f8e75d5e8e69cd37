"""May this request go on? One decision, from a request's head and the gate's state. Pure.

The order in which a request is looked at is `checks.CHECKS`. Nothing is counted here: what a decision uses up of what
is limited is in its `counts`, for the gate to count in the same turn of the event loop.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from ccflare_core.anthropic import routes
from ccflare_core.anthropic.routes import Route
from ccflare_core.clients import browser, checks
from ccflare_core.clients.access import Caller
from ccflare_core.clients.authentication import Identity, identify, recall
from ccflare_core.clients.browser import Asked
from ccflare_core.clients.checks import Admitted, Request
from ccflare_core.clients.client_runs import PREFIX as RUN
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.rate_limits import Moment
from ccflare_core.clients.request_head import GateState, RequestHead
from ccflare_core.clients.sessions import Session, identity_of
from ccflare_core.clients.tags import NO_TAGS, read_tags, split
from ccflare_core.http.origins import Origin, is_address, is_loopback
from ccflare_core.http.rejection import Rejection


class Count(StrEnum):
    """What a decision uses up."""

    ADDRESS = "a request of the address"
    FAILURE = "a failure to present a valid key"
    KEY = "a request of the client key"
    DENIED = "a request that the client key's limits do not allow"


class Ending(StrEnum):
    """What becomes of the connection: who is refused and not identified does not get to keep it."""

    NONE = "it stays"
    ANSWERED = "it ends with the answer"
    AT_ONCE = "it ends whether the answer arrives or not"


class Decision(NamedTuple):
    """What was decided, of whom, and what has to be counted for it."""

    caller: Caller
    identity: Identity
    outcome: Admitted | Rejection
    counts: frozenset[Count] = frozenset()
    ending: Ending = Ending.NONE
    session: Session | None = None
    """The session of a browser that it came in."""
    is_for_page: bool = False
    """Whether it is for a page of ours, be it there or not."""
    run: ClientRun | None = None
    """The run of a client that it is in."""
    tags: Mapping[str, str] = {}
    """Its tags and those of its run. If both name one, its own counts."""

    @property
    def is_identified(self) -> bool:
        """Whether it is known who asks: by a valid client key, or as a program of this machine that needs none."""
        return self.identity.principal is not None


def admit(head: RequestHead, state: GateState, now: Moment) -> Decision:
    """Whether the request may go on, and where. The same for the same arguments; whatever the head, never an error."""
    request = examine(head, state, now)
    order = checks.CONNECT_CHECKS if head.is_connect else checks.CHECKS
    check, outcome = next((check, found) for check in order if (found := check(request)) is not None)
    counts = set() if check in checks.UNCOUNTED_CHECKS else {Count.ADDRESS}
    if check is checks.valid_key and not request.is_inside_tunnel:
        counts.add(Count.FAILURE)
    if check is checks.go_on and (request.leads_elsewhere or not head.is_connect):
        counts.add(Count.KEY)
    if check in (checks.limits_of_key, checks.limits_of_tunnel):
        counts.add(Count.DENIED)
    decision = Decision(request.caller, request.identity, outcome, frozenset(counts))
    decision = decision._replace(
        session=request.session,
        is_for_page=request.route is Route.CONTROL,
        run=request.run,
        tags=tags_of(request),
    )
    if decision.is_identified or not isinstance(outcome, Rejection):
        return decision
    ending = Ending.AT_ONCE if check is checks.share_of_address else Ending.ANSWERED
    if head.tunnel is not None:  # which is its opener's, who was identified
        ending = Ending.NONE
    return decision._replace(outcome=of_stranger(outcome), ending=ending)


def of_stranger(rejection: Rejection) -> Rejection:
    """The rejection of who is not identified: no row and no line in the log, but counted in the audit log."""
    return replace(rejection, is_recorded=False, audit=rejection.audit or rejection.message)


def examine(head: RequestHead, state: GateState, now: Moment) -> Request:
    """What has to be known before the first check: where the request comes from, whose it is, what it is for."""
    contradiction = ""
    try:
        caller = state.access.caller(head.peer, head.fields)
    except ValueError as error:
        caller, contradiction = Caller(None, head.peer, is_local=False), f"{error}."
    upstream = state.settings.upstream
    is_for_upstream = not head.is_connect and means_upstream(head, state)
    stateful = bool(state.settings.stateful_account)
    route = routes.classify(head.method_as_sent, head.path, stateful=stateful) if is_for_upstream else None
    session = find_session(head, state, now) if route is Route.CONTROL else None
    if session is not None:
        identity = identity_of(session, state.ring, now.wall)
    elif not head.presented and head.tunnel is not None and head.tunnel.key is not None:
        identity = recall(state.ring, head.tunnel, now.wall, open_loopback=state.open_loopback)
    else:
        identity = identify(
            state.ring, head.presented, now.wall, is_local=caller.is_local, open_loopback=state.open_loopback
        )
    # The upstream's own name over TLS: nobody else has a certificate for it that the client takes. Or one of ours.
    asked = Asked(
        head.method,
        Origin("https" if head.is_tls else "http", head.host, head.port),
        browser.read_fields(head.fields),
        is_vouched=(head.is_tls and head.host == upstream.host) or is_ours_by_name(head, state),
    )
    tagged = NO_TAGS if head.is_connect else read_tags(head.fields)
    request = Request(head, state, now, caller, contradiction, identity, asked, route, session, tagged=tagged)
    label = run_of(head, identity)
    return request._replace(label=label, run=state.runs.find(label)) if label else request


def run_of(head: RequestHead, identity: Identity) -> str:
    """The run that a request is in: as it says, or its tunnel did, or the key was made for; "" if in none.

    If these differ it is in none that is known.
    """
    opener, principal = head.tunnel, identity.principal
    of_tunnel, of_key = opener.run if opener else "", principal.run if principal else ""
    said = head.run or of_tunnel or of_key  # most are in none
    return said if not said or {head.run, of_tunnel, of_key} <= {said, ""} else RUN


def tags_of(request: Request) -> Mapping[str, str]:
    """Those of its run, and its own."""
    return dict(map(split, request.run.tags)) | {**request.tagged.tags} if request.run else request.tagged.tags


def find_session(head: RequestHead, state: GateState, now: Moment) -> Session | None:
    """The session that a request for a page of ours came in. A key that was shown beside it counts for more."""
    if head.presented or (session := state.sessions.find(head.sessions, now.wall)) is None:
        return None
    return session if identity_of(session, state.ring, now.wall).principal is not None else None


def means_upstream(head: RequestHead, state: GateState) -> bool:
    """Whether a request means the upstream: by its name, or by our own address.

    A foreign name in front of our port is refused too: that is what a web page's DNS rebinding looks like.
    """
    upstream = state.settings.upstream
    if head.host == upstream.host and head.port in (upstream.port, 80, 443):
        return True
    return is_ours_by_name(head, state) or (head.port == head.here[1] and _is_address_of_ours(head, state))


def is_ours_by_name(head: RequestHead, state: GateState) -> bool:
    """Whether the owner has said that the proxy is reached by the name that a request has."""
    return state.settings.allowed_hosts.have(head.host, head.port, here=head.here[1])


def _is_address_of_ours(head: RequestHead, state: GateState) -> bool:
    """Whether no stranger's DNS can have led to us under this host: an address, or a name that only we have."""
    if is_loopback(head.host) or head.host == head.here[0]:
        return True
    if not state.settings.allow_remote:
        return False
    return is_address(head.host) or head.host in state.own_names or state.settings.allowed_origins.name(head.host)
