"""The checks that a request has to pass, and their order. Pure.

The first check that has an answer decides. A check gives a `Rejection`, or `Admitted` where the request goes no further
but is answered here, or None: the next one is asked. None of them counts or changes anything.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from ccflare_core.anthropic import routes
from ccflare_core.anthropic.routes import Route
from ccflare_core.clients import browser
from ccflare_core.clients.access import Caller
from ccflare_core.clients.authentication import Identity, Principal
from ccflare_core.clients.browser import Asked
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.key_shares import SOON
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.rate_limits import Moment
from ccflare_core.clients.request_head import GateState, PageAccess, RequestHead
from ccflare_core.clients.sessions import Session
from ccflare_core.clients.tags import NO_TAGS, Tagged
from ccflare_core.http.addresses import Address
from ccflare_core.http.headers import refuse_request
from ccflare_core.http.rejection import Rejection
from ccflare_core.program import typed

OTP = b"x-ccflare-otp"
"""The header that a code of the second factor comes in."""


class Way(StrEnum):
    """Where an admitted request goes."""

    UPSTREAM = "upstream"
    STATEFUL = "stateful"
    """To the upstream, and with the account that Managed Agents live in."""
    ELSEWHERE = "elsewhere"
    """To another host, as it came."""
    TUNNEL = "tunnel"
    """A CONNECT to the upstream: its connection becomes a tunnel, whose requests come here."""
    TUNNEL_ELSEWHERE = "tunnel elsewhere"
    """A CONNECT to another host: nobody looks into that tunnel, but where it leads is looked at first."""
    PAGE = "page"
    """To one of our own pages."""
    PREFLIGHT = "preflight"
    """A browser asks whether its page may ask; answered here."""
    WARM_UP = "warm-up"
    """Claude Code opens a connection before it needs one; answered here."""


class Admitted(NamedTuple):
    """The request may go this way. There is a principal, except for what is answered without a key."""

    way: Way
    principal: Principal | None = None


class Request(NamedTuple):
    """What the checks look at: the head and the state, and what follows from both."""

    head: RequestHead
    state: GateState
    now: Moment
    caller: Caller
    contradiction: str
    """Why it is not known where the request comes from, if so."""
    identity: Identity
    asked: Asked
    """What a browser says of it."""
    route: Route | None
    """What its path means; None for a path of another host, and for a CONNECT."""
    session: Session | None = None
    """The session of a browser that it came in, for a page of ours alone."""
    label: str = ""
    """The run of a client that it says it is in."""
    run: ClientRun | None = None
    """That run, if it is known."""
    tagged: Tagged = NO_TAGS
    """The tags that it brings itself."""

    @property
    def is_forwarded(self) -> bool:
        """Whether a trusted proxy has named its client."""
        return self.caller.address != Address.parse(self.head.peer)

    @property
    def is_inside_tunnel(self) -> bool:
        """Whether it came through a tunnel, and does not ask for one."""
        return self.head.tunnel is not None and not self.head.is_connect

    @property
    def leads_elsewhere(self) -> bool:
        """Whether it asks for a tunnel to another host than the upstream, which nobody looks into."""
        upstream = self.state.settings.upstream
        return self.head.is_connect and (self.head.host, self.head.port) != (upstream.host, upstream.port)


type Check = Callable[[Request], Admitted | Rejection | None]


def one_client(request: Request) -> Rejection | None:
    """The proxies in front have to agree on whose request it is."""
    return _of_address(request, Rejection(400, request.contradiction)) if request.contradiction else None


def served_address(request: Request) -> Rejection | None:
    """The address has to be one that is served: that of the socket, and that which a trusted proxy names."""
    if request.state.access.admits(request.head.peer) and request.state.access.serves(request.caller):
        return None
    return _forbidden("Requests of this address are not served.")


def rate_of_address(request: Request) -> Rejection | None:
    """The address must not have asked too often in the last minute."""
    per_minute = request.state.settings.requests_per_minute_per_ip
    rejection = request.state.rates.for_address(request.caller.address, per_minute, request.now)
    return rejection and _of_address(request, rejection)


def share_of_address(request: Request) -> Rejection | None:
    """Whom a trusted proxy names must not have too many connections without a valid key. See strangers.py."""
    if request.identity.principal is not None or not request.is_forwarded:
        return None
    return None if request.state.has_room(request.caller.address) else CROWDED


def key_in_its_place(request: Request) -> Rejection | None:
    """A client key anywhere else would be written down by somebody on the way."""
    if not (place := request.head.misplaced_key):
        return None
    message = (
        f"A client key of this proxy came in {place}: it belongs in x-api-key, in Authorization as a bearer token or "
        "in the password of the proxy's address, and nowhere else."
    )
    return Rejection(400, message, is_final=True, audit=f"a client key in {place}", is_recorded=False)


def warm_up(request: Request) -> Admitted | None:
    """Claude Code's first connection gets its answer at once."""
    return Admitted(Way.WARM_UP) if request.route is Route.PRECONNECT else None


