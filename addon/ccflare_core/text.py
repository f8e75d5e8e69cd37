"""How names, times, durations and sizes are written: for people, for programs, and in the database."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import overload

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_BEGINNINGS = re.compile(r"(an?|another|its?|no|nobody|nothing|one|that|the|there|these|this|what)( |$)")
"""Words of ours, and nobody's name, that a message may begin with."""


def composed(text: str) -> str:
    """The text in the one spelling of all that look the same (NFC): keyboards and file systems differ in it."""
    return unicodedata.normalize("NFC", text)


def local_time(moment: float, now: float) -> str:
    """An epoch time for people, local, as short as it can be told: "14:20", "14:20:05", "Tue 14:20"."""
    local, today = (datetime.fromtimestamp(at, UTC).astimezone() for at in (moment, now))
    if moment - now < 120:
        return f"{local:%H:%M:%S}"
    if local.date() == today.date():
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if moment - now < 6 * 86400 else f"{local:%a %d %b %H:%M}"


@overload
def to_ms(seconds: None) -> None: ...
@overload
def to_ms(seconds: float) -> int: ...
@overload
def to_ms(seconds: float | None) -> int | None: ...
def to_ms(seconds: float | None) -> int | None:
    """An epoch time or a duration in the integer milliseconds of the database. None stays None."""
    return None if seconds is None else round(seconds * 1000)


def to_seconds(ms: float | None) -> float | None:
    """A time or a duration of the database in seconds."""
    return None if ms is None else ms / 1000


@overload
def iso(moment: None) -> None: ...
@overload
def iso(moment: float) -> str: ...
@overload
def iso(moment: float | None) -> str | None: ...
def iso(moment: float | None) -> str | None:
    """An epoch time for programs, UTC in whole seconds: `2026-11-01T14:20:00Z`. None stays None."""
    return None if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def span(seconds: float) -> str:
    """A duration in one unit, rounded: `45 s`, `25 min`, `6 h`, `3 days`."""
    for unit, name in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= (2 if unit == _DAY else 1) * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def size(number: int) -> str:
    """`340 bytes`, `4.2 kB`, `12.0 MB`, `3.1 GB`, by powers of 1000."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return some(number, "byte")


def some(number: int, noun: str) -> str:
    """`1 request`, `2 requests`, `1,204 entries`, `2 addresses`."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """The noun as it stands behind the number."""
    ends = ("es" if noun.endswith(("ss", "sh", "ch", "x")) else "s") if number != 1 else ""
    stem = f"{noun[:-1]}ie" if ends and noun.endswith("y") and noun[-2] not in "aeiou" else noun
    return f"{stem}{ends}"


def sentence(message: str) -> str:
    """An error's message as a sentence by itself: written small and without a stop, it can also follow a colon.

    A name that stands in front keeps its spelling.
    """
    if _BEGINNINGS.match(message):
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "!", "?", ":")) or not message else f"{message}."


def worded(value: str) -> str:
    """A value that programs read, such as `upstream_error`, for people: `upstream error`."""
    return value.replace("_", " ")
