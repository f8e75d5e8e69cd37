"""What a request's method and target mean to us: which get an account, which pass, which are answered here. Pure.

An account's credential goes out with what stands in `API`, by method and exact path, and with nothing else. A path
that only a lenient server would take for one of those is refused, so that no two readers can disagree about it.
"""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from ccflare_core.anthropic.near_misses import EMPTY_SEGMENT, NearMisses
from ccflare_core.http.headers import TARGET_BYTES
from ccflare_core.http.rejection import Rejection


class Route(StrEnum):
    """The ways a request to the upstream's host, or to our own address, can go."""

    INFERENCE = "inference"
    """Gets an account's credential."""
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


class PathClass(StrEnum):
    """What a request that gets an account's credential does."""

    MODEL = "model"
    """Names in its body the models that it wants to run or count for."""
    RESOURCE = "resource"
    """Lists, reads or changes what the account has: models, batches, files, skills."""


class Rule(NamedTuple):
    """Requests that get an account's credential; `{id}` in the path's shape stands for one segment."""

    methods: tuple[str, ...]
    shape: str
    path_class: PathClass


CONTROL_PREFIX = "/ccflare/"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
BATCHES = "/v1/messages/batches"
RESULTS = "/v1/messages/batches/{id}/results"
COMPLETE = "/v1/complete"

# Only these resources are the account's business, as the SDKs have them (anthropic 2.14.0; /v1/complete: 0.97.0).
# Everything else that the upstream host serves (/api/oauth, /v1/code, /v1/mcp_servers, telemetry) belongs to the
# client's own login, and answers 403 to a foreign one.
API: Final = (
    Rule(("POST",), MESSAGES, PathClass.MODEL),
    Rule(("POST",), COUNT_TOKENS, PathClass.MODEL),
    Rule(("POST",), BATCHES, PathClass.MODEL),
    Rule(("GET",), BATCHES, PathClass.RESOURCE),
    Rule(("GET", "DELETE"), "/v1/messages/batches/{id}", PathClass.RESOURCE),
    Rule(("POST",), "/v1/messages/batches/{id}/cancel", PathClass.RESOURCE),
    Rule(("GET",), RESULTS, PathClass.RESOURCE),
    Rule(("POST",), COMPLETE, PathClass.MODEL),
    Rule(("GET",), "/v1/models", PathClass.RESOURCE),
    Rule(("GET",), "/v1/models/{id}", PathClass.RESOURCE),
    Rule(("GET", "POST"), "/v1/files", PathClass.RESOURCE),
    Rule(("GET", "DELETE"), "/v1/files/{id}", PathClass.RESOURCE),
    Rule(("GET",), "/v1/files/{id}/content", PathClass.RESOURCE),
    Rule(("GET", "POST"), "/v1/skills", PathClass.RESOURCE),
    Rule(("GET", "DELETE"), "/v1/skills/{id}", PathClass.RESOURCE),
    Rule(("GET", "POST"), "/v1/skills/{id}/versions", PathClass.RESOURCE),
    Rule(("GET", "DELETE"), "/v1/skills/{id}/versions/{id}", PathClass.RESOURCE),
    Rule(("GET",), "/v1/skills/{id}/versions/{id}/content", PathClass.RESOURCE),
)
OTHER_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What other paths of the host take. TRACE gives back the credential that it came with."""

_CLASSES: Final = {
    shape: {method: rule.path_class for rule in API if rule.shape == shape for method in rule.methods}
    for shape in dict.fromkeys(rule.shape for rule in API)
}
_SHAPES: Final = tuple(_CLASSES)
_RESOURCES: Final = (
    (COUNT_TOKENS, "count_tokens"),
    (BATCHES, "batches"),
    ("/v1/files", "files"),
    ("/v1/skills", "skills"),
    ("/v1/models", "models"),
)


def _shapes(identifier: str) -> re.Pattern[str]:
    """One group for each shape, in their order."""
    return re.compile("|".join(f"({shape.replace('{id}', identifier)})" for shape in _SHAPES))


# The provider's ids, and names of models, need no escapes. One that begins or ends with a dot has two readings.
_EXACT = _shapes("[A-Za-z0-9_](?:[A-Za-z0-9._:@-]*[A-Za-z0-9_])?")
_SIMILAR = _shapes("[^/]+")
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


def classify(method: str, target: str) -> Route:
    """The route of a request, from its method, as it was sent, and its origin-form target. Total."""
    if len(target) > TARGET_BYTES:
        return Route.MALFORMED
    return _classify(method, target.partition("?")[0])


@lru_cache(256)
def _classify(method: str, path: str) -> Route:
    """Kept for a request's next hooks, and because clients ask for the same few paths."""
    if shape := _shape(_EXACT, path):
        return Route.INFERENCE if method in _CLASSES[shape] else Route.WRONG_METHOD
    if _MALFORMED.search(path):
        return Route.MALFORMED
    if path.startswith(CONTROL_PREFIX):
        return Route.CONTROL
    if (decoded := _decoded(path)) is None:
        return Route.MALFORMED
    if _meant(decoded):
        return Route.MISSPELT
    if method not in OTHER_METHODS:
        return Route.WRONG_METHOD
    if method == "HEAD" and path in _PRECONNECT:
        return Route.PRECONNECT
    return Route.NEAR_MISS if _mistake(decoded) else Route.UPSTREAM


