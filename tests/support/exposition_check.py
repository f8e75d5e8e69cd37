"""Reads a page for Prometheus and names all that is wrong with it, more strictly than promtool and the libraries do.

Those let pass: a series that stands there twice, a family in two places, a family without a TYPE, a counter below
zero, a histogram without its last bucket.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
_VALUE = r'"(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*)\}})? (\S+)")
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)")
_LABEL = re.compile(rf"({_NAME})=({_VALUE})")
_PARTS = ("_bucket", "_count", "_sum")


class Series(NamedTuple):
    """One line of the page."""

    name: str
    labels: dict[str, str]
    value: float


class Page(NamedTuple):
    """What stands on it, and what is wrong with it."""

    types: dict[str, str]
    """By family, in their order."""
    series: list[Series]
    mistakes: list[str]

    def value(self, name: str, **labels: str) -> float | None:
        """That of the one series with exactly these labels; None without it."""
        return next((each.value for each in self.series if (each.name, each.labels) == (name, labels)), None)


def read_exposition(text: bytes) -> Page:
    """The page. What cannot be read is left out, and a mistake."""
    page = Page({}, [], [])
    if not text.endswith(b"\n") or b"\r" in text or b"\t" in text:
        page.mistakes.append("it does not end with a line feed, or has a carriage return or a tab")
    helped, order = list[str](), list[str]()
    for line in text.decode().splitlines():
        if comment := _COMMENT.fullmatch(line):
            what, family, told = comment.groups()
            if what == "HELP":
                helped.append(family)
            elif family in page.types:
                page.mistakes.append(f"{family} has two TYPEs")
            else:
                page.types[family] = told
        elif sample := _SAMPLE.fullmatch(line):
            series = Series(sample[1], _labels(sample[2] or ""), _number(sample[3]))
            page.series.append(series)
            family = _family(series.name, page.types)
            if not order or order[-1] != family:
                order.append(family)
        else:
            page.mistakes.append(f"no line of the format: {line!r}")
    page.mistakes.extend(_of_families(page, helped, order))
    page.mistakes.extend(_of_series(page))
    page.mistakes.extend(_of_histograms(page))
    return page


def _labels(text: str) -> dict[str, str]:
    unescaped = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
    return {
        name: re.sub(r"\\.", lambda escape: unescaped[escape[0]], value[1:-1]) for name, value in _LABEL.findall(text)
    }


def _number(text: str) -> float:
    try:
        return float(text.replace("Inf", "inf"))
    except ValueError:
        return math.nan


def _family(name: str, types: dict[str, str]) -> str:
    for part in _PARTS:
        if types.get(name.removesuffix(part)) == "histogram" and name.endswith(part):
            return name.removesuffix(part)
    return name


def _of_families(page: Page, helped: list[str], order: list[str]) -> Iterator[str]:
    for family, number in Counter(order).items():
        if family not in page.types:
            yield f"{family} has no TYPE before it"
        if number > 1:
            yield f"{family} stands in {number} places"
    if helped != list(page.types):
        yield "not every family has one HELP before its TYPE"
    for family, kind in page.types.items():
        if kind not in ("counter", "gauge", "histogram"):
            yield f"{family} is a {kind}"
        if (kind == "counter") != family.endswith("_total"):
            yield f"{family} is a {kind} by its TYPE and not by its name"


def _of_series(page: Page) -> Iterator[str]:
    found = Counter((each.name, *sorted(each.labels.items())) for each in page.series)
    yield from (f"{which} stands there {number} times" for which, number in found.items() if number > 1)
    for each in page.series:
        kind = page.types.get(_family(each.name, page.types))
        if math.isnan(each.value) or (kind != "gauge" and each.value < 0):
            yield f"{each.name} has the value {each.value}"
    names: dict[str, set[tuple[str, ...]]] = {}
    for each in page.series:
        names.setdefault(each.name, set()).add(tuple(sorted(each.labels)))
    yield from (f"{name} has labels of several kinds" for name, kinds in names.items() if len(kinds) > 1)


def _of_histograms(page: Page) -> Iterator[str]:
    for family in (name for name, kind in page.types.items() if kind == "histogram"):
        rest = {
            tuple(sorted((name, value) for name, value in each.labels.items() if name != "le"))
            for each in page.series
            if _family(each.name, page.types) == family
        }
        for labels in rest:
            yield from _of_histogram(page, family, dict(labels))


def _of_histogram(page: Page, family: str, labels: dict[str, str]) -> Iterator[str]:
    buckets = [
        (_number(each.labels["le"]), each.value)
        for each in page.series
        if each.name == f"{family}_bucket" and {k: v for k, v in each.labels.items() if k != "le"} == labels
    ]
    if buckets != sorted(buckets) or [number for _, number in buckets] != sorted(number for _, number in buckets):
        yield f"{family} has buckets out of order"
    count, total = page.value(f"{family}_count", **labels), page.value(f"{family}_sum", **labels)
    if not buckets or buckets[-1][0] != math.inf or buckets[-1][1] != count or total is None:
        yield f"{family} has no last bucket that is its count, or no sum"
