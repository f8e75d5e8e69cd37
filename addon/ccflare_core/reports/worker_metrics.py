"""Families of metrics of several workers as one page has them: each sample says whose it is. Pure.

A scrape reaches one worker at random, and a counter that came from another one each time would seem to jump. So each
worker asks the others, and answers for all.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ccflare_core.reports.metrics import Family, Histogram, Kind, Sample

WORKER: Final = "worker"
"""The label that says whose a sample is."""


def write(families: Iterable[Family]) -> bytes:
    """The families as one worker hands them to another."""
    told = [[*family[:4], [[each.labels, _told(each.value)] for each in family.samples]] for family in families]
    return json.dumps(told).encode()


def _told(value: float | Histogram) -> object:
    return value.told() if isinstance(value, Histogram) else value


def read(text: bytes) -> list[Family]:
    """What was written so. Raises ValueError if it was not."""
    try:
        return [_family(*told) for told in json.loads(text)]
    except (TypeError, KeyError) as error:
        raise ValueError("these are no families of metrics") from error


def _family(name: str, kind: str, about: str, labels: list[str], samples: list[Any]) -> Family:
    found = [Sample(tuple(values), _value(value)) for values, value in samples]
    texts = [name, about, *labels, *(value for sample in found for value in sample.labels)]
    if not all(isinstance(text, str) for text in texts) or any(len(each.labels) != len(labels) for each in found):
        raise ValueError("the labels are not those of the family")
    return Family(name, Kind(kind), about, tuple(labels), tuple(found))


def _value(told: Any) -> float | Histogram:
    if not isinstance(told, dict):
        return float(told)
    found = Histogram.of(**told)
    found.buckets()  # it has a number for each bound, or there is none of this
    return found


def merged(by_worker: Mapping[int, Iterable[Family]]) -> Iterator[Family]:
    """One family of each name, whose samples have the worker's number as one more label.

    What a worker of another version has under that name is left out, if it has other labels or is of another kind.
    """
    found: dict[str, Family] = {}
    for number in sorted(by_worker):
        for family in by_worker[number]:
            samples = tuple(each._replace(labels=(*each.labels, str(number))) for each in family.samples)
            first = found.get(family.name)
            if first is not None and (first.kind, first.labels) != (family.kind, (*family.labels, WORKER)):
                continue
            found[family.name] = (
                family._replace(labels=(*family.labels, WORKER), samples=samples)
                if first is None
                else first._replace(samples=(*first.samples, *samples))
            )
    yield from found.values()
