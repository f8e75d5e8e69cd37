"""What an upstream answer means for the account that got it.

`classify` turns a status, its headers and the error it carries, if any, into a `Verdict`: the kind, who has
to rest and for how long. It is pure and never raises; a value that makes no sense counts as not said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from ccflare_core.anthropic.rate_limit_headers import HARD, LEGACY_HARD, SOFT, Head, Window, is_bucket
from ccflare_core.http.failure_words import known

DAY = 86_400.0
LONGEST_COOLDOWN = 8 * DAY  # a weekly window and a day of grace; what is spent for longer shows when it is tried
SHORT = 60.0  # a `retry-after` up to here is a throttle when no window is spent


class Kind(StrEnum):
    """The kinds of answer. The values are stored."""

    OK = "ok"
    WINDOW_SPENT = "window_spent"
    MODEL_BUCKET_SPENT = "model_bucket_spent"
    OUT_OF_CREDITS = "out_of_credits"
    BARE_429 = "bare_429"
    SHORT_THROTTLE = "short_throttle"
    OVERLOADED = "overloaded"
    UPSTREAM_FAILURE = "upstream_failure"
    CREDENTIAL_REJECTED = "credential_rejected"
    PERMISSION_DENIED = "permission_denied"
    CLIENT_ERROR = "client_error"
    NOT_PINNED = "not_pinned"
    """Nothing was sent: the upstream has shown no pinned key."""
    NOT_TRUSTED = "not_trusted"
    """Nothing was sent: whoever answered has no certificate that is good for the upstream's name."""
    UNANSWERED = "unanswered"
    """Nothing to judge: the client left, or the proxy stopped, before the upstream had answered."""


class Scope(StrEnum):
    """What has to rest: nothing, the account, or the account for one model family."""

    NONE = "none"
    ACCOUNT = "account"
    FAMILY = "family"


class Backoff(NamedTuple):
    """How long to rest when upstream names no reset; it grows with the failures of such verdicts."""

    seconds: float
    growth: Literal["fixed", "double", "add"]
    ceiling: float

    def after(self, failures: int) -> float:
        """Seconds to rest after the `failures`-th verdict in a row (1 = the first), at most the ceiling."""
        nth = min(max(failures, 1), 64)  # beyond 64 every rest is at its ceiling, and 2**nth still fits a float
        factor = {"fixed": 1, "double": 2 ** (nth - 1), "add": nth}[self.growth]
        seconds = self.seconds * factor
        return seconds if 0.0 <= seconds <= self.ceiling else self.ceiling


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one upstream answer means. `status` is the head's; 0 where there was none."""

    kind: Kind
    status: int
    reason: str  # short, for people
    scope: Scope
    rest: Backoff | None
    windows: tuple[Window, ...] = ()
    until: float | None = None  # epoch seconds, when upstream named a reset: then it goes before `rest`
    may_retry: bool = True  # False: `x-should-retry: false` on a 5xx
    deliver: bool = False  # True: this answer is the client's, also when the account has to rest after it

    @property
    def ok(self) -> bool:
        """Whether the account served: only this clears a cooldown."""
        return self.kind is Kind.OK and 200 <= self.status < 300


class _Rule(NamedTuple):
    scope: Scope
    rest: Backoff | None
    reason: str


# The law: kind -> who rests, for how long if no reset is known, and how people are told.
_LAW = {
    Kind.OK: _Rule(Scope.NONE, None, "ok"),
    Kind.WINDOW_SPENT: _Rule(Scope.ACCOUNT, Backoff(60.0, "double", 300.0), "{limit}"),
    Kind.MODEL_BUCKET_SPENT: _Rule(Scope.FAMILY, Backoff(60.0, "double", 300.0), "{limit}"),
    Kind.OUT_OF_CREDITS: _Rule(Scope.FAMILY, Backoff(300.0, "fixed", 300.0), "out of credits"),
    Kind.BARE_429: _Rule(Scope.NONE, None, "429 that names no limit"),
    Kind.SHORT_THROTTLE: _Rule(Scope.ACCOUNT, Backoff(1.0, "fixed", SHORT), "short throttle"),
    Kind.OVERLOADED: _Rule(Scope.ACCOUNT, Backoff(10.0, "fixed", 10.0), "{status} overloaded"),
    Kind.UPSTREAM_FAILURE: _Rule(Scope.ACCOUNT, Backoff(5.0, "add", 60.0), "{status} from upstream"),
    Kind.CREDENTIAL_REJECTED: _Rule(Scope.ACCOUNT, Backoff(300.0, "double", 3600.0), "credential rejected"),
    Kind.PERMISSION_DENIED: _Rule(Scope.ACCOUNT, Backoff(300.0, "fixed", 300.0), "permission denied"),
    Kind.CLIENT_ERROR: _Rule(Scope.NONE, None, "{status} passed on"),
    Kind.NOT_PINNED: _Rule(Scope.NONE, None, "certificate not pinned"),
    Kind.NOT_TRUSTED: _Rule(Scope.NONE, None, "certificate not trusted"),
    Kind.UNANSWERED: _Rule(Scope.NONE, None, "not answered yet"),
}

# An error event inside a 200 is judged like the status it stands for (Anthropic's documentation, "Errors").
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


UNLISTED = "error of an unlisted type"
"""Stands for a type that the documentation does not name."""


