"""The pool: leases, cooldowns, half-open scopes, sessions; and its invariants under any sequence of events."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import HALF_OPEN, WHOLE, Part
from ccflare_core.accounts.peers import Peers
from ccflare_core.accounts.pool import AccountPool, Cooldown, Exhausted, Lease, Report
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Backoff, Scope, Verdict, no_way
from ccflare_core.anthropic.verdicts import Kind as Answer
from ccflare_core.clients.keys import ClientKey
from ccflare_core.http.egress import EgressProxy

EPOCH = 1_800_000_000.0
OPUS = Part(Scope.FAMILY, "opus")
DAY = 86_400.0


class Clock:
    """Both clocks; `pass_` moves them together, `wall` can be made to jump."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.wall = EPOCH

    def pass_(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


def make_pool(clock: Clock, ids: Iterable[str] = "ab", **options: Any) -> AccountPool:
    pool = AccountPool(clock=lambda: clock.mono, wall=lambda: clock.wall, **options)
    pool.replace_accounts([account(id) for id in ids])
    return pool


def account(id: str, **fields: Any) -> Account:
    return Account(id, f"max-{id}", Kind.OAUTH, **({"access_token": f"token-{id}"} | fields))


def opus(session: str = "s") -> Facts:
    return Facts("claude-opus-4-8", session)


def haiku(session: str = "s") -> Facts:
    return Facts("claude-haiku-4-5", session)


def good(*windows: Window) -> Verdict:
    return Verdict(Answer.OK, 200, "ok", Scope.REQUEST, None, windows, deliver=True)


def spent(until: float | None = None, scope: Scope = Scope.ACCOUNT) -> Verdict:
    kind = Answer.WINDOW_SPENT if scope is Scope.ACCOUNT else Answer.MODEL_BUCKET_SPENT
    return Verdict(kind, 429, "5h window spent", scope, Backoff(60, "double", 300), until=until)


OVERLOADED = Verdict(Answer.OVERLOADED, 529, "529 overloaded", Scope.ACCOUNT, Backoff(10, "fixed", 10))
REJECTED = Verdict(Answer.CREDENTIAL_REJECTED, 401, "credential rejected", Scope.ACCOUNT, Backoff(300, "double", 3600))
BARE = Verdict(Answer.BARE_429, 429, "429 that names no limit", Scope.REQUEST, None)


def acquired(pool: AccountPool, facts: Facts | None = None, **options: Any) -> Lease:
    lease = pool.acquire(facts or opus(), **options)
    assert isinstance(lease, Lease)
    return lease


def refused(pool: AccountPool, facts: Facts | None = None) -> Exhausted:
    answer = pool.acquire(facts or opus())
    assert isinstance(answer, Exhausted)
    return answer


def serve(pool: AccountPool, verdict: Verdict, facts: Facts | None = None) -> tuple[str, Report]:
    lease = acquired(pool, facts)
    report = pool.report(lease, verdict)
    pool.release(lease)
    return lease.account.id, report


# --- leases ---------------------------------------------------------------------------------------------


def test_no_account_at_all() -> None:
    assert refused(make_pool(Clock(), "")) == Exhausted((), None, configured=False)


def test_a_lease_counts_until_it_is_released_and_only_once() -> None:
    pool = make_pool(Clock())
    one, _two = acquired(pool, opus("1")), acquired(pool, opus("2"))

    pool.release(one)
    pool.release(one)

    assert pool.in_flight == 1
    assert [status.in_flight for status in pool.status()] == [0, 1]


def test_five_clients_in_one_instant_get_five_accounts() -> None:
    pool = make_pool(Clock(), "abcde")

    assert {acquired(pool, opus(str(n))).account.id for n in range(5)} == set("abcde")


def test_round_robin_goes_on_after_the_last_one_chosen() -> None:
    pool = make_pool(Clock(), "abc", strategy="round-robin")
    pool.replace_accounts([account("a"), account("b", paused=True), account("c")])

    assert [acquired(pool).account.id for _ in range(4)] == ["a", "c", "a", "c"]


def test_excluded_accounts_are_told_and_not_waited_for() -> None:
    pool = make_pool(Clock())

    exhausted = pool.acquire(opus(), exclude=frozenset("ab"))

    reasons = (("max-a", "already tried", None), ("max-b", "already tried", None))
    assert exhausted == Exhausted(reasons, None, configured=True)


@pytest.mark.parametrize(
    ("key", "served"),
    [
        (ClientKey("k", "k"), "a"),
        (ClientKey("k", "k", accounts=("max-b",)), "b"),
        (ClientKey("k", "k", not_accounts=("max-[ab]",)), "c"),
    ],
)
def test_a_client_key_is_served_by_its_own_accounts(key: ClientKey, served: str) -> None:
    pool = make_pool(Clock(), "abc")
    assert acquired(pool, key=key).account.id == served


def test_of_other_accounts_a_client_key_learns_nothing() -> None:
    pool = make_pool(Clock(), "abc")
    key = ClientKey("k", "k", accounts=("max-b",))
    pool.release(acquired(pool))

    exhausted = pool.acquire(opus(), exclude=frozenset("b"), key=key)

    assert isinstance(exhausted, Exhausted)
    assert [name for name, _, _ in exhausted.reasons] == ["max-b"]
    nothing = pool.acquire(opus(), key=ClientKey("k", "k", accounts=("nobody",)))
    assert nothing == Exhausted((), None, configured=True)


def test_a_session_moves_off_an_account_that_its_key_may_not_use() -> None:
    pool = make_pool(Clock())
    pool.release(first := acquired(pool))
    key = ClientKey("k", "k", not_accounts=(first.account.name,))
    assert acquired(pool, key=key).account.id != first.account.id


TIED = Facts("claude-haiku-5-5", "s", has_thinking=True)


def resting(seconds: float) -> tuple[AccountPool, Clock]:
    """A pool where the session's own account rests that long."""
    clock = Clock()
    pool = make_pool(clock)
    assert serve(pool, good(), TIED)[0] == "a"
    assert serve(pool, spent(clock.wall + seconds), TIED)[0] == "a"
    return pool, clock


@pytest.mark.parametrize(("seconds", "patience", "moves"), [(20, 30, False), (20, 19, True), (20, 0, True)])
def test_patience_waits_for_the_sessions_own_account(seconds: float, patience: float, moves: bool) -> None:
    pool, clock = resting(seconds)

    found = pool.acquire(TIED, patience=patience)

    if moves:
        assert isinstance(found, Lease)
        assert found.account.id == "b"
    else:
        assert isinstance(found, Exhausted)
        assert ([name for name, _, _ in found.reasons], found.is_for_one) == (["max-a"], True)
        assert found.wait == pytest.approx(seconds)
        clock.pass_(seconds + 0.1)
        assert acquired(pool, TIED, patience=patience).account.id == "a"


def test_patience_is_in_vain_where_the_account_does_not_come_back_by_itself() -> None:
    pool, _ = resting(20)
    pool.replace_accounts([account("a", paused=True), account("b")])

    assert acquired(pool, TIED, patience=30).account.id == "b"


@pytest.mark.parametrize("strategy", ["round-robin", "least-used"])
def test_sessions_of_models_that_tie_thinking_stay_under_every_strategy(strategy: str) -> None:
    pool = make_pool(Clock(), "abc", strategy=strategy)
    first = Facts("claude-sonnet-5-5", "s")
    home = serve(pool, good(), first)[0]

    assert {serve(pool, good(), replace(TIED, model=first.model))[0] for _ in range(4)} == {home}
    if strategy == "round-robin":
        assert len({serve(pool, good(), opus())[0] for _ in range(3)}) == 3


def test_home_goes_first_whatever_the_session_or_the_priorities_say() -> None:
    clock = Clock()
    pool = make_pool(clock)
    pool.replace_accounts([account("a"), account("b", priority=59)])
    assert acquired(pool).account.id == "a"

    assert acquired(pool, home="b").account.id == "b"
    assert acquired(pool, opus("another"), home="nobody").account.id == "a"


@pytest.mark.parametrize(("patience", "moves"), [(30, False), (5, True), (0, True)])
def test_home_is_waited_for_with_patience(patience: float, moves: bool) -> None:
    clock = Clock()
    pool = make_pool(clock)
    lease = acquired(pool, home="b")
    pool.report(lease, spent(clock.wall + 20))
    pool.release(lease)

    found = pool.acquire(opus(), home="b", patience=patience)

    assert isinstance(found, Lease) is moves
    if isinstance(found, Exhausted):
        assert ([name for name, _, _ in found.reasons], found.is_for_one) == (["max-b"], True)
        clock.pass_(20.1)
        assert acquired(pool, home="b", patience=patience).account.id == "b"


def test_home_may_not_be_for_the_key() -> None:
    pool = make_pool(Clock())
    key = ClientKey("k", "k", not_accounts=("max-b",))
    assert acquired(pool, home="b", key=key, patience=30).account.id == "a"


NOBODYS = Facts(path_class="sessions")


def test_the_only_account_for_it_is_taken_or_none() -> None:
    pool = make_pool(Clock(), "abc")
    pool.replace_accounts([account("a"), account("b", priority=59), account("c", paused=True)])

    assert [acquired(pool, NOBODYS, only="b").account.id for _ in "12"] == ["b", "b"]
    assert acquired(pool).account.id == "a"
    refused = [pool.acquire(NOBODYS, only=id) for id in ("c", "nobody")]
    assert refused == [
        Exhausted((("max-c", "paused", None),), None, configured=True),
        Exhausted((), None, configured=True),
    ]
    assert (pool.id_of("max-b"), pool.id_of("b")) == ("b", None)


def test_low_priority_leaves_scarce_accounts_to_others() -> None:
    clock = Clock()
    pool = make_pool(clock, "ab")
    low = ClientKey("k", "k", low_priority=True)
    pool.learn("a", [Window("5h", "allowed", 0.8, clock.wall + 600)])
    assert acquired(pool, opus("1"), key=low).account.id == "b"

    pool.learn("b", [Window("7d", "allowed", 0.95, clock.wall + 3600)])
    refused = pool.acquire(opus("2"), key=low)

    assert isinstance(refused, Exhausted)
    assert refused.reasons[0][1] == "kept for others above 80%"
    assert refused.wait == pytest.approx(600)
    assert acquired(pool, opus("2"), key=ClientKey("n", "n")).open
    clock.pass_(601)
    assert acquired(pool, opus("2"), key=low).account.id == "a"


def test_a_lease_of_a_removed_account_can_still_be_reported_and_released() -> None:
    pool = make_pool(Clock(), "a")
    lease = acquired(pool)
    pool.replace_accounts([])
    pool.replace_accounts([account("a")])

    assert pool.report(lease, spent()) == Report()
    pool.release(lease)

    assert (pool.in_flight, pool.status()[0].in_flight, pool.status()[0].available) == (0, 0, True)


# --- unavailable ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"paused": True}, "paused"),
        ({"expires_at": EPOCH - 1}, "needs login: token expired"),
        ({"needs_login": True}, "needs login"),
        ({"access_token": None}, "needs login: no token"),
        ({"access_token": "a\nb"}, "needs login: unusable credential"),
        ({"paused": True, "expires_at": EPOCH - 1}, "paused"),
    ],
)
def test_reasons_that_do_not_end_by_themselves(fields: dict[str, Any], reason: str) -> None:
    pool = make_pool(Clock(), "")
    pool.replace_accounts([account("a", **fields)])

    assert refused(pool) == Exhausted((("max-a", reason, None),), None, configured=True)
    assert (pool.status()[0].available, pool.status()[0].reason) == (False, reason)


