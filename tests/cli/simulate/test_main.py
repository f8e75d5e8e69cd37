"""`simulate.py`, called as its script calls it, on a database that a proxy has open."""

import csv
import io
import json
import logging
import os
import stat
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.simulate.main import main
from ccflare_cli.stats.plot import draw_lines
from ccflare_core.reports.traffic import Period
from desk import Desk, Terminal
from history import NOON, History

USED: dict[str, Any] = {"input_tokens": 10, "output_tokens": 100, "response_time_ms": 5000.0, "first_byte_ms": 1000.0}
RESET = NOON - NOON % 3600 + 7200


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    """Two accounts of 50 dollars in five hours: max-1 has served 30 requests of a dollar, max-2 another 30."""
    with History(tmp_path / "ccflare.db") as history:
        for name in ("max-1", "max-2"):
            history.account(name)
            with history.together():
                for step in range(30):
                    at = NOON - 9000 + step * 100
                    history.exchange(at, name, session=f"session of {name}", cost_usd=1.0, project="shop", **USED)
                    history.window(name, "5h", 0.02 * step, RESET, at=at + 3)
        yield history


def add_a_third_session(past: History) -> None:
    """So that its turns and those of the others do not take turns."""
    with past.together():
        for step in range(15):
            past.exchange(NOON - 8950 + step * 200, session="a third one", cost_usd=0.1, **USED)