def classify(
    status: int, headers: Sequence[tuple[bytes, bytes]], first_event: Mapping[str, Any] | None, now: float
) -> Verdict:
    """What this answer means at `now` (epoch seconds).

    `first_event` is the parsed SSE `error` event or JSON error body; any other value counts as no error.
    """
    head = Head(headers, now)
    error = _error_type(first_event)
    success = 200 <= status < 300
    if success and error is None:
        return _verdict(_kind_when_served(head), status, head, deliver=True)
    if success:
        kind = _kind(_STATUS_OF_ERROR.get(error or "", 400), error, head)
        # These are told by the head of a real 429; under a good head only the stream's word is left.
        if kind in (Kind.BARE_429, Kind.OUT_OF_CREDITS, Kind.SHORT_THROTTLE):
            kind = Kind.WINDOW_SPENT
        return _verdict(kind, status, head, reason=f"{error or 'error'} in the stream")
    kind = _kind(status, error, head)
    named = f"{status} {error}" if error and kind is Kind.CLIENT_ERROR else None
    return _verdict(kind, status, head, reason=named)


def failed_to_connect(reason: str) -> Verdict:
    """The verdict when upstream gave no head at all: no connection, or it was lost before one."""
    scope, rest, _ = _LAW[Kind.UPSTREAM_FAILURE]
    shown = "".join(c for c in reason[:200] if c.isprintable()) or "no connection"
    return Verdict(Kind.UPSTREAM_FAILURE, 0, shown, scope, rest)


def unanswered() -> Verdict:
    """The verdict on an attempt that ended before there was anything to judge: nobody is to blame."""
    return unsent(Kind.UNANSWERED)


def unsent(kind: Kind) -> Verdict:
    """The verdict when nothing was sent, for a reason that no account is to blame for, and none would help."""
    scope, rest, reason = _LAW[kind]
    return Verdict(kind, 0, reason, scope, rest)


def read_windows(headers: Sequence[tuple[bytes, bytes]], now: float) -> tuple[Window, ...]:
    """Every quota that the headers describe, in the order they are first named, at most `MAX_WINDOWS`."""
    return Head(headers, now).windows


def _verdict(kind: Kind, status: int, head: Head, *, reason: str | None = None, deliver: bool = False) -> Verdict:
    scope, rest, template = _LAW[kind]
    if kind is Kind.OK:
        return Verdict(kind, status, template, scope, rest, head.windows, deliver=deliver)
    return Verdict(
        kind,
        status,
        reason or template.format(status=status, limit=head.limit(model=kind is Kind.MODEL_BUCKET_SPENT)),
        scope,
        rest,
        head.windows,
        until=_until(kind, head),
        may_retry=status < 500 or head.may_retry(),
        deliver=deliver or kind is Kind.CLIENT_ERROR,
    )


def _kind(status: int, error: str | None, head: Head) -> Kind:
    """The kind of an answer that is no success; `error` is the type its body names, if it names one."""
    if status == 429:
        return _kind_of_429(head)
    if status >= 400 and head.says(LEGACY_HARD):
        return Kind.WINDOW_SPENT
    if status == 529:
        return Kind.OVERLOADED
    if status >= 500 or status < 100:
        return Kind.UPSTREAM_FAILURE
    if status == 401 or (status == 403 and error == "authentication_error"):
        return Kind.CREDENTIAL_REJECTED
    if status == 403 and (not error or error == "permission_error"):
        return Kind.PERMISSION_DENIED
    return Kind.CLIENT_ERROR


def _kind_when_served(head: Head) -> Kind:
    """A 2xx is good, but it can say that the next request will be refused."""
    if not head.says(HARD) or head.aggregate(b"overage-status") in SOFT:
        return Kind.OK
    if any(w.status in HARD and not is_bucket(w.name) for w in head.windows):
        return Kind.WINDOW_SPENT
    if head.status not in HARD:
        return Kind.OK  # a bucket is spent, but not that of the model that was just served
    return Kind.MODEL_BUCKET_SPENT if head.spent(model=True) or head.claims_a_bucket() else Kind.WINDOW_SPENT


def _kind_of_429(head: Head) -> Kind:
    if not head.is_limited():
        return Kind.BARE_429
    if head.spent(model=False):
        return Kind.WINDOW_SPENT
    if head.spent(model=True) or head.claims_a_bucket():
        return Kind.MODEL_BUCKET_SPENT
    if head.aggregate(b"overage-disabled-reason") == "out_of_credits" and head.account_reset() is None:
        return Kind.OUT_OF_CREDITS
    if head.is_calm() and (head.retry_at or math.inf) <= head.now + SHORT:
        return Kind.SHORT_THROTTLE
    return Kind.WINDOW_SPENT


def _until(kind: Kind, head: Head) -> float | None:
    """The end of the rest that upstream named, in epoch seconds; None if it named none."""
    moment, longest = None, LONGEST_COOLDOWN
    if kind is Kind.WINDOW_SPENT:
        moment = head.account_reset()
    elif kind is Kind.MODEL_BUCKET_SPENT:
        moment = head.bucket_reset()
    elif kind in (Kind.SHORT_THROTTLE, Kind.OVERLOADED):
        moment, longest = head.retry_at, SHORT
    return None if moment is None else min(moment, head.now + longest)


def _error_type(event: Mapping[str, Any] | None) -> str | None:
    """The type of an error event or body, UNLISTED if nobody knows it, "" if there is none; None if it is no error."""
    if not isinstance(event, Mapping) or event.get("type") != "error":
        return None
    error = event.get("error")
    kind = error.get("type") if isinstance(error, Mapping) else None
    return known(kind) or UNLISTED if isinstance(kind, str) and kind else ""
