"""`scripts/keys.py`, as a person uses it."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_cli.keys.main import main
from ccflare_core.secrets.key_sources import KeyFile, KeySource
from ccflare_core.secrets.passphrase import Passphrase
from ccflare_core.store.sealed_counts import AHEAD
from ccflare_core.store.store import Store
from database_kit import SECRETS, an_account
from desk import Desk, Terminal

WORDS = "correct horse battery staple"
Run = Callable[..., Desk]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "ccflare.db"
    with opened(path) as store:
        store.accounts.add(an_account())
    return path


@pytest.fixture
def run(database: Path) -> Run:
    def run(*argv: str, code: int = 0, stdin: str = "", **environ: str) -> Desk:
        desk = Desk(io.StringIO(stdin), environ=environ)
        assert main([*argv, "--database", str(database)], desk.console()) == code, desk.complained
        return desk

    return run


def opened(path: Path, source: KeySource | None = None) -> contextlib.closing[Store]:
    return contextlib.closing(Store.open(path, source or KeyFile(path.with_suffix(".key"))))


def status(run: Run, **environ: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run("status", "--format", "json", **environ).said)
    return rows


def test_status_shows_keys_and_what_needs_them(run: Run) -> None:
    [row] = status(run)
    assert (row["state"], row["source"], row["values"], row["sealed"]) == ("seals", "file", 3, 3 + AHEAD)
    assert "1,027" in run("status").said
    assert str(row["id"]) in run("status").said


def test_status_shows_what_is_in_clear_and_whose_key_is_missing(run: Run, database: Path) -> None:
    with opened(database) as store:
        store.query("UPDATE accounts SET access_token = 'x', api_key = ?", (b"\x01" + bytes(60),))
    assert {(row["state"], row["values"]) for row in status(run)} == {("seals", 1), ("clear", 1), ("missing", 1)}


def test_status_tells_why_the_keys_cannot_be_used_and_makes_none(run: Run, database: Path) -> None:
    database.with_suffix(".key").unlink()
    desk = run("status", code=1)
    assert "is missing" in desk.complained
    assert "seals" in desk.said
    assert not database.with_suffix(".key").exists()


def test_rotate_rewrap_retire(run: Run) -> None:
    [old] = status(run)
    run("rotate", "--later")
    assert [row["values"] for row in status(run)] == [0, 3]
    assert "still needed by 3 values" in run("retire", str(old["id"]), code=1).complained
    assert f"No value needs {old['id']} any more: `scripts/keys.py retire KEY` deletes a key." in run("rewrap").said
    run("retire", str(old["id"]))
    assert [row["values"] for row in status(run)] == [4]  # with the audit key of the old one


def test_rotate_alone_does_both(run: Run) -> None:
    assert "Sealed 3 values" in run("rotate").said
    assert [row["values"] for row in status(run)] == [3, 0]


def test_what_does_not_open_is_told_and_the_rest_is_done(run: Run, database: Path) -> None:
    with opened(database) as store:
        store.query("UPDATE accounts SET api_key = substr(api_key, 1, 30)")
    desk = run("rotate", code=1)
    assert "accounts.api_key of row id of max-1" in desk.complained
    assert "Sealed 2 values" in desk.said


def test_a_new_source_takes_over(run: Run, database: Path) -> None:
    desk = run("change-source", "passphrase", stdin=WORDS)
    assert "set ccflare_key_source to passphrase" in desk.complained
    assert WORDS not in desk.said + desk.complained
    assert "configured: set ccflare_key_source to passphrase" in run("rotate", code=1).complained
    run("rotate", ccflare_PASSPHRASE=WORDS)
    with opened(database, Passphrase(WORDS)) as store:
        assert store.accounts.all() == [an_account()]


def test_a_source_renews_its_own_key(run: Run, database: Path) -> None:
    before = database.with_suffix(".key").read_text()
    run("change-source", "file")
    assert database.with_suffix(".key").read_text().endswith(before)
    database.with_suffix(".key").write_text(database.with_suffix(".key").read_text().removesuffix(before))
    with opened(database) as store:
        assert store.accounts.all() == [an_account()]


def test_a_new_passphrase_replaces_the_old_one(run: Run) -> None:
    run("change-source", "passphrase", stdin=WORDS)
    run("change-source", "passphrase", stdin="another five random words", ccflare_PASSPHRASE=WORDS)
    assert "is not the passphrase" in run("rotate", code=1, ccflare_PASSPHRASE=WORDS).complained
    run("rotate", ccflare_PASSPHRASE="another five random words")


def test_new_passphrase_is_typed_twice(database: Path) -> None:
    def typed(first: str, second: str) -> tuple[int, Desk]:
        desk = Desk(Terminal(), typed=first, typed_again=second)
        return main(["change-source", "passphrase", "--database", str(database)], desk.console()), desk

    code, desk = typed(WORDS, WORDS.replace("horse", "hose"))
    assert (code, desk.complained) == (1, "That was not the same twice; nothing was changed.\n")
    with opened(database) as store:
        assert store.accounts.all() == [an_account()]

    code, desk = typed(WORDS, WORDS)
    assert (code, desk.prompts) == (0, ["New passphrase: ", "The same again: "])
    with opened(database, Passphrase(WORDS)) as store:
        assert store.accounts.all() == [an_account()]


@pytest.mark.parametrize(("source", "given"), [("environment", "too short"), ("passphrase", ""), ("pkcs11", "")])
def test_a_source_that_cannot_be_used_changes_nothing(source: str, given: str, run: Run, database: Path) -> None:
    before = database.with_suffix(".key").read_bytes()
    run("change-source", source, code=1, stdin=given)
    assert database.with_suffix(".key").read_bytes() == before
    assert [row["source"] for row in status(run)] == ["file"]


def test_what_an_import_left_in_clear_is_sealed(run: Run, database: Path) -> None:
    with opened(database) as store:
        store.query("UPDATE accounts SET access_token = ?", (SECRETS[0],))
    assert "Sealed 1 value" in run("migrate-plaintext").said
    with opened(database) as store:
        assert store.accounts.all() == [an_account()]


def test_without_a_database_there_is_nothing_to_do(tmp_path: Path) -> None:
    desk = Desk()
    assert main(["status", "--database", str(tmp_path / "none.db")], desk.console()) == 1
    assert "does not exist yet" in desk.complained
    assert list(tmp_path.iterdir()) == []
