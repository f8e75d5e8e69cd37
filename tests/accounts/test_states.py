"""The two tables of states: what the pool does is what they say, whatever comes in whatever order."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown, Part, Unavailable
from ccflare_core.accounts.pool import AccountPool, Lease
from ccflare_core.accounts.states import (
    ACCOUNT_TRANSITIONS,
    SCOPE_TRANSITIONS,
    AccountEvent,
    AccountState,
    ScopeEvent,
    ScopeState,
    in_words,
    lasting_reason,
    shown,
)
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Backoff, Scope, Verdict
from ccflare_core.anthropic.verdicts import Kind as Answer
from ccflare_core.text import local_time

NOW = 1_800_000_000.0
OPUS = Facts("claude-opus-4-8", "s")
DISABLED = Verdict(
    Answer.ACCOUNT_DISABLED, 400, "This organization has been disabled.", Scope.ACCOUNT, None, needs_attention=True
)
GOOD = Verdict(Answer.OK, 200, "ok", Scope.REQUEST, None, deliver=True)
BARE = Verdict(Answer.BARE_429, 429, "429 that names no limit", Scope.REQUEST, None)
REFUSED = Verdict(Answer.WINDOW_SPENT, 429, "5h window spent", Scope.ACCOUNT, Backoff(60, "fixed", 60))
REJECTED = Verdict(Answer.CREDENTIAL_REJECTED, 401, "credential rejected", Scope.ACCOUNT, Backoff(60, "fixed", 60))


class World:
    """One account in a pool, its clock, and every event as it happens to it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.refreshing = False
        self.pool = AccountPool(
            clock=lambda: self.seconds,
            wall=lambda: NOW + self.seconds,
            is_refreshing=lambda _: self.refreshing,
            expired=lambda _: Unavailable("refreshing", 0.25),
        )
        self.account = Account("a", "max-a", Kind.OAUTH, access_token="at", refresh_token="rt")
        self.pool.replace_accounts([self.account])

    # -- the account

    def change(self, **fields: object) -> None:
        self.account = replace(self.account, **fields)  # type: ignore[arg-type]
        self.pool.replace_accounts([self.account])

    def happen(self, event: AccountEvent) -> None:
        match event:
            case AccountEvent.PAUSE:
                self.change(paused=True)
            case AccountEvent.RESUME:
                self.change(paused=False, attention=None)
            case AccountEvent.DISABLED:
                lease = self.pool.acquire(OPUS)
                if isinstance(lease, Lease):
                    self.pool.report(lease, DISABLED)
                    self.pool.release(lease)
                    self.account = self.pool.accounts()[0]
                else:  # an answer to a request that was under way
                    self.change(attention="disabled")
            case AccountEvent.LOGIN_ENDS:
                self.refreshing = False
                self.change(needs_login=True)
            case AccountEvent.LOGIN:
                self.refreshing = False
                self.change(needs_login=False, attention=None, access_token=f"{self.account.access_token}+")
            case AccountEvent.REFRESH_BEGINS:
                self.refreshing = True
            case AccountEvent.REFRESH_ENDS:
                self.refreshing = False

    @property
    def state(self) -> AccountState:
        (status,) = self.pool.status()
        return status.state

    # -- its scope "all of it"

    def lease(self) -> Lease:
        lease = self.pool.acquire(OPUS)
        assert isinstance(lease, Lease)
        return lease

    def answer(self, verdict: Verdict) -> None:
        lease = self.lease()
        self.pool.report(lease, verdict)
        self.pool.release(lease)

    @property
    def scope(self) -> ScopeState:
        (status,) = self.pool.status()
        return (
            ScopeState.COOLING if status.cooldowns else ScopeState.HALF_OPEN if status.half_open else ScopeState.READY
        )


@given(st.lists(st.sampled_from(AccountEvent), max_size=12))
def test_account_is_in_the_first_state_that_holds(events: list[AccountEvent]) -> None:
    world, holding = World(), set[AccountState]()
    for event in events:
        if event is AccountEvent.REFRESH_BEGINS and AccountState.NEEDS_LOGIN in holding:
            continue  # without a login nothing can be refreshed
        world.happen(event)
        change = ACCOUNT_TRANSITIONS[event]
        holding = (holding - change.ends) | change.begins

        assert world.state is shown(holding)


def test_account_table_has_every_event() -> None:
    assert set(ACCOUNT_TRANSITIONS) == set(AccountEvent)


def test_account_states_are_shown_in_their_order() -> None:
    order = ["paused", "needs login", "needs attention", "refreshing", "serving"]
    assert [state.value for state in AccountState] == order
    assert shown(set(AccountState)) is AccountState.PAUSED
    assert shown({AccountState.REFRESHING, AccountState.NEEDS_ATTENTION}) is AccountState.NEEDS_ATTENTION
    assert shown(set()) is AccountState.SERVING


def ready(world: World) -> Lease | None:
    return None


def cooling(world: World) -> Lease | None:
    world.answer(REFUSED)
    return None


def cooling_with_another_under_way(world: World) -> Lease | None:
    other = world.lease()
    world.answer(REFUSED)
    return other


def half_open(world: World) -> Lease | None:
    world.answer(REFUSED)
    world.seconds += 60
    return None


def half_open_and_passed(world: World) -> Lease | None:
    half_open(world)
    return world.lease()


def rejected(world: World) -> Lease | None:
    world.answer(REJECTED)
    return None


def rejected_and_half_open(world: World) -> Lease | None:
    world.answer(REJECTED)
    world.seconds += 60
    return None


