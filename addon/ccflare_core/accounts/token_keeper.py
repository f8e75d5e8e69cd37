"""TokenKeeper: keeps the OAuth tokens of all accounts alive, each with one refresh at a time.

It lives on the event loop. Callers ask for a token with `renew`, which neither waits nor raises; `run` refreshes
ahead of time. How one refresh is done is in token_refresh.py. What is known of an account is the pool's; only pairs
that the database could not take yet are kept here.
"""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Moment, Unavailable
from ccflare_core.accounts.renewal import Renewal
from ccflare_core.accounts.successors import Pair
from ccflare_core.accounts.token_refresh import Refreshed, Refresher
from ccflare_core.accounts.validity import Upkeep, login_warning, token_state
from ccflare_core.anthropic import oauth
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.text import local_time

logger = logging.getLogger("ccflare")

LOOK_SECONDS = 1.0
FLOOR_SECONDS = 60.0
"""A token that is refused so soon after it was made is not the fault of its age: another one would not help."""
DATABASE_SECONDS = 2.0
"""When to try again if the database could not be asked for a lease: the provider, whom a back-off spares, was not."""
_WARN_SECONDS = 86_400.0
_HELD_SECONDS = 0.25
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Plan:
    """When the token that `account` has is due, on both clocks: one that jumps brings it forward at most once."""

    account: Account
    due: Moment
    before_seconds: float
    """How long before its end a token was to be refreshed when this was made."""

    def is_due(self, now: Moment) -> bool:
        return now.mono >= self.due.mono or now.wall >= self.due.wall


@dataclass(frozen=True, slots=True)
class _BackOff:
    """Why the tokens that `account` has cannot be refreshed at the moment, and until when (monotonic)."""

    account: Account
    failures: int
    until: float


