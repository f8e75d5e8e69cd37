"""Pictures; left out where matplotlib is missing."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_cli.stats.main import main
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


def test_a_file_that_cannot_be_written_is_one_sentence(past: History, tmp_path: Path) -> None:
    desk, file = Desk(), tmp_path / "nowhere" / "x.svg"

    code = main(["--database", str(past.location), "timeline", "--plot", str(file)], desk.console())

    assert (code, desk.complained) == (1, f"{file} cannot be written: No such file or directory.\n")