def test_a_token_that_expires_while_the_pool_runs() -> None:
    clock = Clock()
    pool = make_pool(clock, "")
    pool.replace_accounts([account("a", expires_at=EPOCH + 60)])
    acquired(pool)

    clock.pass_(60)

    assert refused(pool).reasons[0][1] == "needs login: token expired"


def test_paused_stays_paused_whatever_the_windows_do() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    lease = acquired(pool)
    pool.report(lease, spent(EPOCH + 60))
    pool.replace_accounts([account("a", paused=True)])
    pool.report(lease, good())
    clock.pass_(61)

    assert refused(pool) == Exhausted((("max-a", "paused", None),), None, configured=True)


def test_the_wait_is_for_the_earliest_that_recovers_by_itself() -> None:
    clock = Clock()
    pool = make_pool(clock, "abc")
    pool.replace_accounts([account("a"), account("b"), account("c", paused=True)])
    serve(pool, spent(EPOCH + 400))
    serve(pool, OVERLOADED)

    exhausted = refused(pool)

    assert exhausted.wait == pytest.approx(10)
    assert [recovery for _, _, recovery in exhausted.reasons] == [EPOCH + 400, EPOCH + 10, None]


@pytest.fixture
def five_hours_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that differs from UTC, wherever the test runs."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("five_hours_behind")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (90, "03:01:30"),
        (5000, "04:23"),
        (80_000, "Sat 01:13"),
        (7 * DAY, "Fri 22 Jan 03:00"),
    ],
)
def test_the_reason_tells_the_local_time(seconds: float, text: str) -> None:
    pool = make_pool(Clock(), "a")
    serve(pool, spent(EPOCH + seconds))

    assert refused(pool).reasons[0][1] == f"cooling until {text}: 5h window spent"


