"""The first request after a rest: of all proxies one sends it, and none waits for one that is dead, frozen or away."""

from collections.abc import Mapping

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown, Part
from ccflare_core.accounts.peers import Peers
from ccflare_core.accounts.pool import AccountPool, Lease
from ccflare_core.accounts.probes import (
    AGAIN_SECONDS,
    HELD_SECONDS,
    PATIENCE_SECONDS,
    TERM_SECONDS,
    TURN_SECONDS,
    Claim,
    Probes,
)
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Scope
from ccflare_core.errors import StoreError

REST = Cooldown("a", WHOLE, 1_800_000_000.0, "5h window spent", "window_spent", 1)
MINE, TAKEN = Claim(True, "own"), Claim(False, "theirs")


class Bench:
    """One proxy's claims, on a clock of its own; what it asks the database for and gives back."""

    def __init__(self, *answers: Claim | Exception, has_peers: bool = True) -> None:
        self.answers = list(answers)
        self.has_peers = has_peers
        self.now = 100.0
        self.soon: list[Cooldown] = []
        self.tried: Mapping[Cooldown, bool] = {REST: False}
        self.asked: list[str] = []
        self.given_back: list[str] = []
        self.probes = Probes(self, take=self._take, give_back=self._give_back, clock=lambda: self.now)

    async def _take(self, cooldown: Cooldown, abandoned: str) -> Claim:
        self.asked.append(abandoned)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _give_back(self, cooldown: Cooldown, term: str) -> None:
        assert cooldown is REST
        self.given_back.append(term)

    def ending(self, seconds: float) -> list[Cooldown]:
        return self.soon

    def is_tried(self, cooldown: Cooldown) -> bool | None:
        return self.tried.get(cooldown)

    def may(self) -> bool:
        may = self.probes.may_try(REST, self.now)
        if not may:
            self.probes.claim(REST, self.now)
        return may

    async def after(self, seconds: float) -> bool:
        """Whether a request may go first so much later, once what it asks for is answered."""
        self.now += seconds
        self.may()
        await self.probes.step()
        return self.may()


def test_a_proxy_that_is_alone_asks_nobody() -> None:
    bench = Bench(has_peers=False)
    assert bench.may()
    assert bench.asked == []


async def test_the_first_request_waits_for_the_claim_and_no_longer_than_that() -> None:
    bench = Bench(MINE)
    assert not bench.may()
    assert not bench.may()
    await bench.probes.step()
    assert bench.may()
    assert bench.asked == [""]


async def test_a_rest_that_requests_wait_for_is_claimed_before_its_end() -> None:
    bench = Bench(MINE)
    bench.soon = [REST]
    await bench.probes.step()
    await bench.probes.step()
    assert bench.may()
    assert len(bench.asked) == 1


async def test_what_another_proxy_has_is_asked_for_again_after_a_while_only() -> None:
    bench = Bench(TAKEN, TAKEN, MINE)
    assert not await bench.after(0)
    assert not await bench.after(AGAIN_SECONDS / 2)
    assert len(bench.asked) == 1
    assert not await bench.after(AGAIN_SECONDS)
    assert await bench.after(AGAIN_SECONDS)
    assert bench.asked == ["", "", ""]


async def test_a_claim_that_was_watched_for_too_long_is_ended_whatever_its_owner_does() -> None:
    bench = Bench(TAKEN, TAKEN, MINE)
    await bench.after(0)
    await bench.after(TERM_SECONDS - 1)
    assert await bench.after(1)
    assert bench.asked == ["", "", "theirs"]


async def test_a_claim_with_a_new_term_is_watched_anew() -> None:
    bench = Bench(TAKEN, Claim(False, "newer"), Claim(False, "newer"), MINE)
    await bench.after(0)
    await bench.after(TERM_SECONDS - 1)
    await bench.after(1)
    assert await bench.after(TERM_SECONDS)
    assert bench.asked == ["", "", "", "newer"]


async def test_a_claim_lets_nobody_through_after_its_time_so_a_frozen_proxy_asks_anew() -> None:
    bench = Bench(MINE, TAKEN)
    assert await bench.after(0)
    bench.now += HELD_SECONDS
    assert not bench.may()
    assert HELD_SECONDS < TERM_SECONDS  # before anybody ends it


async def test_a_claim_that_no_request_has_used_is_given_back() -> None:
    bench = Bench(MINE)
    await bench.after(0)
    await bench.probes.step()
    assert bench.given_back == []
    bench.now += HELD_SECONDS
    await bench.probes.step()
    assert bench.given_back == ["own"]


