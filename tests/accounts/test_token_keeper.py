"""The keeper of tokens: one refresh at a time, nothing spent twice, nothing lost, and nobody else harmed."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.pool import Exhausted, Lease
from ccflare_core.accounts.token_keeper import DATABASE_SECONDS
from ccflare_core.accounts.token_refresh import LEASE_SECONDS, UNHURRIED_SECONDS
from ccflare_core.anthropic.request import Facts
from ccflare_core.errors import StoreError, TokenUnavailable
from ccflare_core.http.messages import Response
from database_kit import NOW
from token_kit import HOUR, Clock, Desk, Provider, answer, done, settled

StartDesk = Callable[..., Desk]

DOWN = TokenUnavailable("platform.claude.com cannot be reached; try again later")


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path, provider: Provider, clock: Clock) -> Iterator[StartDesk]:
    """Start a process on the test's one database, with these accounts added to it."""
    with contextlib.ExitStack() as running:

        def start(*accounts: Account, owner: str = "run-1", clock: Clock = clock) -> Desk:
            desk = Desk(tmp_path / "ccflare.db", provider, clock, owner=owner)
            running.callback(desk.store.close)
            for account in accounts:
                desk.store.accounts.add(account)
            desk.look()
            return desk

        yield start


def expired(provider: Provider, id: str = "a", **fields: Any) -> Account:
    return provider.account(id, expires_in=-1, **fields)


# --- one refresh ----------------------------------------------------------------------------------------------------


async def test_a_refresh_gives_the_pool_what_the_database_has(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))

    renewal = await desk.renew()

    assert (renewal.ok, renewal.reason) == (True, "")
    assert desk.known() == desk.stored()
    assert provider.logins.is_live(desk.known().refresh_token or "")
    assert desk.known().expires_at == NOW + 8 * HOUR
    assert desk.known().login_expires_at == NOW + 28 * 24 * HOUR


async def test_a_thousand_requests_on_an_expired_token_are_one_refresh(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))

    renewals = [desk.keeper.renew("a") for _ in range(500)]
    await asyncio.sleep(0)
    renewals += [desk.keeper.renew("a") for _ in range(500)]
    for renewal in renewals:
        assert (await done(renewal)).ok

    assert provider.logins.refreshes == 1


async def test_two_processes_on_one_database_are_one_refresh(provider: Provider, start: StartDesk) -> None:
    one, two = start(expired(provider)), start(owner="run-2")

    renewals = [one.keeper.renew("a"), two.keeper.renew("a")]
    for renewal in renewals:
        assert (await done(renewal)).ok

    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)
    assert one.known() == two.known() == one.stored()


