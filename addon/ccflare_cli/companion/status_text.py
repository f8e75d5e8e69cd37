"""A session's state as one line: within a width, in colours, or by a template. Pure.

What does not fit is left out, the least important first.
"""

import re
from typing import NamedTuple

from ccflare_core.reports.session_state import Limit, SessionState
from ccflare_core.text import local_time

_BAR = 5
_FULL, _HALF_FULL = 0.9, 0.7
_GREEN, _YELLOW, _RED = "32", "33", "31"
_FIELD = re.compile(r"\{(\w+)\}")
_NOTHING = "ccflare: no record of it here"


class Part(NamedTuple):
    """A piece of the line. Of several the one with the highest rank goes first where there is no room."""

    text: str
    rank: int
    colour: str = ""


def line(state: SessionState | None, now: float, *, width: int, coloured: bool) -> str:
    """The line, of at most `width` characters."""
    parts = _parts(state, now) if state else [Part(_NOTHING, 0)]
    while len(parts) > 1 and _width(parts) > width:
        parts.remove(max(parts, key=lambda part: part.rank))
    shown = (f"\x1b[{part.colour}m{part.text}\x1b[0m" if coloured and part.colour else part.text for part in parts)
    return " · ".join(shown) if _width(parts) <= width else parts[0].text[:width]


def filled(template: str, state: SessionState | None, now: float) -> str:
    """The template with every known {name} replaced; an unknown one stays, so that it is seen."""
    fields = _fields(state, now) if state else {}
    known = dict.fromkeys(FIELDS, "") | fields
    return printable(_FIELD.sub(lambda found: known.get(found[1], found[0]), template))


FIELDS = (
    *("account", "five_hour", "five_hour_percent", "five_hour_resets"),
    *("seven_day", "seven_day_percent", "seven_day_resets", "free", "accounts", "cost", "moved", "alerts"),
)
"""What a template can have in it."""


def _fields(state: SessionState, now: float) -> dict[str, str]:
    found = {
        "account": state.account or "",
        "free": str(state.free),
        "accounts": str(state.accounts),
        "cost": "" if state.cost is None else _money(state.cost),
        "moved": str(state.moved),
        "alerts": ", ".join(state.alerts),
    }
    for window, name in (("5h", "five_hour"), ("7d", "seven_day")):
        if limit := state.limits.get(window):
            found[name] = bar(limit.used)
            found[f"{name}_percent"] = f"{limit.used:.0%}"
            found[f"{name}_resets"] = local_time(limit.resets_at, now) if limit.resets_at else ""
    return found


def _parts(state: SessionState, now: float) -> list[Part]:
    found = [Part(printable(state.account) if state.account else "ccflare", 0)]
    found += [Part(f"! {printable(alert)}", 2, _RED) for alert in state.alerts[:1]]
    found += [
        Part(_limit(name, limit, now), rank, _colour(limit.used))
        for name, rank in (("5h", 1), ("7d", 3))
        if (limit := state.limits.get(name))
    ]
    if state.moved:
        found.append(Part(f"moved {state.moved}×", 4))
    if state.cost:
        found.append(Part(_money(state.cost), 5))
    if state.accounts != 1:
        found.append(Part(f"{state.free} of {state.accounts} free", 6, "" if state.free else _RED))
    return found


def _limit(name: str, limit: Limit, now: float) -> str:
    end = f" → {local_time(limit.resets_at, now)}" if limit.resets_at else ""
    return f"{name} {bar(limit.used)} {limit.used:.0%}{end}"


def bar(used: float) -> str:
    """`███░░`; empty only for nothing, full only for everything."""
    cells = min(max(round(used * _BAR), used > 0), _BAR if used >= 1 else _BAR - 1)
    return "█" * cells + "░" * (_BAR - cells)


def _colour(used: float) -> str:
    return _RED if used >= _FULL else _YELLOW if used >= _HALF_FULL else _GREEN


def _money(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 0.01 else "<$0.01"


def _width(parts: list[Part]) -> int:
    return sum(len(part.text) for part in parts) + 3 * (len(parts) - 1)


def printable(text: str) -> str:
    """The text without what could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