# --- cooldowns ------------------------------------------------------------------------------------------


def test_a_cooldown_is_handed_back_and_ends_by_itself() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")

    _, report = serve(pool, spent(EPOCH + 3600))

    cooldown = Cooldown("a", WHOLE, EPOCH + 3600, "5h window spent", "window_spent", 1)
    assert report == Report((cooldown,))
    assert pool.status()[0].cooldowns == (cooldown,)
    clock.pass_(3600)
    assert acquired(pool).account.id == "a"


def test_a_family_cooldown_holds_only_that_family() -> None:
    pool = make_pool(Clock(), "a")

    _, report = serve(pool, spent(EPOCH + 3600, Scope.FAMILY))

    assert report.cooldowns
    assert report.cooldowns[0].part == OPUS
    assert refused(pool, opus()).wait == pytest.approx(3600)
    assert acquired(pool, haiku()).account.id == "a"
    assert pool.status()[0].available


def test_a_family_cooldown_of_a_request_without_a_model_does_not_hold_the_others() -> None:
    pool = make_pool(Clock(), "a")

    serve(pool, spent(None, Scope.FAMILY), Facts(None, "s"))

    assert acquired(pool, opus()).account.id == "a"
    refused(pool, Facts(None, "s"))


def test_of_two_cooldowns_the_longer_one_is_told() -> None:
    pool = make_pool(Clock(), "a")
    first, second = acquired(pool), acquired(pool)
    pool.report(first, OVERLOADED)
    pool.report(second, spent(EPOCH + 3600, Scope.FAMILY))

    assert refused(pool, opus()).wait == pytest.approx(3600)
    assert refused(pool, haiku()).wait == pytest.approx(10)


@pytest.mark.parametrize("change", [{"rest": None}, {"scope": Scope.REQUEST}])
def test_a_verdict_without_a_rest_or_a_scope_rests_nobody(change: dict[str, Any]) -> None:
    pool = make_pool(Clock(), "a")

    assert serve(pool, replace(spent(EPOCH + 3600), **change))[1] == Report()
    acquired(pool)


def test_a_cooldown_never_gets_shorter_by_another_verdict() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    one, two, three = acquired(pool), acquired(pool), acquired(pool)
    pool.report(one, spent(EPOCH + 3600))

    assert pool.report(two, OVERLOADED) == Report()
    assert pool.report(three, spent(EPOCH + 7200)).cooldowns
    assert refused(pool).wait == pytest.approx(7200)


def test_requests_that_fail_together_count_as_one_failure() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    leases = [acquired(pool) for _ in range(20)]

    cooldowns = [pool.report(lease, spent()).cooldowns for lease in leases]

    assert [cooldown.failures for each in cooldowns for cooldown in each] == [1]
    assert refused(pool).wait == pytest.approx(60)


