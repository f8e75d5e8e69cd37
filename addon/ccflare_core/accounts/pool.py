"""AccountPool: who serves the next request, who rests and until when, who holds which session.

All in memory and synchronous; only the event loop touches it. What has to outlive the process is handed
back by `report` for the caller to store, and comes in again through `restore`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Cooldown, Moment, Obstacle
from ccflare_core.accounts.member import AccountStatus, Seat
from ccflare_core.accounts.selection import Choice, choose
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Verdict
from ccflare_core.clients.keys import ClientKey

__all__ = ["AccountPool", "AccountStatus", "Cooldown", "Exhausted", "Lease", "Report"]

_NO_MODEL = "?"
"""The family of requests that name no model, so that what rests for them does not rest for all."""

_SHORTEST_WAIT = 0.01


@dataclass(slots=True, eq=False)
class Lease:
    """The right to send one request with one account. Give it back with `release`, however it ends."""

    account: Account
    choice: Choice
    facts: Facts
    started: float
    """Monotonic seconds."""
    seat: Seat = field(repr=False)
    number: int = field(repr=False)
    open: bool = True


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No account can serve now, and why."""

    reasons: tuple[tuple[str, str, float | None], ...]
    """Each account's name, reason, and recovery in epoch seconds (None: not by itself)."""
    wait: float | None
    """Seconds to the earliest recovery; None if none comes by itself."""
    configured: bool
    """Whether there are any accounts at all."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a verdict changed and the store should know; all empty when nothing did."""

    cooldown: Cooldown | None = None
    """A new cooldown, or a longer one in place of the one with the same account and family."""
    cleared: tuple[tuple[str, str], ...] = ()
    """The (account id, family) of cooldowns that a good answer ended."""
    windows: tuple[Window, ...] = ()
    """The windows that moved noticeably since they were last reported."""


_NOTHING = Report()


def _stays_expired(account: Account) -> Obstacle:
    return Obstacle("token expired", None)


