"""Thirty days of a small office, made by chance from a seed: who asks when, from where, by what, and how it goes.

There is what makes numbers odd without anything being wrong: weekends and days off, quiet days before a storm of
subagents, a job of the night and one of the week, addresses that change every day, a provider that is away, mistakes in
a script. Five anomalies can be planted in it.
"""

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from ccflare_core.reports.anomalies import Cause

DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0
MONDAY = 1_793_577_600.0
"""00:00 UTC of 2 November 2026."""
DAYS = 30

OFFICE, NIGHTLY, AGENTS, ROAMING, CI, NOBODY = "office", "nightly", "agents", "roaming", "ci", ""
ACCOUNTS = ("max-1", "max-2", "max-3")
CLAUDE_CODE, PYTHON = "claude-cli/2.1.332 (external, cli)", "Anthropic/Python 0.97.0"


class Request(NamedTuple):
    """A request at a time (epoch seconds) of a client key."""

    at: float
    key: str
    address: str
    program: str
    status: int = 200


class Happening(NamedTuple):
    """A token refresh of an account, or so many refused attempts of a key (or nobody)."""

    at: float
    cause: Cause
    name: str
    number: int = 1


class Plant(NamedTuple):
    """An anomaly: of whom, and from when on."""

    cause: Cause
    name: str
    at: float
    requests: tuple[Request, ...] = ()
    happenings: tuple[Happening, ...] = ()


class Month(NamedTuple):
    """All that happens, in order of time."""

    requests: list[Request]
    happenings: list[Happening]


def a_month(seed: int, plants: tuple[Plant, ...] = ()) -> Month:
    """The month of this seed, with these anomalies in it."""
    chance = random.Random(f"month {seed}")
    people = (_office, _nightly, _agents, _roaming, _ci, _nobody)
    requests = [request for of_whom in people for day in range(DAYS) for request in of_whom(chance, day)]
    happenings = [*_refreshes(chance), *_denials(chance)]
    for plant in plants:
        requests += plant.requests
        happenings += plant.happenings
    end = MONDAY + DAYS * DAY
    return Month(sorted(r for r in requests if r.at < end), sorted(h for h in happenings if h.at < end))


def _start(day: int) -> float:
    return MONDAY + day * DAY


def _is_weekend(day: int) -> bool:
    return day % 7 >= 5


def _session(chance: random.Random, at: float, turns: int, seconds: float, **request: str) -> Iterator[Request]:
    """Turns of a conversation, so far apart on average; now and then one fails, by whose fault ever."""
    for _ in range(turns):
        at += chance.expovariate(1 / seconds)
        status = chance.choices((200, 529, 400), (970, 25, 5))[0]
        yield Request(at, status=status, **request)


def _some(chance: random.Random, median: float, spread: float) -> int:
    """A number as the sizes of jobs are: mostly near the median, at times some times as large."""
    return round(chance.lognormvariate(math.log(median), spread))


def _office(chance: random.Random, day: int) -> Iterator[Request]:
    """A person who works in an office, and at home at times: there the provider gives another address each week."""
    is_off = _is_weekend(day) or chance.random() < 0.08
    at_home = chance.random() < 0.3
    address = f"198.51.{100 + day // 7}.20" if at_home else "192.0.2.10"
    hours = [chance.uniform(8, 11.5), chance.uniform(12.5, 15), chance.uniform(14, 17)] if not is_off else []
    hours += [chance.uniform(19, 22)] if chance.random() < 0.1 else []
    for hour in hours:
        turns = _some(chance, 60, 0.6)
        yield from _session(
            chance, _start(day) + hour * HOUR, turns, 45, key=OFFICE, address=address, program=CLAUDE_CODE
        )
    if day in (9, 23):  # a day at a customer's
        at = _start(day) + 10 * HOUR
        yield from _session(chance, at, 30, 60, key=OFFICE, address="198.18.7.7", program=CLAUDE_CODE)


def _nightly(chance: random.Random, day: int) -> Iterator[Request]:
    """A job at two in the morning, and a long one on Sundays; at times the script is broken."""
    who = {"key": NIGHTLY, "address": "192.0.2.30", "program": PYTHON}
    at = _start(day) + 2 * HOUR + chance.uniform(0, 60)
    for request in _session(chance, at, _some(chance, 80, 0.2), 6, **who):
        yield request._replace(status=400) if day == 12 and chance.random() < 0.15 else request
    if day % 7 == 6:
        yield from _session(chance, at + HOUR, _some(chance, 700, 0.2), 4, **who)


def _agents(chance: random.Random, day: int) -> Iterator[Request]:
    """Subagents: nothing at all for days, and then some storms of 200 requests in ten minutes, by day or by night."""
    who = {"key": AGENTS, "address": "192.0.2.10", "program": CLAUDE_CODE}
    storms = 0 if chance.random() < 0.45 else chance.randint(1, 4)
    for _ in range(storms):
        at, number = _start(day) + chance.uniform(6, 24) * HOUR, _some(chance, 180, 0.5)
        yield from _session(chance, at, number, chance.uniform(2, 4), **who)