def test_failures_in_a_row_lengthen_the_rest_until_a_good_answer() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    seconds = []
    for _ in range(4):
        (cooldown,) = serve(pool, spent())[1].cooldowns
        seconds.append(cooldown.until - clock.wall)
        clock.pass_(seconds[-1])
    serve(pool, BARE)
    serve(pool, good())
    (again,) = serve(pool, spent())[1].cooldowns

    assert seconds == pytest.approx([60, 120, 240, 300])
    assert again.failures == 1


def test_an_overload_does_not_touch_the_count_of_spent_windows() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    for verdict, seconds in ((spent(), 60), (OVERLOADED, 10)):
        serve(pool, verdict)
        clock.pass_(seconds)

    (cooldown,) = serve(pool, spent())[1].cooldowns

    assert cooldown.failures == 2


def test_only_a_good_answer_to_a_younger_request_clears() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    old, older = acquired(pool), acquired(pool)
    pool.report(old, spent(EPOCH + 3600, Scope.FAMILY))

    assert pool.report(older, good()).cleared == ()
    assert serve(pool, good(), haiku())[1] == Report()
    clock.pass_(3600)
    assert serve(pool, good(), opus())[1].cleared == (("a", OPUS),)


def test_a_request_that_was_repeated_in_place_clears_its_own_cooldown() -> None:
    pool = make_pool(Clock(), "a")
    lease = acquired(pool)
    pool.report(lease, OVERLOADED)

    assert pool.report(lease, good()).cleared == (("a", WHOLE),)
    acquired(pool)


def test_a_good_answer_that_says_rejected_rests_the_account_from_the_next_request_on() -> None:
    pool = make_pool(Clock(), "a")
    served = Verdict(
        Answer.WINDOW_SPENT, 200, "5h window spent", Scope.ACCOUNT, Backoff(60, "double", 300),
        (Window("5h", "rejected", 1.01, EPOCH + 3600),), until=EPOCH + 3600, deliver=True,
    )  # fmt: skip

    _, report = serve(pool, served)

    assert report.cooldowns
    assert report.cooldowns[0].until == EPOCH + 3600
    refused(pool)


def test_a_new_credential_ends_the_cooldown_of_the_old_one() -> None:
    pool = make_pool(Clock(), "a")
    late = acquired(pool)
    serve(pool, REJECTED)
    refused(pool)

    assert pool.replace_accounts([account("a", access_token="new")]) == (("a", WHOLE),)

    assert pool.report(late, REJECTED) == Report()
    assert acquired(pool).account.access_token == "new"


def test_a_new_credential_ends_the_count_of_the_old_one_but_not_the_others() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    for verdict, seconds in ((spent(), 60), (REJECTED, 300)):
        serve(pool, verdict)
        clock.pass_(seconds)
    pool.replace_accounts([account("a", access_token="new")])

    counts = []
    for verdict, seconds in ((REJECTED, 300), (spent(), 120)):
        (cooldown,) = serve(pool, verdict)[1].cooldowns
        counts.append(cooldown.failures)
        clock.pass_(seconds)

    assert counts == [1, 2]


def test_other_changes_of_an_account_leave_its_cooldown() -> None:
    pool = make_pool(Clock(), "a")
    serve(pool, REJECTED)

    assert pool.replace_accounts([account("a", priority=3)]) == ()
    refused(pool)


# --- half-open ------------------------------------------------------------------------------------------


@pytest.fixture
def recovered() -> tuple[Clock, AccountPool]:
    """A pool of one account whose cooldown has just ended by time."""
    clock = Clock()
    pool = make_pool(clock, "a")
    serve(pool, spent(EPOCH + 60))
    clock.pass_(60)
    return clock, pool


def test_one_request_goes_first(recovered: tuple[Clock, AccountPool]) -> None:
    _, pool = recovered
    probe = acquired(pool)

    exhausted = refused(pool)

    assert exhausted.reasons[0][1] == HALF_OPEN
    assert exhausted.wait == pytest.approx(0.25)
    pool.report(probe, good())
    acquired(pool)


@pytest.mark.parametrize("answer", [good(), BARE])
def test_any_answer_ends_the_half_open_time(recovered: tuple[Clock, AccountPool], answer: Verdict) -> None:
    _, pool = recovered

    pool.report(acquired(pool), answer)

    assert [acquired(pool).account.id for _ in range(3)] == ["a", "a", "a"]


def test_a_probe_that_leaves_without_an_answer_makes_room_for_the_next(
    recovered: tuple[Clock, AccountPool],
) -> None:
    _, pool = recovered
    pool.release(acquired(pool))

    acquired(pool)

    refused(pool)


def test_a_probe_that_stays_without_an_answer_does_not_block_for_long(
    recovered: tuple[Clock, AccountPool],
) -> None:
    clock, pool = recovered
    acquired(pool)

    clock.pass_(10)

    acquired(pool)
    refused(pool)


def test_an_answer_to_an_older_request_does_not_end_the_half_open_time() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    old = acquired(pool)
    serve(pool, spent(EPOCH + 60))
    clock.pass_(60)
    acquired(pool)

    pool.report(old, BARE)

    refused(pool)


# --- clocks ---------------------------------------------------------------------------------------------


def test_a_wall_clock_set_back_strands_nobody() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    serve(pool, spent(EPOCH + 60))

    clock.wall -= 30 * DAY
    clock.mono += 59
    assert refused(pool).wait == pytest.approx(1)
    clock.mono += 1

    acquired(pool)