def report(verdict: Verdict) -> Callable[[World, Lease | None], object]:
    return lambda world, lease: world.pool.report(lease, verdict) if lease else world.answer(verdict)


def pass_a_minute(world: World, lease: Lease | None) -> None:
    world.seconds += 60


def log_in(world: World, lease: Lease | None) -> None:
    world.change(access_token="new")


def leave(world: World, lease: Lease | None) -> None:
    assert lease
    world.pool.release(lease)


def serve_one_that_caused_it(world: World, lease: Lease | None) -> None:
    """The request whose answer was the refusal is repeated in place, and is served."""
    assert lease
    world.pool.report(lease, REFUSED)
    world.pool.report(lease, GOOD)


WAYS: dict[tuple[ScopeState, ScopeEvent], tuple[Callable[[World], Lease | None], Callable[..., object]]] = {
    (ScopeState.READY, ScopeEvent.REFUSED): (ready, report(REFUSED)),
    (ScopeState.READY, ScopeEvent.PASSED): (ready, lambda world, _: world.lease()),
    (ScopeState.READY, ScopeEvent.SERVED): (ready, report(GOOD)),
    (ScopeState.COOLING, ScopeEvent.REFUSED): (cooling_with_another_under_way, report(REFUSED)),
    (ScopeState.COOLING, ScopeEvent.TIME_IS_UP): (cooling, pass_a_minute),
    (ScopeState.COOLING, ScopeEvent.SERVED): (World.lease, serve_one_that_caused_it),
    (ScopeState.COOLING, ScopeEvent.DISPROVED): (rejected, log_in),
    (ScopeState.HALF_OPEN, ScopeEvent.PASSED): (half_open, lambda world, _: world.lease()),
    (ScopeState.HALF_OPEN, ScopeEvent.LEFT): (half_open_and_passed, leave),
    (ScopeState.HALF_OPEN, ScopeEvent.REFUSED): (half_open_and_passed, report(REFUSED)),
    (ScopeState.HALF_OPEN, ScopeEvent.ANSWERED): (half_open_and_passed, report(BARE)),
    (ScopeState.HALF_OPEN, ScopeEvent.SERVED): (half_open_and_passed, report(GOOD)),
    (ScopeState.HALF_OPEN, ScopeEvent.DISPROVED): (rejected_and_half_open, log_in),
}


@pytest.mark.parametrize(("before", "event"), SCOPE_TRANSITIONS)
def test_scope_goes_where_the_table_says(before: ScopeState, event: ScopeEvent) -> None:
    arrive, happen = WAYS[before, event]
    world = World()
    lease = arrive(world)
    if arrive is not World.lease:
        assert world.scope is before

    happen(world, lease)

    assert world.scope is SCOPE_TRANSITIONS[before, event]


def test_scope_that_is_half_open_lets_one_request_through() -> None:
    world = World()
    half_open_and_passed(world)

    refusal = world.pool.acquire(OPUS)

    assert not isinstance(refusal, Lease)
    assert refusal.reasons[0][1] == "half-open: one request is trying it"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, None),
        ({"paused": True, "needs_login": True}, "paused"),
        ({"needs_login": True}, "needs login"),
        ({"expires_at": NOW}, None),
        ({"expires_at": NOW, "refresh_token": None}, "needs login: token expired"),
        ({"access_token": None, "refresh_token": None}, "needs login: no token"),
        ({"access_token": "a\nb", "refresh_token": None}, "needs login: unusable credential"),
    ],
)
def test_lasting_reasons_need_a_person(fields: dict[str, object], told: str | None) -> None:
    account = replace(Account("a", "max-a", Kind.OAUTH, access_token="at", refresh_token="rt"), **fields)  # type: ignore[arg-type]
    assert lasting_reason(account, NOW) == told


def test_words_of_cooldowns_are_told_of_accounts_that_would_serve() -> None:
    opus = Cooldown("a", Part(Scope.FAMILY, "opus"), NOW + 300, "7d_opus window spent", "model_bucket_spent", 1)
    whole = Cooldown("a", WHOLE, NOW + 60, "5h window spent", "window_spent", 1)
    at = {each: local_time(each.until, NOW) for each in (opus, whole)}

    assert in_words(AccountState.SERVING, "", (opus,), NOW) == f"serving, cooling for opus until {at[opus]}"
    assert in_words(AccountState.SERVING, "", (opus, whole), NOW) == f"cooling until {at[whole]}: 5h window spent"
    assert in_words(AccountState.PAUSED, "", (opus, whole), NOW) == "paused"
    assert opus.in_words(NOW) == f"cooling for opus until {at[opus]}: 7d_opus window spent"


def test_pool_shows_its_accounts_without_secrets_and_times() -> None:
    world = World()
    others = [Account("b", "max-b", Kind.OAUTH, access_token="bt"), Account("c", "key-c", Kind.API_KEY, paused=True)]
    world.pool.replace_accounts([world.account, *others])
    world.answer(replace(REFUSED, scope=Scope.FAMILY))
    world.pool.acquire(OPUS)

    shown_first = repr(world.pool)
    world.seconds += 30
    assert shown_first == ("<AccountPool max-a: serving, cooling for opus; max-b: serving, 1 in flight; key-c: paused>")
    assert repr(world.pool) == shown_first
    world.seconds += 30
    assert "max-a: serving, half-open for opus;" in repr(world.pool)
    world.pool.replace_accounts([])
    assert repr(world.pool) == "<AccountPool without accounts>"
