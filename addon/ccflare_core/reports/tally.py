"""Figures of a period, added up from two sources: slots that were added up before, and single requests.

`usage_slots` has a row for each quarter of an hour and each combination of DIMENSIONS, and `usage_todo` names the slots
of which it says nothing, or nothing true any more. Those, and what of the period is no whole slot, is added up from
`requests`. Both sources give the same figures, by the same texts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ccflare_core.reports.measures import (
    BOUNDS,
    DURATIONS,
    IS_INFERENCE,
    SLOT_MS,
    SUMS,
    SWITCHES,
    code,
    looked_back,
    switched,
    unpack,
)

Query = Callable[[str, Sequence[object]], Iterable[Sequence[Any]]]
"""Runs one SELECT, with `?` for each parameter, and gives its rows."""

Key = tuple[Any, ...]


def marks(values: Sized) -> str:
    """A `?` for each of the values, for a list in a SELECT."""
    return ", ".join("?" * len(values))


class Condition(NamedTuple):
    """What requests have to meet, as SQL over the table `requests`, with its parameters."""

    sql: str = ""
    values: tuple[object, ...] = ()


ALL: Final = Condition()


class Span(NamedTuple):
    """From `since` up to, not including, `until`: ms since the epoch, or numbers of slots."""

    since: int
    until: int


class Parts(NamedTuple):
    """A period, taken apart: the whole slots in it, and the times for which single requests are read."""

    slots: Span
    requests: list[Span]


@dataclass(slots=True)
class Figures:
    """What one group adds up to: `sums` by the names of SUMS and SWITCHES, `codes` by those of DURATIONS."""

    sums: Counter[str] = field(default_factory=Counter)
    codes: dict[str, Counter[int]] = field(default_factory=dict)
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, names: Iterable[str], values: Sequence[Any]) -> None:
        """Take in the sums under these names."""
        for name, value in zip(names, values, strict=True):
            if value:
                self.sums[name] += value

    def measure(self, name: str) -> Counter[int]:
        """The codes of a duration, to be added to."""
        return self.codes.setdefault(name, Counter())

    def join(self, other: "Figures") -> None:
        """Take in another group's figures."""
        self.sums.update(other.sums)
        for name, codes in other.codes.items():
            self.measure(name).update(codes)
        if other.first_ms is not None and other.last_ms is not None:
            self.cover(other.first_ms, other.last_ms)

    def cover(self, first_ms: int, last_ms: int) -> None:
        """Take in the times of more requests."""
        self.first_ms = first_ms if self.first_ms is None else min(first_ms, self.first_ms)
        self.last_ms = last_ms if self.last_ms is None else max(last_ms, self.last_ms)


Groups = defaultdict[Key, Figures]


def new_groups() -> Groups:
    """No groups yet."""
    return defaultdict(Figures)


TAG: Final = "tag"


class Split(NamedTuple):
    """By what to split: DIMENSIONS or TAG, and in front of them the number of a unit of time, if one is given.

    That number counts units of `unit_ms` since the epoch, by a clock that is `ahead_ms` before UTC. A request counts
    for each of its tags, and one without a tag for none.
    """

    dimensions: tuple[str, ...] = ()
    unit_ms: int = 0
    ahead_ms: int = 0

    @property
    def width(self) -> int:
        return len(self.dimensions) + bool(self.unit_ms)

    @property
    def is_finer_than_slots(self) -> bool:
        """Whether a slot's sums are of several of its units, or of several tags."""
        return 0 < self.unit_ms < SLOT_MS or TAG in self.dimensions

    def columns(self, at: str) -> list[str]:
        """The columns of a SELECT; `at` is the expression for the time in ms."""
        unit = [f"({at} + {self.ahead_ms}) / {self.unit_ms} AS unit"] if self.unit_ms else []
        return [*unit, *("name || '=' || value" if each == TAG else each for each in self.dimensions)]


_REQUESTS = f"(SELECT *, {IS_INFERENCE} AS is_inference FROM requests) AS r WHERE timestamp >= ? AND timestamp < ?"  # noqa: S608
_TAGGED = " AND at >= ? AND at < ? AND request_id = id"
"""Behind a CROSS JOIN, of which SQLite reads the left side first: most requests have no tag."""

_BOUND = {"first_ms": "MIN", "last_ms": "MAX"}
_SLOTS = "usage_slots WHERE slot >= ? AND slot < ? AND slot NOT IN (SELECT slot FROM usage_todo)"