def test_a_machine_that_slept_past_the_reset_serves_at_once() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    serve(pool, spent(EPOCH + 3600))

    clock.wall += 3600

    acquired(pool)


def test_no_cooldown_is_longer_than_eight_days() -> None:
    pool = make_pool(Clock(), "ab")
    serve(pool, spent(EPOCH + 400 * DAY))
    pool.restore([Cooldown("b", WHOLE, EPOCH + 400 * DAY, "5h window spent", "window_spent", 1)], {})

    assert [status.until for status in pool.status()] == pytest.approx([EPOCH + 8 * DAY] * 2)


# --- a new process --------------------------------------------------------------------------------------


def test_restored_cooldowns_and_windows_go_on() -> None:
    clock = Clock()
    pool = make_pool(clock, "abc")
    pool.restore(
        [
            Cooldown("a", WHOLE, EPOCH + 100, "5h window spent", "window_spent", 3),
            Cooldown("b", WHOLE, EPOCH - 1, "529 overloaded", "overloaded", 1),
            Cooldown("gone", WHOLE, EPOCH + 100, "5h window spent", "window_spent", 1),
        ],
        {"b": (Window("5h", "allowed", 0.5, EPOCH + 50),), "gone": ()},
    )

    assert [status.available for status in pool.status()] == [False, True, True]
    assert [serve(pool, good(), opus(str(n)))[0] for n in range(3)] == ["c", "c", "c"]
    clock.pass_(100)
    cooldown = pool.report(acquired(pool, opus("new"), exclude=frozenset("bc")), spent()).cooldowns[0]
    assert cooldown is not None
    assert cooldown.failures == 4


def test_cooldowns_of_another_proxy_hold_here_unless_an_own_one_lasts_as_long() -> None:
    clock = Clock()
    pool = make_pool(clock, "ab")
    (own,) = serve(pool, spent(EPOCH + 3600))[1].cooldowns
    others = [Cooldown(id, WHOLE, EPOCH + 100, "5h window spent", "window_spent", 1) for id in "ab"]

    pool.restore(others, {})

    assert [status.cooldowns for status in pool.status()] == [(own,), (others[1],)]


def test_cooldowns_that_another_proxy_has_disproved_end_here_unless_an_own_one_took_their_place() -> None:
    pool = make_pool(Clock(), "ab")
    first = [Cooldown(id, WHOLE, EPOCH + 100.0004, "5h window spent", "window_spent", 3) for id in "ab"]
    pool.restore(first, {})
    pool.restore([replace(first[0], until=EPOCH + 3600)], {})

    pool.forget([replace(each, until=EPOCH + 100) for each in first])

    assert [status.available for status in pool.status()] == [False, True]
    (again,) = serve(pool, spent())[1].cooldowns
    assert (again.account_id, again.failures) == ("b", 1)


# --- windows --------------------------------------------------------------------------------------------


def test_new_sessions_go_where_the_headroom_is_until_the_window_resets() -> None:
    clock = Clock()
    pool = make_pool(clock)
    for id, used, reset in (("a", 0.8, 100.0), ("b", 0.3, 9000.0)):
        lease = acquired(pool, exclude=frozenset("ab") - {id})
        pool.report(lease, good(Window("5h", "allowed", used, EPOCH + reset)))
        pool.release(lease)

    assert acquired(pool, opus("1")).account.id == "b"
    clock.pass_(100)
    assert acquired(pool, opus("2")).account.id == "a"


FIVE_HOURS = Window("5h", "allowed", 0.50, EPOCH + 3600)


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ({}, False),
        ({"utilization": 0.505}, False),
        ({"utilization": 0.51}, True),
        ({"utilization": None}, True),
        ({"resets_at": EPOCH + 3630}, False),
        ({"resets_at": EPOCH + 3661}, True),
        ({"status": "allowed_warning"}, True),
    ],
)
def test_windows_are_handed_back_when_they_moved_noticeably(change: dict[str, Any], noticed: bool) -> None:
    pool = make_pool(Clock(), "a")
    assert serve(pool, good(FIVE_HOURS))[1].windows == (FIVE_HOURS,)
    window = FIVE_HOURS._replace(**change)

    assert serve(pool, good(window))[1].windows == ((window,) if noticed else ())
    assert pool.status()[0].windows == (window,)


def test_small_steps_add_up_to_a_noticeable_one() -> None:
    pool = make_pool(Clock(), "a")

    steps = [
        serve(pool, good(FIVE_HOURS._replace(utilization=used)))[1].windows
        for used in (0.500, 0.504, 0.508, 0.512, 0.516)
    ]

    assert [bool(step) for step in steps] == [True, False, False, True, False]


# --- sessions -------------------------------------------------------------------------------------------


def test_a_session_stays_with_its_account_within_its_time() -> None:
    clock = Clock()
    pool = make_pool(clock, "abc", session_seconds=100)
    home = acquired(pool).account.id

    for _ in range(3):
        clock.pass_(99)
        assert acquired(pool).account.id == home
    clock.pass_(100)
    assert acquired(pool).account.id != home


def test_a_session_snaps_back_unless_it_was_served_elsewhere_meanwhile() -> None:
    clock = Clock()
    pool = make_pool(clock)
    for answer_elsewhere, home in ((BARE, "a"), (good(), "b")):
        assert serve(pool, spent(clock.wall + 60))[0] == "a"
        assert serve(pool, answer_elsewhere)[0] == "b"
        clock.pass_(60)

        assert serve(pool, good())[0] == home


