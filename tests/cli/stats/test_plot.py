"""Pictures; left out where matplotlib is missing."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from matplotlib import dates

from ccflare_cli.output import local
from ccflare_cli.stats.main import main
from ccflare_cli.stats.plot import draw_timeline, draw_windows
from ccflare_core.reports.traffic import By, Period
from desk import Desk
from history import NOON, History


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-$2$ \\frac$")
        for number in range(20):
            at = NOON - number * 1800
            history.exchange(at, output_tokens=10, cost_usd=0.5, failover_attempts=number % 2)
            history.window("max-1", "5h", 0.05 * (20 - number), NOON + 3600, at=at)
        history.window("max-$2$ \\frac$", "7d", 0.5, NOON + 3600)
        yield history


def draw(past: History, view: str, file: Path) -> Desk:
    desk = Desk()
    assert main(["--database", str(past.location), view, "--plot", str(file)], desk.console()) == 0, desk.complained
    return desk


@pytest.mark.parametrize("view", ["timeline", "windows"])
def test_the_same_figures_are_the_same_svg(past: History, tmp_path: Path, view: str) -> None:
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"

    assert draw(past, view, one).said == f"{one} is written.\n"
    draw(past, view, two)

    assert one.read_bytes() == two.read_bytes()
    assert ET.parse(one).getroot().tag.endswith("svg")


@pytest.mark.parametrize("view", ["timeline", "windows"])
def test_png(past: History, tmp_path: Path, view: str) -> None:
    draw(past, view, tmp_path / "one.png")

    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_recorded_is_a_picture_too(tmp_path: Path) -> None:
    with History(tmp_path / "empty.db") as past:
        past.exchange(NOON - 30 * 86_400)
        for view in ("timeline", "windows"):
            draw(past, view, tmp_path / f"{view}.svg")


as_date: Callable[[float], datetime] = dates.num2date


@pytest.mark.parametrize("draw", [draw_timeline, draw_windows])
def test_the_axis_is_the_period_that_was_asked_for_and_day_one_says_something(draw: Callable[..., Any]) -> None:
    figure = draw([], By.HOUR, Period(NOON - 86_400, NOON), "Day one")

    begin, end = (as_date(at).replace(tzinfo=None) for at in figure.axes[-1].get_xlim())
    assert (begin, end) == (local(NOON - 86_400).replace(tzinfo=None), local(NOON).replace(tzinfo=None))
    assert [text.get_text().partition(" ")[0] for text in figure.axes[0].texts] == ["No"]


def test_a_file_that_cannot_be_written_is_one_sentence(past: History, tmp_path: Path) -> None:
    desk, file = Desk(), tmp_path / "nowhere" / "x.svg"

    code = main(["--database", str(past.location), "timeline", "--plot", str(file)], desk.console())

    assert (code, desk.complained) == (1, f"{file} cannot be written: No such file or directory.\n")