class Tally:
    """Adds up, all requests or `only` those that meet a condition. It remembers nothing."""

    def __init__(self, query: Query, only: Condition = ALL) -> None:
        self._query = query
        self._only = only

    def parts(self, since_ms: int, until_ms: int, split: Split) -> Parts:
        """What of the period is read from where, for this split."""
        slots = Span(-(-since_ms // SLOT_MS), until_ms // SLOT_MS)
        is_added_up = self._only == ALL and not split.is_finer_than_slots
        if slots.since >= slots.until or not is_added_up:
            return Parts(Span(0, 0), [Span(since_ms, until_ms)])
        sql = "SELECT slot FROM usage_todo WHERE slot >= ? AND slot < ? ORDER BY slot"
        todo = [Span(slot * SLOT_MS, (slot + 1) * SLOT_MS) for (slot,) in self._query(sql, slots)]
        ends = [Span(since_ms, slots.since * SLOT_MS), *todo, Span(slots.until * SLOT_MS, until_ms)]
        return Parts(slots, _joined(ends))

    def add_sums(self, groups: Groups, parts: Parts, split: Split, *, inference: bool = True) -> None:
        """Add SUMS, and the times of the first and the last request."""
        width = split.width
        kept = [*(f"SUM({name})" for name in SUMS), *(f"{bound}({name})" for name, bound in _BOUND.items())]
        rows = [*self._of_slots(parts, split, kept, inference=inference)]
        for span in parts.requests:
            rows += self.summed(span, split, inference=inference)
        for row in rows:
            if row[width]:
                group = groups[tuple(row[:width])]
                group.add(SUMS, row[width:-2])
                group.cover(*row[-2:])

    def add_durations(self, groups: Groups, parts: Parts, split: Split) -> None:
        """Add the codes of the durations of requests that ended ok."""
        width = split.width
        packed: dict[tuple[str, Key], list[bytes]] = defaultdict(list)
        for row in self._of_slots(parts, split, [*DURATIONS], inference=True, grouped=False):
            for name, each in zip(DURATIONS, row[width:], strict=True):
                packed[name, tuple(row[:width])].append(each)
        for (name, key), parcels in packed.items():
            groups[key].measure(name).update(unpack(b"".join(parcels)))
        for name in DURATIONS:
            for span in parts.requests:
                for *values, code_of, number in self.coded(span, split, name, inference=True):
                    groups[tuple(values)].measure(name)[code_of] += number

    def add_switches(self, groups: Groups, parts: Parts, split: Split) -> None:
        """Add SWITCHES."""
        kept = [f"SUM({name})" for name in SWITCHES]
        rows = [*self._of_slots(parts, split, kept, inference=True)]
        for span in parts.requests:
            rows += self.switched(span, split)
        for row in rows:
            if row[split.width]:
                groups[tuple(row[: split.width])].add(SWITCHES, row[split.width :])

    def summed(self, span: Span, split: Split, *, inference: bool | None = None) -> Iterable[Sequence[Any]]:
        """Rows of the split, SUMS and BOUNDS, from single requests."""
        selected = [*split.columns("timestamp"), *SUMS.values(), *BOUNDS.values()]
        return self._select(split, span, selected, f"{_REQUESTS}{_of_kind(inference)}", span)

    def coded(self, span: Span, split: Split, name: str, *, inference: bool | None = None) -> Iterable[Sequence[Any]]:
        """Rows of the split, a code of the duration `name`, and how often it occurs, from single requests."""
        column = DURATIONS[name]
        selected = [*split.columns("timestamp"), code(column), "COUNT(*)"]
        measured = f"{_REQUESTS}{_of_kind(inference)} AND outcome = 'ok' AND {column} IS NOT NULL"
        return self._select(split, span, selected, measured, span, more=1)

    def switched(self, span: Span, split: Split) -> Iterable[Sequence[Any]]:
        """Rows of the split and SWITCHES, from single requests."""
        selected = [*split.columns("timestamp"), *SWITCHES.values()]
        source = f"{switched([each for each in (*split.dimensions, 'id') if each != TAG])} WHERE TRUE"
        return self._select(split, span, selected, source, (looked_back(span.since), span.until, span.since))

    def _select(
        self,
        split: Split,
        span: Span,
        selected: Iterable[str],
        source: str,
        values: Sequence[int],
        more: int = 0,
    ) -> Iterable[Sequence[Any]]:
        """Rows of single requests, in groups by the columns of the split and so many more."""
        if TAG in split.dimensions:
            source, values = f"request_tags CROSS JOIN {source}{_TAGGED}", (*values, *span)
        only = f" AND {self._only.sql}" if self._only.sql else ""
        sql = f"SELECT {', '.join(selected)} FROM {source}{only}{_grouping(split.width + more)}"  # noqa: S608
        return self._query(sql, (*values, *self._only.values))

    def _of_slots(
        self, parts: Parts, split: Split, kept: Iterable[str], *, inference: bool, grouped: bool = True
    ) -> Iterable[Sequence[Any]]:
        if parts.slots.since >= parts.slots.until:
            return ()
        selected = [*split.columns(f"slot * {SLOT_MS}"), *kept]
        grouping = _grouping(split.width) if grouped else ""
        sql = f"SELECT {', '.join(selected)} FROM {_SLOTS}{_of_kind(inference)}{grouping}"  # noqa: S608
        return self._query(sql, parts.slots)


def _grouping(width: int) -> str:
    return f" GROUP BY {', '.join(map(str, range(1, width + 1)))}" if width else ""


def _of_kind(inference: bool | None) -> str:
    return "" if inference is None else " AND is_inference" if inference else " AND NOT is_inference"


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that meet made one, empty ones left out."""
    found: list[Span] = []
    for span in spans:
        if span.since >= span.until:
            continue
        if found and found[-1].until == span.since:
            found[-1] = Span(found[-1].since, span.until)
        else:
            found.append(span)
    return found
