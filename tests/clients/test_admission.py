"""Admission: which check answers which request first, and that every head gets exactly one decision."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients import checks
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.admission import Count, Decision, Ending, admit
from ccflare_core.clients.authentication import LOCAL, Digest, Principal
from ccflare_core.clients.checks import CHECKS, CONNECT_CHECKS, UNCOUNTED_CHECKS, Admitted, Way
from ccflare_core.clients.client_runs import LOST_SECONDS, ClientRun, ClientRuns
from ccflare_core.clients.key_shares import SOON
from ccflare_core.clients.keys import ClientKey, Permission, Role
from ccflare_core.clients.rate_limits import Moment, RateLimits
from ccflare_core.clients.request_head import GateState, PageAccess, RequestHead
from ccflare_core.clients.sessions import Session
from ccflare_core.clients.throttle import FREE, Throttle
from ccflare_core.config.settings import Settings
from ccflare_core.http.headers import HEAD_BYTES, Header, Line
from ccflare_core.http.rejection import Rejection
from exchange_kit import EPOCH
from guard_kit import PEPPER, SECRET, a_key, digest, ring_of

NOW = Moment(1000.0, EPOCH)
WRONG = "ccf_" + "w" * 32
EVIL = (b"Origin", b"http://evil.com")
PANEL = (b"Origin", b"https://panel.example")
PREFLIGHT = (b"Access-Control-Request-Method", b"POST")
HEALTH = PageAccess(("GET", "HEAD"), None)
PAUSE = PageAccess(("POST",), Permission.ACCOUNTS_MANAGE)
FIGURES = PageAccess(("GET", "HEAD"), Permission.DASHBOARD_VIEW)
COOKIE: dict[str, Any] = {"presented": (), "sessions": ("c",)}
OWN_PAGE = (b"Sec-Fetch-Site", b"same-origin")
OWN_ORIGIN = (b"Origin", b"http://127.0.0.1:8080")
OTHER_PORT = (b"Sec-Fetch-Site", b"same-site")


class OneSession:
    """The owner has logged in, and got the cookie `c`."""

    def find(self, cookies: Sequence[str], now: float) -> Session | None:
        return Session("id", "key", "", now, now, "token") if "c" in cookies else None


LOGGED_IN: dict[str, Any] = {"sessions": OneSession()}
KEY = a_key()
STATEFUL = a_key(stateful=True)
SERVES_AGENTS = {"stateful_account": "max"}
ELSEWHERE = RequestHead(
    Line(b"CONNECT", b""), (), (SECRET,), "127.0.0.1", "other.example", 443, ("127.0.0.1", 8080), is_connect=True
)
NAMED: dict[str, Any] = {"options": {"allowed_hosts": "proxy.lan outside.lan:9090"}}
REMOTE: dict[str, Any] = {
    "options": {"allow_remote": True, "allowed_origins": "https://panel.example"},
    "own_names": frozenset({"box"}),
}
OPENER = Principal(KEY, KEY.role.permissions, SECRET)


def a_head(path: str = "/v1/messages", method: str = "POST", *fields: Header, **more: Any) -> RequestHead:
    """The head of a request of this machine to our own address, with a valid client key."""
    given: dict[str, Any] = {
        "presented": (SECRET,),
        "peer": "127.0.0.1",
        "host": "127.0.0.1",
        "port": 8080,
        "here": ("127.0.0.1", 8080),
    }
    return RequestHead(Line(method.encode(), path.encode()), fields, **given | more)


def a_state(*, key: Any = KEY, options: dict[str, Any] | None = None, **more: Any) -> GateState:
    """The state of a gate with one client key, and nothing against anybody."""
    given = {f"ccflare_{name}": value for name, value in (options or {}).items()}
    settings = Settings.build(given, {"XDG_DATA_HOME": "/x"})
    state = GateState(
        settings=settings,
        access=AccessLists(settings).access,
        ring=ring_of(key) if key else ring_of(),
        open_loopback=False,
        rates=RateLimits(print),
        waits=Throttle(),
        open_requests=0,
        audit_problem=None,
        needs_code=False,
    )
    return replace(state, **more)


def rejection(decision: Decision) -> Rejection:
    assert isinstance(decision.outcome, Rejection)
    return decision.outcome


def deciding(head: RequestHead, state: GateState) -> str:
    """The name of the check that decides."""
    order = CONNECT_CHECKS if head.is_connect else CHECKS
    found: list[str] = []

    def noted(check: checks.Check) -> checks.Check:
        def look(request: checks.Request) -> Admitted | Rejection | None:
            found.append(check.__name__)
            return check(request)

        return look

    name = "CONNECT_CHECKS" if head.is_connect else "CHECKS"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checks, name, tuple(noted(check) for check in order))
        admit(head, state, NOW)
    return found[-1]


# --- the order --------------------------------------------------------------------------------------------------------


class KeySpent(RateLimits):
    """Every client key has used up what it may."""

    def for_key(self, *_: object, **__: object) -> Rejection | None:
        return Rejection(429, "too much")


class Spent(KeySpent):
    """So has every address."""

    def for_address(self, *_: object) -> Rejection | None:
        return Rejection(429, "too often")


UNREADABLE_TAG = (b"x-ccflare-tag", b"ticket")
FORWARDED = (b"X-Forwarded-For", b"192.0.2.7")
EVERYTHING_IS_WRONG: dict[str, Any] = {
    "fields": (
        EVIL,
        FORWARDED,
        (b"Forwarded", b"for=192.0.2.8"),
        (b"x", b"y" * HEAD_BYTES),
    ),
    "presented": (WRONG,),
    "host": "evil.com",
    "problem": "a line of nonsense",
    "misplaced_key": "the path",
    "run": "run-unknown",
}
RUN = ClientRun("run-1", EPOCH, EPOCH, KEY.id, dollars=Decimal(1), cost=Decimal(1))
SPENT_RUN = ClientRuns()
SPENT_RUN.replace([RUN])
AGAINST_EVERYBODY: dict[str, Any] = {
    "options": {"block_ips": "127.0.0.1", "trusted_proxies": "127.0.0.0/8", "max_requests": 1, "allow_remote": True},
    "rates": Spent(print),
    "audit_problem": "nothing can be audited",
    "open_requests": 1,
    "has_room": lambda address: False,
    "runs": SPENT_RUN,
}
MENDED: tuple[tuple[str, int, dict[str, Any], dict[str, Any]], ...] = (
    # The check that decides, its status, and what is then mended for the next row: in the head, in the state.
    ("one_client", 400, {"fields": (EVIL, FORWARDED, (b"x", b"y" * HEAD_BYTES))}, {}),
    (
        "served_address",
        403,
        {},
        {"options": {"max_requests": 1, "allow_remote": True, "trusted_proxies": "127.0.0.0/8"}},
    ),
    ("rate_of_address", 429, {}, {"rates": RateLimits(print)}),
    ("share_of_address", 429, {"fields": (EVIL, (b"x", b"y" * HEAD_BYTES))}, {}),
    ("key_in_its_place", 400, {"misplaced_key": ""}, {}),
    ("valid_key", 401, {"presented": (SECRET,)}, {"key": a_key(role=Role.VIEWER)}),
    ("known_run", 403, {"run": RUN.id}, {}),
    ("permitted", 403, {}, {"key": KEY}),
    ("well_formed", 400, {"problem": ""}, {}),
    ("open_requests", 503, {}, {"open_requests": 0}),
    ("plain_head", 431, {"fields": (EVIL, UNREADABLE_TAG)}, {"options": {}}),
    ("served_host", 403, {"host": "127.0.0.1"}, {}),
    ("audited", 503, {}, {"audit_problem": None}),
    ("own_site", 403, {"fields": (UNREADABLE_TAG,)}, {}),
    (
        "method_and_path",
        405,
        {"line": Line(b"POST", b"/v1/sessions")},
        {"options": {"stateful_account": "max"}, "rates": KeySpent(print)},
    ),
    ("plain_tags", 400, {"fields": ()}, {}),
    ("stateful", 403, {"line": Line(b"POST", b"/v1/messages")}, {}),
    ("limits_of_key", 429, {}, {"rates": RateLimits(print)}),
    ("budget_of_run", 429, {"run": ""}, {}),
    ("go_on", 0, {}, {}),
)


def test_order_a_request_with_every_fault_is_told_of_them_in_the_order_of_the_list() -> None:
    head, state = replace(a_head(method="TRACE"), **EVERYTHING_IS_WRONG), dict(AGAINST_EVERYBODY)
    seen = []
    for check, status, of_head, of_state in MENDED:
        now = a_state(**state)
        outcome = admit(head, now, NOW).outcome
        assert deciding(head, now) == check
        assert (outcome.status if isinstance(outcome, Rejection) else 0) == status, check
        seen.append(check)
        head, state = replace(head, **of_head), state | of_state
    # These are about our own pages; their rows are in the next table.
    here = ("warm_up", "page_of_ours_only", "preflight", "own_change", "own_page")
    assert seen == [check.__name__ for check in CHECKS if check.__name__ not in here]


@pytest.mark.parametrize(
    ("head", "state", "check", "outcome"),
    [
        # One fault each, and then two: the first of the list answers.
        (a_head("/", "HEAD", presented=(WRONG,)), {}, "warm_up", Way.WARM_UP),
        (a_head("/", "HEAD", peer="192.0.2.7"), {}, "served_address", 403),
        (a_head("/", "HEAD", misplaced_key="the path"), {}, "key_in_its_place", 400),
        (a_head("", "CONNECT", is_connect=True, misplaced_key="the host"), {}, "key_in_its_place", 400),
        (a_head("/", "HEAD", host="evil.com", port=80), {}, "served_host", 403),
        (a_head("/ccflare/health", "GET", EVIL, page=HEALTH, presented=(WRONG,)), {}, "page_of_ours_only", 403),
        (a_head("/ccflare/health", "GET", page=HEALTH, host="evil.com"), {}, "served_host", 403),
        (
            a_head("/ccflare/health", "GET", page=HEALTH, host="evil.com"),
            {"options": {"allow_remote": True}},
            "served_host",
            403,
        ),
        (a_head("/ccflare/health", "GET", EVIL, page=HEALTH, host="proxy.lan"), NAMED, "page_of_ours_only", 403),
        (a_head("/ccflare/health", "GET", page=HEALTH, host="proxy.lan"), NAMED, "own_page", Way.PAGE),
        (a_head(host="proxy.lan"), NAMED, "go_on", Way.UPSTREAM),
        (a_head(host="proxy.lan", port=81), NAMED, "served_host", 403),
        (a_head(host="outside.lan", port=9090), NAMED, "go_on", Way.UPSTREAM),
        # With ccflare_allow_remote: what only we are called, and no name that a stranger's DNS may have led here.
        (a_head(host="192.0.2.5"), REMOTE, "go_on", Way.UPSTREAM),
        (a_head(host="2001:db8::5"), REMOTE, "go_on", Way.UPSTREAM),
        (a_head(host="box"), REMOTE, "go_on", Way.UPSTREAM),
        (a_head(host="panel.example"), REMOTE, "go_on", Way.UPSTREAM),
        (a_head(host="localhost"), REMOTE, "go_on", Way.UPSTREAM),
        (a_head(host="evil.com"), REMOTE, "served_host", 403),
        (a_head(host="192.0.2.5"), {"own_names": {"box"}}, "served_host", 403),
        (a_head(host="box"), {"own_names": {"box"}}, "served_host", 403),
        (a_head("/ccflare/health", "OPTIONS", PREFLIGHT, page=HEALTH, presented=()), {}, "preflight", Way.PREFLIGHT),
        (a_head("/ccflare/health", "OPTIONS", PREFLIGHT, EVIL, page=HEALTH), {}, "page_of_ours_only", 403),
        (a_head("/v1/messages", "OPTIONS", PREFLIGHT, EVIL, presented=()), {}, "valid_key", 401),
        (
            a_head("/v1/messages", "OPTIONS", PREFLIGHT, PANEL, presented=()),
            {"options": {"allowed_origins": "https://panel.example"}},
            "preflight",
            Way.PREFLIGHT,
        ),
        (a_head("/ccflare/health", "GET", page=HEALTH, presented=(WRONG,)), {}, "own_page", Way.PAGE),
        (a_head("/ccflare/health", "DELETE", page=HEALTH, presented=()), {}, "own_page", 405),
        (a_head("/ccflare/health", "GET", page=HEALTH, problem="nonsense"), {}, "well_formed", 400),
        (a_head("/ccflare/x", "GET", presented=()), {}, "valid_key", 401),
        (a_head("/ccflare/x", "GET"), {}, "permitted", 403),
        (a_head("/ccflare/x", "GET"), {"key": a_key(role=Role.ADMIN)}, "own_page", 404),
        (a_head("/ccflare/p", "POST", page=PAUSE), {"key": a_key(role=Role.ADMIN)}, "own_page", Way.PAGE),
        (a_head("/ccflare/p", "GET", page=PAUSE), {"key": a_key(role=Role.ADMIN), "needs_code": True}, "own_page", 405),
        (a_head("/ccflare/p", "POST", page=PAUSE), {"needs_code": True}, "permitted", 403),
        (
            a_head("/ccflare/p", "POST", page=PAUSE),
            {"key": a_key(role=Role.ADMIN), "needs_code": True},
            "own_page",
            403,
        ),
        (
            a_head("/ccflare/p", "POST", page=PAUSE, code="123456"),
            {"key": a_key(role=Role.ADMIN), "needs_code": True},
            "own_page",
            Way.PAGE,
        ),
        (a_head("/ccflare/p", "POST", page=PAUSE, presented=()), {"open_requests": 999_999}, "valid_key", 401),
        (a_head("/ccflare/p", "GET", page=FIGURES, **COOKIE), LOGGED_IN, "own_page", Way.PAGE),
        (a_head("/ccflare/p", "GET", page=FIGURES, **COOKIE), {}, "valid_key", 401),
        (a_head("/ccflare/p", "POST", OWN_PAGE, page=PAUSE, **COOKIE), LOGGED_IN, "own_page", Way.PAGE),
        (a_head("/ccflare/p", "POST", OWN_ORIGIN, page=PAUSE, **COOKIE), LOGGED_IN, "own_page", Way.PAGE),
        (a_head("/ccflare/p", "POST", page=PAUSE, **COOKIE), LOGGED_IN, "own_change", 403),
        (a_head("/ccflare/p", "POST", OTHER_PORT, page=PAUSE, **COOKIE), LOGGED_IN, "page_of_ours_only", 403),
        (
            a_head("/ccflare/p", "POST", OWN_PAGE, page=PAUSE, **COOKIE),
            {**LOGGED_IN, "needs_code": True},
            "own_page",
            Way.PAGE,
        ),
        (a_head("/ccflare/p", "POST", OWN_PAGE, page=PAUSE, sessions=("c",)), LOGGED_IN, "permitted", 403),
        (a_head("/v1/messages", "POST", OWN_PAGE, **COOKIE), LOGGED_IN, "valid_key", 401),
        (a_head("/api/oauth/profile", "GET", OWN_PAGE, **COOKIE), LOGGED_IN, "valid_key", 401),
        (a_head(presented=()), {"open_requests": 999_999}, "valid_key", 401),
        (a_head(), {"open_requests": 999_999}, "open_requests", 503),
        (a_head("/v1/../x", host="evil.com", port=80), {}, "served_host", 403),
        (a_head("/v1/../x", "POST", EVIL), {}, "method_and_path", 400),  # a path without an account
        (a_head("/v1/messages", "PUT", EVIL), {}, "own_site", 403),
        (a_head("/v1/x", "TRACE"), {"audit_problem": "…"}, "audited", 503),
        (a_head("/v1/x", host="other.example", port=80), {}, "served_host", 403),
        (
            a_head("/v1/x", host="other.example", port=80, is_reverse=True),
            {"options": {"forward_other_hosts": True}},
            "served_host",
            403,
        ),
        (
            a_head("/v1/../x", "TRACE", EVIL, host="other.example", port=80),
            {"options": {"forward_other_hosts": True}},
            "go_on",
            Way.ELSEWHERE,
        ),
        (a_head(), {}, "go_on", Way.UPSTREAM),
        # Managed Agents.
        (a_head("/v1/sessions", "GET"), {}, "go_on", Way.UPSTREAM),
        (a_head("/v1/sessions", "PUT", EVIL), {}, "go_on", Way.UPSTREAM),
        (a_head("/v1/sessions", "GET"), {"options": SERVES_AGENTS}, "stateful", 403),
        (a_head("/v1/sessions", "GET"), {"options": SERVES_AGENTS, "key": a_key(role=Role.ADMIN)}, "stateful", 403),
        (a_head("/v1/sessions", "GET"), {"options": SERVES_AGENTS, "key": STATEFUL}, "go_on", Way.STATEFUL),
        (a_head("/v1/sessions", "GET", presented=()), {"options": SERVES_AGENTS, "key": None}, "go_on", Way.STATEFUL),
        (a_head("/v1/sessions", "GET", EVIL), {"options": SERVES_AGENTS, "key": STATEFUL}, "own_site", 403),
        (a_head("/v1/sessions", "PUT"), {"options": SERVES_AGENTS, "key": STATEFUL}, "method_and_path", 405),
        (a_head("/v1/sessions/"), {"options": SERVES_AGENTS, "key": STATEFUL}, "method_and_path", 400),
        (a_head(), {"options": SERVES_AGENTS}, "go_on", Way.UPSTREAM),
        (
            a_head("/v1/environments/e_1/work/poll", "GET"),
            {"options": SERVES_AGENTS},
            "go_on",
            Way.UPSTREAM,
        ),
        # Inside a tunnel, and asking for one.
        (a_head(presented=(WRONG,), tunnel=OPENER), {}, "valid_key", 403),
        (a_head(presented=(), tunnel=OPENER), {}, "go_on", Way.UPSTREAM),
        (a_head("", "CONNECT", is_connect=True, presented=(WRONG,)), {}, "valid_key", 407),
        (a_head("", "CONNECT", is_connect=True, peer="192.0.2.7"), {}, "served_address", 403),
        (
            a_head("", "CONNECT", is_connect=True, host="other.example", port=443),
            {"key": a_key(role=Role.VIEWER)},
            "permitted_tunnel",
            403,
        ),
        (
            a_head("", "CONNECT", is_connect=True, host="api.anthropic.com", port=443),
            {"key": a_key(role=Role.VIEWER)},
            "go_on",
            Way.TUNNEL,
        ),
        (a_head("", "CONNECT", is_connect=True, host="api.anthropic.com", port=443), {}, "go_on", Way.TUNNEL),
        (ELSEWHERE, {}, "permitted_tunnel", 403),
        (ELSEWHERE, {"key": a_key(tunnels=True)}, "go_on", Way.TUNNEL_ELSEWHERE),
        (ELSEWHERE, {"key": a_key(tunnels=True, role=Role.VIEWER)}, "permitted_tunnel", 403),
        (ELSEWHERE, {"key": a_key(tunnels=True), "rates": KeySpent(print)}, "limits_of_tunnel", 429),
        (
            a_head("", "CONNECT", is_connect=True, host="api.anthropic.com", port=443),
            {"rates": KeySpent(print)},
            "go_on",
            Way.TUNNEL,
        ),
        (replace(ELSEWHERE, presented=()), {"open_loopback": True}, "go_on", Way.TUNNEL_ELSEWHERE),
        (replace(ELSEWHERE, presented=()), {"key": None, "rates": KeySpent(print)}, "go_on", Way.TUNNEL_ELSEWHERE),
        (
            a_head("/ccflare/health", "CONNECT", is_connect=True, page=HEALTH, presented=()),
            {},
            "valid_key",
            407,
        ),
    ],
)
def test_order_the_first_check_that_has_an_answer_decides(
    head: RequestHead, state: dict[str, Any], check: str, outcome: int | Way
) -> None:
    decision = admit(head, a_state(**state), NOW)

    found = decision.outcome
    assert (found.way if isinstance(found, Admitted) else found.status) == outcome
    assert deciding(head, a_state(**state)) == check


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({}, "This client key may not use Managed Agents."),
        ({"stateful": True}, ""),
        ({"stateful": True, "accounts": ("max",), "requests_per_minute": 1, "concurrency": 1}, ""),
        ({"stateful": True, "accounts": ("other",)}, "use the account that Managed Agents live in."),
        ({"stateful": True, "not_accounts": ("m*",)}, "use the account that Managed Agents live in."),
        ({"stateful": True, "models": ("claude-haiku-*",)}, "a list of models or a budget"),
        ({"stateful": True, "tokens_per_day": 1}, "a list of models or a budget"),
        ({"stateful": True, "dollars_per_day": Decimal(0)}, "a list of models or a budget"),
        ({"stateful": True, "dollars_per_month": Decimal(5)}, "a list of models or a budget"),
    ],
)
def test_a_key_gets_no_further_by_managed_agents_than_it_may_go(limits: dict[str, Any], sentence: str) -> None:
    found = a_key(**limits).objection_to_stateful("max")

    assert sentence in found
    assert bool(found) is bool(sentence)


def test_order_of_a_connect_is_that_of_a_request() -> None:
    same: dict[checks.Check, checks.Check] = {
        checks.run_of_tunnel: checks.known_run,
        checks.permitted_tunnel: checks.permitted,
        checks.limits_of_tunnel: checks.limits_of_key,
    }
    of_requests = [check for check in CHECKS if check in CONNECT_CHECKS or check in same.values()]
    of_connects = [same.get(check, check) for check in CONNECT_CHECKS]
    assert of_connects == of_requests
    assert CHECKS[: len(UNCOUNTED_CHECKS)] == UNCOUNTED_CHECKS


@pytest.mark.parametrize("position", range(len(CHECKS)))
def test_a_check_that_fails_admits_nothing(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: checks.Request) -> None:
        raise RuntimeError("sabotage")

    monkeypatch.setattr(checks, "CHECKS", (*CHECKS[:position], broken, *CHECKS[position + 1 :]))

    with pytest.raises(RuntimeError, match="sabotage"):
        admit(a_head(), a_state(), NOW)


# --- what is said and counted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "state", "counts"),
    [
        (a_head(), {}, {Count.ADDRESS, Count.KEY}),
        (a_head(), {"rates": Spent(print)}, set()),
        (a_head(peer="192.0.2.7"), {}, set()),
        (a_head(presented=()), {}, {Count.ADDRESS, Count.FAILURE}),
        (a_head("", "CONNECT", is_connect=True, presented=()), {}, {Count.ADDRESS, Count.FAILURE}),
        (
            a_head("", "CONNECT", is_connect=True, host="api.anthropic.com", port=443),
            {},
            {Count.ADDRESS},
        ),
        (ELSEWHERE, {}, {Count.ADDRESS}),
        (ELSEWHERE, {"key": a_key(tunnels=True)}, {Count.ADDRESS, Count.KEY}),
        (a_head(presented=(WRONG,), tunnel=OPENER), {}, {Count.ADDRESS}),
        (a_head("/", "HEAD"), {}, {Count.ADDRESS}),
        (a_head("/v1/messages", "PUT"), {}, {Count.ADDRESS}),
        (a_head(), {"open_requests": 999_999}, {Count.ADDRESS}),
    ],
)
def test_counts_are_of_what_was_let_in_or_failed(head: RequestHead, state: dict[str, Any], counts: set[Count]) -> None:
    assert admit(head, a_state(**state), NOW).counts == counts


@pytest.mark.parametrize(
    ("opener", "presented", "key", "message"),
    [
        (OPENER, (), None, "The client key that this connection was opened with is no longer valid."),
        (OPENER, (WRONG,), KEY, "The client key that came with this request is not valid."),
        (LOCAL, (WRONG,), KEY, "The client key that came with this request is not valid."),
        (LOCAL, (WRONG,), None, "The client key that came with this request is not valid."),
        (
            LOCAL,
            (),
            KEY,
            "This connection was opened without a client key, and by now one is needed: connect again with one.",
        ),
    ],
)
def test_inside_a_tunnel_the_sentence_names_the_key_that_is_meant(
    opener: Principal, presented: tuple[str, ...], key: Any, message: str
) -> None:
    rejected = rejection(admit(a_head(presented=presented, tunnel=opener), a_state(key=key), NOW))
    assert (rejected.status, rejected.message, rejected.is_recorded) == (403, message, False)


@pytest.mark.parametrize(("is_connect", "status"), [(False, 401), (True, 407)])
def test_failures_are_told_the_same_whatever_their_reason_until_they_are_too_many(
    is_connect: bool, status: int
) -> None:
    throttle = Throttle()
    expired, revoked = a_key(expires_at=EPOCH - 1), a_key(revoked_at=EPOCH - 1)
    cases = ((), KEY), ((WRONG,), KEY), ((SECRET,), expired), ((SECRET,), revoked)
    heads = [(a_head(presented=keys, is_connect=is_connect), a_state(key=key, waits=throttle)) for keys, key in cases]

    told = {replace(rejection(admit(head, state, NOW)), audit="") for head, state in heads}
    reasons = [rejection(admit(head, state, NOW)).audit for head, state in heads]
    for _ in range(FREE):
        throttle.count("127.0.0.1", NOW.clock)
    late = rejection(admit(*heads[0], NOW))

    assert [(each.status, each.is_final, len(each.fields)) for each in told] == [(status, True, 1)]
    assert reasons == ["no key", "an unknown key", "an expired key", "a revoked key"]
    assert (late.status, late.retry_after, late.is_final) == (429, 1, True)
    valid = admit(a_head(is_connect=is_connect), a_state(key=a_key(tunnels=True), waits=throttle), NOW)
    assert isinstance(valid.outcome, Admitted)  # a valid key does not wait for its neighbour


@pytest.mark.parametrize(
    ("head", "state", "audit", "is_recorded"),
    [
        (a_head(peer="192.0.2.7"), {}, "Requests of this address are not served.", True),
        (a_head(), {"rates": Spent(print)}, "", True),
        (a_head("", "CONNECT", is_connect=True), {"rates": Spent(print)}, "too often", True),
        (a_head(presented=()), {}, "no key", False),
        (a_head(presented=(), peer="192.0.2.7"), {}, "Requests of this address are not served.", False),
        (a_head(presented=()), {"rates": Spent(print)}, "too often", False),
        (a_head(), {"key": a_key(role=Role.VIEWER)}, "no permission api.request", False),
        (a_head("/ccflare/health", "GET", EVIL, page=HEALTH), {}, "", False),
        (a_head("/v1/messages", "POST", EVIL), {}, "A web page of another site may not use the accounts.", True),
        (a_head("/v1/messages", "PUT"), {}, "", True),
    ],
)
def test_a_rejection_says_what_is_audited_and_recorded(
    head: RequestHead, state: dict[str, Any], audit: str, is_recorded: bool
) -> None:
    rejected = rejection(admit(head, a_state(**state), NOW))
    assert (rejected.audit, rejected.is_recorded) == (audit, is_recorded)


@pytest.mark.parametrize(
    ("head", "state", "ending"),
    [
        (a_head(presented=()), {}, Ending.ANSWERED),
        (a_head(presented=(WRONG,), is_connect=True), {}, Ending.ANSWERED),
        (a_head(presented=()), {"rates": Spent(print)}, Ending.ANSWERED),
        (a_head(presented=(), peer="192.0.2.7"), {}, Ending.ANSWERED),
        (a_head("/", "HEAD", presented=()), {}, Ending.NONE),
        (a_head("/ccflare/health", "GET", presented=(), page=HEALTH), {}, Ending.NONE),
        (a_head(presented=(WRONG,), tunnel=OPENER), {}, Ending.NONE),
        (a_head(), {"rates": Spent(print)}, Ending.NONE),
        (a_head(), {"key": a_key(role=Role.VIEWER)}, Ending.NONE),
        (a_head(), {}, Ending.NONE),
    ],
)
def test_a_connection_ends_with_the_refusal_of_who_is_not_identified(
    head: RequestHead, state: dict[str, Any], ending: Ending
) -> None:
    assert admit(head, a_state(**state), NOW).ending is ending


def test_a_forwarded_client_without_a_key_needs_room_and_one_with_a_key_does_not() -> None:
    options = {"trusted_proxies": "127.0.0.1", "allow_remote": True}
    crowded = a_state(options=options, has_room=lambda address: str(address) != "192.0.2.7")

    def ending(head: RequestHead) -> Ending:
        return admit(head, crowded, NOW).ending

    assert ending(a_head("/v1/messages", "POST", FORWARDED, presented=())) is Ending.AT_ONCE
    assert ending(a_head("/v1/messages", "POST", FORWARDED)) is Ending.NONE
    assert ending(a_head("/", "HEAD", (b"X-Forwarded-For", b"192.0.2.8"), presented=())) is Ending.NONE
    assert ending(a_head("/", "HEAD", presented=(), peer="192.0.2.7")) is Ending.NONE  # counted when it connected


def test_a_forwarded_client_is_asked_about_like_any_other() -> None:
    xff, options = b"x-forwarded-for", {"trusted_proxies": "127.0.0.1", "allow_ips": "192.0.2.0/24"}

    def status(*fields: Header) -> int:
        outcome = admit(a_head("/v1/messages", "POST", *fields), a_state(options=options), NOW).outcome
        return outcome.status if isinstance(outcome, Rejection) else 0

    assert status((xff, b"192.0.2.7")) == 0
    assert status((xff, b"10.9.8.7")) == 403
    assert status() == 403
    assert status((xff, b"192.0.2.7"), (b"forwarded", b"for=192.0.2.8")) == 400


def test_one_open_request_too_many_is_told_when_to_come_again() -> None:
    def outcome(number: int) -> Admitted | Rejection:
        return admit(a_head(), a_state(options={"max_requests": 2}, open_requests=number), NOW).outcome

    assert isinstance(outcome(1), Admitted)
    assert outcome(2) == Rejection(503, "Too many requests are open at the moment.", SOON)


def test_no_secret_is_in_a_decisions_repr() -> None:
    head = a_head(code="123456", tunnel=OPENER)
    shown = repr((head, admit(head, a_state(), NOW)))
    assert SECRET not in shown
    assert "123456" not in shown


# --- whatever comes ---------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "127.0.0.1", "evil.com", "api.anthropic.com", "::1", "[::1", "10.0.0.1", "a%b"]) | st.text(
    st.characters(codec="latin-1"), max_size=20
)
NAMES = st.sampled_from(
    b"Origin origin Sec-Fetch-Site sec-fetch-mode X-Forwarded-For Forwarded Via Host x-api-key "
    b"Access-Control-Request-Method access-control-request-headers".split()
)
VALUES = st.sampled_from([b"null", b"http://evil.com", b"https://panel.example", b"127.0.0.1", b"for=::1"]) | st.binary(
    max_size=40
)
TARGETS = st.sampled_from([b"/v1/messages", b"/", b"/ccflare/health", b"/ccflare/x", b"/v1/models/%2e", b"*"])
HEADS = st.builds(
    RequestHead,
    line=st.builds(
        Line,
        st.sampled_from([b"GET", b"POST", b"OPTIONS", b"HEAD", b"CONNECT", b"post"]) | st.binary(max_size=25),
        TARGETS | st.binary(max_size=60),
        st.sampled_from([b"HTTP/1.1", b"HTTP/2.0", b""]),
        st.none() | st.binary(max_size=4),
    ),
    fields=st.lists(st.tuples(NAMES | st.binary(max_size=12), VALUES), max_size=8).map(tuple),
    presented=st.lists(st.sampled_from([SECRET, WRONG]) | TEXTS, max_size=3).map(tuple),
    peer=TEXTS,
    host=TEXTS,
    port=st.integers(0, 65_535) | st.sampled_from([80, 443, 8080]),
    here=st.just(("127.0.0.1", 8080)),
    is_reverse=st.booleans(),
    is_tls=st.booleans(),
    is_connect=st.booleans(),
    tunnel=st.sampled_from([None, LOCAL, OPENER]),
    problem=st.sampled_from(["", "nonsense"]),
    page=st.sampled_from([None, HEALTH, PAUSE]),
    code=st.none() | TEXTS,
)
STATES = st.sampled_from(
    [
        a_state(),
        a_state(key=None),
        a_state(key=a_key(role=Role.ADMIN, requests_per_minute=1, tokens_per_day=1), needs_code=True),
        a_state(options={"allow_remote": True, "forward_other_hosts": True, "trusted_proxies": "127.0.0.1 10.0.0.1"}),
        a_state(options={"allowed_origins": "https://panel.example", "requests_per_minute_per_ip": 1}),
        a_state(audit_problem="nothing can be audited", open_loopback=True),
    ]
)


@given(HEADS, STATES)
def test_any_head_is_either_admitted_or_rejected(head: RequestHead, state: GateState) -> None:
    decision = admit(head, state, NOW)

    outcome = decision.outcome
    assert isinstance(outcome, Admitted) is not isinstance(outcome, Rejection)
    assert admit(head, state, NOW) == decision
    if isinstance(outcome, Admitted):
        is_keyless = outcome.way in (Way.WARM_UP, Way.PREFLIGHT) or head.page == HEALTH
        assert is_keyless or outcome.principal is not None
        assert (outcome.way in (Way.TUNNEL, Way.TUNNEL_ELSEWHERE)) is head.is_connect
    else:
        assert 400 <= outcome.status < 600
        assert outcome.message


# --- tags -------------------------------------------------------------------------------------------------------------


def tagged(*values: bytes, **more: Any) -> RequestHead:
    return a_head("/v1/messages", "POST", *((b"x-ccflare-tag", value) for value in values), **more)


def test_tags_that_cannot_be_recorded_are_refused_in_a_sentence_and_not_tried_again() -> None:
    decision = admit(tagged(b"Ticket=12"), a_state(), NOW)

    assert deciding(tagged(b"Ticket=12"), a_state()) == "plain_tags"
    assert (rejection(decision).status, rejection(decision).is_final, decision.tags) == (400, True, {})
    assert rejection(decision).message.startswith("x-ccflare-tag takes name=value, ")


def test_tags_are_nothing_that_is_told_to_who_may_not_ask() -> None:
    assert deciding(tagged(b"x", presented=()), a_state()) == "valid_key"


def test_tags_of_a_request_count_for_more_than_those_of_its_run() -> None:
    runs = ClientRuns()
    runs.replace([replace(KEYLESS, tags=("ticket=12", "who=me"))])
    head = tagged(b"who=you, step=2", presented=(), run=KEYLESS.id)

    decision = admit(head, a_state(runs=runs, key=None), NOW)

    assert isinstance(decision.outcome, Admitted)
    assert decision.tags == {"ticket": "12", "who": "you", "step": "2"}
    assert admit(tagged(b"step=2"), a_state(), NOW).tags == {"step": "2"}


# --- runs of clients --------------------------------------------------------------------------------------------------

IN_RUN: dict[str, Any] = {"runs": SPENT_RUN, "key": None}
KEYLESS = ClientRun("run-2", EPOCH, EPOCH, account_id="id", account="work", dollars=Decimal(1))
SPENT_RUN.replace([RUN, KEYLESS])


def test_runs_what_a_tunnel_was_opened_in_holds_for_each_request_in_it() -> None:
    connect = a_head("", "CONNECT", is_connect=True, presented=(), host="api.anthropic.com", port=443, run="run-2")
    opened = admit(connect, a_state(**IN_RUN), NOW).outcome
    assert isinstance(opened, Admitted)

    inside = admit(a_head(presented=(), tunnel=opened.principal), a_state(**IN_RUN), NOW)

    assert opened.principal == replace(LOCAL, run="run-2")
    assert (inside.outcome, inside.run) == (Admitted(Way.UPSTREAM, LOCAL), KEYLESS)


@pytest.mark.parametrize(
    ("said", "tunnel", "check"),
    [
        ("run-2", "", "go_on"),
        ("run-2", "run-2", "go_on"),
        ("run-9", "", "known_run"),
        ("", "run-9", "known_run"),
        ("run-2", "run-9", "known_run"),
        ("run-1", "", "known_run"),  # which is a client key's
    ],
)
def test_runs_one_that_is_not_known_or_not_sure_is_served_nothing(said: str, tunnel: str, check: str) -> None:
    head = a_head(presented=(), run=said, tunnel=replace(LOCAL, run=tunnel))

    assert deciding(head, a_state(**IN_RUN)) == check


@pytest.mark.parametrize(
    ("silent", "said", "check"),
    [
        (0, "", "go_on"),
        (0, "run-3", "go_on"),
        (0, "run-1", "run_of_tunnel"),
        (LOST_SECONDS + 1, "", "run_of_tunnel"),
        (None, "", "run_of_tunnel"),
    ],
)
def test_runs_a_temporary_key_opens_no_tunnel_after_its_run(silent: float | None, said: str, check: str) -> None:
    owner, runs = ClientKey("run-3", "run-3", tunnels=True), ClientRuns()
    if silent is not None:
        runs.replace([RUN, ClientRun("run-3", EPOCH, EPOCH - silent, "run-3", is_keyed=True)])
    of_run = {digest(SECRET, PEPPER): Digest("run-3", EPOCH + 1, "run-3")}
    ring = replace(ring_of(KEY), digests=of_run, temporary={"run-3": owner})

    assert deciding(replace(ELSEWHERE, run=said), replace(a_state(runs=runs), ring=ring)) == check


@pytest.mark.parametrize("run", ["run-1", "run-2", "run-9"])
def test_runs_a_label_lets_nobody_in(run: str) -> None:
    for presented in ((), (WRONG,)):
        assert deciding(a_head(presented=presented, run=run), a_state(runs=SPENT_RUN)) == "valid_key"
        assert not admit(a_head(presented=presented, run=run), a_state(runs=SPENT_RUN), NOW).is_identified


def test_runs_what_everybody_gets_tells_whether_a_run_is_known_and_asks_for_no_key() -> None:
    known, unknown = (
        a_head("/ccflare/health", "GET", page=HEALTH, presented=(), run=run) for run in ("run-1", "run-9")
    )

    assert deciding(known, a_state(runs=SPENT_RUN)) == "own_page"
    assert rejection(admit(unknown, a_state(runs=SPENT_RUN), NOW)).status == 403


@pytest.mark.parametrize(
    ("path", "check"),
    [("/v1/messages/batches", "budget_of_run"), ("/v1/messages", "go_on"), ("/v1/files", "go_on")],
)
def test_runs_with_a_budget_make_no_batches(path: str, check: str) -> None:
    assert deciding(a_head(path, presented=(), run="run-2"), a_state(**IN_RUN)) == check


def test_runs_that_are_spent_still_get_what_costs_nothing() -> None:
    head = a_head("/v1/models", "GET", run="run-1")

    assert deciding(head, a_state(runs=SPENT_RUN)) == "go_on"
    assert deciding(replace(head, line=Line(b"POST", b"/v1/messages")), a_state(runs=SPENT_RUN)) == "budget_of_run"


def test_runs_are_kept_out_of_managed_agents_by_their_account() -> None:
    head = a_head("/v1/sessions", presented=(), run="run-2")

    assert deciding(head, a_state(**IN_RUN, options=SERVES_AGENTS)) == "stateful"