def test_a_session_of_a_paused_account_moves_for_good() -> None:
    pool = make_pool(Clock())
    assert serve(pool, good())[0] == "a"
    pool.replace_accounts([account("a", paused=True), account("b")])
    assert acquired(pool).account.id == "b"
    pool.replace_accounts([account("a"), account("b")])

    assert acquired(pool).account.id == "b"


def test_a_returning_account_of_higher_priority_takes_the_session() -> None:
    clock = Clock()
    pool = make_pool(clock)
    pool.replace_accounts([account("a"), account("b", priority=51)])
    serve(pool, spent(EPOCH + 60))
    assert serve(pool, good())[0] == "b"

    clock.pass_(60)

    lease = acquired(pool)
    assert lease.account.id == "a"
    assert lease.choice.reason == "moved from max-b: a higher priority is free"


def test_only_so_many_sessions_are_remembered() -> None:
    pool = make_pool(Clock(), "ab", max_sessions=2)
    first = [serve(pool, good(), opus(session))[0] for session in ("1", "2", "1", "3")]
    assert first == ["a", "b", "a", "a"]

    assert acquired(pool, opus("2")).choice.reason == "most headroom"
    assert acquired(pool, opus("3")).choice.reason == "keeps its session"


def test_a_session_that_another_proxy_or_an_earlier_run_has_served_keeps_its_account() -> None:
    """And one that has been served here moves with it; the first one told is not told again."""
    elsewhere, here = make_pool(Clock(), "ab"), make_pool(Clock(), "ab", session_seconds=100)
    told = [serve(elsewhere, good(), opus(session))[1].held for session in ("1", "2")]
    assert [held.account_id for held in told if held] == ["a", "b"]

    here.adopt([held for held in told if held])

    assert [acquired(here, opus(session)).account.id for session in ("2", "1", "2")] == ["b", "a", "b"]
    assert serve(here, good(), opus("1"))[1] == Report()
    here.adopt([held._replace(account_id="b") for held in told if held])
    assert acquired(here, opus("1")).account.id == "b"
    here.adopt([held._replace(served_at=EPOCH - 100) for held in told if held], are_new=False)
    assert acquired(here, opus("1")).account.id == "b"


def test_who_has_no_session_is_nobody_elses_business() -> None:
    pool = make_pool(Clock(), "ab")
    by_address = Facts("claude-opus-4-8", client="10.0.0.1")
    assert serve(pool, good(), by_address) == ("a", Report())
    assert acquired(pool, by_address).choice.reason == "keeps its session"


@pytest.mark.parametrize("strategy", ["least-used", "round-robin"])
def test_strategies_without_sessions_tell_of_none(strategy: str) -> None:
    assert serve(make_pool(Clock(), "ab", strategy=strategy), good())[1] == Report()


# --- other proxies --------------------------------------------------------------------------------------


def test_new_sessions_go_where_all_proxies_together_have_least_in_flight() -> None:
    pool = make_pool(Clock(), "ab")
    pool.meet(Peers(True, {"a": 3, "gone": 9}))
    assert [acquired(pool, opus(str(n))).account.id for n in range(4)] == ["b", "b", "b", "a"]
    assert (pool.has_peers, pool.load()) == (True, {"a": 1, "b": 3})

    pool.replace_accounts([account(id) for id in "bca"])
    assert acquired(pool, opus("4")).account.id == "c"
    pool.meet(Peers(True, {"c": 5}))
    assert acquired(pool, opus("5")).account.id == "a"
    assert [status.in_flight for status in pool.status()] == [3, 1, 2]  # this proxy's own


def test_after_a_rest_a_request_goes_first_only_if_no_other_proxys_does() -> None:
    clock, may = Clock(), [False]
    asked: list[Cooldown] = []
    pool = make_pool(clock, "a", may_try=lambda *_: may[0], claim=lambda cooldown, _: asked.append(cooldown))
    (cooldown,) = serve(pool, spent(EPOCH + 60))[1].cooldowns
    assert pool.ending(60) == []  # nobody waits for it
    refused(pool)
    assert (pool.ending(59), pool.ending(60)) == ([], [cooldown])
    clock.pass_(60)
    assert pool.status()[0].half_open == (cooldown,)
    assert asked == []  # that somebody looks at it is no request

    assert refused(pool).reasons[0][1] == HALF_OPEN
    assert asked == [cooldown]
    assert pool.is_tried(cooldown) is False
    may[0] = True
    lease = acquired(pool)
    assert asked == [cooldown]
    assert pool.is_tried(cooldown) is True
    refused(pool)
    pool.report(lease, good())
    assert pool.is_tried(cooldown) is None


def test_only_a_request_that_would_go_there_asks_to_go_first() -> None:
    clock, asked = Clock(), list[str]()
    pool = make_pool(
        clock, "abc", may_try=lambda *_: False, claim=lambda cooldown, _: asked.append(cooldown.account_id)
    )
    for id, session in (("a", "there"), ("b", "here"), ("c", "away")):
        lease = acquired(pool, opus(session), only=id)
        pool.report(lease, good() if id == "b" else spent(EPOCH + 60))
    clock.pass_(60)

    assert acquired(pool, opus("here")).account.id == "b"
    assert acquired(pool, haiku("another"), only="b").account.id == "b"
    assert asked == []
    assert acquired(pool, opus("there")).account.id == "b"
    assert asked == ["a"]
    result = pool.acquire(opus("there"), patience=1.0)
    assert isinstance(result, Exhausted)
    assert result.is_for_one
    assert asked == ["a", "a"]
    pool.acquire(opus("here"), exclude=frozenset("b"))  # nobody else is left, so whichever may be tried will do
    assert sorted(asked[2:]) == ["a", "c"]