def runs_model(method: str, path: str) -> bool:
    """Whether a request for this path (without a query) names the models that it wants to run or count for."""
    shape = _shape(_EXACT, path)
    return shape is not None and _CLASSES[shape].get(method) is PathClass.MODEL


def batch_of_results(path: str) -> str | None:
    """The id of the batch whose results have this path (without a query)."""
    return path.split("/")[4] if _shape(_EXACT, path) == RESULTS else None


def resource_of(path: str) -> str:
    """The path class of a path that gets an account's credential (without a query): what of an account it uses."""
    return next((name for prefix, name in _RESOURCES if path.startswith(prefix)), "messages")


def refuse(method: str, target: str) -> Rejection | None:
    """Why a request for the upstream's host goes no further because of its method or path; None if it may."""
    path = target.partition("?")[0]
    match classify(method, target):
        case Route.MALFORMED:
            is_doubled = "//" in path and not _MALFORMED.search(_SLASHES.sub("/", path))
            return _for_good(
                EMPTY_SEGMENT if is_doubled else "The request's path has dot segments or encoded separators."
            )
        case Route.MISSPELT:
            return _for_good(f"This is another spelling of {_meant(_decoded(path) or '')}: send it exactly so.")
        case Route.NEAR_MISS:
            return _for_good(_mistake(_decoded(path) or "") or "The API has no such path.")
        case Route.WRONG_METHOD:
            shape = _shape(_EXACT, path)
            allow = tuple(_CLASSES[shape]) if shape else OTHER_METHODS
            message = f"{shape or 'This path'} takes {', '.join(allow)} only, not {method[:20]}."
            return Rejection(405, message, allow=allow)
        case _:
            return None


def _for_good(message: str) -> Rejection:
    """A 400 that stays one: Claude Code would send the same path six times."""
    return Rejection(400, message, is_final=True)


def _shape(shapes: re.Pattern[str], path: str) -> str | None:
    found = shapes.fullmatch(path)
    return _SHAPES[(found.lastindex or 0) - 1] if found else None


_NEAR_MISSES: Final = NearMisses(_SHAPES, lambda path: _shape(_SIMILAR, path))


def _decoded(path: str) -> str | None:
    """The path with nothing percent-encoded any more; None if it is so too many times over."""
    encoded = path.encode(errors="surrogateescape")
    for _ in range(_ENCODINGS):
        if (once := unquote_to_bytes(encoded)) == encoded:
            return once.decode(errors="replace")
        encoded = once
    return None


def _meant(decoded: str) -> str | None:
    """The shape of the credential path that a lenient server could take this for, if there is one."""
    return next((shape for reading in _readings(decoded) if (shape := _shape(_SIMILAR, reading))), None)


def _mistake(decoded: str) -> str | None:
    """What is wrong with a path that is almost one of the API's, or of our own; None if it is another one."""
    return next((told for reading in _readings(decoded) if (told := _NEAR_MISSES.mistake(reading))), None)


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