def page_of_ours_only(request: Request) -> Rejection | None:
    """A page of ours is not for web pages of other sites, and not under a name that is not ours."""
    if request.route is not Route.CONTROL:
        return None
    objection = browser.objection(request.asked, request.state.settings.allowed_origins)
    return Rejection(403, objection, is_recorded=False) if objection else None


def preflight(request: Request) -> Admitted | None:
    """A browser asks whether its page may ask: for a page of ours, or for a path of the API if that page may use it."""
    if not request.asked.is_preflight:
        return None
    if request.route is Route.WRONG_METHOD:  # the paths of the API; all others take OPTIONS
        is_allowed = request.state.settings.allowed_origins.have(request.asked.origin or "")
        return Admitted(Way.PREFLIGHT) if is_allowed else None
    return Admitted(Way.PREFLIGHT) if request.route is Route.CONTROL else None


def valid_key(request: Request) -> Rejection | None:
    """A valid client key is needed, or none on this machine where that is enough. One of our pages is for everybody."""
    head, identity = request.head, request.identity
    if identity.principal is not None or _permission(request) is None:
        return None
    if request.is_inside_tunnel:
        # Never a 401 in here: the client may have a login of its own, and take it for refused.
        rejection = Rejection(403, _invalid_in_tunnel(head))
    elif wait := request.state.waits.wait(request.caller.text, request.now.clock):
        rejection = replace(SLOW_DOWN, retry_after=wait)
    else:
        rejection = PROXY_KEY_REQUIRED if head.is_connect else KEY_REQUIRED
    return replace(rejection, audit=identity.why or "", is_recorded=False)


def known_run(request: Request) -> Rejection | None:
    """The run that the client says it is in has to go on: without what narrows it, it is not served at all.

    A tunnel is opened all the same, so that each request in it gets an answer that its program shows.
    """
    if not request.label:
        return None
    principal = request.identity.principal
    key = principal.key if principal else None
    if principal is None and request.run is not None:  # what everybody gets needs no key
        return None
    return request.state.runs.objection(request.run, key, request.now.wall)


def run_of_tunnel(request: Request) -> Rejection | None:
    """A run's temporary key opens no tunnel to another host once its run is over, or gives no sign of life."""
    principal = request.identity.principal
    if not request.leads_elsewhere or principal is None or not principal.run:
        return None
    return request.state.runs.objection(request.run, principal.key, request.now.wall)


def permitted(request: Request) -> Rejection | None:
    """The key's role has to have the permission."""
    needed, principal = _permission(request), request.identity.principal
    if needed is None or principal is None or principal.may(needed):
        return None
    message, audit = f"This needs the permission {needed}.", f"no permission {needed}"
    return Rejection(403, message, audit=audit, is_recorded=False)


def own_change(request: Request) -> Rejection | None:
    """What is changed with a session's cookie alone has to come from a page of ours: other ports get that cookie too.

    That the page was this session's is asked when its form is here.
    """
    if request.session is None or not browser.is_unsafe(request.head.method):
        return None
    if browser.is_own_page(request.asked):
        return None
    return Rejection(403, "This is for our own pages only.", audit="a change from another page", is_recorded=False)


def permitted_tunnel(request: Request) -> Rejection | None:
    """A tunnel to another host needs the permission too. In one to the upstream each request is asked for its own."""
    if not request.leads_elsewhere:
        return None
    principal = request.identity.principal
    if (rejection := permitted(request)) or principal is None or principal.key is None or principal.key.tunnels:
        return rejection
    message = (
        "This client key opens no tunnels to other hosts. Claude Code with HTTPS_PROXY needs them, for its git, npm "
        f"and Bash tools use the proxy too: `{typed('keys client change')} {principal.key.name} --tunnels` allows them."
    )
    return Rejection(403, message, audit="no tunnels to other hosts", is_recorded=False)


def limits_of_tunnel(request: Request) -> Rejection | None:
    """A tunnel to another host counts as one of the client key's requests, for as long as it is open."""
    principal = request.identity.principal
    if not request.leads_elsewhere or principal is None or principal.key is None:
        return None
    rejection = request.state.rates.for_key(principal.key, request.now, spends=False)
    return rejection and replace(rejection, audit=rejection.message, is_recorded=False)


