"""What the headers of an answer say about limits, read once and believed only where that makes sense. Pure.

The headers are those seen in the field: `anthropic-ratelimit-unified-<window>-<field>` and an aggregate beside them
for OAuth accounts, `anthropic-ratelimit-<family>-<field>` for API keys.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

BELIEVABLE = 366 * 86_400.0  # a reset further ahead is a unit mistake (milliseconds), not a reset
MAX_WINDOWS = 16
MAX_UTILIZATION = 100.0

LEGACY_HARD = frozenset({"rate_limited", "blocked", "queueing_hard", "payment_required"})
HARD = LEGACY_HARD | {"rejected"}
SOFT = frozenset({"allowed", "allowed_warning", "queueing_soft"})

_AGGREGATE = b"anthropic-ratelimit-unified-"
_LANES = (b"anthropic-fast-", b"anthropic-priority-")
_READ = (b"anthropic-ratelimit-", *_LANES, b"x-ratelimit-", b"retry-after", b"x-should-retry")
_WINDOW_FIELD = re.compile(
    rb"anthropic-ratelimit-(?:unified-)?(?!unified-|(?:overage|slow|grace|fallback)-)"  # no windows
    rb"([a-z0-9_.-]{1,64})-(status|utilization|reset|limit|remaining)"
)
_WORD = re.compile(rb"[a-z0-9_.-]{1,64}")
# A plain span or an API-key family holds for the whole account; any other name ("7d_oi") is a model's bucket.
_ACCOUNT_WINDOW = re.compile(r"\d{1,4}[smhdw]|.*(?:requests|tokens)")
_NAME = re.compile(r"\d{1,4}[smhdw](?:_[a-z]{1,20}){0,2}|(?:[a-z]{1,20}-){0,2}(?:requests|tokens)")
"""How windows are called; nothing secret looks so."""
OTHER = "other"
"""What is neither named nor rated in a way that is known."""
_HTTP_DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_ID = re.compile(rb"[0-9A-Za-z_-]{8,64}")
_LONG_NAMES = (("five_hour", "5h"), ("seven_day", "7d"), ("overage_included", "oi"))


class Window(NamedTuple):
    """One quota as upstream last described it; None where it did not say."""

    name: str  # "5h", "7d", "7d_oi", "requests", …
    status: str | None
    utilization: float | None  # a fraction; may exceed 1
    resets_at: float | None  # epoch seconds, in the future


def organization_of(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The id of the organization whose limits these are, if the answer names one."""
    for name, value in headers:
        if name.lower() == b"anthropic-organization-id" and _ID.fullmatch(value):
            return value.decode()
    return None


class Head:
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
        self.status = _status(self.alone.get(_AGGREGATE + b"status"))

    def aggregate(self, field: bytes) -> str | None:
        return word(self.alone.get(_AGGREGATE + field))

    @property
    def claim(self) -> str | None:
        """The window that decided, spelt like the windows: "7d_oi" for `seven_day_overage_included`."""
        claim = self.aggregate(b"representative-claim")
        short = _short_name(claim) if claim else None
        return short if short is None or is_named(short) else OTHER

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
        return not words.isdisjoint([self.status, *[w.status for w in self.windows]])

    def is_calm(self) -> bool:
        """Whether every status lets requests through. A claim without any status names a spent window."""
        given = {self.status, *(w.status for w in self.windows)} - {None}
        return given <= SOFT and bool(given or not self.claim)

    def spent(self, *, model: bool) -> list[Window]:
        """The windows that caused a rejection: those of the account, or the buckets of single models."""
        return [w for w in self.windows if _is_spent(w) and is_bucket(w.name) is model]

    def claims_a_bucket(self) -> bool:
        """Whether the aggregate lays the rejection on a model's bucket."""
        return self.status not in SOFT and self.claim is not None and is_bucket(self.claim)

    def account_reset(self) -> float | None:
        """When the account is usable again, in epoch seconds. A window that is not spent has no say."""
        if resets := _resets(self.spent(model=False)):
            return max(resets)
        moment = None
        if self.status not in SOFT:
            claimed = [w for w in self.windows if _short_name(w.name) == self.claim and w.status not in SOFT]
            moment = max(_resets(claimed), default=_moment(self.alone.get(_AGGREGATE + b"reset"), self.now))
        return moment or self.retry_at or _other_reset(self.alone.get(b"x-ratelimit-reset"), self.now)

    def bucket_reset(self) -> float | None:
        """When the model's bucket is usable again, in epoch seconds; `retry-after` is the more exact one."""
        reset = max(_resets(self.spent(model=True)), default=None)
        return self.retry_at or reset or _moment(self.alone.get(_AGGREGATE + b"reset"), self.now)

    def lane_reset(self, mode: str) -> float | None:
        """When a mode with limits of its own ("fast", "priority", "slow") is usable again, in epoch seconds."""
        if mode == "slow":
            return self.retry_at or _retry_at(self.alone.get(_AGGREGATE + b"slow-retry-after"), self.now)
        resets = [
            moment
            for name, value in self.alone.items()
            if name.startswith(b"anthropic-%s-" % mode.encode()) and name.endswith(b"-reset") and self._is_used_up(name)
            if (moment := _moment(value, self.now)) is not None
        ]
        return max(resets, default=self.retry_at)

    def _is_used_up(self, reset: bytes) -> bool:
        remaining = _number(self.alone.get(reset.removesuffix(b"reset") + b"remaining"))
        return remaining is not None and remaining <= 0

    def limits_a_key(self) -> bool:
        """Whether what is spent are requests or tokens of an API key, which are counted by model class."""
        spent = self.spent(model=False)
        return bool(spent) and all(window.name.endswith(("requests", "tokens")) for window in spent)

    def limit(self, *, model: bool) -> str:
        """What is spent, for people: windows of the account, or with `model` those of a model."""
        names = [w.name for w in self.spent(model=model)[:3]]
        if not names and self.claim and not self.is_calm():
            names = [self.claim]
        return f"{' and '.join(names)} window spent" if names else "rate limit reached"


@lru_cache(maxsize=256)  # upstream sends the same few dozen names with every answer
def _place(name: bytes) -> tuple[str, bytes] | None:
    """The window and field of a header; ("", its name) if it stands alone; None if it is not about limits."""
    name = name.lower()
    if found := _WINDOW_FIELD.fullmatch(name):
        window = found[1].decode()
        return (window if is_named(_short_name(window)) else OTHER), found[2]
    return ("", name) if name.startswith(_READ) else None


def _window(name: str, fields: Mapping[bytes, bytes], now: float) -> Window:
    status, used = _status(fields.get(b"status")), _used(fields)
    if status in HARD:  # whatever utilization came with it
        used = max(used or 1.0, 1.0)
    return Window(name, status, used, _moment(fields.get(b"reset"), now))


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
    return window.status in HARD


def is_bucket(name: str) -> bool:
    return _ACCOUNT_WINDOW.fullmatch(_short_name(name)) is None


def _short_name(name: str) -> str:
    for long, short in _LONG_NAMES:
        name = name.replace(long, short)
    return name


def is_named(name: str) -> bool:
    """Whether a window that is called so, in short, can be shown by that name."""
    return _NAME.fullmatch(name) is not None


def _status(value: bytes | None) -> str | None:
    status = word(value)
    return status if status is None or status in HARD | SOFT else OTHER


def _resets(windows: Sequence[Window]) -> list[float]:
    return [w.resets_at for w in windows if w.resets_at is not None]


def word(value: bytes | None) -> str | None:
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
