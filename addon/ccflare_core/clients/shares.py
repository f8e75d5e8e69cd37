"""This proxy's shares of the limits that several proxies on one database keep together. Pure.

A proxy that is alone holds everything, and none of this is asked. As soon as there is another one, each goes by its own
share, in memory: a request waits for nobody. Beside the traffic the proxies tell each other by the database what they
use and want, give up what others lack, and take what is free; see store/limit_shares.py. What is given up counts as
given here before it is written there, and what is taken counts only once it has been written, so all shares together
are never more than the limit.

A share of what is open and of a rate holds for `TERM_SECONDS` after the database was last heard: later than that the
others may take this proxy for dead and have it. A proxy that finds itself cut off then goes on with a twentieth of the
limit, or one, if it had as much; one that was frozen asks first. What may be spent nobody takes away, and no time ends.
"""

import math
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ccflare_core.clients.sharing import Answer, Limit, Line, Report, Resource, Standing

TERM_SECONDS = 40.0
"""Less than the silence after which the others take a proxy for dead, which they count from later on."""
TURN_SECONDS = 2.0
"""How long at least a proxy that has use for its last part of a limit keeps it from others that have none."""
SPAN_SECONDS = 5.0
"""What was asked for in this span and the one before is what is wanted."""
DENIED_SECONDS = 2.0
"""The same of what was refused, which comes again after a second if it is still wanted."""
RECENT_SECONDS = 3 * SPAN_SECONDS
"""For so long after its last request there may be something to tell of a key."""
SOME = 25
"""How many keys are looked through at once of which nothing has changed."""
CUT_OFF = 3
"""How often the database must not have answered for this proxy to be cut off from it."""
TOLERANCE = 20
"""What a proxy may do by itself is one part in so many of a limit."""
_FINE = 50
"""One part in so many of a limit is not worth a word."""
_MILLI = 1000

Id = tuple[str, str]


def running_time() -> float:
    """Seconds of a clock that goes on while the process is stopped or the machine sleeps, as far as there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class _Demand:
    """What was asked for in the present span and in the one before it."""

    span: float = SPAN_SECONDS
    began: float = float("-inf")
    before: int = 0
    present: int = 0
    largest: int = 0
    """The most that was asked for at once."""

    def at(self, now: float) -> "_Demand":
        """The same, after so much time."""
        if (passed := now - self.began) >= self.span:
            self.before = self.present if passed < 2 * self.span else 0
            self.began, self.present = now, 0
        return self


@dataclass(slots=True)
class _Share:
    """Of one limit."""

    limit: Limit
    cap: int = 0
    """What may be used at most."""
    held: int = 0
    """What the database has, as far as is known."""
    give: int = 0
    taken_at: float = float("-inf")
    tokens: int = 0
    """What goes with the part that is given up, and is not written yet."""
    spent_by_all: int = 0
    gone: int = 0
    """What has left it since the last report."""
    refused: int = 0
    """What was refused since the last report."""
    told: Line | None = None
    asked: _Demand = field(default_factory=_Demand)
    denied: _Demand = field(default_factory=lambda: _Demand(DENIED_SECONDS))


class User(Protocol):
    """What knows the limits and their use: the client keys' rates and budgets. All in the units of the limit."""

    def limits(self) -> tuple[Limit, ...]:
        """Those that there are now, and soon; the same object as long as they are the same."""

    def used(self, limit: Limit) -> tuple[int, int]:
        """What is in use, or spent and in flight; and what is spent. Nothing of a rate."""

    def left_of_rate(self, limit: Limit, share: int) -> int:
        """How many thousandths of requests could be sent at once, with such a share."""

    def set_rate(self, limit: Limit, share: int, tokens: int) -> None:
        """From now on its share is so large, and so many thousandths of requests can be sent at once."""


