"""Tells what is unusual for a client key or an account, by what it has done on the days before. Pure.

What there was in a stretch of time comes in by `take`, as often as it changes, and `notices` says what is unusual now.
The same past and the same moment give the same notices, in every proxy on a database.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import inf
from typing import NamedTuple

from ccflare_core.http.addresses import Address, source_of
from ccflare_core.http.origins import is_this_machine
from ccflare_core.reports.habits import LOOK_BACK_DAYS, SLOT_SECONDS, SLOTS_A_DAY, Names, Numbers, limit, middle
from ccflare_core.secrets import redact
from ccflare_core.text import span

LEARNING_DAYS = 7
"""Nothing is told of a client key or an account whose first use is not so long ago."""
PRESENT_SLOTS = 6
"""How long a name counts as new: half an hour, so that what came just before a restart is told after it."""
_RARE_DAYS = (1, 2)
"""Who has shown something new on more days than that, by an address or program and by a network, changes often."""
_WIDE_BITS = {4: 16, 6: 32}
"""The part of an address that is the provider's, more or less."""
_PROGRAM = re.compile(r"[A-Za-z][\w.-]{0,29}(?:/[A-Za-z][\w.-]{0,29})?", re.ASCII)
_REMEMBERED = 4096
_VERSION = re.compile(r"[-_.]?v?\d+\.\d")


class Cause(StrEnum):
    """What is unusual."""

    VOLUME = "volume"
    DAILY_VOLUME = "daily_volume"
    ADDRESS = "address"
    PROGRAM = "program"
    FAILURES = "failures"
    DENIALS = "denials"
    REFRESHES = "refreshes"


class Notice(NamedTuple):
    """One thing that is unusual, with all that it takes to pass it on."""

    cause: Cause
    subject: str
    """The id of the client key, or the name of the account; "" is who has no key."""
    name: str
    at: float
    """Epoch seconds."""
    what: str
    """What was seen and why that is unusual; a sentence, once it is said of whom."""

    @property
    def text(self) -> str:
        """The whole sentence."""
        if self.cause is Cause.REFRESHES:
            return f"account {self.name}: {self.what}"
        nobody = "clients without a valid key" if self.cause is Cause.DENIALS else "clients without a key"
        return f"{f'client key {self.name}' if self.name else nobody}: {self.what}"


class Seen(NamedTuple):
    """The requests of one client key (its id, or "") from one address, by one program, in one slot."""

    slot: int
    key: str
    address: str
    program: str
    """The User-Agent."""
    requests: int
    """Those that ask a model for something."""
    failures: int
    """Those that failed by the client's own fault."""


class Event(NamedTuple):
    """Refreshes of an account's tokens, or refused attempts of a client key or of nobody's: both by name."""

    slot: int
    cause: Cause
    name: str
    number: int


class Watched(NamedTuple):
    """What is counted, within how many slots, and the least number that can be unusual."""

    cause: Cause
    stretch: int
    least: int
    what: str


# Claude Code with its subagents sends 200 requests in ten minutes after a quiet day, and nothing is wrong.
VOLUME = Watched(Cause.VOLUME, 3, 400, "requests")
DAILY_VOLUME = Watched(Cause.DAILY_VOLUME, SLOTS_A_DAY, 2500, "requests")
FAILURES = Watched(Cause.FAILURES, 6, 20, "requests that failed by its own fault (4xx)")
EVENTS = {
    # Where the provider is away, a refresh is tried seven times in the first hour.
    Cause.REFRESHES: Watched(Cause.REFRESHES, 12, 10, "token refreshes"),
    Cause.DENIALS: Watched(Cause.DENIALS, 6, 30, "refused attempts"),
}
_FOREVER = LOOK_BACK_DAYS * SLOTS_A_DAY


