"""One account's seat in the pool: its obstacles, its cooldowns and streaks, its windows, its load."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import LONGEST_REST, WHOLE_ACCOUNT, Cooldown, Moment, Obstacle, Rest
from ccflare_core.accounts.selection import Candidate
from ccflare_core.anthropic import verdicts
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Scope, Verdict

_SAME_END = 1.0
"""Seconds by which a rest must grow to count as longer: the same reset read twice differs by less."""

_ABOUT_THE_CREDENTIAL = frozenset({verdicts.Kind.CREDENTIAL_REJECTED, verdicts.Kind.PERMISSION_DENIED})
_ABOUT_A_WINDOW = frozenset({verdicts.Kind.WINDOW_SPENT, verdicts.Kind.MODEL_BUCKET_SPENT})

_JITTER = 60.0
"""Seconds by which two readings of one reset may differ; a real one moves by hours."""

SCARCE = 0.8
"""The share of a window from which on an account is not for clients of low priority."""

_WINDOW_SECONDS = {"5h": 5 * 3600.0, "7d": 7 * 86400.0}


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One account for people to look at."""

    account: Account
    available: bool
    reason: str
    """Why not; "ready" if it is."""
    until: float | None
    """Epoch seconds of the recovery, if it comes by itself."""
    in_flight: int
    windows: tuple[Window, ...]
    cooldowns: tuple[Cooldown, ...]


