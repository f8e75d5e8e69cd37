"""What a request's target means to us: which paths get an account, which pass, which are answered here. Pure."""

import re
from enum import StrEnum


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


CONTROL_PREFIX = "/ccflare/"
COUNT_TOKENS = "/v1/messages/count_tokens"

# Only these resources are the account's business. Everything else that the upstream host serves (/api/oauth,
# /v1/code, /v1/mcp_servers, telemetry) belongs to the client's own login, and answers 403 to a foreign one.
_INFERENCE = re.compile(
    r"/v1/(?:messages(?:/count_tokens|/batches(?:/.*)?)?|models(?:/.*)?|files(?:/.*)?|complete|skills(?:/.*)?)"
)
_RUNS_MODEL = re.compile(r"/v1/(?:messages(?:/count_tokens|/batches)?|complete)")
_PRECONNECT = frozenset({"/", "/api/hello"})
# Dot segments (also percent-encoded, or with a parameter behind), encoded slashes and backslashes, NULs: a path that
# is one resource to our match and another one to the upstream must not carry a credential.
_MALFORMED = re.compile(
    r"(?:^|/)(?:\.|%2e){1,2}(?:[/;]|$)|%2f|%5c|%00|\\|[\x00-\x20\x7f]|//|^(?!/)|%(?![0-9a-f]{2})", re.IGNORECASE
)


def runs_model(method: str, path: str) -> bool:
    """Whether a request for this path (without a query) names the models that it wants to run or count for."""
    return method == "POST" and _RUNS_MODEL.fullmatch(path) is not None


def classify(method: str, target: str) -> Route:
    """The route of a request, from its method and its origin-form target (path and query). Total."""
    path = target.partition("?")[0]
    if _MALFORMED.search(path):
        return Route.MALFORMED
    if path.startswith(CONTROL_PREFIX):
        return Route.CONTROL
    if _INFERENCE.fullmatch(path):
        return Route.INFERENCE
    if method == "HEAD" and path in _PRECONNECT:
        return Route.PRECONNECT
    return Route.UPSTREAM
