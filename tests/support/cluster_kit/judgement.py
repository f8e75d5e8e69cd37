"""What came of a run: the zeros that must hold, and the figures. Pure."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ccflare_core.accounts.affinity import session_key
from cluster_kit.record import Placed, Row, Set
from cluster_kit.scale import Asked, Late, LateProxy, Refreshes, Sent

NOTICE_SECONDS = 0.2
"""How long a proxy may go on asking an account after a cooldown of it is committed, beside its own lateness."""
LIMITS = frozenset({"window_spent", "model_bucket_spent", "short_throttle"})
"""The causes of the cooldowns that are looked at: those that the upstream makes."""
_ROUNDING = 0.002
"""Cooldowns are stored in milliseconds."""
_OUTCOMES = {"200": {"ok"}, "left": {"client_abort", "ok"}}
"""What may be recorded of what the client saw; an answer that was complete before the client had left is ok."""
_FAILED = {"refused", "upstream_error"}


class Stale(NamedTuple):
    """A request that came to an account after its cooldown had been committed for too long."""

    asked: Asked
    cooldown: Set
    late: float
    """Seconds that the proxy and the upstream were late meanwhile, by their own measurement."""


class Strayed(NamedTuple):
    """A turn that came to another proxy, and there to another account without a reason."""

    former: Sent
    later: Sent
    accounts: tuple[str, ...]
    """Those of both turns."""
    reasons: tuple[str, ...]
    """What is recorded of the choice."""


class Findings(NamedTuple):
    """All that is known of a run."""

    zeros: dict[str, int]
    """What must be zero, in words, and what it was."""
    came: dict[str, int]
    """How many requests came to each status, or were left by their client."""
    tried: dict[int, int]
    """How many requests the upstream has answered with each status."""
    cooldowns: int
    """How many were committed."""
    raced: tuple[float, ...]
    """How many seconds after its commit each request came that met a cooldown which was on."""
    late_by_loops: int
    """How many of them were too late if nothing but the event loops' lateness is allowed for."""
    refreshes: int
    gini_accounts: float
    gini_proxies: float
    moves: int
    """Turns on another proxy than the one before."""
    kept: int
    """Of these: those that went to the session's account."""
    unwritten: int
    """Of these: those that came before it was written down which account that is. The others had a reason."""
    longest_late: tuple[float, ...]
    """Of each proxy's event loop, in seconds."""
    stale: tuple[Stale, ...]
    strayed: tuple[Strayed, ...]


class Lateness:
    """When any of several timers was late, as spans that do not touch."""

    def __init__(self, *timers: Iterable[Late]) -> None:
        spans = sorted((each.at - each.seconds, each.at) for timer in timers for each in timer)
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin, end in spans:
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def within(self, begin: float, end: float) -> float:
        """How many of the seconds between these moments they were late."""
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        spans = zip(self._begins[first:last], self._ends[first:last], strict=True)
        return sum(min(end, until) - max(begin, since) for since, until in spans)


def judge(
    sent: Sequence[Sent],
    asked: Sequence[Asked],
    cooldowns: Sequence[Set],
    placed: Sequence[Placed],
    recorded: Sequence[Row],
    refreshes: Refreshes,
    proxies: Sequence[LateProxy],
    others: Sequence[Sequence[Late]],
) -> Findings:
    """Join what the load, the upstream and the database say.

    A request is stale if it came to an account more than NOTICE_SECONDS after a cooldown of it, that was still on,
    could be seen in the database. Of that time only those seconds count in which none of those was late that the news,
    and then the request, have to pass, so that it says something of the program whatever else the machine does. What is
    measured is how late timers come, all the time: on each proxy's event loop, on a thread of each that gives way as
    the writer's does (one that is late while it has the turn to write keeps the others' writers waiting), and on the
    upstream's loop (a request is noted when it is read); and how long the database's server takes for `SELECT 1`.
    What is left without that is in `late_by_loops`: there only the event loop of the proxy itself is allowed for.
    A cooldown can be seen when a connection that does nothing else gets the notice of its commit.

    A session has strayed if it came to another proxy, and there to another account for no reason that is recorded,
    though for as long it could be seen in the database which account it had.
    """
    lateness = Lateness(*(timer for each in proxies for timer in each), *others)
    history = _History(cooldowns)
    met = [(each, history.met(each)) for each in asked]
    stale = [Stale(each, set_, lateness.within(set_.at, each.at)) for each, found in met for set_ in found]
    on_loops = [Lateness(each.loop) for each in proxies]
    by_loops = [
        each for each in stale if _is_late(each, on_loops[each.asked.proxy].within(each.cooldown.at, each.asked.at))
    ]
    stale = [each for each in stale if _is_late(each, each.late)]
    tried: dict[int, list[Asked]] = defaultdict(list)
    for each in asked:
        tried[each.number].append(each)
    rows: dict[int, list[Row]] = defaultdict(list)
    for row in recorded:
        rows[row.number].append(row)
    moves = list(_moves(sent))
    kept = [later for former, later in moves if _is_kept(former, later, tried)]
    elsewhere = [
        Strayed(
            former,
            later,
            tuple(each.account for turn in (former, later) for each in tried[turn.number]),
            tuple(row.reason for row in rows[later.number]),
        )
        for former, later in moves
        if not _is_kept(former, later, tried) and not _has_reason(later, rows)
    ]
    places = _places(placed)
    strayed = [each for each in elsewhere if _could_be_known(each, tried, places, lateness)]
    served = [each for each in asked if each.status == 200]
    numbers = {each.number for each in sent}
    zeros = {
        "requests to an account that was known to rest": len({each.asked for each in stale}),
        "refresh tokens spent twice": refreshes.spent_twice,
        "requests without an answer": sum(each.came.startswith("lost") for each in sent),
        "requests without a row": sum(not rows[number] for number in numbers),
        "requests with more than one row": sum(len(rows[number]) > 1 for number in numbers),
        "rows of no request": sum(row.number not in numbers for row in recorded),
        "rows without an outcome": sum(row.outcome is None for row in recorded),
        "rows with another outcome than the client's": sum(_contradicts(each, rows) for each in sent),
        "requests whose attempts are not all recorded": sum(_lacks_attempts(each, tried, rows) for each in sent),
        "sessions that lost their account on another proxy": len(strayed),
    }
    return Findings(
        zeros=zeros,
        came=dict(sorted(Counter(each.came for each in sent).items())),
        tried=dict(sorted(Counter(each.status for each in asked).items())),
        cooldowns=sum(not each.gone for each in cooldowns),
        raced=tuple(sorted(max(each.at - set_.at for set_ in found) for each, found in met if found)),
        late_by_loops=len({each.asked for each in by_loops}),
        refreshes=refreshes.total,
        gini_accounts=gini(Counter(each.account for each in served).values()),
        gini_proxies=gini(Counter(each.proxy for each in served).values()),
        moves=len(moves),
        unwritten=len(elsewhere) - len(strayed),
        kept=len(kept),
        longest_late=tuple(max((each.seconds for each in proxy.loop), default=0.0) for proxy in proxies),
        stale=tuple(stale),
        strayed=tuple(strayed),
    )