class Seat:
    """The mutable state of one account. Leases are known here by their numbers, which only rise."""

    __slots__ = ("_expired", "_fixed", "_gauge", "_rests", "_streaks", "account", "in_flight", "used_at")

    def __init__(self, account: Account, expired: Callable[[Account], Obstacle]) -> None:
        """`expired` tells what an account waits for whose token has to be refreshed first."""
        self.account = account
        self.used_at = float("-inf")  # monotonic
        self._expired = expired
        self.in_flight = 0
        self._fixed = _fixed_obstacle(account)
        self._rests: dict[str, Rest] = {}  # by family
        self._streaks: dict[tuple[str, str], int] = {}  # by family and source
        self._gauge = _Gauge()

    def change(self, account: Account) -> list[str]:
        """Take the account's new state; the families whose rest a new credential ended."""
        old, self.account, self._fixed = self.account, account, _fixed_obstacle(account)
        if _same_credential(old, account):
            return []
        freed = [name for name, rest in self._rests.items() if rest.cooldown.source in _ABOUT_THE_CREDENTIAL]
        for name in freed:
            del self._rests[name]
        self._streaks = {key: n for key, n in self._streaks.items() if key[1] not in _ABOUT_THE_CREDENTIAL}
        return freed

    def restore(self, cooldown: Cooldown, at: Moment, since: int) -> None:
        """Take up a rest from an earlier run, at most `LONGEST_REST`; nothing if it is over."""
        seconds = min(cooldown.until - at.wall, LONGEST_REST)
        if seconds > 0:
            self._streaks[cooldown.family, cooldown.source] = cooldown.streak
            self._rests[cooldown.family] = Rest(replace(cooldown, until=at.wall + seconds), at, since, by=0)

    def lasting_obstacle(self, wall: float) -> str | None:
        """What keeps the account out until somebody does something about it."""
        return self._fixed or (None if self.account.is_renewable else self.account.token_problem(wall))

    def obstacle(self, family: str, at: Moment, exclude: frozenset[str] = frozenset()) -> Obstacle | None:
        """Why the account cannot take a request of this family now; None if it can."""
        lasting = self._fixed or self.account.token_problem(at.wall)
        if lasting is not None:
            is_expired = self._fixed is None and self.account.is_renewable
            return self._expired(self.account) if is_expired else Obstacle(lasting, None)
        if self._rests:
            found = [why for rest in self._rests_for(family) if (why := rest.obstacle(at))]
            if found:
                return max(found, key=lambda why: why.seconds or 0.0)
        return Obstacle("already tried", None) if self.account.id in exclude else None

    def scarcity(self, at: Moment) -> Obstacle | None:
        """Why it is kept for clients that are not of low priority; None if there is enough for all."""
        left = self._gauge.seconds_above(SCARCE, at.mono)
        return None if left is None else Obstacle(f"kept for others above {SCARCE:.0%}", left)

    def candidate(self, obstacle: Obstacle | None, now: float) -> Candidate:
        """The account as the choice sees it, with this obstacle."""
        account, used = self.account, self._gauge.used
        return Candidate(
            account.id,
            account.name,
            account.priority,
            None if obstacle is None else obstacle.reason,
            self.in_flight,
            used("5h", now),
            used("7d", now),
        )

    def lend(self, number: int, family: str, at: Moment) -> None:
        """One more request in flight; it is the probe of what it passes."""
        self.in_flight += 1
        self.used_at = at.mono
        for rest in self._rests_for(family) if self._rests else ():
            rest.lend(number, at)

    def take_back(self, number: int) -> None:
        """One request less; if it was a probe without an answer, the next one probes."""
        self.in_flight -= 1
        for rest in self._rests.values():
            if rest.probe == number:
                rest.probe = 0

    def learn(self, windows: Iterable[Window], at: Moment) -> tuple[Window, ...]:
        """Keep these readings; those that moved noticeably since they were last returned here."""
        return tuple([window for window in windows if self._gauge.takes(window, at)])

    def clear(self, number: int, family: str) -> list[str]:
        """End the rests that a good answer to this lease disproves, and the streaks; the rests' families."""
        if not self._rests and not self._streaks:
            return []
        names = (WHOLE_ACCOUNT, family)
        cleared = [name for name in names if name in self._rests and self._rests[name].is_disproved_by(number)]
        for name in cleared:
            del self._rests[name]
        served = {name for name in names if name not in self._rests}
        self._streaks = {key: n for key, n in self._streaks.items() if key[0] not in served}
        return cleared

    def is_idle(self, seconds: float, at: Moment) -> bool:
        """Whether it is an OAuth account with a usable token and no request for so long."""
        account = self.account
        if self.in_flight or at.mono - self.used_at < seconds or account.kind is not Kind.OAUTH:
            return False
        return not (self._fixed or account.token_problem(at.wall))

    def relieve(self, windows: Iterable[Window], at: Moment) -> list[str]:
        """End the rests for a spent window that these newer readings show to be over; the rests' families."""
        known = {window.name: window for window in windows if window.utilization is not None}
        over = [name for name, rest in self._rests.items() if _is_over(rest.cooldown, known)]
        for name in over:
            del self._rests[name]
        self._streaks = {key: n for key, n in self._streaks.items() if key[0] not in over}
        return over

    def cool(
        self, verdict: Verdict, sent: Account, number: int, family: str, at: Moment, since: int
    ) -> Cooldown | None:
        """Rest as the verdict on lease `number`, sent as `sent`, says; None if one as long is under way."""
        if verdict.rest is None or verdict.scope is Scope.NONE or not self._concerns(verdict, sent):
            return None
        name = family if verdict.scope is Scope.FAMILY else WHOLE_ACCOUNT
        streak = self._lengthen_streak(name, verdict.kind.value, number)
        seconds = verdict.rest.after(streak) if verdict.until is None else verdict.until - at.wall
        seconds = min(seconds if seconds > 0 else verdict.rest.after(streak), LONGEST_REST)
        current = self._rests.get(name)
        if current and 0 < current.left(at) >= seconds - _SAME_END:
            return None
        cooldown = Cooldown(self.account.id, name, at.wall + seconds, verdict.reason, verdict.kind.value, streak)
        self._rests[name] = Rest(cooldown, at, since, number)
        return cooldown

    def end_probation(self, number: int, family: str, at: Moment) -> None:
        """This lease was answered, with whatever: if it was a probe, what is over is over."""
        for rest in self._rests_for(family) if self._rests else ():
            if rest.is_answered_by(number, at):
                del self._rests[rest.cooldown.family]

    def status(self, at: Moment) -> AccountStatus:
        """The account as it stands for requests of no particular family."""
        obstacle = self.obstacle(WHOLE_ACCOUNT, at)
        resting = [(rest.left(at), rest.cooldown) for rest in self._rests.values()]
        return AccountStatus(
            account=self.account,
            available=obstacle is None,
            reason="ready" if obstacle is None else obstacle.reason,
            until=None if obstacle is None else obstacle.recovery(at.wall),
            in_flight=self.in_flight,
            windows=self._gauge.windows,
            cooldowns=tuple(replace(cooldown, until=at.wall + left) for left, cooldown in resting if left > 0),
        )

    def _rests_for(self, family: str) -> list[Rest]:
        names = {WHOLE_ACCOUNT, family}
        return [rest for name, rest in self._rests.items() if name in names]

    def _lengthen_streak(self, family: str, source: str, number: int) -> int:
        streak = self._streaks.get((family, source), 0)
        current = self._rests.get(family)
        # Requests that were under way together fail together: that is one failure, not a streak.
        if streak == 0 or current is None or number > current.since:
            streak += 1
        self._streaks[family, source] = streak
        return streak

    def _concerns(self, verdict: Verdict, sent: Account) -> bool:
        # A refused credential says nothing about the one that has replaced it meanwhile.
        return verdict.kind not in _ABOUT_THE_CREDENTIAL or _same_credential(sent, self.account)