# --- what an answer is about --------------------------------------------------------------------------------


def about(kind: Answer, scope: Scope, **more: Any) -> Verdict:
    return Verdict(kind, 403, "no", scope, Backoff(300, "double", 3600), **more)


@pytest.mark.parametrize(
    ("verdict", "refused_facts", "served_facts", "told"),
    [
        (about(Answer.PERMISSION_DENIED, Scope.PATH_CLASS), Facts(path_class="files"), opus(), "files"),
        (spent(EPOCH + 60, Scope.MODE), Facts("claude-opus-4-8", mode="fast"), opus(), "fast mode"),
        (
            about(Answer.BETA_UNAVAILABLE, Scope.BETA, betas=("b-1",)),
            Facts("claude-opus-4-8", betas=("b-1",)),
            opus(),
            "b-1",
        ),
    ],
)
def test_only_the_part_that_an_answer_is_about_rests(
    verdict: Verdict, refused_facts: Facts, served_facts: Facts, told: str
) -> None:
    pool = make_pool(Clock(), "a")

    serve(pool, verdict, refused_facts)

    assert refused(pool, refused_facts).reasons[0][1].startswith(f"cooling for {told} until ")
    assert acquired(pool, served_facts).open
    assert pool.status()[0].available
    assert pool.status()[0].reason.startswith(f"serving, cooling for {told} until ")


def test_refusal_of_an_old_credential_says_nothing_of_the_new_one() -> None:
    pool = make_pool(Clock(), "a")
    lease = acquired(pool)
    pool.replace_accounts([account("a", access_token="another-organizations")])

    verdict = Verdict(Answer.ACCOUNT_DISABLED, 400, "on hold", Scope.ACCOUNT, None, needs_attention=True)

    assert pool.report(lease, verdict) == Report()
    assert acquired(pool).open


def test_names_that_clients_choose_are_bounded() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    for number in range(100):
        facts = Facts("claude-opus-4-8", betas=(f"b-{number}",))
        serve(pool, about(Answer.BETA_UNAVAILABLE, Scope.BETA, betas=facts.betas), facts)
        clock.pass_(1)

    (status,) = pool.status()
    assert [cooldown.scope_name for cooldown in status.cooldowns] == [f"b-{number}" for number in range(36, 100)]


@pytest.mark.parametrize("verdict", [BARE, Verdict(Answer.CLIENT_ERROR, 400, "no", Scope.REQUEST, None)])
def test_refusal_for_something_else_says_nothing_of_funds(verdict: Verdict) -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    serve(pool, Verdict(Answer.OUT_OF_FUNDS, 402, "out of funds", Scope.ACCOUNT, Backoff(3600, "fixed", 3600)))
    clock.pass_(3601)
    assert repr(pool) == "<AccountPool max-a: serving, half-open>"

    serve(pool, verdict)
    assert repr(pool) == "<AccountPool max-a: serving, half-open>"

    serve(pool, good())
    assert repr(pool) == "<AccountPool max-a: serving>"


def test_every_beta_that_a_refusal_names_rests_by_itself() -> None:
    pool = make_pool(Clock(), "a")
    asked = Facts("claude-opus-4-8", betas=("b-1", "b-2", "b-3"))

    _, report = serve(pool, about(Answer.BETA_UNAVAILABLE, Scope.BETA, betas=("b-1", "b-2")), asked)

    assert [str(cooldown.part) for cooldown in report.cooldowns] == ["b-1", "b-2"]
    assert repr(pool) == "<AccountPool max-a: serving, cooling for b-1, cooling for b-2>"
    assert isinstance(pool.acquire(replace(asked, betas=("b-2",))), Exhausted)
    assert acquired(pool, replace(asked, betas=("b-3",))).open


def test_rest_that_was_the_requests_fault_is_taken_back_with_its_failure() -> None:
    pool = make_pool(Clock(), "a")
    verdict = about(Answer.PERMISSION_DENIED, Scope.PATH_CLASS)
    files = Facts(path_class="files")
    first = serve(pool, verdict, files)[1].cooldowns[0]
    assert first is not None

    assert pool.take_back([first]) == Report(cleared=(("a", first.part),))

    again = serve(pool, verdict, files)[1].cooldowns[0]
    assert again is not None
    assert again.failures == 1
    assert pool.take_back([first]) == Report()


def test_401_on_another_path_is_not_the_tokens_fault_while_it_serves() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    files = acquired(pool, Facts(path_class="files"))
    assert pool.may_be_the_token(files)

    serve(pool, good())
    assert not pool.may_be_the_token(files)
    assert pool.may_be_the_token(acquired(pool))
    clock.pass_(301)
    assert pool.may_be_the_token(files)
    clock.pass_(-301)
    pool.replace_accounts([account("a", access_token="new")])
    assert pool.may_be_the_token(files)


def test_spent_funds_are_tried_once_an_hour_by_a_request_that_costs() -> None:
    clock = Clock()
    pool = make_pool(clock, "a")
    broke = Verdict(Answer.OUT_OF_FUNDS, 402, "out of funds", Scope.ACCOUNT, Backoff(3600, "fixed", 3600))
    serve(pool, broke)
    clock.pass_(3600)

    assert serve(pool, good(), Facts(path_class="models"))[1].cleared == ()
    assert pool.status()[0].half_open
    serve(pool, broke)
    assert refused(pool).wait == pytest.approx(3600)
    clock.pass_(3600)
    assert serve(pool, good())[1].cleared == (("a", WHOLE),)