class Anomalies:
    """The habits of all client keys and accounts of a database."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._events: dict[tuple[Cause, str], Numbers] = {}
        self._firsts: dict[tuple[Cause, str], int] = {}
        self._begin = inf

    def unknown(self, seen: Iterable[Seen]) -> set[str]:
        """The keys that were not seen before. Of these `take` is told the slots of their first requests ever."""
        return {each.key for each in seen} - self._keys.keys()

    def take(
        self,
        first: int,
        until: int,
        seen: Sequence[Seen],
        events: Sequence[Event],
        firsts: Mapping[str, int],
    ) -> None:
        """Take this as all there is of the slots from `first` on and before `until`, which none so far is behind."""
        self._begin = min([self._begin, *(each.slot for each in seen), *(each.slot for each in events)])
        of_key: defaultdict[str, list[Seen]] = defaultdict(list)
        for each in seen:
            of_key[each.key].append(each)
        for key in of_key.keys() - self._keys.keys():
            self._keys[key] = _Key(firsts.get(key, until))
        for key, habits in self._keys.items():
            habits.take(first, until, of_key[key])
        self._take_events(first, until, events)

    def _take_events(self, first: int, until: int, events: Sequence[Event]) -> None:
        numbers: defaultdict[tuple[Cause, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for slot, cause, name, number in events:
            numbers[cause, name][slot] += number
            self._firsts[cause, name] = min(slot, self._firsts.get((cause, name), slot))
        for which in numbers.keys() - self._events.keys():
            self._events[which] = Numbers(EVENTS[which[0]].stretch)
        for which, habit in self._events.items():
            habit.put(first, until, numbers[which])

    def notices(self, now: float, names: Mapping[str, str]) -> list[Notice]:
        """What is unusual at the moment. `names` has those of the client keys, by id."""
        slot = slot_of(now)
        found: list[Notice] = []
        for key, habits in self._keys.items():
            if slot - habits.first >= LEARNING_DAYS * SLOTS_A_DAY:
                found += (
                    Notice(cause, key, names.get(key, key), at, what) for cause, at, what in habits.unusual(slot, now)
                )
        for (cause, name), numbers in self._events.items():
            # The first refused attempts of all are no habit to be learned first.
            first = self._firsts[cause, name] if cause is Cause.REFRESHES else self._begin
            is_known = slot - first >= LEARNING_DAYS * SLOTS_A_DAY
            if is_known and (what := excess(EVENTS[cause], numbers, slot)):
                found.append(Notice(cause, name, name, now, what))
        return found


class _Key:
    """The habits of one client key."""

    def __init__(self, first: int) -> None:
        self.first = first
        """The slot of its first request."""
        self._requests = Numbers(VOLUME.stretch, DAILY_VOLUME.stretch)
        self._failures = Numbers(FAILURES.stretch)
        self._addresses, self._networks, self._programs = Names(), Names(), Names()

    def take(self, first: int, until: int, seen: Iterable[Seen]) -> None:
        """See Anomalies."""
        requests: defaultdict[int, int] = defaultdict(int)
        failures: defaultdict[int, int] = defaultdict(int)
        for each in seen:
            self.first = min(self.first, each.slot)
            requests[each.slot] += each.requests
            failures[each.slot] += each.failures
            self._addresses.see(exact(each.address), each.slot)
            self._networks.see(wide(each.address), each.slot)
            self._programs.see(program_name(each.program), each.slot)
        self._requests.put(first, until, requests)
        self._failures.put(first, until, failures)
        for names in (self._addresses, self._networks, self._programs):
            names.forget(until - _FOREVER)

    def unusual(self, slot: int, now: float) -> Iterator[tuple[Cause, float, str]]:
        """What is, since when, and why."""
        for watched in (VOLUME, DAILY_VOLUME):
            if what := excess(watched, self._requests, slot):
                yield watched.cause, now, what
        failures = self._failures.recent(FAILURES.stretch, slot)
        is_most = 2 * failures >= self._requests.recent(FAILURES.stretch, slot)
        if is_most and (what := excess(FAILURES, self._failures, slot)):
            yield Cause.FAILURES, now, what
        if new := self._rare((self._addresses, self._networks), slot):
            yield Cause.ADDRESS, new[0][0] * SLOT_SECONDS, f"requests from a new address: {_listed(new)}"
        if new := self._rare((self._programs,), slot):
            yield Cause.PROGRAM, new[0][0] * SLOT_SECONDS, f"requests by a new program: {_listed(new)}"

    def _rare(self, levels: Iterable[Names], slot: int) -> list[tuple[int, str]]:
        """What is new on the finest of the levels on which it is rare that something is; empty where it never is."""
        begin = max(self.first, slot - _FOREVER) + SLOTS_A_DAY  # on its first day all is new
        for names, most_days in zip(levels, _RARE_DAYS, strict=False):
            new = names.new(slot - PRESENT_SLOTS + 1)
            if not new or names.days_with_new(begin, new[0][0]) <= most_days:
                return new
        return []


def _listed(new: Sequence[tuple[int, str]]) -> str:
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    return f"{new[0][1]}{more}, not seen in the last {LOOK_BACK_DAYS} days"


def excess(watched: Watched, numbers: Numbers, slot: int) -> str:
    """Why what there was lately is too much of it; empty if it is not."""
    number = numbers.recent(watched.stretch, slot)
    if number < watched.least:
        return ""
    peaks = numbers.peaks(watched.stretch, slot)
    unusual = limit(peaks, watched.least)
    if number < unusual:
        return ""
    within = f"within {span(watched.stretch * SLOT_SECONDS)}"
    learned = f"the busiest such time of a day had {middle(peaks)} (median of {len(peaks)} days)"
    return f"{number} {watched.what} {within}; {learned}, and {unusual} or more are unusual"


def slot_of(moment: float) -> int:
    """The slot in which a moment (epoch seconds) lies."""
    return int(moment // SLOT_SECONDS)


@lru_cache(_REMEMBERED)
def exact(address: str) -> str:
    """An address as it is told: an IPv6 /64 is one, and this machine is."""
    return "this machine" if is_this_machine(address) else source_of(Address.parse(address)) or address


@lru_cache(_REMEMBERED)
def wide(address: str) -> str:
    """The network that an address belongs to, so wide that one provider's customers are mostly in it."""
    narrow = exact(address)
    try:
        ip = ip_address(narrow.partition("/")[0])
    except ValueError:
        return narrow
    return str(ip_network((str(ip), _WIDE_BITS[ip.version]), strict=False))


@lru_cache(_REMEMBERED)
def program_name(user_agent: str) -> str:
    """A program by its User-Agent, without its version. In words of ours where that is no name."""
    found = _PROGRAM.match(redact.text(user_agent))
    return _VERSION.split(found[0])[0] if found else "a program without a name"