def _is_late(stale: Stale, late: float) -> bool:
    return stale.asked.at - stale.cooldown.at > NOTICE_SECONDS + late


def _places(placed: Sequence[Placed]) -> dict[str, list[Placed]]:
    places: dict[str, list[Placed]] = defaultdict(list)
    for each in sorted(placed):
        places[each.session].append(each)
    return places


def _could_be_known(
    strayed: Strayed,
    tried: dict[int, list[Asked]],
    places: dict[str, list[Placed]],
    lateness: Lateness,
) -> bool:
    """Whether the account that had served the session could be seen when its next turn came."""
    account, came = tried[strayed.former.number][-1].account, tried[strayed.later.number][0].at
    before = [each for each in places[session_key(strayed.later.session)] if each.at < came]
    if not before or before[-1].account != account:
        return False
    since = before[-1].at
    return came - since > NOTICE_SECONDS + lateness.within(since, came)


class _History:
    """The cooldowns in the order in which they could be seen."""

    def __init__(self, cooldowns: Sequence[Set]) -> None:
        self._parts: dict[tuple[str, str, str], list[Set]] = defaultdict(list)
        for each in sorted(cooldowns):
            if each.source in LIMITS:
                self._parts[each.account, each.scope, each.name].append(each)

    def met(self, asked: Asked) -> list[Set]:
        """Those that say that the request should have gone elsewhere."""
        parts = (("account", ""), ("family", asked.family))
        return [set_ for part in parts for set_ in self._on(self._parts[asked.account, *part], asked.at)]

    def _on(self, history: Sequence[Set], at: float) -> Iterator[Set]:
        """Those that were on at this moment, the last one first; a later one may have shortened it."""
        until = float("inf")
        for each in reversed(history[: bisect_left(history, at, key=lambda each: each.at)]):
            until = min(until, each.until)
            if each.gone or at >= until - _ROUNDING:
                return
            yield each


def _moves(sent: Sequence[Sent]) -> Iterator[tuple[Sent, Sent]]:
    """Each served turn on one proxy with the next one on another."""
    sessions: dict[str, list[Sent]] = defaultdict(list)
    for each in sent:
        sessions[each.session].append(each)
    for turns in sessions.values():
        for former, later in pairwise(sorted(turns, key=lambda each: each.turn)):
            if former.proxy != later.proxy and former.came == "200":
                yield former, later


def _is_kept(former: Sent, later: Sent, tried: dict[int, list[Asked]]) -> bool:
    """Whether the later turn went to the account that had served the former one first."""
    return bool(tried[later.number]) and tried[later.number][0].account == tried[former.number][-1].account


def _has_reason(sent: Sent, rows: dict[int, list[Row]]) -> bool:
    return any(row.reason.startswith("moved from") or row.account is None for row in rows[sent.number])


def _contradicts(sent: Sent, rows: dict[int, list[Row]]) -> bool:
    return any(row.outcome not in _OUTCOMES.get(sent.came, _FAILED) for row in rows[sent.number])


def _lacks_attempts(sent: Sent, tried: dict[int, list[Asked]], rows: dict[int, list[Row]]) -> bool:
    return any(row.attempts != len(tried[sent.number]) for row in rows[sent.number])


def gini(counts: Iterable[int]) -> float:
    """How unevenly something is spread: 0 is even, near 1 all of it is in one place."""
    ordered = sorted(counts)
    total, number = sum(ordered), len(ordered)
    if not total:
        return 0.0
    return sum((2 * place - number - 1) * count for place, count in enumerate(ordered, 1)) / (number * total)
