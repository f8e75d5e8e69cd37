"""One account in the pool: its state, its cooldowns and consecutive failures, its windows, its load."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import (
    LONGEST_COOLDOWN,
    UNCLAIMED,
    ActiveCooldown,
    Cooldown,
    Moment,
    Part,
    Unavailable,
    parts_for,
    parts_of,
)
from ccflare_core.accounts.selection import Candidate
from ccflare_core.accounts.states import AccountState, detail, holding, in_words, lasting_reason, shown
from ccflare_core.anthropic import verdicts
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Backoff, Scope, Verdict
from ccflare_core.text import to_ms

_SAME_END = 1.0
"""Seconds by which a rest must grow to count as longer: the same reset read twice differs by less."""

_ABOUT_THE_CREDENTIAL = frozenset({verdicts.Kind.CREDENTIAL_REJECTED, verdicts.Kind.PERMISSION_DENIED})
_ABOUT_A_WINDOW = frozenset({verdicts.Kind.WINDOW_SPENT, verdicts.Kind.MODEL_BUCKET_SPENT})

_JITTER = 60.0
"""Seconds by which two readings of one reset may differ; a real one moves by hours."""

SCARCE = 0.8
"""The share of a window from which on an account is not for clients of low priority."""

_ORDINARY = Facts()
"""What an account is judged by when it is only looked at."""

SERVED_SECONDS = 300.0
"""For how long a served request proves that the token is good."""

MOST_NAMED = 64
"""How many models and betas may rest at once."""

_ABOUT_FUNDS = frozenset({verdicts.Kind.OUT_OF_FUNDS, verdicts.Kind.SPEND_LIMIT})
_COSTS = frozenset({"messages", "batches"})
"""Path classes whose good answer shows that there are funds."""
_ABOUT_SPENDING = _ABOUT_A_WINDOW | _ABOUT_FUNDS

WINDOW_SECONDS = {"5h": 5 * 3600.0, "7d": 7 * 86400.0}
"""How long the windows last that limit all models together."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One account for people to look at."""

    account: Account
    state: AccountState
    available: bool
    reason: str
    """Its state in words, such as "serving" or "cooling until 14:20: 5h window spent"."""
    until: float | None
    """Epoch seconds of the recovery, if it comes by itself."""
    in_flight: int
    windows: tuple[Window, ...]
    cooldowns: tuple[Cooldown, ...]
    """Of the parts that are cooling."""
    half_open: tuple[Cooldown, ...]
    """The last ones of the parts that are half-open."""
    elsewhere: int = 0
    """What the other proxies on the database have in flight with it, as they last told."""

    def __str__(self) -> str:
        """Name, states and load, without times: the same for the same state."""
        cooling = [f"cooling for {each.scope_name}" if each.scope_name else "cooling" for each in self.cooldowns]
        half_open = [f"half-open for {each.scope_name}" if each.scope_name else "half-open" for each in self.half_open]
        load = [f"{self.in_flight} in flight"] if self.in_flight else []
        return f"{self.account.name}: " + ", ".join([self.state.value, *cooling, *half_open, *load])