def well_formed(request: Request) -> Rejection | None:
    """mitmproxy must not have found anything wrong. It answers itself; this is for the record."""
    return Rejection(400, request.head.problem) if request.head.problem else None


def own_page(request: Request) -> Admitted | Rejection | None:
    """A page of ours has to be there and to take the method; a change needs a code, if there is a second factor."""
    head, page = request.head, request.head.page
    if request.route is not Route.CONTROL:
        return None
    if page is None:
        return NO_PAGE
    if head.method not in page.methods:
        message = f"This page takes {', '.join(page.methods)} only."
        return Rejection(405, message, allow=page.methods, is_recorded=False)
    if needs_code(request, page) and head.code is None:
        return CODE_REQUIRED
    return Admitted(Way.PAGE, request.identity.principal)


def needs_code(request: Request, page: PageAccess) -> bool:
    """Whether the head has to bring a code of the second factor. The form of a session's page has it in its body."""
    is_change = browser.is_unsafe(request.head.method) and page.permission is not None
    return is_change and request.state.needs_code and request.session is None


def open_requests(request: Request) -> Rejection | None:
    """There has to be room for one more open request."""
    if request.state.open_requests < request.state.settings.max_requests:
        return None
    return Rejection(503, "Too many requests are open at the moment.", SOON)


def plain_head(request: Request) -> Rejection | None:
    """The head has to be small enough, and the same to all who read it."""
    return refuse_request(request.head.line, request.head.fields)


def served_host(request: Request) -> Rejection | None:
    """The request has to be for the upstream, or for another host where those are forwarded."""
    head, settings = request.head, request.state.settings
    if request.route is not None or (settings.forward_other_hosts and not head.is_reverse):
        return None
    served = f"This proxy serves {settings.upstream.host} only, not {head.host[:100]}:{head.port}; "
    if head.is_reverse or head.port == head.here[1]:  # who asks for another host rarely hits upon our own port
        return _forbidden(f"{served}if that is this proxy, add it to ccflare_allowed_hosts.")
    return _forbidden(
        f"{served}set ccflare_forward_other_hosts to pass plain requests for other hosts, or add it to "
        "ccflare_allowed_hosts if it is this proxy."
    )


def audited(request: Request) -> Rejection | None:
    """The audit log has to be writable. That it is not is for those to know who may look behind the proxy."""
    problem, principal = request.state.audit_problem, request.identity.principal
    if problem is None:
        return None
    is_told = principal is not None and principal.may(Permission.DASHBOARD_VIEW)
    return Rejection(503, problem if is_told else "No request is taken at the moment; try again later.")


def own_site(request: Request) -> Rejection | None:
    """The accounts are not for web pages of other sites."""
    if request.route not in (Route.INFERENCE, Route.STATEFUL, Route.WRONG_METHOD):  # these get an account's credential
        return None
    if not browser.is_cross_site(request.asked.headers, request.state.settings.allowed_origins):
        return None
    return _forbidden("A web page of another site may not use the accounts.")


def method_and_path(request: Request) -> Rejection | None:
    """The path must have one reading only, and take the method."""
    head, stateful = request.head, bool(request.state.settings.stateful_account)
    return None if request.route is None else routes.refuse(head.method_as_sent, head.path, stateful=stateful)


def plain_tags(request: Request) -> Rejection | None:
    """Its tags have to be ones that can be recorded: else nobody would ever find it by them."""
    return Rejection(400, request.tagged.problem, is_final=True) if request.tagged.problem else None


def stateful(request: Request) -> Rejection | None:
    """Managed Agents are for keys that may use them, and the account that they live in."""
    principal, account = request.identity.principal, request.state.settings.stateful_account
    if request.route is not Route.STATEFUL or principal is None:
        return None
    limiting = [each for each in (principal.key, request.run) if each is not None]
    objections = (each.objection_to_stateful(account) for each in limiting)
    return next((_forbidden(objection) for objection in objections if objection), None)


def limits_of_key(request: Request) -> Rejection | None:
    """The client key must be within its rates, and within its budgets for all that could use some of them.

    What is not for a model uses nothing. A spent budget must not keep a client from its batch's results, by which the
    budget learns what they really took.
    """
    principal = request.identity.principal
    if principal is None or principal.key is None:
        return None
    return request.state.rates.for_key(principal.key, request.now, spends=_spends(request))