class AccountPool:
    """The accounts and all that is known of them.

    `session_seconds` is how long a session stays with its account after its last request. Timers run on
    `clock` (monotonic); `wall` (epoch) is for times that come in or go out.
    """

    def __init__(
        self,
        *,
        strategy: str = "session",
        session_seconds: float = 18000.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
        max_sessions: int = 10_000,
        expired: Callable[[Account], Obstacle] = _stays_expired,
    ) -> None:
        """`expired` is asked whenever an account whose token is over could have a new one."""
        self._strategy = strategy
        self._clock = clock
        self._wall = wall
        self._expired = expired
        self._seats: dict[str, Seat] = {}
        self._pins = _Pins(session_seconds, max_sessions)
        self._turn = 0
        self._leases = 0  # given out so far; a lease's number
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """How many leases are out."""
        return self._in_flight

    def replace_accounts(self, accounts: Iterable[Account]) -> tuple[tuple[str, str], ...]:
        """Take these accounts for the old ones. What is known of an account stays while its id does.

        Returns the (account id, family) of cooldowns that are over because the credential is a new one.
        """
        seats: dict[str, Seat] = {}
        cleared: list[tuple[str, str]] = []
        for account in accounts:
            seat = self._seats.get(account.id)
            if seat is None:
                seat = Seat(account, self._expired)
            else:
                cleared += [(account.id, family) for family in seat.change(account)]
            seats[account.id] = seat
        self._seats = seats
        return tuple(cleared)

    def change_account(self, account: Account) -> tuple[tuple[str, str], ...]:
        """Take this account for the old one with its id, if there is one; otherwise as `replace_accounts`."""
        seat = self._seats.get(account.id)
        return tuple((account.id, family) for family in seat.change(account)) if seat else ()

    def accounts(self) -> list[Account]:
        """Every account, in the order of `replace_accounts`."""
        return [seat.account for seat in self._seats.values()]

    def idle_accounts(self, seconds: float) -> list[Account]:
        """The OAuth accounts that could serve, or only rest, and have had no request for so long."""
        at = self._now()
        return [seat.account for seat in self._seats.values() if seat.is_idle(seconds, at)]

    def learn(self, account_id: str, windows: Iterable[Window]) -> Report:
        """Learn windows from elsewhere than an answer. They may end a rest, but begin none."""
        seat, at = self._seats.get(account_id), self._now()
        if seat is None:
            return _NOTHING
        told = tuple(windows)
        cleared = seat.relieve(told, at)
        return Report(None, tuple((account_id, family) for family in cleared), seat.learn(told, at))

    def restore(self, cooldowns: Iterable[Cooldown], windows: Mapping[str, tuple[Window, ...]]) -> None:
        """Take up what an earlier run knew of the present accounts; what is over is left out."""
        at = self._now()
        for cooldown in cooldowns:
            if seat := self._seats.get(cooldown.account_id):
                seat.restore(cooldown, at, self._leases)
        for account_id, known in windows.items():
            if seat := self._seats.get(account_id):
                seat.learn(known, at)

    def acquire(
        self, facts: Facts, *, exclude: frozenset[str] = frozenset(), key: ClientKey | None = None
    ) -> Lease | Exhausted:
        """A lease for this request, or why there is none.

        `exclude`: ids of accounts tried already. `key` is the client's: some accounts may not be for it.
        """
        at = self._now()
        family = facts.family or _NO_MODEL
        seats = self._seats.values()
        obstacles = [_reserved(seat, key, at) or seat.obstacle(family, at, exclude) for seat in seats]
        candidates = [seat.candidate(obstacle, at.mono) for seat, obstacle in zip(seats, obstacles, strict=True)]
        session = self._session_of(facts)
        pinned = self._pins.get(session, at.mono)
        choice = choose(candidates, strategy=self._strategy, pinned=pinned, turn=self._turn)
        if choice.account_id is None:
            return self._exhausted(family, at, exclude, key)
        if choice.account_id != pinned:
            self._turn = 1 + [candidate.id for candidate in candidates].index(choice.account_id)
        self._pins.put(session, self._holder(pinned, choice.account_id, at.wall), at.mono)
        return self._lend(self._seats[choice.account_id], choice, facts, family, at)

    def renewed(self, lease: Lease) -> Lease | None:
        """A lease with the account's present credential in place of this one; None if it cannot serve now."""
        self.release(lease)
        at, family = self._now(), lease.facts.family or _NO_MODEL
        if self._seats.get(lease.account.id) is not lease.seat or lease.seat.obstacle(family, at):
            return None
        return self._lend(lease.seat, lease.choice, lease.facts, family, at)

    def report(self, lease: Lease, verdict: Verdict) -> Report:
        """Learn from an upstream answer to `lease`. Returns what changed, for the store.

        Call it for the answer that ends the attempts on this account; those that are repeated in place
        need no report.
        """
        seat, number = lease.seat, lease.number
        if self._seats.get(lease.account.id) is not seat:
            return _NOTHING  # removed meanwhile
        at = self._now()
        family = lease.facts.family or _NO_MODEL
        windows = seat.learn(verdict.windows, at) if verdict.windows else ()
        cleared: list[str] = []
        if verdict.ok:
            cleared = seat.clear(number, family)
            # The session's prompt cache is here now, wherever it was before.
            self._pins.put(self._session_of(lease.facts), lease.account.id, at.mono)
        cooldown = seat.cool(verdict, lease.account, number, family, at, self._leases)
        seat.end_probation(number, family, at)
        if cooldown is None and not cleared and not windows:
            return _NOTHING
        return Report(cooldown, tuple((lease.account.id, name) for name in cleared), windows)

    def release(self, lease: Lease) -> None:
        """Give a lease back; a second time does nothing."""
        if lease.open:
            lease.open = False
            self._in_flight -= 1
            lease.seat.take_back(lease.number)

    def status(self) -> list[AccountStatus]:
        """Each account as it stands, in the order of `replace_accounts`."""
        at = self._now()
        return [seat.status(at) for seat in self._seats.values()]

    def _now(self) -> Moment:
        return Moment(self._clock(), self._wall())

    def _session_of(self, facts: Facts) -> str:
        return facts.affinity if self._strategy == "session" else ""

    def _holder(self, pinned: str | None, chosen: str, wall: float) -> str:
        """Who holds the session now: its old account also while that one rests, so that it snaps back."""
        seat = self._seats.get(pinned) if pinned else None
        return pinned if pinned and seat and not seat.lasting_obstacle(wall) else chosen

    def _lend(self, seat: Seat, choice: Choice, facts: Facts, family: str, at: Moment) -> Lease:
        self._leases += 1
        self._in_flight += 1
        seat.lend(self._leases, family, at)
        return Lease(seat.account, choice, facts, at.mono, seat, self._leases)

    def _exhausted(self, family: str, at: Moment, exclude: frozenset[str], key: ClientKey | None) -> Exhausted:
        seats = [seat for seat in self._seats.values() if _is_for(seat, key)]  # of others its client learns nothing
        found = [(s.account.name, s.obstacle(family, at, exclude) or _reserved(s, key, at)) for s in seats]
        waits = [why.seconds for _, why in found if why is not None and why.seconds is not None]
        return Exhausted(
            reasons=tuple((name, why.reason, why.recovery(at.wall)) for name, why in found if why),
            wait=max(min(waits), _SHORTEST_WAIT) if waits else None,
            configured=bool(self._seats),
        )


def _is_for(seat: Seat, key: ClientKey | None) -> bool:
    return key is None or key.may_use_account(seat.account.name)


def _reserved(seat: Seat, key: ClientKey | None, at: Moment) -> Obstacle | None:
    """Why this account is not for this client; None if it is."""
    if key is None:
        return None
    if not _is_for(seat, key):
        return Obstacle("not for this client key", None)
    return seat.scarcity(at) if key.low_priority else None


class _Pins:
    """Which account holds which session: the least recently used go first, unused ones after a while."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._pins: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def get(self, session: str, now: float) -> str | None:
        """The account's id; None if nothing holds it or it was not used for too long."""
        pin = self._pins.get(session)
        return pin[0] if pin is not None and now < pin[1] else None

    def put(self, session: str, account_id: str, now: float) -> None:
        """Pin a session and count this as a use. The session "" is nobody's."""
        if not session:
            return
        self._pins[session] = (account_id, now + self._seconds)
        self._pins.move_to_end(session)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