class _Gauge:
    """What upstream last said of an account's windows."""

    __slots__ = ("_latest", "_told", "_used")

    def __init__(self) -> None:
        self._latest: dict[str, Window] = {}
        self._told: dict[str, Window] = {}
        self._used: dict[str, tuple[float, float]] = {}  # utilization, monotonic end of the window

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(self._latest.values())

    def takes(self, window: Window, at: Moment) -> bool:
        """Keep the reading; whether it moved noticeably since this last said so."""
        self._latest[window.name] = window
        longest = _WINDOW_SECONDS.get(window.name)
        if longest is not None and window.utilization is not None:
            left = longest if window.resets_at is None else min(window.resets_at - at.wall, longest)
            self._used[window.name] = (window.utilization, at.mono + left)
        told = self._told.get(window.name)
        if told is not None and not _is_noticeable(told, window):
            return False
        self._told[window.name] = window
        return True

    def seconds_above(self, fraction: float, now: float) -> float | None:
        """How long it takes until no window is as full as that; None if none is."""
        ends = [end for used, end in self._used.values() if used >= fraction and now < end]
        return max(ends) - now if ends else None

    def used(self, window: str, now: float) -> float:
        """The utilization as a fraction; 0 if it is unknown or the window has been reset since."""
        utilization, end = self._used.get(window, (0.0, 0.0))
        return utilization if now < end else 0.0


def _fixed_obstacle(account: Account) -> str | None:
    """What keeps the account out until somebody changes it, apart from the token's expiry."""
    if account.paused:
        return "paused"
    problem = account.token_problem(float("-inf"))
    if problem is not None:
        return None if account.is_renewable else problem
    try:
        account.credential()
    except ValueError:
        return "unusable credential"
    return None


def _is_over(rest: Cooldown, known: Mapping[str, Window]) -> bool:
    """Whether every window that the rest may be for is known, has room, and is not the one that was spent."""
    if rest.source not in _ABOUT_A_WINDOW:
        return False
    names = (f"7d_{rest.family}",) if rest.family else tuple(_WINDOW_SECONDS)
    windows = [known.get(name) for name in names]
    return all(w is not None and (w.utilization or 0.0) < 1.0 and not _ends_at(w, rest.until) for w in windows)


def _ends_at(window: Window, moment: float) -> bool:
    return window.resets_at is not None and abs(window.resets_at - moment) < _JITTER


def _same_credential(one: Account, other: Account) -> bool:
    return (one.kind, one.access_token, one.api_key) == (other.kind, other.access_token, other.api_key)


def _is_noticeable(old: Window, new: Window) -> bool:
    return (
        old.status != new.status
        or _differ(old.utilization, new.utilization, 0.01 - 1e-9)
        or _differ(old.resets_at, new.resets_at, _JITTER)
    )


def _differ(old: float | None, new: float | None, by: float) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(old - new) >= by
