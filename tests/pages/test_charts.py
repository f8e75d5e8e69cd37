"""Bars along time, and the words for them."""

from ccflare_core.reports.figures import count
from ccflare_mitm.pages.charts import HEIGHT, WIDTH, chart


def shown(value: float | None) -> str:
    return count(None if value is None else int(value))


def test_bars_stand_on_the_ground_and_the_highest_fills_the_room() -> None:
    drawn = chart("Requests", ["a", "b", "c", "d"], [5, 0, 10, None], shown)
    assert [bar.words for bar in drawn.bars] == ["a: 5", "c: 10"]
    assert [bar.height for bar in drawn.bars] == [HEIGHT / 2, HEIGHT]
    assert all(bar.y + bar.height == HEIGHT and 0 <= bar.x <= WIDTH - bar.width for bar in drawn.bars)
    assert (drawn.most, drawn.begins, drawn.ends) == ("10", "a", "d")
    assert drawn.words == "Requests from a to d: at most 10 (c), 10 at the end."


def test_a_chart_of_nothing_says_so() -> None:
    for names, values in (([], []), (["a"], [None]), (["a", "b"], [0, 0])):
        drawn = chart("Cost", names, values, shown)
        assert drawn.bars == []
        assert drawn.words == "Cost: nothing in this time."


def test_a_small_value_can_be_seen() -> None:
    drawn = chart("Tokens", ["a", "b"], [1, 1_000_000], shown)
    assert drawn.bars[0].height >= 1