def call(past: History, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    desk = Desk(environ={"ccflare_CONFIG_PATH": _config(past), **(environ or {})})
    code = main(["--database", str(past.location), *words], desk.console())
    return code, desk.said, desk.complained


def _config(past: History) -> str:
    path = Path(str(past.location)).with_name("config.yaml")
    path.touch()
    return str(path)


def ask(past: History, *words: str) -> dict[str, dict[str, Any]]:
    """The scenarios by their names."""
    code, said, complained = call(past, *words, "--format", "json")
    assert (code, complained) == (0, "")
    return {each["scenario"]: each for each in json.loads(said)["scenarios"]}


def test_last_week_is_simulated_as_it_is_set_beside_what_has_happened(past: History) -> None:
    found = ask(past)

    assert list(found) == ["recorded", "session"]
    for each in found.values():
        assert (each["served"], each["moved"], each["refused"], each["cost_usd"]) == (60, 0, 0, 60.0)


def test_windows_are_told_with_their_error(past: History) -> None:
    _, said, _ = call(past, "--format", "json")

    one, two = json.loads(said)["windows"]

    assert (one["account"], one["window"], one["readings"]) == ("max-1", "5h", 30)
    assert one["capacity_usd"] == pytest.approx(50.0, rel=0.01)
    assert one["error"] < 0.01
    assert two["account"] == "max-2"


def test_strategies_stand_side_by_side(past: History) -> None:
    add_a_third_session(past)

    found = ask(past, "--strategy", "session,round-robin", "--strategy", "least-used")

    assert list(found) == ["recorded", "session", "round-robin", "least-used"]
    assert found["session"]["moved"] == 0
    assert found["round-robin"]["moved"] > 20
    assert found["round-robin"]["strategy"] == "round-robin"


def test_changed_accounts_stand_beside_what_is_set(past: History) -> None:
    found = ask(past, "--accounts", "-max-2")

    assert list(found) == ["recorded", "as it is set", "session, changed"]
    assert found["as it is set"]["refused"] == 0
    assert found["session, changed"]["refused"] == pytest.approx(10, abs=1)
    assert found["session, changed"]["limits"] >= 1

    assert ask(past, "--accounts", "-max-2,+1")["session, changed"]["refused"] == 0


def test_priorities_decide_which_account_is_used(past: History) -> None:
    found = ask(past, "--priority", "max-2=1")["session, changed"]

    assert found["limits"] > 0
    assert found["moved"] > 0


def test_rules_of_a_file_and_none(past: History, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("shop: {when: {project: shop}, models: claude-haiku-*}\n")
    Path(_config(past)).write_text(f"ccflare_rules: {rules}\n")
    other = tmp_path / "other.yaml"
    other.write_text("shop: {when: {project: site}, models: claude-haiku-*}\n")

    assert ask(past)["session"]["refused"] == 60
    assert ask(past, "--rules", str(other))["session, changed"]["refused"] == 0
    assert ask(past, "--without-rules")["session, changed"]["refused"] == 0


def test_mistakes_in_rules_are_told(past: History, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("a: {effort: max}\n")

    code, _, complained = call(past, "--rules", str(rules))

    assert code == 1
    assert "effort of rule a must be" in complained


def test_options_are_changed(past: History) -> None:
    found = ask(past, "--set", "session_seconds=1", "--set", "hold_seconds=0", "--policy", "as-set")

    assert found["session, changed"]["served"] == 60
    code, _, complained = call(past, "--set", "hold_seconds=9999")
    assert code == 1
    assert "ccflare_hold_seconds" in complained


def test_account_that_is_not_known_is_refused_and_may_be_taken_for_another(past: History) -> None:
    past.account("max-3")

    code, said, complained = call(past)

    assert (code, said) == (1, "")
    assert "max-3: no limit of it was read" in complained
    assert "--accounts NAME=OTHER" in complained
    assert ask(past, "--accounts", "max-3=max-1")["session, changed"]["served"] == 60
    assert ask(past, "--accounts", "-max-3")["session, changed"]["served"] == 60


def test_periods_can_be_told(past: History) -> None:
    found = ask(past, "--since", "4h", "--until", "2h", "--fit-since", "2d")

    assert found["recorded"]["requests"] == found["session"]["requests"] == 36
    code, _, complained = call(past, "--since", "1h", "--until", "2h")
    assert (code, "The period is empty" in complained) == (1, True)


def test_table_says_what_was_changed(past: History) -> None:
    code, said, _ = call(past, "--accounts", "+1", "--set", "hold_seconds=5", "--priority", "max-1=9")

    assert code == 0
    assert "Changed: +1, max-1 with priority 9, ccflare_hold_seconds=5." in said
    assert "Limits: answers of accounts that a window is full." in said


def test_terminal_shows_how_far_it_has_got_and_nothing_of_that_stays(
    past: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccflare_cli.simulate.main._SHOWN_EACH", 10)
    desk = Desk(environ={"ccflare_CONFIG_PATH": _config(past)}, stderr=Terminal())
    assert main(["--database", str(past.location)], desk.console()) == 0
    assert "[####" in desk.complained
    assert desk.complained.endswith("\r\x1b[K")
    assert "[#" not in desk.said


def test_models_without_a_price_are_named_since_their_cost_is_a_guess(past: History) -> None:
    assert "No price is known" not in call(past)[1]
    past.exchange(NOON - 500, "max-1", model="claude-nova-9", **USED)
    past.exchange(NOON - 490, "max-1", model=None, path="/v1/models", cost_usd=None)
    said = " ".join(call(past)[1].split())
    assert "No price is known of claude-nova-9: counted as the dearest model; ccflare_prices can name it." in said


def test_csv_has_the_scenarios(past: History) -> None:
    _, said, _ = call(past, "--format", "csv")

    rows = [*csv.DictReader(io.StringIO(said))]
    assert [row["scenario"] for row in rows] == ["recorded", "session"]


def test_plot_has_a_line_for_each_scenario(past: History, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    picture = tmp_path / "week.svg"

    code, said, _ = call(past, "--accounts", "+1", "--plot", str(picture))

    assert (code, said) == (0, f"{picture} is written.\n")
    assert ET.parse(picture).getroot().tag.endswith("svg")
    figure = draw_lines([NOON - 60, NOON], {"Served": [("recorded", [1.0, 2.0])]}, Period(NOON - 60, NOON), "Title")
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["recorded"]
    with pytest.raises(SystemExit):
        call(past, "--plot", "week.gif")


def test_nothing_is_recorded_yet(tmp_path: Path) -> None:
    with History(tmp_path / "ccflare.db") as empty:
        empty.account("max-1")
        assert call(empty)[::2] == (1, "Nothing is recorded yet: send a request through the proxy first.\n")
    desk = Desk(environ={"ccflare_CONFIG_PATH": os.devnull})
    assert main(["--database", str(tmp_path / "none.db")], desk.console()) == 1
    assert "no database yet" in desk.complained


def test_copy_that_cannot_be_written_can_be_simulated(past: History, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    past.store.close()
    copy = folder / "ccflare.db"
    copy.write_bytes(Path(str(past.location)).read_bytes())
    before = copy.read_bytes()
    copy.chmod(stat.S_IRUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    desk = Desk(environ={"ccflare_CONFIG_PATH": _config(past)})
    try:
        assert main(["--database", str(copy), "--format", "json"], desk.console()) == 0, desk.complained
    finally:
        folder.chmod(stat.S_IRWXU)
    assert json.loads(desk.said)["scenarios"][1]["served"] == 60
    assert copy.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "fastest"),
        ("--accounts", "max-1"),
        ("--priority", "max-1"),
        ("--set", "record=full"),
        ("--policy", "always-move"),
        ("--rules", "a.yaml", "--without-rules"),
        ("--since", "tomorrow"),
    ],
)
def test_what_cannot_be_asked_is_refused(past: History, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(past, *words)
    assert stopped.value.code == 2
