"""`stats.py advise`: what to change, in the order of its worth, or that there is nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.stats.main import main
from ccflare_core.reports.advice import largest
from desk import Desk
from history import NOON, History

DAY = 86_400.0


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        for name in ("max-1", "max-2"):
            history.account(name, created_at=NOON - 60 * DAY)
        yield history


def ask(past: History, *words: str) -> str:
    desk = Desk()
    code = main(["--database", str(past.location), "advise", *words], desk.console())
    assert (code, desk.complained) == (0, "")
    return desk.said


def a_month(past: History) -> None:
    """A session that moved, nine days ago, and an account that was full while the other one was idle."""
    with past.together():
        for at, account in ((90, "max-1"), (60, "max-2")):
            past.exchange(NOON - 9 * DAY - at, account, cache_creation_input_tokens=400_000, output_tokens=9)
        past.window("max-1", "7d", 0.96, NOON - 8 * DAY, at=NOON - 9 * DAY)
        past.window("max-2", "7d", 0.02, NOON - 8 * DAY, at=NOON - 9 * DAY)


def test_a_month_is_looked_at_and_the_dearest_comes_first(past: History) -> None:
    a_month(past)
    past.exchange(NOON - 9 * DAY, "max-1", output_tokens=1)

    moved, idle = json.loads(ask(past, "--format", "json"))

    assert (moved["kind"], moved["usd"], moved["tokens"], moved["sessions"]) == (
        *("moved_sessions", 2.3, 400_000),
        ["session-1"],
    )
    assert (idle["kind"], idle["subject"], idle["share"], idle["window"]) == ("idle_account", "max-2", 0.98, "7d")
    assert [idle["usd"], idle["account"], idle["requests"]] == [None, "max-2", 1]


def test_people_are_told_what_it_is_worth_and_how_to_look_at_it(past: History) -> None:
    a_month(past)
    past.exchange(NOON - 9 * DAY, "max-1", output_tokens=1)

    text = ask(past)

    lines = text.splitlines()
    assert lines[0] == "Advice, last 30 d"
    assert lines[3].split()[:3] == ["$2.30", "moved", "sessions"]
    assert "98 % of 7d  idle account" in lines[4]
    assert "session-1" in lines[3]
    assert "Dollars are list prices, whoever pays them; ? is what nobody knows." in text
    assert "show.py last --session ID`" in text


@pytest.mark.parametrize("since", ["24h", "7d"])
def test_a_clean_record_says_so_in_a_sentence(past: History, since: str) -> None:
    a_month(past)
    for account in ("max-1", "max-2"):
        past.exchange(NOON - 60, account, session=account, output_tokens=9, cost_usd=0.1)

    assert ask(past, "--since", since).splitlines()[1:] == ["Nothing to change: this record gives no reason to."]
    assert json.loads(ask(past, "--since", since, "--format", "json")) == []


def test_what_nobody_knows_is_no_number(past: History) -> None:
    with past.together():
        for at, account in ((90, "max-1"), (60, "max-2")):
            used: dict[str, Any] = {"cache_creation_input_tokens": 2_000_000, "output_tokens": 9}
            past.exchange(NOON - at, account, model="claude-zephyr-1", **used)

    assert ask(past).splitlines()[3].split()[:3] == ["?", "moved", "sessions"]
    assert json.loads(ask(past, "--format", "json"))[0]["usd"] is None


def test_limit_says_how_much_there_is(past: History) -> None:
    a_month(past)
    past.exchange(NOON - 9 * DAY, "max-1", output_tokens=1)

    assert "1 of 2 rows" in ask(past, "--limit", "1")


def test_examples_are_the_largest_that_have_a_name() -> None:
    assert largest({"a": 1.0, None: 9.0, "b": 3.0, "c": 0.0, "d": 2.0, "e": 1.0}) == ("b", "d", "a")
