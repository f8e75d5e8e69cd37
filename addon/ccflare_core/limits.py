"""What an upstream answer means for the account that got it.

`classify` turns a status, its headers and the error it carries, if any, into a `Verdict`: the kind, who has
to rest and for how long. It is pure and never raises; a value that makes no sense counts as not said.

The headers are those seen in the field: `anthropic-ratelimit-unified-<window>-<field>` and an aggregate
beside them for OAuth accounts, `anthropic-ratelimit-<family>-<field>` for API keys.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple

DAY = 86_400.0
LONGEST_REST = 8 * DAY  # a weekly window and a day of grace; what is spent for longer shows when it is tried
BELIEVABLE = 366 * DAY  # a reset further ahead is a unit mistake (milliseconds), not a reset
SHORT = 60.0  # a `retry-after` up to here is a throttle when no window is spent
MAX_WINDOWS = 16
MAX_UTILIZATION = 100.0


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


class Scope(StrEnum):
    """What has to rest: nothing, the account, or the account for one model family."""

    NONE = "none"
    ACCOUNT = "account"
    FAMILY = "family"


class Window(NamedTuple):
    """One quota as upstream last described it; None where it did not say."""

    name: str  # "5h", "7d", "7d_oi", "requests", …
    status: str | None
    utilization: float | None  # a fraction; may exceed 1
    resets_at: float | None  # epoch seconds, in the future


class Rest(NamedTuple):
    """How long to rest when upstream names no reset; it grows with the streak of such verdicts."""

    seconds: float
    growth: Literal["fixed", "double", "add"]
    ceiling: float

    def after(self, streak: int) -> float:
        """Seconds to rest after the `streak`-th verdict in a row (1 = the first), at most the ceiling."""
        nth = min(max(streak, 1), 64)  # beyond 64 every rest is at its ceiling, and 2**nth still fits a float
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
    rest: Rest | None
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
    rest: Rest | None
    reason: str


# The law: kind -> who rests, for how long if no reset is known, and how people are told.
_LAW = {
    Kind.OK: _Rule(Scope.NONE, None, "ok"),
    Kind.WINDOW_SPENT: _Rule(Scope.ACCOUNT, Rest(60.0, "double", 300.0), "{limit}"),
    Kind.MODEL_BUCKET_SPENT: _Rule(Scope.FAMILY, Rest(60.0, "double", 300.0), "{limit}"),
    Kind.OUT_OF_CREDITS: _Rule(Scope.FAMILY, Rest(300.0, "fixed", 300.0), "out of credits"),
    Kind.BARE_429: _Rule(Scope.NONE, None, "429 that names no limit"),
    Kind.SHORT_THROTTLE: _Rule(Scope.ACCOUNT, Rest(1.0, "fixed", SHORT), "short throttle"),
    Kind.OVERLOADED: _Rule(Scope.ACCOUNT, Rest(10.0, "fixed", 10.0), "{status} overloaded"),
    Kind.UPSTREAM_FAILURE: _Rule(Scope.ACCOUNT, Rest(5.0, "add", 60.0), "{status} from upstream"),
    Kind.CREDENTIAL_REJECTED: _Rule(Scope.ACCOUNT, Rest(300.0, "double", 3600.0), "credential rejected"),
    Kind.PERMISSION_DENIED: _Rule(Scope.ACCOUNT, Rest(300.0, "fixed", 300.0), "permission denied"),
    Kind.CLIENT_ERROR: _Rule(Scope.NONE, None, "{status} passed on"),
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

_LEGACY_HARD = frozenset({"rate_limited", "blocked", "queueing_hard", "payment_required"})
_HARD = _LEGACY_HARD | {"rejected"}
_SOFT = frozenset({"allowed", "allowed_warning", "queueing_soft"})

_AGGREGATE = b"anthropic-ratelimit-unified-"
_READ = (b"anthropic-ratelimit-", b"x-ratelimit-", b"retry-after", b"x-should-retry")
_WINDOW_FIELD = re.compile(
    rb"anthropic-ratelimit-(?:unified-)?(?!unified-|overage-)"  # those two are no windows
    rb"([a-z0-9_.-]{1,64})-(status|utilization|reset|limit|remaining)"
)
_WORD = re.compile(rb"[a-z0-9_.-]{1,64}")
# A plain span or an API-key family holds for the whole account; any other name ("7d_oi") is a model's bucket.
_ACCOUNT_WINDOW = re.compile(r"\d{1,4}[smhdw]|.*(?:requests|tokens)")
_HTTP_DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_LONG_NAMES = (("five_hour", "5h"), ("seven_day", "7d"), ("overage_included", "oi"))


def classify(
    status: int, headers: Sequence[tuple[bytes, bytes]], first_event: Mapping[str, Any] | None, now: float
) -> Verdict:
    """What this answer means at `now` (epoch seconds).

    `first_event` is the parsed SSE `error` event or JSON error body; any other value counts as no error.
    """
    head = _Head(headers, now)
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


def read_windows(headers: Sequence[tuple[bytes, bytes]], now: float) -> tuple[Window, ...]:
    """Every quota that the headers describe, in the order they are first named, at most `MAX_WINDOWS`."""
    return _Head(headers, now).windows


def _verdict(kind: Kind, status: int, head: "_Head", *, reason: str | None = None, deliver: bool = False) -> Verdict:
    scope, rest, template = _LAW[kind]
    if kind is Kind.OK:
        return Verdict(kind, status, template, scope, rest, head.windows, deliver=deliver)
    return Verdict(
        kind,
        status,
        reason or template.format(status=status, limit=head.limit(kind)),
        scope,
        rest,
        head.windows,
        until=_until(kind, head),
        may_retry=status < 500 or head.may_retry(),
        deliver=deliver or kind is Kind.CLIENT_ERROR,
    )


def _kind(status: int, error: str | None, head: "_Head") -> Kind:
    """The kind of an answer that is no success; `error` is the type its body names, if it names one."""
    if status == 429:
        return _kind_of_429(head)
    if status >= 400 and head.says(_LEGACY_HARD):
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


def _kind_when_served(head: "_Head") -> Kind:
    """A 2xx is good, but it can say that the next request will be refused."""
    if not head.says(_HARD) or head.aggregate(b"overage-status") in _SOFT:
        return Kind.OK
    if any(w.status in _HARD and not _is_bucket(w.name) for w in head.windows):
        return Kind.WINDOW_SPENT
    if head.status not in _HARD:
        return Kind.OK  # a bucket is spent, but not that of the model that was just served
    return Kind.MODEL_BUCKET_SPENT if head.spent(model=True) or head.claims_a_bucket() else Kind.WINDOW_SPENT


def _kind_of_429(head: "_Head") -> Kind:
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


def _until(kind: Kind, head: "_Head") -> float | None:
    """The end of the rest that upstream named, in epoch seconds; None if it named none."""
    moment, longest = None, LONGEST_REST
    if kind is Kind.WINDOW_SPENT:
        moment = head.account_reset()
    elif kind is Kind.MODEL_BUCKET_SPENT:
        moment = head.bucket_reset()
    elif kind in (Kind.SHORT_THROTTLE, Kind.OVERLOADED):
        moment, longest = head.retry_at, SHORT
    return None if moment is None else min(moment, head.now + longest)


class _Head:
    """The headers of one answer that are about limits. Of a header that came twice the last one counts."""

    __slots__ = ("alone", "now", "status", "windows")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], now: float) -> None:
        self.now = now
        self.alone: dict[bytes, bytes] = {}
        windows: dict[str, dict[bytes, bytes]] = {}
        for name, value in headers:
            if (place := _place(name)) is None:
                continue
            window, field = place
            if not window:
                self.alone[field] = value
            elif window in windows:
                windows[window][field] = value
            elif len(windows) < MAX_WINDOWS:
                windows[window] = {field: value}
        self.windows = tuple([_window(name, fields, now) for name, fields in windows.items()])
        self.status = self.aggregate(b"status")

    def aggregate(self, field: bytes) -> str | None:
        return _word(self.alone.get(_AGGREGATE + field))

    @property
    def claim(self) -> str | None:
        """The window that decided, spelt like the windows: "7d_oi" for `seven_day_overage_included`."""
        claim = self.aggregate(b"representative-claim")
        return claim and _short_name(claim)

    @property
    def retry_at(self) -> float | None:
        return _retry_at(self.alone.get(b"retry-after"), self.now)

    def may_retry(self) -> bool:
        return self.alone.get(b"x-should-retry", b"").strip().lower() != b"false"

    def is_limited(self) -> bool:
        """Whether any header is about limits at all. Without one a 429 is not about the account."""
        return bool(self.windows or self.alone.keys() - {b"x-should-retry"})

    def says(self, words: frozenset[str]) -> bool:
        """Whether the aggregate or any window has one of these statuses."""
        return self.status in words or any(w.status in words for w in self.windows)

    def is_calm(self) -> bool:
        """Whether every status lets requests through. A claim without any status names a spent window."""
        given = {self.status, *(w.status for w in self.windows)} - {None}
        return given <= _SOFT and bool(given or not self.claim)

    def spent(self, *, model: bool) -> list[Window]:
        """The windows that caused a rejection: those of the account, or the buckets of single models."""
        return [w for w in self.windows if _is_spent(w) and _is_bucket(w.name) is model]

    def claims_a_bucket(self) -> bool:
        """Whether the aggregate lays the rejection on a model's bucket."""
        return self.status not in _SOFT and self.claim is not None and _is_bucket(self.claim)

    def account_reset(self) -> float | None:
        """When the account is usable again, in epoch seconds. A window that is not spent has no say."""
        if resets := _resets(self.spent(model=False)):
            return max(resets)
        moment = None
        if self.status not in _SOFT:
            claimed = [w for w in self.windows if _short_name(w.name) == self.claim and w.status not in _SOFT]
            moment = max(_resets(claimed), default=_moment(self.alone.get(_AGGREGATE + b"reset"), self.now))
        return moment or self.retry_at or _other_reset(self.alone.get(b"x-ratelimit-reset"), self.now)

    def bucket_reset(self) -> float | None:
        """When the model's bucket is usable again, in epoch seconds; `retry-after` is the more exact one."""
        reset = max(_resets(self.spent(model=True)), default=None)
        return self.retry_at or reset or _moment(self.alone.get(_AGGREGATE + b"reset"), self.now)

    def limit(self, kind: Kind) -> str:
        """What is spent, for people."""
        names = [w.name for w in self.spent(model=kind is Kind.MODEL_BUCKET_SPENT)[:3]]
        if not names and self.claim and not self.is_calm():
            names = [self.claim]
        return f"{' and '.join(names)} window spent" if names else "rate limit reached"