class PoolMember:
    """The mutable state of one account. Leases are known here by their numbers, which only rise.

    A request passes through several parts of the account at once (all of it, its model family): each of them may be
    cooling or half-open by itself. A scope that is in no cooldown is ready. states.py has both tables.
    """

    __slots__ = (
        "_cooldowns",
        "_expired",
        "_failures",
        "_gauge",
        "_is_refreshing",
        "_lasting",
        "_may_try",
        "_served",
        "account",
        "elsewhere",
        "in_flight",
        "used_at",
    )

    def __init__(
        self,
        account: Account,
        expired: Callable[[Account], Unavailable],
        is_refreshing: Callable[[Account], bool],
        may_try: Callable[[Cooldown, float], bool],
    ) -> None:
        """`expired` tells what an account waits for whose token has to be refreshed first.

        `may_try` whether a request may go first after a rest, or another proxy's does.
        """
        self.account = account
        self.used_at = float("-inf")  # monotonic
        self.in_flight = 0
        self.elsewhere = 0  # in flight from other proxies
        self._may_try = may_try
        self._expired = expired
        self._is_refreshing = is_refreshing
        self._lasting = lasting_reason(account, float("-inf"))
        self._cooldowns: dict[Part, ActiveCooldown] = {}
        self._failures: dict[tuple[Part, str], int] = {}  # in a row, by part and source
        self._served: dict[str, float] = {}  # when the present credential last served each path class, monotonic
        self._gauge = _Gauge()

    def change(self, account: Account) -> list[Part]:
        """Take the account's new state; the parts whose cooldown a new credential ended."""
        old, self.account = self.account, account
        self._lasting = lasting_reason(account, float("-inf"))
        if _same_credential(old, account):
            return []
        self._served = {}
        freed = [part for part, each in self._cooldowns.items() if each.cooldown.source in _ABOUT_THE_CREDENTIAL]
        for part in freed:
            del self._cooldowns[part]
        self._failures = {key: n for key, n in self._failures.items() if key[1] not in _ABOUT_THE_CREDENTIAL}
        return freed

    def restore(self, cooldown: Cooldown, at: Moment, since: int) -> None:
        """Take up a cooldown from elsewhere, at most `LONGEST_COOLDOWN`, unless it is over or one lasts as long."""
        seconds = min(cooldown.until - at.wall, LONGEST_COOLDOWN)
        if seconds > 0 and not self._rests_for(cooldown.part, seconds, at):
            self._failures[cooldown.part, cooldown.source] = cooldown.failures
            ends = replace(cooldown, until=at.wall + seconds)
            self._cooldowns[cooldown.part] = ActiveCooldown(ends, at, since, by=0)

    def forget(self, cooldown: Cooldown) -> None:
        """End this cooldown, as it comes back from the database, and its failures, unless another is in its place."""
        part, current = cooldown.part, self._cooldowns.get(cooldown.part)
        if current is not None and _is_stored_as(current.cooldown, cooldown):
            del self._cooldowns[part]
            self._failures = {key: n for key, n in self._failures.items() if key[0] != part}

    def _rests_for(self, part: Part, seconds: float, at: Moment) -> bool:
        current = self._cooldowns.get(part)
        return current is not None and 0 < current.left(at) >= seconds - _SAME_END

    def lasting_reason(self, wall: float) -> str | None:
        """What keeps the account out until somebody does something about it."""
        return self._lasting or lasting_reason(self.account, wall)

    def unavailable(
        self,
        parts: Iterable[Part],
        at: Moment,
        exclude: frozenset[str] = frozenset(),
        *,
        spends: bool = True,
        waits: bool = False,
    ) -> Unavailable | None:
        """Why the account cannot take a request with these parts now; None if it can.

        One that spends nothing does not wait for a window, or for funds. `waits`: such a request is here.
        """
        if self._lasting is not None:
            return Unavailable(self._lasting, None)
        if self.account.token_problem(at.wall) is not None:
            if self.account.is_renewable:
                return self._expired(self.account)
            return Unavailable(self.lasting_reason(at.wall) or "", None)
        if self._cooldowns:
            rests = self._cooldowns_for(parts, spends=spends)
            if found := [why for each in rests if (why := each.unavailable(at))]:
                for each in rests if waits else ():
                    each.is_awaited = True
                return max(found, key=lambda why: why.seconds or 0.0)
            if waits and self._first_unclaimed(rests, at) is not None:
                return UNCLAIMED
        return Unavailable("already tried", None) if self.account.id in exclude else None

    def unclaimed(self, parts: Iterable[Part], at: Moment, *, spends: bool = True) -> Cooldown | None:
        """After which rest this proxy has to ask whether it may go first, for a request with these parts."""
        return self._first_unclaimed(self._cooldowns_for(parts, spends=spends), at)

    def _first_unclaimed(self, rests: Iterable[ActiveCooldown], at: Moment) -> Cooldown | None:
        # One after the other, in one order: two proxies that had one part each would wait for each other.
        return next((each.cooldown for each in rests if not self._may_try(each.cooldown, at.mono)), None)

    def ending(self, seconds: float, at: Moment) -> list[Cooldown]:
        """The cooldowns that end so soon and that requests have had to do without."""
        return [each.cooldown for each in self._cooldowns.values() if each.is_awaited and 0 < each.left(at) <= seconds]

    def is_tried(self, cooldown: Cooldown, at: Moment) -> bool | None:
        """Whether a request goes first after this cooldown just now; None if that is over, or another in its place."""
        current = self._cooldowns.get(cooldown.part)
        if current is None or current.cooldown.until != cooldown.until:
            return None
        return current.is_tried(at)

    def scarcity(self, at: Moment) -> Unavailable | None:
        """Why it is kept for clients that are not of low priority; None if there is enough for all."""
        left = self._gauge.seconds_above(SCARCE, at.mono)
        return None if left is None else Unavailable(f"kept for others above {SCARCE:.0%}", left)

    def candidate(self, unavailable: Unavailable | None, now: float) -> Candidate:
        """The account as the choice sees it; `unavailable` is why it cannot serve."""
        account, used = self.account, self._gauge.used
        return Candidate(
            account.id,
            account.name,
            account.priority,
            None if unavailable is None else unavailable.reason,
            self.in_flight + self.elsewhere,
            used("5h", now),
            used("7d", now),
        )

    def acquire(self, number: int, parts: Iterable[Part], at: Moment, *, spends: bool = True) -> None:
        """One more request in flight; it is the one that half-open parts let through."""
        self.in_flight += 1
        self.used_at = at.mono
        for each in self._cooldowns_for(parts, spends=spends) if self._cooldowns else ():
            each.acquire(number, at)

    def release(self, number: int) -> None:
        """One request less; where it was let through half-open and got no answer, the next one is."""
        self.in_flight -= 1
        for each in self._cooldowns.values():
            each.release(number)

    def learn(self, windows: Iterable[Window], at: Moment) -> tuple[Window, ...]:
        """Keep these readings; those that moved noticeably since they were last returned here."""
        return tuple([window for window in windows if self._gauge.takes(window, at)])

    def clear(self, number: int, parts: Iterable[Part], *, spends: bool = True) -> list[Part]:
        """End the cooldowns that a good answer to this lease disproves, and the counts of failures; their parts."""
        if not self._cooldowns and not self._failures:
            return []
        names = tuple(parts)
        cleared = [
            name
            for name in names
            if (each := self._cooldowns.get(name))
            and each.is_disproved_by(number)
            and _tells(each.cooldown, names, spends=spends)
        ]
        for name in cleared:
            del self._cooldowns[name]
        served = {name for name in names if name not in self._cooldowns}
        self._failures = {key: n for key, n in self._failures.items() if key[0] not in served}
        return cleared

    def clear_by_windows(self, windows: Iterable[Window], at: Moment) -> list[Part]:
        """End the cooldowns for a spent window that these newer readings show to be over; their parts."""
        known = {window.name: window for window in windows if window.utilization is not None}
        over = [name for name, each in self._cooldowns.items() if _is_over(each.cooldown, known)]
        for name in over:
            del self._cooldowns[name]
        self._failures = {key: n for key, n in self._failures.items() if key[0] not in over}
        return over

    def is_idle(self, seconds: float, at: Moment) -> bool:
        """Whether it is an OAuth account with a usable token and no request for so long."""
        account = self.account
        if self.in_flight or at.mono - self.used_at < seconds or account.kind is not Kind.OAUTH:
            return False
        return not (self._lasting or account.token_problem(at.wall))

    def cool(
        self, verdict: Verdict, sent: Account, number: int, facts: Facts, at: Moment, since: int
    ) -> tuple[Cooldown, ...]:
        """Rest as the verdict on lease `number`, sent as `sent`, says; without what rests as long already."""
        if verdict.rest is None or not self._concerns(verdict, sent):
            return ()
        begun = [self._begin(name, verdict, verdict.rest, number, at, since) for name in parts_for(verdict, facts)]
        return tuple(cooldown for cooldown in begun if cooldown)

    def _begin(
        self, name: Part, verdict: Verdict, rest: Backoff, number: int, at: Moment, since: int
    ) -> Cooldown | None:
        failures = self._count_failure(name, verdict.kind.value, number)
        seconds = rest.after(failures) if verdict.until is None else verdict.until - at.wall
        seconds = min(seconds if seconds > 0 else rest.after(failures), LONGEST_COOLDOWN)
        if self._rests_for(name, seconds, at):
            return None
        cooldown = Cooldown(self.account.id, name, at.wall + seconds, verdict.reason, verdict.kind.value, failures)
        self._cooldowns[name] = ActiveCooldown(cooldown, at, since, number)
        self._bound(at)
        return cooldown

    def _bound(self, at: Moment) -> None:
        """Forget what ends first of too many parts: clients choose the names of models and betas."""
        named = [part for part in self._cooldowns if part.scope in (Scope.FAMILY, Scope.BETA)]
        if len(named) > MOST_NAMED:
            del self._cooldowns[min(named, key=lambda part: self._cooldowns[part].left(at))]
        if len(self._failures) > 2 * MOST_NAMED:
            self._failures = {key: n for key, n in self._failures.items() if key[0] in self._cooldowns}

    def end_half_open(self, number: int, parts: Sequence[Part], at: Moment, *, spends: bool = True) -> None:
        """This lease was answered, with whatever: parts that let it through half-open are ready."""
        for each in self._cooldowns_for(parts) if self._cooldowns else ():
            if each.is_answered_by(number, at):
                each.release(number)
                # Funds are asked for last: that a request was refused for something else says nothing of them.
                is_about_funds = each.cooldown.source in _ABOUT_FUNDS
                if not is_about_funds and _tells(each.cooldown, parts, spends=spends):
                    del self._cooldowns[each.cooldown.part]

    def disable(self, verdict: Verdict, sent: Account) -> str:
        """Take the account out until a person acts, if the verdict on a request sent as `sent` says so; why, if new.

        A new login may be another organization's.
        """
        if not verdict.needs_attention or self.account.attention or not _same_credential(sent, self.account):
            return ""
        self.change(replace(self.account, attention=verdict.reason))
        return verdict.reason

    def learn_organization(self, sent: Account, organization_id: str) -> bool:
        """An answer to a request sent as `sent` names the organization; whether it was not known before."""
        if self.account.organization_id is not None or not _same_credential(sent, self.account):
            return False
        self.change(replace(self.account, organization_id=organization_id))
        return True

    def take_back(self, cooldown: Cooldown) -> bool:
        """Undo this cooldown and the failure counted with it; False if another one has taken its place."""
        part, source = cooldown.part, cooldown.source
        current = self._cooldowns.get(part)
        if current is None or current.cooldown is not cooldown:
            return False
        del self._cooldowns[part]
        self._failures[part, source] = cooldown.failures - 1
        if not self._failures[part, source]:
            del self._failures[part, source]
        return True

    def note_served(self, path_class: str, sent: Account, at: Moment) -> None:
        """A request of this path class, sent as `sent`, got a good answer."""
        if _same_credential(sent, self.account):
            self._served[path_class] = at.mono

    def may_be_the_token(self, path_class: str, at: Moment) -> bool:
        """Whether a 401 for a path class may be the fault of the token, so that another one might help.

        A token that has just served other paths is good: then it is this path that the account may not use.
        """
        if not self._served or path_class in self._served:
            return True
        return at.mono - max(self._served.values()) > SERVED_SECONDS

    def status(self, at: Moment) -> AccountStatus:
        """The account as it stands for messages of no particular model."""
        account, unavailable = self.account, self.unavailable(parts_of(_ORDINARY), at)
        state = shown(holding(account, at.wall, is_refreshing=self._is_refreshing(account)))
        lefts = [(each.left(at), each.cooldown) for each in self._cooldowns.values()]
        cooling = tuple(replace(cooldown, until=at.wall + left) for left, cooldown in lefts if left > 0)
        told = in_words(state, detail(account, state, at.wall), cooling, at.wall)
        return AccountStatus(
            account=account,
            available=unavailable is None,
            state=state,
            reason=told if unavailable is None else unavailable.reason,
            until=None if unavailable is None else unavailable.recovery(at.wall),
            in_flight=self.in_flight,
            windows=self._gauge.windows,
            cooldowns=cooling,
            half_open=tuple(cooldown for left, cooldown in lefts if left <= 0),
            elsewhere=self.elsewhere,
        )

    def _cooldowns_for(self, parts: Iterable[Part], *, spends: bool = True) -> list[ActiveCooldown]:
        found = [each for name in parts if (each := self._cooldowns.get(name))]
        return found if spends else [each for each in found if each.cooldown.source not in _ABOUT_SPENDING]

    def _count_failure(self, part: Part, source: str, number: int) -> int:
        failures = self._failures.get((part, source), 0)
        current = self._cooldowns.get(part)
        # Requests that were under way together fail together: that is one failure, not several in a row.
        if failures == 0 or current is None or number > current.since:
            failures += 1
        self._failures[part, source] = failures
        return failures

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
        longest = WINDOW_SECONDS.get(window.name)
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


def _tells(cooldown: Cooldown, parts: Iterable[Part], *, spends: bool) -> bool:
    """Whether an answer to a request with these parts says anything of what the cooldown is for."""
    if not spends and cooldown.source in _ABOUT_SPENDING:
        return False
    if cooldown.source not in _ABOUT_FUNDS:
        return True
    return any(part.scope is Scope.PATH_CLASS and part.name in _COSTS for part in parts)


def _is_over(cooldown: Cooldown, known: Mapping[str, Window]) -> bool:
    """Whether every window that the cooldown may be for is known, has room, and is not the one that was spent."""
    if cooldown.source not in _ABOUT_A_WINDOW:
        return False
    part = cooldown.part
    if part.scope not in (Scope.ACCOUNT, Scope.FAMILY):
        return False
    names = (f"7d_{part.name}",) if part.name else tuple(WINDOW_SECONDS)
    windows = [known.get(name) for name in names]
    return all(w is not None and (w.utilization or 0.0) < 1.0 and not _ends_at(w, cooldown.until) for w in windows)


def _is_stored_as(cooldown: Cooldown, stored: Cooldown) -> bool:
    return (to_ms(cooldown.until), cooldown.source) == (to_ms(stored.until), stored.source)


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