async def test_a_claim_that_was_given_back_is_left_to_others_for_their_turn() -> None:
    bench = Bench(MINE, MINE)
    await bench.after(0)
    assert not await bench.after(HELD_SECONDS)
    assert not await bench.after(TURN_SECONDS - AGAIN_SECONDS)
    assert len(bench.asked) == 1
    assert await bench.after(AGAIN_SECONDS)


async def test_a_claim_stays_while_the_request_goes_on_and_is_given_back_when_it_is_answered() -> None:
    bench = Bench(MINE)
    await bench.after(0)
    bench.tried = {REST: True}
    bench.now += HELD_SECONDS
    await bench.probes.step()
    assert bench.given_back == []
    bench.tried = {}
    await bench.probes.step()
    await bench.probes.step()
    assert bench.given_back == ["own"]


async def test_what_was_never_had_is_not_given_back() -> None:
    bench = Bench(TAKEN)
    await bench.after(0)
    bench.tried = {}
    await bench.probes.step()
    assert bench.given_back == []


@pytest.mark.parametrize("seconds", [0.0, 1.0])
async def test_a_database_that_fails_or_is_slow_keeps_no_request_waiting(seconds: float) -> None:
    failing, slow = Bench(StoreError("away")), Bench()
    assert await failing.after(seconds)
    slow.may()
    slow.now += PATIENCE_SECONDS
    assert slow.may()


class Claims:
    """What the database has of claims, for proxies on one clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.owners: dict[tuple[str, Part], str] = {}
        self.asked: list[tuple[str, Part]] = []

    def take(self, cooldown: Cooldown, owner: str) -> Claim:
        self.asked.append((owner, cooldown.part))
        had = self.owners.setdefault((cooldown.account_id, cooldown.part), owner)
        return Claim(had == owner, f"{owner} {len(self.asked)}" if had == owner else had)

    def end(self, cooldown: Cooldown) -> None:
        del self.owners[cooldown.account_id, cooldown.part]


class Proxy:
    """A pool with its claims; all of the account "a" was resting until now, and its family "opus" too."""

    def __init__(self, name: str, claims: Claims, accounts: str) -> None:
        async def take(cooldown: Cooldown, abandoned: str) -> Claim:
            return claims.take(cooldown, name)

        self.pool = AccountPool(
            clock=lambda: claims.now,
            wall=lambda: REST.until + claims.now,
            may_try=lambda cooldown, now: self.probes.may_try(cooldown, now),
            claim=lambda cooldown, now: self.probes.claim(cooldown, now),
        )
        give_back = lambda cooldown, term: claims.end(cooldown)  # noqa: E731
        self.probes = Probes(self.pool, take=take, give_back=give_back, clock=lambda: claims.now)
        self.pool.replace_accounts([Account(id, id, Kind.OAUTH, access_token=id) for id in accounts])
        self.pool.meet(Peers(True))

    def rests(self, part: Part) -> None:
        self.pool.restore([Cooldown("a", part, self.pool._now().wall + 1, "5h window spent", "window_spent", 1)], {})

    def account_of(self, session: str) -> str:
        """Which account a request would go to; it gets no answer."""
        lease = self.pool.acquire(Facts("claude-opus-4-8", session))
        if not isinstance(lease, Lease):
            return ""
        self.pool.release(lease)
        return lease.account.id


async def test_a_proxy_whose_sessions_are_elsewhere_keeps_no_account_from_another_one() -> None:
    claims = Claims()
    busy, other = Proxy("busy", claims, "ab"), Proxy("other", claims, "a")
    busy.pool.acquire(Facts("claude-opus-4-8", "s"), only="b")
    for proxy in (busy, other):
        proxy.rests(WHOLE)
    claims.now = 1.0
    while claims.now < 30 and other.account_of("t") != "a":
        assert busy.account_of("s") == "b"
        await busy.probes.step()
        await other.probes.step()
        claims.now += 0.05
    assert claims.now < PATIENCE_SECONDS
    assert {owner for owner, _ in claims.asked} == {"other"}


async def test_two_proxies_that_need_two_parts_do_not_wait_for_each_other() -> None:
    opus, claims = Part(Scope.FAMILY, "opus"), Claims()
    one, two = Proxy("one", claims, "a"), Proxy("two", claims, "a")
    for proxy in (one, two):
        proxy.rests(WHOLE)
        proxy.rests(opus)
    claims.now = 1.0
    for proxy in (one, two, one, two):
        assert proxy.account_of("s") == ""
        await proxy.probes.step()
    assert one.account_of("s") == "a"
    assert [part for owner, part in claims.asked if owner == "two"] == [WHOLE]
