"""The views of `stats.py` beyond the first ones: that they answer, and that they agree with each other."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.stats.main import main
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import PartUsed
from desk import Desk
from history import NOON, History, at_local


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        history.account("max-1")
        history.account("max-2")
        yield history


def ask(past: History, *words: str) -> str:
    desk = Desk()
    code = main(["--database", str(getattr(past.location, "text", past.location)), *words], desk.console())
    assert (code, desk.complained) == (0, "")
    return desk.said


def ask_json(past: History, *words: str) -> Any:
    return json.loads(ask(past, *words, "--format", "json"))


def a_week(past: History) -> None:
    """Requests of two projects and two clients over some days, with everything that can happen to them."""
    for number in range(40):
        outcome = ("ok", "ok", "ok", "upstream_error", "refused")[number % 5]
        used: dict[str, Any] = {"input_tokens": 100 + number, "output_tokens": 9, "cost_usd": 0.25}
        used |= {"cache_read_input_tokens": 900, "cache_creation_input_tokens": 50}
        past.exchange(
            NOON - number * 4000,
            f"max-{1 + number % 2}",
            session=f"session-{number % 3}",
            model=("claude-opus-4-8", "claude-haiku-4-5")[number % 4 == 0],
            key=("laptop", None)[number % 3 == 0],
            outcome=outcome,
            project=("shop", "blog", None)[number % 3],
            agent="reviewer" if number % 4 == 0 else None,
            failover_attempts=number % 2,
            **(used if outcome == "ok" else {}),
        )


SUMMED = ("requests", "input_tokens", "cache_read_tokens", "cache_creation_tokens", "output_tokens", "cost_usd")


def sums(rows: list[dict[str, Any]], names: tuple[str, ...] = SUMMED) -> dict[str, Any]:
    return {name: round(sum(row[name] for row in rows), 6) for name in names}


@pytest.mark.parametrize("is_added_up", [False, True])
@pytest.mark.parametrize("since", ["24h", "3h", "all"])
def test_every_view_adds_up_to_the_summary(past: History, since: str, is_added_up: bool) -> None:
    a_week(past)
    if is_added_up:
        past.add_up()

    total = ask_json(past, "--since", since)["total"]

    for view in ("models", "sessions", "projects", "agents", "clients", "timeline"):
        assert sums(ask_json(past, view, "--since", since)) == {name: total[name] for name in SUMMED}, view
    accounts = ask_json(past, "accounts", "--since", since)["by_account"]
    assert sums(accounts) == {name: total[name] for name in SUMMED}
    cache = ask_json(past, "cache", "--since", since)
    assert sums(cache["cache_by_account"], SUMMED[:4]) == {name: total[name] for name in SUMMED[:4]}
    assert cache["cache"]["cache_hit_rate"] == total["cache_hit_rate"]


class TestSplits:
    def test_projects_agents_and_clients(self, past: History) -> None:
        past.exchange(NOON, project="shop", agent="reviewer", key="laptop")
        past.exchange(NOON, project="shop")

        assert [(row["project"], row["requests"]) for row in ask_json(past, "projects")] == [("shop", 2)]
        assert {row["agent"]: row["requests"] for row in ask_json(past, "agents")} == {None: 1, "reviewer": 1}
        assert {row["client"]: row["requests"] for row in ask_json(past, "clients")} == {None: 1, "laptop (removed)": 1}

    def test_projects_by_day(self, past: History) -> None:
        past.exchange(NOON, project="shop")
        past.exchange(at_local(23, 15), project="shop")

        rows = ask_json(past, "projects", "--by", "day")

        assert [(row["project"], row["day"]) for row in rows] == [("shop", "2026-11-23"), ("shop", "2026-11-24")]


class TestTags:
    def spend(self, past: History) -> None:
        for tags in ({"ticket": "12", "who": "me"}, {"ticket": "12"}, {}):
            past.exchange(NOON, output_tokens=5, cost_usd=0.5, tags=tags)
        past.add_up()

    def test_what_a_tag_has_cost(self, past: History) -> None:
        self.spend(past)

        asked = ask_json(past, "--tag", "ticket=12")
        assert (asked["total"]["requests"], asked["total"]["cost_usd"]) == (2, 1.0)
        assert [row["requests"] for row in ask_json(past, "timeline", "--tag", "ticket=12") if row["requests"]] == [2]
        assert [row["requests"] for row in ask_json(past, "models", "--tag", "ticket=12")] == [2]
        rows = ask_json(past, "requests", "--tag", "ticket=12")
        assert [row["tags"] for row in rows] == [{"ticket": "12"}, {"ticket": "12", "who": "me"}]

    def test_each_tag_and_its_cost(self, past: History) -> None:
        self.spend(past)

        rows = ask_json(past, "tags")

        assert [(row["tag"], row["cost_usd"]) for row in rows] == [("ticket=12", 1.0), ("who=me", 0.5)]
        assert ask_json(past, "summary", "--by", "tag") == rows
        assert [row["requests"] for row in ask_json(past, "tags", "--by", "account", "--tag", "who=me")] == [1, 1]

    def test_a_cell_of_csv_has_them_as_json(self, past: History) -> None:
        self.spend(past)

        rows = list(csv.DictReader(io.StringIO(ask(past, "requests", "--format", "csv"))))
        assert [json.loads(row["tags"]) for row in rows] == [{}, {"ticket": "12"}, {"ticket": "12", "who": "me"}]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--tag", "ticket"), "give name=value"),
            (("windows", "--tag", "a=b"), "--tag picks requests"),
            (("advise", "--tag", "a=b"), "advice is about all of them"),
            (("cache", "--by", "tag"), "see tags"),
        ],
    )
    def test_what_means_nothing_is_refused(
        self, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(words, Desk().console())
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


class TestCache:
    def moved(self, past: History) -> None:
        used: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5}
        past.exchange(NOON - 90, "max-1", cache_creation_input_tokens=100_000, **used)
        past.exchange(NOON - 60, "max-2", cache_creation_input_tokens=100_000, **used)
        past.exchange(NOON - 30, "max-2", cache_read_input_tokens=100_000, **used)

    def test_tells_what_a_move_cost_and_how_it_is_found(self, past: History) -> None:
        self.moved(past)

        lines = ask(past, "cache").splitlines()

        shown = [line.split() for line in lines[7:11]]
        assert shown == [["Switches", "1"], ["Re-billed", "100k"], ["Thinking", "lost", "0"], ["Cost", "$0.5750"]]
        assert lines[-2].startswith("Re-billed: written again because")
        assert lines[-1].startswith("Thinking lost: what the former account had thought")

    def test_thinking_that_a_move_has_lost_is_a_part_of_its_cost(self, past: History) -> None:
        for at, account in ((NOON - 60, "max-1"), (NOON - 30, "max-2")):
            past.exchange(at, account, model="claude-sonnet-5-5", output_tokens=9, thinking_tokens=20_000)

        whole = ask_json(past, "cache")["cache"]

        assert (whole["switches"], whole["rebilled_tokens"], whole["lost_thinking_tokens"]) == (1, 0, 20_000)
        assert (whole["rebilled_usd"], whole["lost_thinking_usd"], whole["switch_cost_usd"]) == (0.0, 0.2, 0.2)

    def test_by_session_the_dearest_come_first(self, past: History) -> None:
        for _ in range(5):
            past.exchange(NOON, session="calm", output_tokens=1)
        self.moved(past)

        rows = ask_json(past, "cache", "--by", "session")["cache_by_session"]

        assert [(row["session"], row["switches"], row["rebilled_usd"]) for row in rows] == [
            ("session-1", 1, 0.575),
            ("calm", 0, 0.0),
        ]


class TestWindows:
    def test_tells_when_a_limit_will_be_reached(self, past: History) -> None:
        for minutes, used in ((60, 0.2), (40, 0.4), (20, 0.6), (0, 0.8)):
            past.window("max-1", "5h", used, at_local(24, 13), at=NOON - 60 * minutes)
        past.window("max-2", "7d", 0.3, NOON + 86_400, at=NOON - 60)

        lines = ask(past, "windows").splitlines()

        assert lines[0] == "Limits by the hour, last 24 h"
        assert lines[3].split()[:4] == ["max-1", "5h", "80", "%"]
        assert lines[3].endswith("full at 12:20, resets 13:00")
        assert lines[4].endswith("too few readings, resets Wed 12:00")

    def test_tells_how_many_turns_are_left(self, past: History) -> None:
        for minutes, used in ((60, 0.2), (40, 0.4), (20, 0.6), (0, 0.8)):
            past.window("max-1", "5h", used, at_local(24, 13), at=NOON - 60 * minutes)
        for number in range(12):
            past.exchange(NOON - 3600 + 300 * number, output_tokens=9)
            past.exchange(NOON - 3600 + 300 * number, "max-2", output_tokens=9)

        assert "full at 12:20, about 4 turns left, resets 13:00" in ask(past, "windows")
        assert ask_json(past, "windows")[0]["turns_left"] == 4

    def test_its_history_is_the_highest_of_each_hour(self, past: History) -> None:
        for at, used in ((at_local(24, 9, 10), 0.5), (at_local(24, 9, 50), 0.7), (at_local(24, 11, 5), 0.1)):
            past.window("max-1", "5h", used, NOON + 3600, at=at)

        (row,) = ask_json(past, "windows")

        assert row["history"] == [{"at": "2026-11-24 09:00", "peak": 0.7}, {"at": "2026-11-24 11:00", "peak": 0.1}]
        assert (row["forecast"], row["full_at"]) == ("unknown", None)


class TestTimeline:
    def test_has_also_the_hours_without_a_request(self, past: History) -> None:
        past.exchange(at_local(24, 9, 30), failover_attempts=2)
        past.exchange(at_local(24, 11, 30), outcome="upstream_error")

        rows = ask_json(past, "timeline")

        assert [(row["hour"][-5:], row["requests"], row["failovers"], row["errors"]) for row in rows] == [
            ("09:00", 1, 2, 0),
            ("10:00", 0, 0, 0),
            ("11:00", 1, 0, 1),
            ("12:00", 0, 0, 0),
        ]
        assert "████" in ask(past, "timeline")

    def test_goes_by_the_minute_where_it_is_short(self, past: History) -> None:
        past.exchange(NOON - 190)
        past.exchange(NOON - 30)
        past.add_up()

        rows = ask_json(past, "timeline", "--since", "1h")

        assert [(row["minute"][-5:], row["requests"]) for row in rows] == [
            ("11:56", 1),
            ("11:57", 0),
            ("11:58", 0),
            ("11:59", 1),
            ("12:00", 0),
        ]
        assert ask(past, "timeline", "--since", "5h").startswith("By 5 minutes, last 5 h")

    def test_goes_by_day_where_it_is_long(self, past: History) -> None:
        past.exchange(at_local(20, 9))

        assert ask_json(past, "timeline", "--since", "all")[0]["day"] == "2026-11-20"


class TestCompare:
    def test_shows_both_periods_and_the_change(self, past: History) -> None:
        for at in (NOON - 9 * 86_400, NOON - 8 * 86_400):
            past.exchange(at, output_tokens=10, cost_usd=1.0)
        for number in range(3):
            past.exchange(NOON - number, output_tokens=10, cost_usd=1.0, outcome="upstream_error" if number else "ok")

        rows = {row["measure"]: row for row in ask_json(past, "compare", "--since", "7d")}

        assert (rows["requests"]["before"], rows["requests"]["after"], rows["requests"]["change"]) == (2, 3, 0.5)
        assert rows["errors"]["change"] is None
        assert ask(past, "compare", "--since", "7d").splitlines()[3].split() == ["Requests", "2", "3", "+50.0", "%"]

    def test_of_a_past_week(self, past: History) -> None:
        past.exchange(at_local(3, 9))
        past.exchange(at_local(10, 9))

        words = ("compare", "--since", "2026-11-08", "--until", "2026-11-15")

        assert ask(past, *words).startswith("2026-11-08 00:00 – 2026-11-15 00:00, compared with 2026-11-01 00:00")
        assert [ask_json(past, *words)[0][name] for name in ("before", "after")] == [1, 1]

    def test_as_csv(self, past: History) -> None:
        past.exchange(NOON)

        rows = [*csv.DictReader(io.StringIO(ask(past, "compare", "--format", "csv")))]

        assert rows[0] == {"measure": "requests", "before": "0", "after": "1", "change": ""}


def test_until_ends_the_period(past: History) -> None:
    past.exchange(at_local(23, 15))
    past.exchange(NOON)

    assert ask_json(past, "--since", "7d", "--until", "2026-11-24")["total"]["requests"] == 1
    assert "All requests, last 7 d until 2026-11-24" in ask(past, "--since", "7d", "--until", "2026-11-24")


def test_an_empty_period_is_refused(past: History) -> None:
    desk = Desk()

    code = main(["--database", str(past.location), "--since", "1h", "--until", "2h"], desk.console())

    assert (code, desk.complained) == (1, "The period is empty: --until must lie after --since.\n")


def test_a_plot_without_matplotlib_says_what_is_missing(
    past: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    past.exchange(NOON)
    desk, file = Desk(), tmp_path / "x.svg"

    code = main(["--database", str(past.location), "timeline", "--plot", str(file)], desk.console())

    assert (code, desk.complained) == (
        1,
        "A plot needs matplotlib: `scripts/run --with plot` installs it.\n",
    )
    assert not file.exists()


def test_other_models_within_an_answer_stand_below_the_models(past: History) -> None:
    request = past.exchange(NOON, input_tokens=1000, output_tokens=260, cost_usd=0.4692)
    past.store.write(
        [PartUsed(request, 1, round(NOON * 1000), "advisor_message", "claude-fable-5-2", 1, 50_000, 1500, 0, 0, 0.46)]
    )

    found = ask_json(past, "models")
    text = ask(past, "models")

    assert [row["model"] for row in found["by_model"]] == ["claude-opus-4-8"]
    (part,) = found["within_requests"]
    assert (part["model"], part["kind"], part["calls"]) == ("claude-fable-5-2", "advisor_message", 1)
    assert (part["input_tokens"], part["output_tokens"], part["cost_usd"]) == (50_000, 1500, 0.46)
    assert "fable-5-2  advisor message" in text


def test_an_estimate_is_marked_wherever_it_is_added_up(past: History) -> None:
    past.exchange(NOON - 5, input_tokens=10, output_tokens=67, cost_usd=0.5, estimated=True)
    past.exchange(NOON - 4, input_tokens=10, output_tokens=33, cost_usd=0.25)

    assert "~100 out" in ask(past)
    assert "~$0.7500 (1 broken off and estimated)" in ask(past)
    for view in ("models", "accounts", "timeline"):
        assert "~$0.7500" in ask(past, view)
    assert ["~$0.5000" in line for line in ask(past, "requests").splitlines()[-2:]] == [False, True]
    assert [row["estimated"] for row in ask_json(past, "requests")] == [False, True]
    past.add_up()
    assert "~$0.7500" in ask(past, "models")


def test_subagents_stand_below_the_ones_that_started_them(past: History) -> None:
    for number, (agent, parent) in enumerate(
        [(None, None), ("b", "a"), ("a", None), ("c", "b"), ("x", "y"), ("y", "x")]
    ):
        past.exchange(NOON - 9 + number, agent_id=agent, parent_agent_id=parent, output_tokens=number, prompt_tokens=1)
    past.exchange(NOON, session="no agents")

    agents = ask_json(past, "agents")["subagents"]
    lines = [line for line in ask(past, "agents").splitlines() if line.endswith("12:00") or "  c  " in line]

    assert [(row["agent_id"], row["depth"]) for row in agents] == [
        *((None, 0), ("a", 1), ("b", 2), ("c", 3)),
        *(("x", 1), ("y", 1)),
    ]
    assert {row["session"] for row in agents} == {"session-1"}
    assert lines


def test_refusals_stand_below_the_errors_by_category(past: History) -> None:
    assert "refused" not in ask(past, "errors")
    for category in ("cyber", "cyber", None):
        past.exchange(NOON, stop_reason="refusal", refusal=category)

    found = ask_json(past, "errors")

    assert found["errors"] == []
    told = sorted((row["kind"], row["number"], row["message"]) for row in found["refusals"])
    assert told == [("cyber", 2, "claude-opus-4-8"), ("without a category", 1, "claude-opus-4-8")]
    assert "Answers in which a model refused" in ask(past, "errors")


def test_what_needed_no_account_is_shown_when_all_is_asked_for(past: History) -> None:
    past.exchange(NOON, path="/api/oauth/profile", model=None, outcome="upstream_error", status_code=404)
    past.exchange(NOON, outcome="upstream_error", status_code=500, error_message="api_error")

    assert [row["path"] for row in ask_json(past, "requests")] == ["/v1/messages?beta=true"]
    assert len(ask_json(past, "requests", "--all")) == 2
    assert [row["path"] for row in ask_json(past, "errors")["errors"]] == ["/v1/messages?beta=true"]
    assert "/api/oauth/profile" in ask(past, "errors", "--all")
    assert "needed no account" not in ask(past)
    assert "and 1 that needed no account" in ask(past, "--all")
