"""What a request's method and target mean to us: which get an account, which pass, which are answered here. Pure.

An account's credential goes out with what stands in the table, by method and exact path, and with nothing else. A path
that only a lenient server would take for one of those is refused, so that no two readers can disagree about it. Managed
Agents are in the table only where an account is named for them: otherwise their paths are as all others of the host.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from ccflare_core.anthropic.api_table import (
    API,
    BATCHES,
    CACHE_TOUCH,
    COMPLETE,
    COUNT_TOKENS,
    FILES,
    MESSAGES,
    RESULTS,
    PathClass,
    Rule,
)
from ccflare_core.anthropic.near_misses import EMPTY_SEGMENT, NearMisses
from ccflare_core.http.headers import TARGET_BYTES
from ccflare_core.http.rejection import Rejection

__all__ = [
    "API",
    "BATCHES",
    "CACHE_TOUCH",
    "COMPLETE",
    "CONTROL_PREFIX",
    "COUNT_TOKENS",
    "FILES",
    "MESSAGES",
    "OTHER_METHODS",
    "RESULTS",
    "PathClass",
    "Route",
    "Rule",
    "batch_of_results",
    "classify",
    "refuse",
    "rule_of",
    "runs_model",
]


class Route(StrEnum):
    """The ways a request to the upstream's host, or to our own address, can go."""

    INFERENCE = "inference"
    """Gets an account's credential."""
    STATEFUL = "stateful"
    """Gets that of the one account that serves Managed Agents."""
    UPSTREAM = "upstream"
    """Any other path of the upstream host: goes through with the client's own credential, untouched."""
    PRECONNECT = "preconnect"
    """Claude Code's warm-up in base-URL mode, answered here at once."""
    CONTROL = "control"
    """Our own pages under /ccflare/."""
    MALFORMED = "malformed"
    """A path that two parsers could read differently: refused."""
    MISSPELT = "misspelt"
    """Another spelling of a path that gets an account's credential: refused."""
    NEAR_MISS = "near-miss"
    """A path that a wrong base URL or one wrong letter has made of one of those: refused."""
    WRONG_METHOD = "wrong-method"
    """A method that the path does not take: refused."""


CONTROL_PREFIX = "/ccflare/"
OTHER_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What other paths of the host take. TRACE gives back the credential that it came with."""

_ROUTES: Final = {
    PathClass.MODEL: Route.INFERENCE,
    PathClass.RESOURCE: Route.INFERENCE,
    PathClass.STATEFUL: Route.STATEFUL,
    PathClass.WORKER: Route.UPSTREAM,
}


class _Table:
    """The rules that are in force, by path."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules: dict[str, dict[str, Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.shape, {}).update(dict.fromkeys(rule.methods, rule))
        self._shapes = tuple(self._rules)
        # The provider's ids, and names of models, need no escapes. One that begins or ends with a dot has two readings.
        self._exact = self._pattern("[A-Za-z0-9_](?:[A-Za-z0-9._:@-]*[A-Za-z0-9_])?")
        self._similar = self._pattern("[^/]+")
        self._near_misses = NearMisses(self._shapes, self.similar)

    def _pattern(self, identifier: str) -> re.Pattern[str]:
        """One group for each shape, in their order."""
        return re.compile("|".join(f"({shape.replace('{id}', identifier)})" for shape in self._shapes))

    def exact(self, path: str) -> str | None:
        """The shape of this path; None if it is none of the table's."""
        return self._shape(self._exact, path)

    def similar(self, path: str) -> str | None:
        """The same, with anything in the place of an id."""
        return self._shape(self._similar, path)

    def _shape(self, shapes: re.Pattern[str], path: str) -> str | None:
        found = shapes.fullmatch(path)
        return self._shapes[(found.lastindex or 0) - 1] if found else None

    def rules(self, shape: str) -> dict[str, Rule]:
        """The rules of a shape, by method."""
        return self._rules[shape]

    def meant(self, decoded: str) -> str | None:
        """The shape of the path that a lenient server could take this for, if there is one."""
        return next((shape for reading in _readings(decoded) if (shape := self.similar(reading))), None)

    def mistake(self, decoded: str) -> str | None:
        """What is wrong with a path that is almost one of the API's, or of our own; None if it is another one."""
        return next((told for reading in _readings(decoded) if (told := self._near_misses.mistake(reading))), None)


_WHOLE: Final = _Table(API)
_POOLED: Final = _Table(rule for rule in API if rule.path_class in (PathClass.MODEL, PathClass.RESOURCE))
_PRECONNECT = frozenset({"/", "/api/hello"})
# Dot segments (also percent-encoded, or with a parameter behind), encoded slashes and backslashes, NULs: a path that
# is one resource to our match and another one to the upstream must not carry a credential.
_MALFORMED = re.compile(
    r"(?:^|/)(?:\.|%2e){1,2}(?:[/;]|$)|%2f|%5c|%00|\\|[\x00-\x20\x7f]|//|^(?!/)|%(?![0-9a-f]{2})", re.IGNORECASE
)
_ENCODINGS = 8
"""How many times over a path may be percent-encoded, to be read at all."""
_END_OF_PATH = re.compile(r"[?#]")
_SLASHES = re.compile("/{2,}")
_BLANKS = re.compile(r"[\x00-\x20\x7f]+")