@lru_cache(maxsize=256)  # upstream sends the same few dozen names with every answer
def _place(name: bytes) -> tuple[str, bytes] | None:
    """The window and field of a header; ("", its name) if it stands alone; None if it is not about limits."""
    name = name.lower()
    if found := _WINDOW_FIELD.fullmatch(name):
        return found[1].decode(), found[2]
    return ("", name) if name.startswith(_READ) else None


def _window(name: str, fields: Mapping[bytes, bytes], now: float) -> Window:
    return Window(name, _word(fields.get(b"status")), _used(fields), _moment(fields.get(b"reset"), now))


def _used(fields: Mapping[bytes, bytes]) -> float | None:
    """The used share: as told to OAuth accounts, reckoned from limit and remainder for API keys."""
    used = _number(fields.get(b"utilization"))
    remaining = _number(fields.get(b"remaining"))
    if used is None and remaining is not None:
        limit = _number(fields.get(b"limit"))
        if remaining <= 0:
            used = 1.0
        elif limit is not None and limit > 0:
            used = 1.0 - remaining / limit
    return used if used is not None and 0.0 <= used <= MAX_UTILIZATION else None


def _is_spent(window: Window) -> bool:
    """Whether a window caused a rejection. API-key families have no status, only what remains."""
    if window.status is None:
        return window.utilization is not None and window.utilization >= 1.0
    return window.status in _HARD


