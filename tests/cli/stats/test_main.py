"""`stats.py`, called as its script calls it, on a database that a proxy has open."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.stats.main import main
from ccflare_cli.stats.views import VIEWS
from ccflare_core.config.location import Location
from desk import Desk
from history import NOON, History, at_local


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-2")
        yield history


def call(location: Location, *words: str) -> tuple[int, str, str]:
    desk = Desk()
    code = main(["--database", str(location), *words], desk.console())
    return code, desk.said, desk.complained


def ask(past: History, *words: str) -> str:
    code, said, complained = call(past.location, *words)
    assert (code, complained) == (0, "")
    return said


def ask_json(past: History, *words: str) -> Any:
    return json.loads(ask(past, *words, "--format", "json"))


def a_day(past: History) -> None:
    """Four requests served, one of them after a move and one at an unknown price; one refused, one left."""
    usage: dict[str, Any] = {"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 50}
    timing: dict[str, Any] = {"response_time_ms": 2000.0, "first_byte_ms": 400.0}
    past.exchange(NOON - 60, cost_usd=1.23, **usage, **timing)
    past.exchange(at_local(24, 9), cost_usd=0.0, session="session-2", **usage, **timing)
    past.exchange(at_local(23, 15), model="claude-zephyr-1", **usage, **timing)
    moved = past.exchange(NOON - 30, "max-2", cost_usd=0.5, attempts=2, failover_attempts=1, **usage, **timing)
    past.attempt(moved, NOON - 31, "max-1", "window_spent", "5h window spent", 429)
    past.exchange(NOON - 20, None, outcome="refused", status_code=503, error_message="every account rests")
    past.exchange(NOON - 10, outcome="client_abort")


class TestSummary:
    def test_tells_the_day_at_a_glance(self, past: History) -> None:
        a_day(past)
        past.exchange(NOON, path="/api/oauth/profile", model=None)

        lines = ask(past, "--all").splitlines()

        assert lines[:9] == [
            "All requests, last 24 h",
            "Requests    6 (1 left by the client, 1 refused), and 1 that needed no account",
            "Success     100 % (4 of 4)",
            "Latency     p50 2.0 s, p95 2.0 s",
            "First byte  p50 400 ms, p95 400 ms",
            "Tokens      4,000 in (400 new, 3,600 cache read, 0 cache write), 200 out",
            "Cache hits  90 %",
            "Cost        $1.73 + ? (1 without a known price)",
            "Failovers   1 of 6 requests moved to another account",
        ]

    def test_shows_how_full_the_limits_are(self, past: History) -> None:
        past.exchange(NOON)
        past.window("max-1", "5h", 1.01, NOON + 4320, "rejected")
        past.window("max-1", "7d", 0.69, NOON + 3 * 86_400)
        past.window("max-1", "7d_oi", 0.45, NOON + 86_400)
        past.window("max-2", "5h", 0.9, NOON - 1)
        past.cooldown("max-1", NOON + 4320, "5h window spent")

        lines = ask(past, "--all").splitlines()

        (first,) = [line for line in lines if line.startswith("max-1    █")]
        assert "██████████ 101 %  1 h 12 min" in first
        assert "███████░░░  69 %  3 d" in first
        assert first.endswith("7d_oi 45 %  cooling until 13:12: 5h window spent")
        assert any(line.startswith("max-2    –") for line in lines)

    def test_for_programs_is_one_object(self, past: History) -> None:
        a_day(past)

        found = ask_json(past)

        assert found.keys() == {"total", "windows", "by_account"}
        assert found["total"]["cost_usd"] == 1.73
        assert found["total"]["requests_of_unknown_cost"] == 1
        assert found["total"]["latency_p95_seconds"] == 2.0

    def test_as_csv_is_the_total(self, past: History) -> None:
        a_day(past)

        (row,) = csv.DictReader(io.StringIO(ask(past, "--format", "csv")))

        assert (row["requests"], row["success_rate"], row["cache_hit_rate"]) == ("6", "1.0", "0.9")


class TestViews:
    def test_accounts_with_their_logins(self, past: History) -> None:
        past.account("old", login_at=NOON - 26 * 86_400)

        logins = {row["account"]: row for row in ask_json(past, "accounts")["logins"]}

        assert logins["old"]["token"] == "valid for 6 h"
        assert "expected to end in 2 days" in logins["old"]["warning"]

    def test_accounts(self, past: History) -> None:
        a_day(past)

        rows = ask_json(past, "accounts")["by_account"]

        assert [(row["account"], row["requests"]) for row in rows] == [("max-1", 4), (None, 1), ("max-2", 1)]

    def test_models_show_an_unknown_cost_as_such(self, past: History) -> None:
        a_day(past)

        (line,) = [line for line in ask(past, "models").splitlines() if line.startswith("zephyr-1")]

        assert line.split()[-2:] == ["?", "0"]
        assert "No price is known for claude-zephyr-1;" in ask(past, "models")
        assert ask_json(past, "models")[1]["cost_usd"] is None

    def test_sessions_come_latest_first_and_as_many_as_asked_for(self, past: History) -> None:
        a_day(past)

        text = ask(past, "sessions", "--limit", "1")

        assert "session-1" in text
        assert "session-2" not in text
        assert "1 of 2 rows" in text

    def test_requests(self, past: History) -> None:
        a_day(past)

        lines = ask(past, "requests", "--limit", "3").splitlines()

        assert [line.split()[0] for line in lines[3:]] == ["11:59:50", "11:59:40", "11:59:30"]
        assert lines[-1].endswith("ok            1,000  100   900      –   50  $0.5000  400 ms  2.0 s      1")

    def test_errors_also_tell_what_failover_covered(self, past: History) -> None:
        a_day(past)

        found = ask_json(past, "errors")

        assert [(row["kind"], row["message"]) for row in found["errors"]] == [("refused", "every account rests")]
        assert [(row["kind"], row["account"]) for row in found["covered"]] == [("window_spent", "max-1")]

    def test_what_clients_send_cannot_steer_the_terminal(self, past: History) -> None:
        past.exchange(NOON, model="\x1b]0;owned\x07", session="\x1b[2J")

        for view in ("models", "sessions", "requests"):
            assert "\x1b" not in ask(past, view)


class TestOptions:
    @pytest.mark.parametrize(
        ("since", "requests"),
        [("1m", 4), ("4h", 5), ("24h", 6), ("1d", 6), ("2026-11-24", 5), ("2026-11-24T10:00", 4), ("all", 7)],
    )
    def test_since(self, past: History, since: str, requests: int) -> None:
        a_day(past)
        past.exchange(at_local(1, 9))

        assert ask_json(past, "--since", since)["total"]["requests"] == requests

    def test_by_day(self, past: History) -> None:
        a_day(past)

        rows = ask_json(past, "--by", "day", "--since", "7d")

        assert [(row["day"], row["requests"]) for row in rows] == [("2026-11-23", 1), ("2026-11-24", 5)]

    def test_by_hour_keeps_the_latest_rows(self, past: History) -> None:
        a_day(past)

        rows = ask_json(past, "--by", "hour", "--limit", "1")

        assert [row["hour"] for row in rows] == ["2026-11-24 11:00"]

    def test_a_view_can_be_split_once_more(self, past: History) -> None:
        a_day(past)

        rows = ask_json(past, "models", "--by", "address")

        assert [(row["model"], row["address"], row["requests"]) for row in rows] == [
            ("claude-opus-4-8", "127.0.0.1", 5),
            ("claude-zephyr-1", "127.0.0.1", 1),
        ]

    @pytest.mark.parametrize(
        "words",
        [
            ("nonsense",),
            ("--since", "tomorrow"),
            ("--since", "0h"),
            ("--since", "2026-13-01"),
            ("--by", "moon"),
            ("--limit", "0"),
            ("requests", "--by", "day"),
            ("models", "--by", "model"),
            ("compare", "--since", "all"),
            ("compare", "--by", "day"),
            ("timeline", "--by", "model"),
            ("cache", "--by", "model"),
            ("models", "--plot", "x.svg"),
            ("timeline", "--plot", "x.gif"),
            ("timeline", "--watch", "0"),
            ("timeline", "--watch", "5", "--format", "json"),
        ],
    )
    def test_misuse_exits_with_2(
        self, past: History, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            call(past.location, *words)

        assert stopped.value.code == 2
        assert "stats.py: error:" in capsys.readouterr().err


class TestNothingThere:
    def test_a_missing_database_is_one_sentence(self, tmp_path: Path) -> None:
        code, said, complained = call(tmp_path / "none.db")

        assert (code, said) == (1, "")
        assert "there is no database yet" in complained
        assert not (tmp_path / "none.db").exists()

    def test_an_empty_one_is_one_sentence(self, past: History) -> None:
        text = ask(past)

        assert text.startswith("Nothing is recorded yet")
        assert text.count("\n") == 1

    def test_an_empty_one_is_zeros_for_programs(self, past: History) -> None:
        assert ask_json(past)["total"]["requests"] == 0
        assert ask_json(past, "requests") == []


def test_it_only_reads(past: History) -> None:
    past.exchange(NOON)
    past.store.changed()

    ask(past)

    assert not past.store.changed()


def test_help_has_a_line_for_each_view(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    said = capsys.readouterr().out
    assert [view for view in VIEWS if f"\n  {view} " not in said] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["windws"], "did you mean windows?"),
        (["--by", "dya"], "did you mean day?"),
        (["--by", "x"], "give one of minute, 5min, hour, day"),
    ],
)
def test_a_word_that_there_is_not_gets_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    with pytest.raises(SystemExit):
        main(words)

    assert hint in capsys.readouterr().err