def budget_of_run(request: Request) -> Rejection | None:
    """The run has to have something left of its budget for what could use some of it.

    What a batch takes is known too late for that.
    """
    run = request.run
    if run is None or run.dollars is None or not _spends(request):
        return None
    if request.route is Route.INFERENCE and request.head.path.partition("?")[0] == routes.BATCHES:
        return _forbidden("A run with a budget makes no batches, whose price is known only later.")
    return request.state.runs.spent_up(run)


def _spends(request: Request) -> bool:
    """Whether it could use some of a budget."""
    path = request.head.path.partition("?")[0]
    return request.route is not Route.INFERENCE or routes.runs_model(request.head.method_as_sent, path)


def go_on(request: Request) -> Admitted:
    """Nothing speaks against it."""
    principal = request.identity.principal
    if request.head.is_connect:
        way = Way.TUNNEL_ELSEWHERE if request.leads_elsewhere else Way.TUNNEL
        in_run = principal is not None and request.label != principal.run
        return Admitted(way, replace(principal, run=request.label) if principal and in_run else principal)
    if request.route is None:
        return Admitted(Way.ELSEWHERE, principal)
    return Admitted(Way.STATEFUL if request.route is Route.STATEFUL else Way.UPSTREAM, principal)


UNCOUNTED_CHECKS: tuple[Check, ...] = (one_client, served_address, rate_of_address, share_of_address)
"""The first ones, of the address. A request that they turn away does not count for it."""
CHECKS: tuple[Check, ...] = (
    *UNCOUNTED_CHECKS,
    key_in_its_place,
    warm_up,
    page_of_ours_only,
    preflight,
    valid_key,
    known_run,
    permitted,
    own_change,
    well_formed,
    own_page,
    open_requests,
    plain_head,
    served_host,
    audited,
    own_site,
    method_and_path,
    plain_tags,
    stateful,
    limits_of_key,
    budget_of_run,
    go_on,
)
"""The order for a request."""
CONNECT_CHECKS: tuple[Check, ...] = (
    *UNCOUNTED_CHECKS,
    key_in_its_place,
    valid_key,
    run_of_tunnel,
    permitted_tunnel,
    limits_of_tunnel,
    go_on,
)
"""The order for a CONNECT. What comes inside the tunnel is a request."""


# What they say


def _challenge(status: int, name: bytes, scheme: bytes, message: str) -> Rejection:
    # Final, since no key becomes right by waiting: Claude Code would try a wrong one 11 times in 179 s (measured).
    return Rejection(status, message, is_final=True, fields=((name, scheme + b' realm="ccflare"'),))


KEY_REQUIRED = _challenge(
    401,
    b"www-authenticate",
    b"Bearer",
    "A valid client key of this proxy is required, in x-api-key or as a bearer token.",
)
PROXY_KEY_REQUIRED = _challenge(
    407,
    b"proxy-authenticate",
    b"Basic",
    "A valid client key of this proxy is required, as the password of the proxy's address.",
)
SLOW_DOWN = Rejection(
    429, "Too many requests without a valid client key; wait before the next one.", is_final=True
)  # for a person, who may try again after that time; a program should not by itself
CROWDED = Rejection(429, "This address has too many connections without a valid client key.", is_final=True)
NO_PAGE = Rejection(404, "There is no such page; /ccflare/health is one.", is_recorded=False)
CODE_REQUIRED = Rejection(
    403,
    f"This needs a code of the second factor, in the header {OTP.decode()}; each is good once.",
    fields=((OTP, b"required"),),
    audit="no valid second factor",
    is_recorded=False,
)
TOO_MANY_CODES = Rejection(
    429,
    "Too many wrong codes; wait before the next one.",
    is_final=True,
    audit="no valid second factor",
    is_recorded=False,
)


def _forbidden(message: str) -> Rejection:
    return Rejection(403, message, audit=message)


def _of_address(request: Request, rejection: Rejection) -> Rejection:
    """A CONNECT leaves no row that tells of it, so its refusal is audited."""
    return replace(rejection, audit=rejection.message) if request.head.is_connect else rejection


def _invalid_in_tunnel(head: RequestHead) -> str:
    if head.presented:
        return "The client key that came with this request is not valid."
    if head.tunnel is None or head.tunnel.key is None:
        return "This connection was opened without a client key, and by now one is needed: connect again with one."
    return "The client key that this connection was opened with is no longer valid."


def _permission(request: Request) -> Permission | None:
    """What the request needs; None: nothing, not even a key."""
    if request.route is not Route.CONTROL:
        return Permission.API_REQUEST
    return Permission.DASHBOARD_VIEW if request.head.page is None else request.head.page.permission
