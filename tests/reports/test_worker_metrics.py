"""Metrics of several workers on one page: nothing is lost or added up on the way from one to another."""

import pytest

from ccflare_core.reports.metrics import Family, Histogram, Kind, Sample
from ccflare_core.reports.worker_metrics import merged, read, write


def some(value: float) -> list[Family]:
    """A counter, a gauge without labels, and a histogram."""
    took = Histogram((1.0, 2.0))
    took.add(value)
    return [
        Family("ccflare_requests_total", Kind.COUNTER, "Requests.", ("account",), (Sample(("max-1",), value),)),
        Family("ccflare_requests_open", Kind.GAUGE, "Open.", (), (Sample((), value),)),
        Family("ccflare_request_duration_seconds", Kind.HISTOGRAM, "Took.", (), (Sample((), took),)),
    ]


def shown(families: list[Family]) -> list[object]:
    """The families with what is in their histograms."""
    values = [
        [
            (each.labels, each.value.buckets() if isinstance(each.value, Histogram) else each.value)
            for each in family.samples
        ]
        for family in families
    ]
    return list(zip([family[:4] for family in families], values, strict=True))


def test_families_are_read_as_they_were_written() -> None:
    assert shown(read(write(some(1.5)))) == shown(some(1.5))


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'[["a", "b", "c", [], []]]', b'[["a","gauge","b",[],[[[],{}]]]]'])
def test_what_is_no_family_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


def test_each_sample_says_whose_it_is() -> None:
    requests, open_, took = merged({2: some(0.5), 1: some(1.5)})
    assert requests.labels == ("account", "worker")
    assert [(each.labels, each.value) for each in requests.samples] == [(("max-1", "1"), 1.5), (("max-1", "2"), 0.5)]
    assert [each.labels for each in open_.samples] == [("1",), ("2",)]
    assert len(took.samples) == 2
