"""The page for Prometheus: that it is one, by a check of ours that finds what other checks let pass."""

import math
import sys

import pytest

from ccflare_core.errors import NotInstalled
from ccflare_core.reports.exposition import exposition
from ccflare_core.reports.metrics import Family, Histogram, Kind, Sample
from exposition_check import read_exposition

ODD = 'a "name"\\n with\nall of it, é'
GOOD = b"""\
# HELP a_total What.
# TYPE a_total counter
a_total{kind="x"} 1
a_total{kind="y"} 2
# HELP b_seconds What.
# TYPE b_seconds histogram
b_seconds_bucket{le="1.0"} 1
b_seconds_bucket{le="+Inf"} 2
b_seconds_count 2
b_seconds_sum 3.5
"""


def a_histogram(*seconds: float) -> Histogram:
    found = Histogram((1.0, 5.0))
    for each in seconds:
        found.add(each)
    return found


def test_families_become_a_page_without_a_mistake() -> None:
    page = exposition(
        [
            Family("x_total", Kind.COUNTER, "How many.", ("kind",), (Sample(("b",), 2), Sample(("a",), 1.5))),
            Family("x_open", Kind.GAUGE, "How many\nnow.", (), (Sample((), -3),)),
            Family("x_seconds", Kind.HISTOGRAM, "How long.", (), (Sample((), a_histogram(0.5, 1, 2, 9)),)),
            Family("x_none", Kind.GAUGE, "Nothing.", ("account",), ()),
        ]
    )

    found = read_exposition(page.text)

    assert page.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert found.mistakes == []
    assert found.types == {"x_total": "counter", "x_open": "gauge", "x_seconds": "histogram", "x_none": "gauge"}
    assert (found.value("x_total", kind="a"), found.value("x_open")) == (1.5, -3)
    buckets = {bound: found.value("x_seconds_bucket", le=bound) for bound in ("1.0", "5.0", "+Inf")}
    assert buckets == {"1.0": 2, "5.0": 3, "+Inf": 4}
    assert (found.value("x_seconds_count"), found.value("x_seconds_sum")) == (4, 12.5)


def test_a_name_with_quotes_and_line_ends_stays_one_label() -> None:
    page = exposition([Family("x", Kind.GAUGE, "What.", ("account",), (Sample((ODD,), 1.0),))])
    found = read_exposition(page.text)
    assert (found.mistakes, found.value("x", account=ODD)) == ([], 1.0)


def test_without_the_library_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prometheus_client", "prometheus_client.exposition"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=r"prometheus_client: .*--with metrics"):
        exposition([])


def test_the_check_finds_nothing_on_a_good_page() -> None:
    assert read_exposition(GOOD).mistakes == []


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        (b'a_total{kind="y"} 2', b'a_total{kind="x"} 2', "stands there 2 times"),
        (b"b_seconds_sum 3.5\n", b'b_seconds_sum 3.5\na_total{kind="z"} 1\n', "a_total stands in 2 places"),
        (b"# TYPE a_total counter\n", b"", "a_total has no TYPE"),
        (b"# HELP a_total What.\n", b"", "one HELP"),
        (b"# TYPE a_total counter\n", b"# TYPE a_total gauge\n", "not by its name"),
        (b'a_total{kind="y"} 2', b'a_total{kind="y"} -2', "has the value -2"),
        (b'a_total{kind="y"} 2', b'a_total{kind="y"} many', "has the value nan"),
        (b'a_total{kind="y"} 2', b'a_total{sort="y"} 2', "labels of several kinds"),
        (b'b_seconds_bucket{le="+Inf"} 2\n', b"", "no last bucket"),
        (b'b_seconds_bucket{le="1.0"} 1', b'b_seconds_bucket{le="1.0"} 3', "out of order"),
        (b"b_seconds_count 2", b"b_seconds_count 3", "no last bucket"),
        (b"b_seconds_sum 3.5\n", b"b_seconds_sum 3.5", "does not end with a line feed"),
        (b"b_seconds_sum 3.5\n", b"b_seconds_sum\n", "no line of the format"),
    ],
)
def test_the_check_finds_what_others_let_pass(good: bytes, bad: bytes, told: str) -> None:
    assert GOOD.count(good) == 1
    assert any(told in mistake for mistake in read_exposition(GOOD.replace(good, bad)).mistakes)


def test_durations_are_counted_up_to_their_bounds() -> None:
    found = a_histogram(1.0, 1.0000001, 5.0, 5.1)
    assert found.buckets() == [(1.0, 1), (5.0, 3), (math.inf, 4)]
    assert a_histogram().buckets() == [(1.0, 0), (5.0, 0), (math.inf, 0)]