class TokenKeeper:
    """See the module. `accounts` are the pool's, which hears of a new state of one through `adopted`."""

    def __init__(
        self,
        refresher: Refresher,
        *,
        accounts: Callable[[], Iterable[Account]],
        adopted: Callable[[Account], object],
        before_seconds: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._refresher = refresher
        self._accounts = accounts
        self._adopted = adopted
        self._before_seconds = before_seconds
        self._clock = clock
        self._wall = wall
        self._random = random
        self._sleep = sleep
        self._refreshes: dict[str, Renewal] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsaved: dict[str, Pair] = {}
        self._back_offs: dict[str, _BackOff] = {}
        self._plans: dict[str, _Plan] = {}
        self._refused: dict[str, str] = {}
        """By account, the access token that upstream has refused and that could not be replaced at once."""
        self._made_at: dict[str, float] = {}
        self._last_seen: dict[str, str | None] = {}
        """Each account's access token, to see that another process has made a new one."""
        self._warned_at: dict[str, float] = {}
        self._is_closed = False

    # For those who need a token

    def renew(self, account_id: str, *, rejected: str | None = None) -> Renewal:
        """Begin a refresh or join the one under way.

        `rejected` is the access token that upstream has just refused: if the account has another one by now, there is
        nothing left to do.
        """
        account = self._find(account_id)
        if account is None:
            return Renewal(done=True, reason="the account was removed")
        if rejected is not None and account.access_token != rejected:
            return Renewal(done=True, ok=True)
        self._see(account)
        if account_id in self._refreshes:  # before any back-off: a caller that comes now shares its result
            return self._refreshes[account_id]
        reason = self._reason_against(account, rejected)
        if reason is not None:
            return Renewal(done=True, reason=reason)
        self._refreshes[account_id] = renewal = Renewal()
        task = asyncio.get_running_loop().create_task(self._refresh(account, rejected, renewal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return renewal

    def unavailable(self, account: Account) -> Unavailable:
        """What an account without a valid token waits for. Begins the refresh, unless one has just failed."""
        if not self.renew(account.id).done:
            return Unavailable("refreshing", _HELD_SECONDS)
        back_off = self._back_off(account)
        if back_off is None:
            return Unavailable(f"refreshing: {account.token_problem(self._wall()) or 'token expired'}", None)
        left = max(back_off.until - self._clock(), 0.0)
        return Unavailable(f"refreshing: token expired, next try at {self._told(back_off)}", left)

    def is_refreshing(self, account: Account) -> bool:
        """Whether its token is being exchanged for another one."""
        return account.id in self._refreshes

    def state(self, account: Account) -> str:
        """For people: `valid for 6 h`, `refreshing`, `back-off until 14:20`, `needs login` …"""
        now, back_off = self._wall(), self._back_off(account)
        retry_at = None if back_off is None else now + back_off.until - self._clock()
        return token_state(account, now, Upkeep(self.is_refreshing(account), retry_at))

    def overlay(self, accounts: Iterable[Account]) -> list[Account]:
        """The accounts as the database has them, with the pairs that it could not take yet or has lost."""
        return [self._overlaid(account) for account in accounts]

    def _overlaid(self, stored: Account) -> Account:
        successors, known, unsaved = self._refresher.successors, self._find(stored.id), self._unsaved.get(stored.id)
        newer = None if stored.id in self._refreshes else successors.newest(stored)  # that one is about to be stored
        if newer is None:
            if known is not None:
                successors.note(known, stored)
        elif unsaved is None or unsaved.spent != newer.spent:
            self._unsaved[stored.id] = unsaved = newer
            logger.warning(
                "%s: the database has a token again that was spent already; the newer one is written again", stored.name
            )
        return stored if unsaved is None else unsaved.put_into(stored)

    # Its life

    async def run(self) -> None:
        """Refresh what is due and write what waits, until cancelled."""
        while True:
            try:
                self._tend()
                await self._save_pairs()
            except Exception as error:  # no account may end the care for the others
                logger.error("refreshing tokens failed with %s", type(error).__name__)
            await self._sleep(LOOK_SECONDS)

    async def close(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Begin nothing more, and wait for what is under way: an answer that nobody reads is a lost login.

        `hurry` ends the wait.
        """
        self._is_closed = True
        if self._tasks:
            await self._wait_for_refreshes(seconds, hurry or asyncio.Event())
        await self._save_pairs()
        for pair in self._unsaved.values():
            logger.error("new tokens of account %s are lost: the database did not take them", pair.account_id)

    async def _wait_for_refreshes(self, seconds: float, hurry: asyncio.Event) -> None:
        names = ", ".join(account.name for account in self._accounts() if account.id in self._refreshes)
        logger.warning(
            "waiting up to %.0f s for the new tokens of %s: to stop now loses their logins, a second signal does it",
            seconds, names,
        )  # fmt: skip
        hurried = asyncio.ensure_future(hurry.wait())
        refreshes = asyncio.ensure_future(asyncio.wait(self._tasks, timeout=seconds))
        await asyncio.wait({refreshes, hurried}, return_when=asyncio.FIRST_COMPLETED)
        for each in (hurried, refreshes):
            each.cancel()
        if self._refreshes:
            logger.error("%s: a stop in the midst of a refresh; it may need a new login", names)

    def _tend(self) -> None:
        now = Moment(self._clock(), self._wall())
        accounts = list(self._accounts())
        kept = [account for account in accounts if account.is_renewable and not account.paused]
        self._plans = {account.id: self._plan(account, now) for account in kept}
        for account_id, plan in self._plans.items():
            if plan.is_due(now):
                self.renew(account_id)
            elif (refused := self._refused.get(account_id)) and refused == plan.account.access_token:
                self.renew(account_id, rejected=refused)  # nobody will ask for it: the account rests
        for account in accounts:
            self._see(account)
            self._warn(account, now)

    def _see(self, account: Account) -> None:
        """Note when a token was made that is not ours: about now, if there was another one the last time."""
        last = self._last_seen.get(account.id)
        if last is not None and last != account.access_token:
            self._made_at[account.id] = self._clock()
        self._last_seen[account.id] = account.access_token

    def _plan(self, account: Account, now: Moment) -> _Plan:
        old, before = self._plans.get(account.id), self._before_seconds()
        is_same = old is not None and old.account.access_token == account.access_token
        if old is not None and is_same and old.before_seconds == before:
            return old
        if account.expires_at is None:
            # Without a token it is due; without a known end the upstream's 401 will tell.
            return _Plan(account, Moment(_NEVER, _NEVER) if account.access_token else now, before)
        obtained_at = None if old is None or is_same else now.wall
        due = oauth.next_refresh(account.expires_at, now.wall, before, self._random, obtained_at=obtained_at)
        return _Plan(account, Moment(now.mono + due - now.wall, due), before)

    def _warn(self, account: Account, now: Moment) -> None:
        warning = login_warning(account, now.wall)
        if warning and now.mono - self._warned_at.get(account.id, -_NEVER) >= _WARN_SECONDS:
            self._warned_at[account.id] = now.mono
            logger.warning("%s: %s", account.name, warning)

    # One refresh

    def _reason_against(self, account: Account, rejected: str | None) -> str | None:
        """Why no refresh can begin now."""
        if self._is_closed:
            return "the proxy stops"
        if not account.is_renewable:
            return account.token_problem(self._wall()) or "no refresh token"
        if account.id in self._unsaved:
            return "the last new token is not stored yet"
        back_off = self._back_off(account)
        if back_off is not None and self._clock() < back_off.until:
            return f"next try at {self._told(back_off)}"
        if rejected is not None and self._clock() - self._made_at.get(account.id, -_NEVER) < FLOOR_SECONDS:
            return "its new token was refused too"
        return None

    async def _refresh(self, account: Account, rejected: str | None, renewal: Renewal) -> None:
        retry_at = None
        try:
            self._take_up(account, renewal, await self._refresher.refresh(account, rejected))
        except CCFlareError as error:
            retry_at = self._fail(account, renewal, str(error), is_ours=isinstance(error, StoreError))
        except Exception as error:  # its text may hold what must not be logged
            retry_at = self._fail(account, renewal, f"an error inside ({type(error).__name__})")
        finally:
            del self._refreshes[account.id]
            if retry_at is not None and rejected is not None:
                self._refused[account.id] = rejected
            if not renewal.done:
                renewal.fail("the proxy stops")
        if retry_at is not None:
            await self._refresher.note_failure(account, retry_at, renewal.reason)

    def _take_up(self, known: Account, renewal: Renewal, result: Refreshed) -> None:
        account = result.account
        if account is None:
            renewal.fail(result.news)
            return
        self._back_offs.pop(account.id, None)
        self._refused.pop(account.id, None)
        if result.unsaved is not None:
            self._unsaved[account.id] = result.unsaved
        self._adopt(account, (known, result.before))
        problem = account.token_problem(self._wall())
        if problem is not None:
            logger.warning("%s %s: %s", account.name, problem, result.news)
            renewal.fail(problem)
            return
        self._made_at[account.id] = self._clock()
        level = logging.WARNING if result.unsaved else logging.INFO
        logger.log(level, "%s: %s; token %s", account.name, result.news, token_state(account, self._wall()))
        renewal.succeed()

    def _adopt(self, new: Account, known: Iterable[Account | None]) -> None:
        """Tell the pool of the new tokens and whose they are, unless it has heard of still newer ones meanwhile."""
        current = self._find(new.id)
        if current is None or not any(old is not None and _same_tokens(current, old) for old in known):
            return
        self._adopted(
            replace(
                current,
                access_token=new.access_token,
                refresh_token=new.refresh_token,
                expires_at=new.expires_at,
                login_at=new.login_at,
                login_expires_at=new.login_expires_at,
                needs_login=new.needs_login,
                person_id=new.person_id,
                organization_id=new.organization_id,
            )
        )

    def _fail(self, account: Account, renewal: Renewal, reason: str, *, is_ours: bool = False) -> float:
        """Back off, but for a failure that `is_ours` only for a moment; until when (epoch seconds)."""
        old = self._back_off(account)
        failures = (0 if old is None else old.failures) + (not is_ours)
        until = self._clock() + (DATABASE_SECONDS if is_ours else oauth.backoff(failures, self._random))
        self._back_offs[account.id] = back_off = _BackOff(account, failures, until)
        logger.warning(
            "%s: the token was not refreshed (%s); the next try is at %s", account.name, reason, self._told(back_off)
        )
        renewal.fail(reason)
        return self._wall() + until - self._clock()

    async def _save_pairs(self) -> None:
        """Write the pairs that wait. One that is no longer wanted, because somebody has logged in, is dropped."""
        for pair in list(self._unsaved.values()):
            try:
                stored = await self._refresher.save(pair)
            except Exception as error:
                logger.debug("a new token could still not be stored: %s", type(error).__name__)
                continue  # said aloud once, when it began
            del self._unsaved[pair.account_id]
            if stored is not None:
                logger.warning("%s: the new token is stored now", stored.name)

    # Pieces

    def _find(self, account_id: str) -> Account | None:
        return next((account for account in self._accounts() if account.id == account_id), None)

    def _back_off(self, account: Account) -> _BackOff | None:
        """What holds this account's tokens back. A new login begins anew."""
        found = self._back_offs.get(account.id)
        return found if found is not None and found.account.refresh_token == account.refresh_token else None

    def _told(self, back_off: _BackOff) -> str:
        now = self._wall()
        return local_time(now + max(back_off.until - self._clock(), 0.0), now)


def _same_tokens(one: Account, other: Account) -> bool:
    return (one.access_token, one.refresh_token) == (other.access_token, other.refresh_token)