def test_disabled_account_is_out_at_once_and_told_once() -> None:
    pool = make_pool(Clock(), "a")
    verdict = Verdict(Answer.ACCOUNT_DISABLED, 400, "on hold", Scope.ACCOUNT, None, needs_attention=True)
    other = acquired(pool)

    assert serve(pool, verdict)[1] == Report(attention="on hold")
    assert pool.report(other, verdict) == Report()
    assert refused(pool).reasons == (("max-a", "needs attention: on hold", None),)


# --- any sequence of events -----------------------------------------------------------------------------

IDS = "abc"
FAMILIES = {"opus": opus, "haiku": haiku}


class Machine(RuleBasedStateMachine):
    """A pool beside a simple model of it: who is paused, and who rests for what until when."""

    @initialize(strategy=st.sampled_from(["session", "least-used", "round-robin"]))
    def start(self, strategy: str) -> None:
        self.clock = Clock()
        self.pool = make_pool(self.clock, IDS, strategy=strategy)
        self.paused: set[str] = set()
        self.rests: dict[tuple[str, Part], float] = {}
        self.leases: list[Lease] = []

    def is_resting(self, id: str, family: str) -> bool:
        return any(self.rests.get((id, name), 0) > self.clock.mono for name in (WHOLE, Part(Scope.FAMILY, family)))

    @rule(
        session=st.sampled_from("12"),
        family=st.sampled_from(sorted(FAMILIES)),
        tried=st.sets(st.sampled_from(IDS)),
    )
    def acquire(self, session: str, family: str, tried: set[str]) -> None:
        answer = self.pool.acquire(FAMILIES[family](session), exclude=frozenset(tried))

        out = {id for id in IDS if id in self.paused | tried or self.is_resting(id, family)}
        if isinstance(answer, Lease):
            assert answer.account.id not in out
            self.leases.append(answer)
        else:
            probed = {name for name, reason, _ in answer.reasons if reason == HALF_OPEN}
            assert out | {name.removeprefix("max-") for name in probed} == set(IDS)
            assert len(answer.reasons) == len(IDS)

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["good", "bare", "account", "family"]),
        seconds=st.integers(2, 500),
    )
    def report(self, data: st.DataObject, kind: str, seconds: int) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        until = self.clock.wall + seconds
        scope = Scope.FAMILY if kind == "family" else Scope.ACCOUNT
        verdict = {"good": good(), "bare": BARE}.get(kind) or spent(until, scope)

        report = self.pool.report(lease, verdict)

        for at in report.cleared:
            assert kind == "good"
            self.rests.pop(at, None)
        if report.cooldowns:
            at = (lease.account.id, report.cooldowns[0].part)
            assert report.cooldowns[0].until >= self.clock.wall + seconds - 1e-3
            assert self.clock.mono + seconds > self.rests.get(at, 0)
            self.rests[at] = self.clock.mono + seconds

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        before = self.pool.in_flight
        self.pool.release(lease)
        self.pool.release(lease)
        self.leases.remove(lease)
        assert self.pool.in_flight == before - 1

    @rule(id=st.sampled_from(IDS))
    def pause_or_resume(self, id: str) -> None:
        self.paused ^= {id}
        self.pool.replace_accounts([account(i, paused=i in self.paused) for i in IDS])

    @rule(seconds=st.sampled_from([0.5, 9, 60, 400]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_(seconds)

    @rule(seconds=st.sampled_from([-1e6, -60.0]))
    def set_the_wall_clock_back(self, seconds: float) -> None:
        self.clock.wall += seconds

    @invariant()
    def counts_are_right(self) -> None:
        assert self.pool.in_flight == len(self.leases)
        for status in self.pool.status():
            mine = [lease for lease in self.leases if lease.account.id == status.account.id]
            assert status.in_flight == len(mine)

    @invariant()
    def an_idle_account_is_not_starved(self) -> None:
        """When nothing is in flight, whoever neither is paused nor rests is ready."""
        if not self.leases:
            for status in self.pool.status():
                id = status.account.id
                assert status.available == (id not in self.paused and not self.is_resting(id, ""))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- proxies on the way


def test_accounts_that_go_by_the_same_proxy_rest_together() -> None:
    """Others do not, and those without a proxy of their own have one way in common."""
    clock = Clock()
    pool = AccountPool(clock=lambda: clock.mono, wall=lambda: clock.wall)
    one, other = (EgressProxy.parse(f"http://{user}@proxy.example:3128") for user in ("me", "you"))
    ways = {"a": one, "b": one, "c": other, "d": None, "e": None}
    pool.replace_accounts([account(id, proxy=way) for id, way in ways.items()])

    def resting(lease: Lease) -> set[str]:
        report = pool.report(lease, no_way("away"))
        pool.release(lease)
        return {cooldown.account_id for cooldown in report.cooldowns}

    first = acquired(pool, only="a")
    assert pool.has_another_way(first, exclude=frozenset("a"), key=None)
    assert resting(first) == {"a", "b"}
    last = acquired(pool, only="d")
    assert not pool.has_another_way(last, exclude=frozenset("dc"), key=None)
    assert resting(last) == {"d", "e"}
    assert acquired(pool).account.id == "c"