class Shares:
    """See the module."""

    def __init__(self, clock: Callable[[], float] = running_time) -> None:
        self.is_shared = False
        """Whether there are others, or may be."""
        self._is_whole = True
        self._was_frozen = False
        self._clock = clock
        self._users: list[User] = []
        self._shares: dict[Id, _Share] = {}
        self._users_of: dict[Id, User] = {}
        self._found: tuple[tuple[Limit, ...], ...] = ()
        self._of_scope: dict[str, list[_Share]] = {}
        self._touched: dict[str, float] = {}
        self._turn = 0
        self._valid_until = float("-inf")
        self.looked_at = float("inf")
        """When somebody last looked after this, by the clock of this."""
        self._failures = 0
        self.wake: Callable[[], object] = lambda: None
        """Called when others should hear of something soon."""

    def add(self, user: User) -> None:
        """These limits are divided too."""
        self._users.append(user)

    # What a request is decided by

    def are_needed(self) -> bool:
        """Whether a request is to be decided on by shares. One that was frozen may no longer be alone."""
        if not self.is_shared and self._clock() - self.looked_at > TERM_SECONDS / 2:
            self.meet(was_frozen=True)
            self.wake()
        return self.is_shared

    def cap(self, limit_id: Id) -> int:
        """How much of this limit may be in use here, or spent by this run. Of one that nobody knows yet nothing."""
        share = self._shares.get(limit_id)
        return 0 if share is None else self._cap(share)

    def _cap(self, share: _Share) -> int:
        if self._clock() < self._valid_until or (self._is_cut_off and self._is_whole and not self._was_frozen):
            return share.cap
        if share.limit.resource is Resource.SPEND:
            return share.cap
        return min(share.cap, max(1, share.limit.amount // TOLERANCE)) if self._is_cut_off else 0

    def spent_by_all(self, limit_id: Id) -> int:
        """What all proxies are known to have spent of it."""
        share = self._shares.get(limit_id)
        return 0 if share is None else share.spent_by_all

    def asked(self, limit_id: Id, amount: int = 1) -> None:
        """So much of it was asked for, and was let in."""
        if (share := self._shares.get(limit_id)) is not None:
            demand = share.asked.at(self._clock())
            demand.present += amount
            demand.largest = max(demand.largest, amount)

    def opened(self, limit_id: Id, number: int) -> None:
        """So much of it is in use now."""
        if (share := self._shares.get(limit_id)) is not None:
            demand = share.asked.at(self._clock())
            demand.present = max(demand.present, number)
            share.denied.before = share.denied.present = 0  # who is still refused asks again

    def denied(self, limit_id: Id, amount: int = 1) -> None:
        """So much of it was asked for, and there was too little here. The others hear of it soon."""
        if (share := self._shares.get(limit_id)) is not None:
            self.touch(limit_id[0])
            share.denied.at(self._clock()).present += amount
            share.refused += 1
            if share.refused == 1:
                self.wake()

    def released(self, limit_id: Id) -> None:
        """Some of it is in use no more: others may wait for that."""
        if (share := self._shares.get(limit_id)) is not None and share.give:
            self.wake()

    def gone(self, limit_id: Id, amount: int) -> None:
        """So much of what this run may spend is accounted for elsewhere from now on."""
        if (share := self._shares.get(limit_id)) is not None:
            share.cap -= amount
            share.gone += amount
            self.touch(limit_id[0])

    def touch(self, scope: str) -> None:
        """Something of this scope's limits has changed, so there may be something to tell of it."""
        self._touched[scope] = self._clock()

    # What the others are told

    def begin(self, *, is_alone: bool) -> None:
        """This run begins: alone, or without a share of anything."""
        self.is_shared, self._is_whole = not is_alone, is_alone

    def meet(self, *, was_frozen: bool = False) -> None:
        """There may be another proxy: go by shares from now on, which are everything at first.

        One that `was_frozen` uses none of them before it has heard that it still has them.
        """
        if self.is_shared:
            return
        self.is_shared, self._was_frozen = True, was_frozen
        self._look_for_limits()
        for share in self._shares.values():
            share.cap = share.held = self._most_at_first(share)
            if share.limit.resource is Resource.RATE:
                user = self._users_of[share.limit.id]
                user.set_rate(share.limit, share.cap, user.left_of_rate(share.limit, share.cap))
        self._valid_until = float("-inf") if was_frozen else self._clock() + TERM_SECONDS

    def _most_at_first(self, share: _Share) -> int:
        """Everything; of what may be spent only as much as is wanted, since nobody takes that away again."""
        limit = share.limit
        if limit.resource is not Resource.SPEND:
            return limit.amount
        return self._wanted(share, self._users_of[limit.id].used(limit)[0])

    def _look_for_limits(self) -> None:
        all_limits = tuple(user.limits() for user in self._users)
        if len(all_limits) == len(self._found) and all(map(operator.is_, all_limits, self._found)):
            return
        self._found = all_limits
        found = {
            limit.id: (limit, user) for user, limits in zip(self._users, all_limits, strict=True) for limit in limits
        }
        for limit_id in self._shares.keys() - found.keys():
            del self._shares[limit_id], self._users_of[limit_id]
        for limit_id, (limit, user) in found.items():
            self._shares.setdefault(limit_id, _Share(limit)).limit = limit
            self._users_of[limit_id] = user
        self._of_scope = {}
        for share in self._shares.values():
            self._of_scope.setdefault(share.limit.scope, []).append(share)
            if share.told is None or share.told.limit != share.limit:
                self.touch(share.limit.scope)

    def report(self, *, whole: bool = False) -> Report:
        """What has changed since the last one; with `whole` all of it."""
        self._look_for_limits()
        return Report(self._is_whole, tuple(self._lines(is_whole=whole or self._is_whole)))

    def _lines(self, *, is_whole: bool) -> Iterator[Line]:
        now = self._clock()
        for share in list(self._shares.values()) if is_whole else self._looked_through(now):
            used, spent = self._users_of[share.limit.id].used(share.limit)
            self._give_up(share, used, now)
            keeps = share.cap if share.limit.resource is Resource.RATE else max(share.cap, used)
            denied = share.denied.at(now)
            is_short = denied.before + denied.present > 0
            line = Line(share.limit, keeps, used, self._wanted(share, used), spent, is_short, share.tokens)
            is_news = is_whole or self._is_news(share, line)
            share.refused = 0
            if is_news:
                share.told, share.gone = line, 0
                yield line

    def _looked_through(self, now: float) -> Iterator[_Share]:
        """The shares of which something has changed of late, and some of the others, in turns.

        With a thousand keys to look through all of them takes a tenth of a second, which every request would wait for.
        """
        self._touched = {scope: at for scope, at in self._touched.items() if now - at <= RECENT_SECONDS}
        scopes = [scope for scope in self._of_scope if scope not in self._touched]
        self._turn = self._turn % len(scopes) if scopes else 0
        some = scopes[self._turn : self._turn + SOME]
        self._turn += SOME
        for scope in (*self._touched, *some):
            yield from self._of_scope.get(scope, ())

    def _give_up(self, share: _Share, used: int, now: float) -> None:
        """Use no more of what others lack. What is in use goes as soon as it is free."""
        if not share.give:
            return
        keeps = max(0, share.held - share.give)
        is_wanted = used > 0 or share.denied.at(now).present > 0
        if keeps == 0 and is_wanted and now - share.taken_at < TURN_SECONDS:
            return
        if share.limit.resource is Resource.SPEND:
            keeps = max(keeps, used)
        if keeps >= share.cap:
            return
        if share.limit.resource is Resource.RATE:
            user = self._users_of[share.limit.id]
            left = user.left_of_rate(share.limit, share.cap)
            user.set_rate(share.limit, keeps, kept := min(left, keeps * _MILLI))
            share.tokens += left - kept
        share.cap = keeps

    def _wanted(self, share: _Share, used: int) -> int:
        now, amount = self._clock(), share.limit.amount
        asked, denied = share.asked.at(now), share.denied.at(now)
        match share.limit.resource:
            case Resource.OPEN:
                recent = max(asked.before, asked.present, used)
                wanted = recent + max(denied.before, denied.present)
            case Resource.RATE:
                recent = asked.before + asked.present + denied.before + denied.present
                wanted = math.ceil(recent * 60 / (SPAN_SECONDS + max(1.0, now - asked.began))) if recent else 0
                wanted = max(wanted, min(recent, amount))
            case Resource.SPEND:
                recent = min(3 * (asked.before + asked.present), amount // TOLERANCE)
                wanted = used + max(amount // _FINE, recent, asked.largest, denied.before + denied.present, 1)
        return min(wanted, amount) if share.limit.resource is not Resource.SPEND else wanted

    def _is_news(self, share: _Share, line: Line) -> bool:
        told, limit = share.told, share.limit
        if told is None or told.limit != limit or line.held < share.held:
            return True
        if share.refused and (line.wanted > told.wanted or line.is_short > told.is_short):
            return True
        fine = max(1, limit.amount // _FINE) if limit.resource is not Resource.OPEN else 1
        if abs(line.spent - told.spent) >= fine or (line.spent != told.spent and line.wanted >= limit.amount):
            return True
        if limit.resource is Resource.SPEND:
            is_short = share.cap - line.used < (line.wanted - line.used) / 2
            return (is_short and line != told) or abs(line.used - told.used) >= fine
        return abs(line.wanted - told.wanted) >= max(1, limit.amount // 10)

    @property
    def needs_confirmation(self) -> bool:
        """Whether the database should be heard again soon."""
        return self.is_shared and self._valid_until - self._clock() < TERM_SECONDS * 3 / 4

    @property
    def can_give(self) -> bool:
        """Whether there is something to give up at once."""
        return any(
            share.give and share.cap > max(share.held - share.give, self._users_of[limit_id].used(share.limit)[0])
            for limit_id, share in self._shares.items()
        )

    def take(self, answer: Answer, report: Report, began: float) -> None:
        """Go by what the database has said to a report that was made at `began`, on the clock of this."""
        self._failures, self._was_frozen = 0, False
        self._valid_until = began + TERM_SECONDS
        self._is_whole = answer.is_alone
        if answer.is_alone:
            self._be_alone()
            return
        written = {line.limit.id: line for line in report.lines}
        for limit_id, standing in answer.standings.items():
            if (share := self._shares.get(limit_id)) is not None:
                self._stand(share, standing, written.get(limit_id))

    def _stand(self, share: _Share, standing: Standing, line: Line | None) -> None:
        self.touch(share.limit.scope)
        if line is not None:
            share.tokens -= line.tokens
        if standing.give:  # nothing of that is taken up again
            cap = max(0, share.cap + standing.held - (share.held if line is None else line.held))
        else:
            cap = max(0, standing.held - share.gone)
        if standing.held > share.held:
            share.taken_at = self._clock()
        share.held, share.give, share.spent_by_all = standing.held, standing.give, standing.spent_by_all
        if share.limit.resource is Resource.RATE:
            user = self._users_of[share.limit.id]
            left = user.left_of_rate(share.limit, share.cap) + standing.tokens
            user.set_rate(share.limit, cap, min(left, cap * _MILLI))
        share.cap = cap

    def _be_alone(self) -> None:
        for limit_id, share in self._shares.items():
            if share.limit.resource is Resource.RATE:
                user, limit = self._users_of[limit_id], share.limit
                user.set_rate(limit, limit.amount, user.left_of_rate(limit, share.cap))
        self._shares.clear()
        self._users_of.clear()
        self._of_scope.clear()
        self._found = ()
        self.is_shared = False

    def cut_off(self) -> None:
        """The database could not be asked."""
        self._failures += 1

    @property
    def _is_cut_off(self) -> bool:
        """Whether it is out of reach, and not only a connection that was lost while this proxy was frozen."""
        return self._failures >= CUT_OFF

    def clock(self) -> float:
        """Now, as `take` wants it."""
        return self._clock()