def _roaming(chance: random.Random, day: int) -> Iterator[Request]:
    """A laptop and a telephone whose providers give other addresses each day, IPv4 and IPv6."""
    for _ in range(chance.randint(0, 3)):
        mobile = f"2001:db8:{chance.randrange(65_536):x}:{chance.randrange(65_536):x}::7"
        home = f"100.{64 + chance.randrange(3)}.{chance.randrange(256)}.{chance.randrange(256)}"
        address = mobile if chance.random() < 0.4 else home
        at = _start(day) + chance.uniform(7, 23.5) * HOUR
        yield from _session(chance, at, _some(chance, 40, 0.7), 50, key=ROAMING, address=address, program=CLAUDE_CODE)


def _ci(chance: random.Random, day: int) -> Iterator[Request]:
    """What reviews changes: on working days, from three runners, by a library and by a script."""
    for _ in range(0 if _is_weekend(day) else _some(chance, 25, 0.4)):
        address = f"192.0.2.{chance.choice((41, 42, 43))}"
        program = PYTHON if chance.random() < 0.8 else "node"
        at = _start(day) + chance.gauss(13, 2.5) * HOUR
        yield from _session(chance, at, _some(chance, 8, 0.5), 5, key=CI, address=address, program=program)


def _nobody(chance: random.Random, day: int) -> Iterator[Request]:
    """Programs of this machine, which need no key."""
    who = {"key": NOBODY, "address": "127.0.0.1"}
    if chance.random() < 0.4:
        program = "curl/8.14.1" if chance.random() < 0.5 or day > 5 else "python-httpx/0.28.1"
        yield from _session(
            chance, _start(day) + chance.uniform(8, 20) * HOUR, chance.randint(1, 15), 30, program=program, **who
        )


def _refreshes(chance: random.Random) -> Iterator[Happening]:
    """Each seven hours or so; once the provider is away for an hour and it is tried again and again."""
    away = _start(chance.randrange(8, DAYS)) + 13 * HOUR
    for name in ACCOUNTS:
        at = MONDAY + chance.uniform(0, 7) * HOUR
        while at < MONDAY + DAYS * DAY:
            yield Happening(at, Cause.REFRESHES, name)
            at += chance.uniform(6.8, 7.5) * HOUR
        yield from (Happening(away + MINUTE * minute, Cause.REFRESHES, name) for minute in (0, 1, 3, 7, 16, 33))


def _denials(chance: random.Random) -> Iterator[Happening]:
    """A key that is mistyped, by a person or by a script that tries again."""
    for day in range(DAYS):
        if chance.random() < 0.3:
            at = _start(day) + chance.uniform(8, 18) * HOUR
            yield Happening(at, Cause.DENIALS, NOBODY, chance.randint(1, 18))


# The anomalies


def five_anomalies(seed: int) -> tuple[Plant, ...]:
    """One of each kind, of somebody whom chance has chosen, at any time of five of the last days."""
    chance = random.Random(f"plants {seed}")
    kinds = (_surge, _stranger, _other_program, _refused, _refresh_burst)
    days = chance.sample(range(17, 29), len(kinds))
    return tuple(
        kind(chance, _start(day) + chance.uniform(0, 23) * HOUR) for kind, day in zip(kinds, days, strict=True)
    )


_USUAL = {
    OFFICE: ("192.0.2.10", CLAUDE_CODE),
    NIGHTLY: ("192.0.2.30", PYTHON),
    AGENTS: ("192.0.2.10", CLAUDE_CODE),
    CI: ("192.0.2.41", PYTHON),
}


def _each(at: float, seconds: float, number: int, key: str, **changed: object) -> tuple[Request, ...]:
    address, program = _USUAL[key]
    return tuple(
        Request(at + n * seconds, key, address, program)._replace(**changed)  # type: ignore[arg-type]
        for n in range(number)
    )


def _surge(chance: random.Random, at: float) -> Plant:
    """A key is used for something large, from its own place and program: one request a second, for an hour."""
    key = chance.choice((OFFICE, NIGHTLY, CI))
    return Plant(Cause.VOLUME, key, at, _each(at, 1, 3600, key))


def _stranger(chance: random.Random, at: float) -> Plant:
    """A key is used from somewhere else, a little."""
    key = chance.choice((*_USUAL,))
    return Plant(Cause.ADDRESS, key, at, _each(at, 40, 30, key, address="203.0.113.200"))


def _other_program(chance: random.Random, at: float) -> Plant:
    """A key is used by another program, a little."""
    key = chance.choice((*_USUAL,))
    return Plant(Cause.PROGRAM, key, at, _each(at, 60, 20, key, program="python-requests/2.32.5"))


def _refused(chance: random.Random, at: float) -> Plant:
    """Somebody tries out what a key can do, and is wrong each time."""
    key = chance.choice((OFFICE, NIGHTLY, CI))
    return Plant(Cause.FAILURES, key, at, _each(at, 12, 150, key, status=403))


def _refresh_burst(chance: random.Random, at: float) -> Plant:
    """Something makes an account's token new each minute."""
    name = chance.choice(ACCOUNTS)
    return Plant(
        Cause.REFRESHES, name, at, happenings=tuple(Happening(at + n * 60, Cause.REFRESHES, name) for n in range(40))
    )