def classify(method: str, target: str, *, stateful: bool = False) -> Route:
    """The route of a request, from its method, as it was sent, and its origin-form target. Total.

    `stateful` tells whether an account is named for Managed Agents.
    """
    if len(target) > TARGET_BYTES:
        return Route.MALFORMED
    return _classify(method, target.partition("?")[0], stateful)


@lru_cache(256)
def _classify(method: str, path: str, stateful: bool) -> Route:
    """Kept for a request's next hooks, and because clients ask for the same few paths."""
    table = _table(stateful)
    if shape := table.exact(path):
        rule = table.rules(shape).get(method)
        return _ROUTES[rule.path_class] if rule else Route.WRONG_METHOD
    if _MALFORMED.search(path):
        return Route.MALFORMED
    if path.startswith(CONTROL_PREFIX):
        return Route.CONTROL
    if (decoded := _decoded(path)) is None:
        return Route.MALFORMED
    if table.meant(decoded):
        return Route.MISSPELT
    if method not in OTHER_METHODS:
        return Route.WRONG_METHOD
    if method == "HEAD" and path in _PRECONNECT:
        return Route.PRECONNECT
    return Route.NEAR_MISS if table.mistake(decoded) else Route.UPSTREAM


def _table(stateful: bool) -> _Table:
    return _WHOLE if stateful else _POOLED


@lru_cache(256)
def rule_of(method: str, path: str) -> Rule | None:
    """The API's rule for this path (without a query), be it in force or not; None if it has none."""
    shape = _WHOLE.exact(path)
    return _WHOLE.rules(shape).get(method) if shape else None


def runs_model(method: str, path: str) -> bool:
    """Whether a request for this path (without a query) names the models that it wants to run or count for."""
    rule = rule_of(method, path)
    return rule is not None and rule.path_class is PathClass.MODEL


def batch_of_results(path: str) -> str | None:
    """The id of the batch whose results have this path (without a query)."""
    return path.split("/")[4] if _WHOLE.exact(path) == RESULTS else None


def refuse(method: str, target: str, *, stateful: bool = False) -> Rejection | None:
    """Why a request for the upstream's host goes no further because of its method or path; None if it may."""
    path, table = target.partition("?")[0], _table(stateful)
    match classify(method, target, stateful=stateful):
        case Route.MALFORMED:
            is_doubled = "//" in path and not _MALFORMED.search(_SLASHES.sub("/", path))
            return _for_good(
                EMPTY_SEGMENT if is_doubled else "The request's path has dot segments or encoded separators."
            )
        case Route.MISSPELT:
            return _for_good(f"This is another spelling of {table.meant(_decoded(path) or '')}: send it exactly so.")
        case Route.NEAR_MISS:
            return _for_good(table.mistake(_decoded(path) or "") or "The API has no such path.")
        case Route.WRONG_METHOD:
            shape = table.exact(path)
            allow = tuple(table.rules(shape)) if shape else OTHER_METHODS
            message = f"{shape or 'This path'} takes {', '.join(allow)} only, not {method[:20]}."
            return Rejection(405, message, allow=allow)
        case _:
            return None


def _for_good(message: str) -> Rejection:
    """A 400 that stays one: Claude Code would send the same path six times."""
    return Rejection(400, message, is_final=True)


def _decoded(path: str) -> str | None:
    """The path with nothing percent-encoded any more; None if it is so too many times over."""
    encoded = path.encode(errors="surrogateescape")
    for _ in range(_ENCODINGS):
        if (once := unquote_to_bytes(encoded)) == encoded:
            return once.decode(errors="replace")
        encoded = once
    return None


def _readings(decoded: str) -> Iterator[str]:
    """The paths it is to servers that lower it, drop empty segments, dots, blanks and parameters, or turn `\\`."""
    text = _BLANKS.sub("", decoded.casefold()).replace("\\", "/")
    for whole in dict.fromkeys((text, _END_OF_PATH.split(text, maxsplit=1)[0])):
        segments = [_bare(segment) for segment in _END_OF_PATH.sub(";", whole).split("/")]
        yield "/" + "/".join(segment for segment in segments if segment not in ("", ".."))
        if ".." in segments:
            yield "/" + "/".join(_resolved(segments))


def _bare(segment: str) -> str:
    """What is left of a segment without parameters and without dots around it; `..` stays."""
    name = segment.partition(";")[0]
    return name if name == ".." else name.strip(".")


def _resolved(segments: Sequence[str]) -> list[str]:
    """The segments after each `..` has taken away the one before it."""
    left: list[str] = []
    for segment in segments:
        if segment == "..":
            del left[-1:]
        elif segment:
            left.append(segment)
    return left