def _is_bucket(name: str) -> bool:
    return _ACCOUNT_WINDOW.fullmatch(_short_name(name)) is None


def _short_name(name: str) -> str:
    for long, short in _LONG_NAMES:
        name = name.replace(long, short)
    return name


def _resets(windows: Sequence[Window]) -> list[float]:
    return [w.resets_at for w in windows if w.resets_at is not None]


def _error_type(event: Mapping[str, Any] | None) -> str | None:
    """The type of an error event or body, "" if it names none that can be shown; None if it is no error."""
    if not isinstance(event, Mapping) or event.get("type") != "error":
        return None
    error = event.get("error")
    kind = error.get("type") if isinstance(error, Mapping) else None
    return _word(kind.encode(errors="replace")) or "" if isinstance(kind, str) else ""


def _word(value: bytes | None) -> str | None:
    """A short token in lower case, fit to be stored and shown; None for anything else."""
    if value is None:
        return None
    value = value.strip().lower()
    return value.decode() if _WORD.fullmatch(value) else None


def _number(value: bytes | None) -> float | None:
    """A finite number; None for anything else."""
    if value is None or len(value) > 32:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _moment(value: bytes | None, now: float) -> float | None:
    """A believable moment ahead of now, in epoch seconds, from epoch seconds or RFC 3339; else None."""
    if value is not None and value[4:5] == b"-":
        return _ahead(_date(value), now)
    return _ahead(_number(value), now)


def _retry_at(value: bytes | None, now: float) -> float | None:
    """`retry-after` as epoch seconds, from a delay in seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if value is not None and _HTTP_DATE.fullmatch(value.strip()):
        return _ahead(_http_date(value.strip()), now)
    seconds = _number(value)
    if seconds is None or seconds < 0:
        return None
    return _ahead(now + max(seconds, 1.0), now)  # "0" means at once; a breath keeps it from being a busy loop


def _other_reset(value: bytes | None, now: float) -> float | None:
    """`x-ratelimit-reset`: seconds to wait, or epoch seconds when the number is too large for that."""
    number = _number(value)
    return _ahead(now + number if number is not None and number <= 1e9 else number, now)


def _ahead(moment: float | None, now: float) -> float | None:
    return moment if moment is not None and now < moment <= now + BELIEVABLE else None


def _date(value: bytes) -> float | None:
    try:
        date = datetime.fromisoformat(value[:64].decode())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _http_date(value: bytes) -> float | None:
    try:
        return parsedate_to_datetime(value.decode()).timestamp()
    except (ValueError, OverflowError):
        return None
