"""Figures as people read them, in tables and on pages: counts, money, durations, shares, times. Pure."""

import math
from datetime import UTC, datetime

from ccflare_core.reports.forecast import Course, Forecast

DASH = "–"
"""Stands where there is nothing to tell. Never where something is unknown: that is `?`."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(number: int | None) -> str:
    """`1,204`, from a hundred thousand on `1.23M`; a dash for None."""
    if number is None:
        return DASH
    if number < 100_000:
        return f"{number:,}"
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if number >= limit * 0.9995:
            return f"{number / limit:.2f}{unit}"
    return f"{number / 1e3:.0f}k"


def money(usd: float | None, unknown: int = 0) -> str:
    """`$12.34`, below a dollar `$0.0123`; `?` for an unknown amount, `$1.23 + ?` if a part is known."""
    if usd is None or (unknown and not usd):
        return "?"
    text = f"${usd:,.2f}" if usd >= 0.99995 or usd == 0 else f"${usd:.4f}"
    return f"{text} + ?" if unknown else text


def duration(seconds: float | None) -> str:
    """`850 ms`, `95.2 s`, `2 min 5 s`, `1 h 12 min`, `3 d 4 h`; a dash for None."""
    if seconds is None:
        return DASH
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "min")
    return _two(whole, _DAY, "d", _HOUR, "h")


def _two(whole: int, big: int, big_unit: str, small: int, small_unit: str) -> str:
    rest = whole % big // small
    return f"{whole // big} {big_unit}" + (f" {rest} {small_unit}" if rest else "")


def percent(fraction: float | None, digits: int = 1) -> str:
    """`99.3 %`; rounded down, so that `100 %` means all of it; a dash for None."""
    if fraction is None:
        return DASH
    scale = 10**digits
    # The inner rounding undoes binary fractions: 0.29 * 100 is 28.999…
    floored = math.floor(round(fraction * 100 * scale, 6)) / scale
    return f"{floored:.0f} %" if floored == int(floored) else f"{floored:.{digits}f} %"


def moment(at: float | None, now: float, *, seconds: bool = False) -> str:
    """Local time, short where clear: `14:20` today, `Mon 14:20` this week, else `2026-11-01 14:20`."""
    if at is None:
        return DASH
    then, today = local(at), local(now)
    clock = f"{then:%H:%M:%S}" if seconds else f"{then:%H:%M}"
    days = abs((then.date() - today.date()).days)
    if days == 0:
        return clock
    return f"{then:%a} {clock}" if days < 7 else f"{then:%Y-%m-%d} {clock}"


def local(at: float) -> datetime:
    """Epoch seconds as an aware datetime in this machine's time zone."""
    return datetime.fromtimestamp(at, UTC).astimezone()


def short_model(model: str | None) -> str:
    """A model's name without the `claude-` that all of them have."""
    return (model or "").removeprefix("claude-")


def foretell(found: Forecast | None, now: float) -> str:
    """`full at 14:20, about 35 turns left, resets 15:00`."""
    if found is None:
        return DASH
    resets = "" if found.resets_at is None else f", resets {moment(found.resets_at, now)}"
    match found.course:
        case Course.FILLS:
            return f"{foretell_end(found, now)}{resets}"
        case Course.HOLDS:
            return f"not full before its reset at {moment(found.resets_at, now)}" if resets else "not filling"
        case Course.SPENT:
            return f"spent{resets}"
        case Course.EMPTY:
            return "empty again"
        case _:
            return f"too few readings{resets}"


def foretell_end(found: Forecast | None, now: float) -> str:
    """`full at 14:20, about 35 turns left`; "" of what is not full before its reset, as far as that is known."""
    if found is None or found.full_at is None:
        return ""
    return f"full at {moment(found.full_at, now)}{_about_turns(found.turns_left)}"


def _about_turns(left: float | None) -> str:
    """In two digits: it is an estimate."""
    if left is None:
        return ""
    number = int(float(f"{max(left, 1):.2g}"))
    return f", about {count(number)} {'turn' if number == 1 else 'turns'} left"