async def test_the_token_that_is_committed_is_used_and_no_earlier(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    seen = []
    change_account = desk.pool.change_account

    def adopted(account: Account) -> None:
        seen.append((desk.stored(), account))
        change_account(account)

    desk.keeper._adopted = adopted
    await desk.renew()

    assert [stored.access_token == adopted.access_token for stored, adopted in seen] == [True]


async def test_what_is_stored_is_sent_and_not_what_was_known(provider: Provider, start: StartDesk) -> None:
    """Another process has refreshed, and its token is over too, before this one has looked."""
    one, two = start(expired(provider)), start(owner="run-2")
    await one.renew()
    one.clock.pass_(9 * HOUR)

    assert (await two.renew()).ok

    assert (provider.logins.refreshes, provider.logins.reuses) == (2, 0)


async def test_a_refused_token_that_was_replaced_meanwhile_needs_nothing(provider: Provider, start: StartDesk) -> None:
    desk = start(provider.account())
    refused = desk.known().access_token
    await desk.renew(rejected=refused)

    assert desk.keeper.renew("a", rejected=refused).ok
    assert provider.logins.refreshes == 1


async def test_a_token_refused_right_after_it_was_made_is_not_replaced_again(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(provider.account())
    await desk.renew(rejected=desk.known().access_token)

    again = await desk.renew(rejected=desk.known().access_token)
    clock.pass_(61)
    later = await desk.renew(rejected=desk.known().access_token)

    assert (again.ok, later.ok) == (False, True)
    assert provider.logins.refreshes == 2


async def test_token_refused_right_after_another_process_has_made_it_is_not_replaced(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    one = start(provider.account())
    two = start(owner="run-2")
    await two.tend(2)
    await one.renew(rejected=one.known().access_token)
    two.look()

    again = await two.renew(rejected=two.known().access_token)
    clock.pass_(61)
    later = await two.renew(rejected=two.known().access_token)

    assert (again.ok, again.reason, later.ok) == (False, "its new token was refused too", True)
    assert provider.logins.refreshes == 2


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(provider: Provider, start: StartDesk) -> None:
    provider.logins.gives_refresh_token = False
    desk = start(expired(provider))
    before = desk.known()

    assert (await desk.renew()).ok

    assert desk.stored().refresh_token == before.refresh_token
    assert desk.stored().access_token != before.access_token


@pytest.mark.parametrize("absurd", [None, 0, -5, "soon", 1e300, True, [1]])
async def test_an_absurd_lifetime_is_no_refresh_for_each_request(
    absurd: object, provider: Provider, start: StartDesk
) -> None:
    provider.logins.expires_in = absurd
    desk = start(expired(provider))

    await desk.renew()
    await desk.tend(600)

    assert provider.logins.refreshes == 1
    assert isinstance(desk.pool.acquire(Facts()), Lease)


# --- what goes wrong ------------------------------------------------------------------------------------------------

WRONG = {
    "down": DOWN,
    "too slow": TokenUnavailable("platform.claude.com did not answer within 10 s; try again later"),
    "500": answer({"error": "server_error"}, 500),
    "429": answer({"error": "invalid_grant"}, 429),
    "html": answer(b"<html>invalid_grant</html>", 400, "text/html"),
    "html that claims to be json": answer(b"<html>", 400),
    "huge": answer(b'{"access_token":"' + b"x" * 1_000_001 + b'"}'),
    "wrong type": answer({"access_token": "sk-ant-oat01-x", "refresh_token": "y"}, 200, "text/plain"),
    "no token": answer({"expires_in": 3600}),
    "token for no header": answer({"access_token": "two\r\nlines", "refresh_token": "y"}),
    "only described": answer({"error": "server_error", "error_description": "invalid_grant"}, 400),
    "a list": answer(["invalid_grant"], 400),
    "an error of ours": RuntimeError("sk-ant-ort01-in-its-text"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_every_other_answer_is_transient_and_backs_off(
    wrong: Response | Exception, provider: Provider, start: StartDesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = start(expired(provider, name="invalid_grant"))
    before = desk.stored()
    provider.answers += [wrong] * 3

    for tries in (1, 2, 3):
        assert not (await desk.renew()).ok
        assert not (await desk.renew()).ok
        assert (len(provider.sent), desk.stored()) == (tries, before)
        clock.pass_(60 * 2 ** (tries - 1) * 1.2)

    assert (await desk.renew()).ok
    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)
    assert "sk-ant" not in caplog.text


@pytest.mark.parametrize("error", ["invalid_grant", {"type": "refresh_token_reused"}, "invalid_refresh_token"])
async def test_a_login_that_the_provider_has_ended_waits_for_its_owner(
    error: object, provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = start(expired(provider))
    provider.answers.append(answer({"error": error}, 400))

    renewal = await desk.renew()
    await desk.tend(7200)

    assert (renewal.ok, renewal.reason) == (False, "needs login")
    assert desk.stored().needs_login
    assert desk.known().needs_login
    assert len(provider.sent) == 1
    assert "max-a needs login" in caplog.text


def login(desk: Desk, fresh: Account) -> Callable[[], Awaitable[None]]:
    """What another process does, while the provider's answer is on its way."""

    async def login() -> None:
        desk.store.accounts.update(
            "a",
            access_token=fresh.access_token,
            refresh_token=fresh.refresh_token,
            expires_at=fresh.expires_at,
            needs_login=False,
        )

    return login


async def test_a_refusal_of_a_token_that_a_login_has_replaced_is_forgotten(
    provider: Provider, start: StartDesk
) -> None:
    desk, fresh = start(expired(provider)), provider.account()
    provider.logins.end(desk.known().refresh_token or "")
    provider.answers.append(login(desk, fresh))

    assert (await desk.renew()).ok

    assert not desk.stored().needs_login
    assert desk.known() == desk.stored()
    assert desk.known().access_token == fresh.access_token


async def test_a_login_during_a_refresh_wins(provider: Provider, start: StartDesk) -> None:
    desk, fresh = start(expired(provider)), provider.account()
    provider.answers.append(login(desk, fresh))

    assert (await desk.renew()).ok

    assert desk.known().access_token == desk.stored().access_token == fresh.access_token


async def test_a_back_off_is_noted_in_the_database_until_there_is_a_new_token(
    provider: Provider, start: StartDesk
) -> None:
    desk = start(expired(provider))
    provider.answers.append(DOWN)
    await desk.renew()
    await settled()

    retry_at = desk.store.logins.upkeep()["a"].retry_at
    assert retry_at is not None
    assert retry_at - desk.clock.wall > 59

    desk.clock.pass_(retry_at - desk.clock.wall + 1)
    assert (await desk.renew()).ok
    assert desk.store.logins.upkeep()["a"].retry_at is None


async def test_a_back_off_is_over_with_a_new_login(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    provider.answers.append(DOWN)
    await desk.renew()
    await login(desk, expired(provider))()
    desk.look()

    assert (await desk.renew()).ok


async def test_other_accounts_are_never_affected(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider), expired(provider, "b"))
    provider.answers.append(DOWN)

    assert not (await desk.renew("a")).ok

    assert (await desk.renew("b")).ok
    assert isinstance(desk.pool.acquire(Facts()), Lease)


async def test_a_token_that_is_still_valid_is_used_while_the_endpoint_is_down(
    provider: Provider, start: StartDesk
) -> None:
    desk = start(provider.account(expires_in=1000))
    provider.answers += [DOWN] * 9

    await desk.tend(500)

    assert len(provider.sent) >= 2
    assert isinstance(desk.pool.acquire(Facts()), Lease)
    assert desk.keeper.state(desk.known()).startswith("valid for 8 min, back-off until ")


async def test_an_account_whose_refresh_was_cut_off_by_the_end_of_the_process_is_tried_once(
    provider: Provider, start: StartDesk
) -> None:
    """The provider had answered, and nobody was left to store it: the login is lost, and nothing loops."""
    dead = start(expired(provider))
    provider.answers.append(asyncio.Event().wait)
    dead.keeper.renew("a")
    await settled()
    dead.store.runs.end("run-1")  # what the next start does for a dead run

    alive = start(owner="run-2")
    renewal = await alive.renew()
    await alive.tend(7200)

    assert (renewal.ok, alive.stored().needs_login) == (False, True)
    assert (len(provider.sent), provider.logins.reuses) == (2, 1)


# --- what the database cannot take ----------------------------------------------------------------------------------


def breaking(desk: Desk) -> Callable[[], Awaitable[None]]:
    async def break_down() -> None:
        desk.is_broken = True

    return break_down


async def test_a_pair_that_cannot_be_stored_is_used_and_stored_as_soon_as_possible(
    provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = start(expired(provider))
    old = desk.stored()
    provider.answers.append(breaking(desk))

    assert (await desk.renew()).ok
    await desk.tend(5)
    desk.look()
    used = desk.known()
    assert used.access_token not in (None, old.access_token)
    assert desk.stored() == old
    assert desk.keeper.renew("a").reason == "the last new token is not stored yet"

    desk.is_broken = False
    await desk.tend(3)

    assert desk.stored().access_token == used.access_token
    assert provider.logins.is_live(desk.stored().refresh_token or "")
    assert caplog.text.count("max-a: refreshed, but that cannot be stored yet (the disk is full") == 1
    assert "the new token is stored now" in caplog.text


async def test_an_ended_login_that_cannot_be_stored_is_not_asked_for_all_the_time(
    provider: Provider, start: StartDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider was asked each time, so its back-off holds, and not that of a database that gives no lease."""
    desk = start(expired(provider))
    provider.answers.extend([answer({"error": "invalid_grant"}, 400)] * 100)

    def fail(*_: object) -> None:
        raise StoreError("the disk is full: free some space")

    with monkeypatch.context() as patch:
        patch.setattr(desk.store.logins, "flag_login", fail)
        await desk.tend(50)
    assert len(provider.sent) == 1
    await desk.tend(100)

    assert len(provider.sent) == 2
    assert desk.stored().needs_login


async def test_a_pair_that_waits_gives_way_to_a_login(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    provider.answers.append(breaking(desk))
    await desk.renew()
    fresh = provider.account()
    await login(desk, fresh)()
    desk.look()
    assert desk.known().access_token == fresh.access_token

    desk.is_broken = False
    await desk.tend(3)

    assert desk.stored().access_token == desk.known().access_token == fresh.access_token


async def test_what_still_waits_is_stored_at_the_end(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    provider.answers.append(breaking(desk))
    await desk.renew()

    desk.is_broken = False
    await desk.keeper.close(1)

    assert desk.stored().access_token == desk.known().access_token


async def test_a_refresh_that_failed_leaves_the_lease_to_others(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    provider.answers.append(DOWN)
    await desk.renew()

    turn = desk.store.logins.take_lease("a", "run-2")

    assert turn is not None
    assert turn.is_mine


async def test_a_database_that_cannot_be_asked_spends_nothing(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    desk.is_broken = True

    renewal = await desk.renew()

    assert (renewal.ok, provider.sent) == (False, [])
    assert "the disk is full" in renewal.reason


async def test_database_that_can_be_asked_again_is_soon(provider: Provider, start: StartDesk, clock: Clock) -> None:
    desk = start(expired(provider))
    desk.is_broken = True
    for _ in range(5):
        assert not (await desk.renew()).ok
        clock.pass_(DATABASE_SECONDS)

    desk.is_broken = False

    assert (await desk.renew()).ok


async def test_token_that_was_refused_is_replaced_as_soon_as_the_provider_answers(
    provider: Provider, start: StartDesk
) -> None:
    """Nobody asks for it: the account rests for the refusal."""
    desk = start(provider.account())
    refused = desk.known().access_token
    provider.answers.append(DOWN)
    assert not (await desk.renew(rejected=refused)).ok

    await desk.tend(75)

    assert (len(provider.sent), provider.logins.reuses) == (2, 0)
    assert desk.known().access_token != refused


# --- leases of others -----------------------------------------------------------------------------------------------


async def waited_for_a_run_that_hangs(desk: Desk, clock: Clock, rejected: str | None = None) -> float:
    """For how many seconds a renewal that goes well in the end has left the lease to that run."""
    desk.store.runs.start("run-hangs", "elsewhere", 1)
    desk.store.logins.take_lease("a", "run-hangs")
    began = clock.mono
    assert (await desk.renew(rejected=rejected)).ok
    return clock.mono - began


async def test_a_lease_of_a_run_that_hangs_is_taken_over_after_a_while(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(expired(provider))

    assert LEASE_SECONDS <= await waited_for_a_run_that_hangs(desk, clock) < LEASE_SECONDS + 2


async def test_a_run_that_hangs_has_longer_while_the_account_has_a_good_token(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    """It may be frozen, and have sent the refresh token: to send it once more would end the login."""
    desk = start(provider.account("a", expires_in=1700))

    assert UNHURRIED_SECONDS <= await waited_for_a_run_that_hangs(desk, clock) < UNHURRIED_SECONDS + 2


async def test_a_token_that_was_refused_is_not_waited_for_longer(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(provider.account("a", expires_in=1700))

    waited = await waited_for_a_run_that_hangs(desk, clock, rejected=desk.known().access_token)

    assert LEASE_SECONDS <= waited < LEASE_SECONDS + 2


async def test_slow_database_makes_a_refresh_late_and_does_not_keep_it_from_being_done(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(expired(provider))
    desk.slow_seconds = 18.0  # nine answers, each two seconds late
    began = clock.mono

    assert (await desk.renew()).ok

    assert (len(provider.sent), clock.mono - began) == (1, 36.0)


async def test_frozen_process_takes_its_lease_anew_before_it_spends_a_token(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(expired(provider))
    desk.frozen_seconds.append(60.0)
    began = clock.mono

    assert (await desk.renew()).ok

    assert (len(provider.sent), provider.logins.reuses) == (1, 0)
    assert 60.0 < clock.mono - began < 62.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clock_that_jumps_takes_no_lease_from_anyone(
    jump: float, provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(expired(provider, expires_at=NOW - 2 * HOUR))
    desk.store.logins.take_lease("a", "run-2")
    renewal = desk.keeper.renew("a")
    await asyncio.sleep(0)

    clock.jump(jump)
    for _ in range(40):
        await asyncio.sleep(0)

    assert clock.mono < 1000 + LEASE_SECONDS
    assert (renewal.done, provider.sent) == (False, [])
    assert (await done(renewal)).ok


# --- ahead of time --------------------------------------------------------------------------------------------------


async def test_idle_accounts_are_refreshed_ahead_of_time_and_paused_ones_left_alone(
    provider: Provider, start: StartDesk
) -> None:
    desk = start(provider.account("a", expires_in=1700), provider.account("b", expires_in=1700, paused=True))

    await desk.tend(60)

    assert provider.logins.refreshes == 1
    assert desk.known("a").expires_at > NOW + 7 * HOUR  # type: ignore[operator]


async def test_change_of_how_long_before_the_end_holds_for_tokens_that_are_there(
    provider: Provider, start: StartDesk
) -> None:
    desk = start(provider.account(expires_in=4 * HOUR))
    await desk.tend(5)
    assert provider.logins.refreshes == 0

    desk.before_seconds = 5 * HOUR
    await desk.tend(5)

    assert provider.logins.refreshes == 1


async def test_a_day_is_three_refreshes_and_the_token_is_valid_all_the_time(
    provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(provider.account())
    shortest = 8 * HOUR

    for _ in range(24 * 60):
        clock.pass_(57)
        await desk.tend(3)
        shortest = min(shortest, (desk.known().expires_at or 0.0) - clock.wall)

    assert provider.logins.refreshes == 3
    assert shortest > 1700


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 10 * 365 * 24 * HOUR])
async def test_a_jump_of_the_clock_is_at_most_one_refresh_and_leaves_nobody_stuck(
    jump: float, provider: Provider, start: StartDesk, clock: Clock
) -> None:
    desk = start(provider.account("a", expires_in=5000), provider.account("b", expires_in=7 * HOUR))
    await desk.tend(5)

    clock.jump(jump)
    await desk.tend(300)
    during = provider.logins.refreshes
    clock.jump(-jump)
    await desk.tend(300)

    assert during <= (2 if jump > 24 * HOUR else 1)
    assert provider.logins.refreshes == during
    assert isinstance(desk.pool.acquire(Facts()), Lease)
    clock.mono += 8 * HOUR
    await desk.tend(5)
    assert provider.logins.refreshes == during + 2


async def test_two_keepers_that_look_ahead_share_the_work(provider: Provider, start: StartDesk) -> None:
    one, two = start(provider.account(expires_in=1000)), start(owner="run-2")

    await asyncio.gather(one.tend(20), two.tend(20))

    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)
    assert one.known() == two.known()


@pytest.mark.parametrize("seconds", [600.0, -600.0])
async def test_clocks_that_are_ten_minutes_apart_cost_no_second_refresh(
    seconds: float, provider: Provider, start: StartDesk
) -> None:
    apart = Clock()
    apart.jump(seconds)
    one, two = start(provider.account(expires_in=1000)), start(owner="run-2", clock=apart)

    await asyncio.gather(one.tend(20), two.tend(20))

    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)
    assert one.known() == two.known() == one.stored()


async def test_an_account_with_a_refresh_token_alone_gets_its_first_access_token(
    provider: Provider, start: StartDesk
) -> None:
    desk = start(provider.account(access_token=None, expires_at=None))

    await desk.tend(3)

    assert isinstance(desk.pool.acquire(Facts()), Lease)


# --- what others see ------------------------------------------------------------------------------------------------


async def test_a_request_waits_for_a_refresh_and_is_told_of_a_back_off(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider))
    provider.answers.append(DOWN)

    during = desk.pool.acquire(Facts())
    assert isinstance(during, Exhausted)
    assert (during.reasons[0][1], during.wait) == ("refreshing", 0.25)
    assert desk.keeper.state(desk.known()) == "refreshing"
    await settled()

    after = desk.pool.acquire(Facts())
    assert isinstance(after, Exhausted)
    assert after.reasons[0][1].startswith("refreshing: token expired, next try at ")
    assert after.wait is not None
    assert 60 <= after.wait <= 72


async def test_accounts_that_cannot_be_refreshed_say_so(provider: Provider, start: StartDesk) -> None:
    setup = expired(provider, "a", refresh_token=None)
    key = Account("b", "key", Kind.API_KEY, api_key="sk-ant-api03-x")
    desk = start(setup, key)

    assert desk.keeper.renew("a").reason == "token expired"
    assert desk.keeper.renew("b").reason == "no refresh token"
    assert desk.keeper.renew("c").reason == "the account was removed"
    assert desk.keeper.state(desk.known("b")) == "does not expire"


async def test_a_login_that_ends_soon_is_announced_once_a_day(
    provider: Provider, start: StartDesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = start(provider.account(login_expires_at=NOW + 4 * 24 * HOUR))

    await desk.tend(30)
    assert caplog.text.count("max-a: the login is expected to end in 4 days") == 1
    clock.mono += 24 * HOUR
    await desk.tend(30)

    assert caplog.text.count("max-a: the login is expected to end in 4 days") == 2


async def test_the_end_waits_for_a_refresh_under_way_and_begins_no_other(provider: Provider, start: StartDesk) -> None:
    desk = start(expired(provider), expired(provider, "b"))
    renewal = desk.keeper.renew("a")
    await asyncio.sleep(0)

    await desk.keeper.close(5)

    assert renewal.ok
    assert desk.stored("a").access_token == desk.known("a").access_token
    assert desk.keeper.renew("b").reason == "the proxy stops"


async def test_nothing_that_is_logged_or_shown_holds_a_token(
    provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = start(expired(provider))
    provider.answers += [DOWN, breaking(desk)]
    await desk.renew()
    desk.clock.pass_(100)
    renewal = await desk.renew()
    keeper = desk.keeper

    shown = f"{renewal} {keeper._unsaved} {keeper._plans} {keeper._back_offs} {desk.known()} {provider.sent}"

    assert keeper._unsaved
    assert "sk-ant" not in shown + caplog.text


# --- slow answers ---------------------------------------------------------------------------------------------------


async def test_refresh_that_takes_long_keeps_its_lease_under_new_terms(
    provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk, answered, terms = start(provider.account()), asyncio.Event(), set[str]()
    desk.refresher._renewal_seconds = 0.01
    provider.answers.append(answered.wait)

    renewal = desk.keeper.renew("a")
    while len(terms) < 4:
        await asyncio.sleep(0.01)
        other = desk.store.logins.take_lease("a", "run-2")
        assert other is not None
        assert not other.is_mine
        terms.add(other.term)
    assert repr(desk.pool) == "<AccountPool max-a: refreshing>"
    assert desk.pool.status()[0].available  # with its old token
    answered.set()
    await done(renewal)

    assert renewal.ok
    assert repr(desk.pool) == "<AccountPool max-a: serving>"


async def asked(provider: Provider) -> None:
    """Return when the provider has been asked for new tokens."""
    async with asyncio.timeout(60):
        while not provider.sent:
            await asyncio.sleep(0.01)


async def test_stop_waits_for_a_refresh_and_says_so(
    provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk, answered = start(provider.account()), asyncio.Event()
    provider.answers.append(answered.wait)
    renewal = desk.keeper.renew("a")
    await asked(provider)

    closing = asyncio.ensure_future(desk.keeper.close(120))
    await asyncio.sleep(0.05)
    assert not closing.done()
    answered.set()
    await closing

    assert renewal.ok
    assert "waiting up to 120 s for the new tokens of max-a" in caplog.text


async def test_second_signal_ends_that_wait(
    provider: Provider, start: StartDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk, hurry = start(provider.account()), asyncio.Event()
    provider.answers.append(asyncio.Event().wait)
    desk.keeper.renew("a")
    await asked(provider)

    asyncio.get_running_loop().call_later(0.05, hurry.set)
    await asyncio.wait_for(desk.keeper.close(120, hurry), 60)

    assert "a stop in the midst of a refresh" in caplog.text
    for task in desk.keeper._tasks:
        task.cancel()
