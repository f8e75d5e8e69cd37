"""Bars along time as geometry, for a template to draw as SVG; each with the words that say the same. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 600.0, 120.0
_GAP = 0.2
_LEAST = 1.5
"""How high a bar is at least of what is not nothing."""


class Bar(NamedTuple):
    """One bar, with what it stands for in words."""

    x: float
    y: float
    width: float
    height: float
    words: str


class Chart(NamedTuple):
    """One measure along time. `most` is the highest value, `begins` and `ends` are the names of the outer bars."""

    title: str
    bars: list[Bar]
    most: str
    begins: str
    ends: str
    words: str
    """The chart for who does not see it."""


def chart(
    title: str, names: Sequence[str], values: Sequence[float | None], show: Callable[[float | None], str]
) -> Chart:
    """A bar for each name; a value that is None has none."""
    known = [value for value in values if value is not None]
    most = max(known, default=0.0)
    step = WIDTH / max(len(names), 1)
    bars = [
        _bar(number * step, step, value / most, f"{name}: {show(value)}")
        for number, (name, value) in enumerate(zip(names, values, strict=True))
        if value and most
    ]
    begins, ends = (names[0], names[-1]) if names else ("", "")
    return Chart(title, bars, show(most), begins, ends, _told(title, names, values, show))


def _bar(x: float, step: float, share: float, words: str) -> Bar:
    height = max(share * HEIGHT, _LEAST)
    return Bar(round(x + step * _GAP / 2, 2), round(HEIGHT - height, 2), round(step * (1 - _GAP), 2), height, words)


def _told(title: str, names: Sequence[str], values: Sequence[float | None], show: Callable[[float | None], str]) -> str:
    measured = [(value, name) for name, value in zip(names, values, strict=True) if value]
    if not measured:
        return f"{title}: nothing in this time."
    most, at = max(measured)
    last = next((value for value in reversed(values) if value is not None), None)
    return f"{title} from {names[0]} to {names[-1]}: at most {show(most)} ({at}), {show(last)} at the end."
