"""`scripts/audit.py`, as a person uses it."""

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.audit import rows
from ccflare_cli.audit.main import main
from ccflare_cli.output import local
from ccflare_core.audit.entries import By, Secret
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from desk import Desk
from history import NOON

Run = Callable[..., Desk]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "ccflare.db"
    for at, who, action, target, outcome in (
        (NOON - 90_000, "cli:ann", "account.add", "max-1", "ok"),
        (NOON - 60, "proxy", "token.refresh", "max_1", "failed"),
        (NOON - 50, "client:ops", "account.pause", "max-1", "ok"),
        (NOON - 40, "client:ops", "accounting.x", "50% off", "denied"),
    ):
        with closing(opened(path, at)) as store, store.acting(By(who, "10.0.0.7")):
            store.note(action, target, outcome, key=Secret(who), tries=3)  # type: ignore[arg-type]
    return path


def opened(path: Path, at: float) -> Store:
    source, copy = KeyFile(path.with_suffix(".key")), path.with_suffix(".audit.jsonl")
    return Store.open(path, source, audit_file=copy, wall=lambda: at)


@pytest.fixture
def run(database: Path) -> Run:
    def run(*argv: str, code: int = 0, stdin: str = "") -> Desk:
        desk = Desk(io.StringIO(stdin))
        assert main([*argv, "--database", str(database)], desk.console()) == code, desk.complained
        return desk

    return run


@pytest.fixture
def ids(run: Run) -> Callable[..., list[int]]:
    """The numbers of the rows that `show` shows with these arguments."""

    def ids(*argv: str, stdin: str = "") -> list[int]:
        found: list[dict[str, Any]] = json.loads(run("show", "--format", "json", *argv, stdin=stdin).said)
        return [row["id"] for row in found]

    return ids


def damage(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER audit_log_keep")
        connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE id = 2")


def test_show_tells_people_who_did_what(run: Run) -> None:
    lines = run("show").said.splitlines()
    assert lines[2].split()[1:8] == ["Mon", "11:00:00", "cli:ann", "10.0.0.7", "account.add", "max-1", "ok"]
    assert lines[2].endswith("key (hidden), tries 3")


def test_details_say_times_as_times() -> None:
    detail = {"id": 7, "changes": {"expires_at": {"before": None, "after": NOON}}, "seconds": 4.9}
    assert rows._brief(detail) == f"changes expires_at none → {local(NOON):%Y-%m-%d %H:%M}, seconds 4.9"


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ((), [1, 2, 3, 4]),
        (("--limit", "2"), [3, 4]),
        (("--action", "account"), [1, 3]),
        (("--action", "account.add"), [1]),
        (("--action", "*.refresh"), [2]),
        (("--actor", "client:*"), [3, 4]),
        (("--target", "max_1"), [2]),
        (("--target", "50%*"), [4]),
        (("--ip", "10.0.0.8"), []),
        (("--outcome", "denied"), [4]),
        (("--since", "24h"), [2, 3, 4]),
        (("--until", "24h"), [1]),
        (("--since", "1m"), [2, 3, 4]),
        (("--action", "account", "--outcome", "ok", "--since", "24h"), [3]),
    ],
)
def test_show_finds(argv: tuple[str, ...], found: list[int], ids: Callable[..., list[int]]) -> None:
    assert ids(*argv) == found


def test_show_finds_what_concerns_a_secret(ids: Callable[..., list[int]]) -> None:
    assert ids("--secret", "-", stdin="client:ops\n") == [3, 4]
    assert ids("--secret", "-", stdin="nothing of ours\n") == []


def test_a_whole_log_is_told_so(run: Run) -> None:
    assert run("verify").said.startswith("The audit log is whole: rows 1 to 4.\n")
    told = json.loads(run("verify", "--format", "json").said)
    assert (told["intact"], told["rows"], told["in_file"]) == (True, 4, 4)


def test_the_first_bad_row_is_named(run: Run, database: Path) -> None:
    damage(database)
    assert run("verify", code=1).complained == "The audit log is not what was written: row 2 was changed.\n"
    assert json.loads(run("verify", "--format", "json", code=1).said)["problem"] == "row 2 was changed"


def test_an_anchor_that_is_none_and_a_file_that_is_missing_are_refused(run: Run, tmp_path: Path) -> None:
    assert "is no anchor of this log" in run("verify", "--anchor", "1:2:3:4", code=1).complained
    assert "There is no file" in run("verify", "--file", str(tmp_path / "none"), code=1).complained


def test_a_line_that_is_cut_off_is_told(run: Run, database: Path) -> None:
    with database.with_suffix(".audit.jsonl").open("a") as file:
        file.write('{"id": 5, "ts')
    assert "has all of them, and 1 line damaged" in run("verify").said


def test_restart_is_for_a_broken_log_and_for_those_who_mean_it(run: Run, database: Path) -> None:
    assert "holds together" in run("restart", "--yes", code=1).complained
    damage(database)
    run("restart", code=1)
    assert "row 2 was changed" in run("restart", "--yes").said
    assert "row 2 was changed" in run("verify", code=1).complained
    assert "audit.restart" in run("show", "--limit", "1").said


def test_without_a_database_there_is_nothing_to_show(tmp_path: Path) -> None:
    desk = Desk()
    assert main(["show", "--database", str(tmp_path / "none.db")], desk.console()) == 1
    assert "does not exist yet" in desk.complained
    assert list(tmp_path.iterdir()) == []
