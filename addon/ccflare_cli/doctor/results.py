"""What a check of `scripts/doctor.py` has found: well or not, in which area, and what to do about it.

`fail` is a hole that somebody can use now, or something that does not work; `warn` is a risk that its owner may accept.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

DAY = 86_400
MIB = 1024**2
GIB = 1024**3

AREAS = ("host", "options", "files", "keys", "database", "accounts", "access", "activity", "proxy", "upstream", "code")


class Level(StrEnum):
    """How it stands, the best first."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Result(NamedTuple):
    """One check: `area.what`, how it stands, what was found, and what mends it."""

    check: str
    level: Level
    found: str
    remedy: str = ""

    @property
    def area(self) -> str:
        """One of AREAS."""
        return self.check.partition(".")[0]


Results = Iterator[Result]


def ok(check: str, found: str) -> Result:
    """All is well."""
    return Result(check, Level.OK, found)


def warn(check: str, found: str, remedy: str) -> Result:
    """A risk that may be accepted."""
    return Result(check, Level.WARN, found, remedy)


def fail(check: str, found: str, remedy: str) -> Result:
    """A hole, or something that does not work."""
    return Result(check, Level.FAIL, found, remedy)


def worst(results: Iterable[Result]) -> Level:
    """The worst level; OK if there is no result."""
    return max((result.level for result in results), key=list(Level).index, default=Level.OK)


def checked(name: str, found: Iterable[str], well: str, remedy: str, level: Callable[..., Result] = fail) -> Results:
    """One result for each problem that was found, or one that says that there is none."""
    problems = list(found)
    yield from (level(name, problem, remedy) for problem in problems)
    if not problems:
        yield ok(name, well)
