"""Accounts of other programs: all that is useful comes over, nothing twice, and their files stay as they are."""

import contextlib
import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccflare_cli.accounts.importers import FoundAccount, read_database, without_known
from ccflare_cli.accounts.main import main
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.errors import StoreError
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from desk import Desk
from history import NOON

DAY = 86_400.0
MS = round(NOON * 1000)

# As the two programs make them: packages/database/src/migrations.ts of each.
_COMMON = """id TEXT PRIMARY KEY, name TEXT NOT NULL, provider TEXT DEFAULT 'anthropic', api_key TEXT,
    refresh_token TEXT {null}, access_token TEXT, expires_at INTEGER, created_at INTEGER NOT NULL, last_used INTEGER,
    request_count INTEGER DEFAULT 0, total_requests INTEGER DEFAULT 0, paused INTEGER DEFAULT 0"""
ORIGINAL = f"CREATE TABLE accounts ({_COMMON.format(null='NOT NULL')}, account_tier INTEGER DEFAULT 1)"
FORK = f"""CREATE TABLE accounts ({_COMMON.format(null="")}, priority INTEGER DEFAULT 0, custom_endpoint TEXT,
    requires_reauth INTEGER DEFAULT 0)"""


class Foreign:
    """Another program's database. With `runs` the program has it open."""

    def __init__(self, path: Path, schema: str = FORK) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(schema)

    def add(self, name: str, /, **columns: Any) -> None:
        tokens = {"access_token": f"sk-ant-oat01-{name}", "refresh_token": f"sk-ant-ort01-{name}"}
        row = {"id": name, "name": name, "created_at": MS, "expires_at": MS + 3_600_000, **tokens, **columns}
        marks = ", ".join("?" * len(row))
        self.connection.execute(f"INSERT INTO accounts ({', '.join(row)}) VALUES ({marks})", list(row.values()))

    def files(self) -> dict[str, bytes]:
        """What a reader must not change: all but SQLite's locks."""
        return {path.name: path.read_bytes() for path in self.path.parent.iterdir() if path.suffix != ".db-shm"}

    def names(self) -> set[str]:
        return {path.name for path in self.path.parent.iterdir()}

    def stop(self) -> None:
        self.connection.close()


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Foreign]:
    foreign = Foreign(tmp_path / "theirs" / "better.db")
    yield foreign
    foreign.stop()


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Foreign]:
    foreign = Foreign(tmp_path / "theirs" / "ccflare.db", ORIGINAL)
    yield foreign
    foreign.stop()


def only(foreign: Foreign) -> FoundAccount:
    (found,) = read_database(foreign.path, NOON)
    return found


def account(foreign: Foreign) -> Account:
    found = only(foreign)
    assert found.account is not None, found.problem
    return found.account


class TestDatabases:
    def test_a_login_of_the_fork(self, fork: Foreign) -> None:
        fork.add("max", priority=7, paused=1, requires_reauth=1, created_at=MS - 100 * 86_400_000)

        found = account(fork)

        assert (found.name, found.kind, found.priority, found.paused) == ("max", Kind.OAUTH, 57, True)
        assert (found.access_token, found.refresh_token) == ("sk-ant-oat01-max", "sk-ant-ort01-max")
        assert (found.expires_at, found.needs_login) == (NOON + 3600, True)
        assert (found.login_at, found.login_expires_at) == (None, NOON + 28 * DAY)

    def test_a_login_of_the_original_is_as_old_as_its_account(self, original: Foreign) -> None:
        original.add("max", created_at=MS - 20 * 86_400_000)

        found = account(original)

        assert (found.priority, found.paused) == (50, False)
        assert (found.login_at, found.login_expires_at) == (NOON - 20 * DAY, NOON + 8 * DAY)

    def test_priorities_keep_their_order_wherever_they_are(self, fork: Foreign) -> None:
        for name, priority in (("a", 0), ("b", 100), ("c", 20), ("d", 100)):
            fork.add(name, priority=priority)

        found = read_database(fork.path, NOON)

        assert [each.account and each.account.priority for each in found] == [50, 52, 51, 52]

    @pytest.mark.parametrize("refresh", [None, "", "sk-ant-api03-K"])
    def test_an_api_key_in_all_its_forms(self, fork: Foreign, refresh: str | None) -> None:
        fork.add("key", api_key="sk-ant-api03-K", refresh_token=refresh, access_token=None, expires_at=None)

        found = account(fork)

        assert (found.kind, found.api_key, found.refresh_token) == (Kind.API_KEY, "sk-ant-api03-K", None)

    @pytest.mark.parametrize(
        ("columns", "problem"),
        [
            ({"provider": "zai"}, "another provider's"),
            ({"custom_endpoint": "https://example.com"}, "address of its own"),
            ({"access_token": None, "refresh_token": ""}, "neither token nor key"),
            ({"refresh_token": "two words"}, "characters"),
            ({"access_token": b"\xff\x00"}, "characters"),
            ({"refresh_token": "line\r\nbreak"}, "characters"),
        ],
    )
    def test_what_is_of_no_use_is_left_out_with_its_reason(
        self, fork: Foreign, columns: dict[str, Any], problem: str
    ) -> None:
        fork.add("other", **columns)

        found = only(fork)

        assert found.account is None
        assert problem in found.problem

    def test_a_name_that_cannot_be_had_here_is_changed(self, fork: Foreign) -> None:
        fork.add("max", name="Müller/Büro")

        assert account(fork).name == "Müller-Büro"

    def test_a_text_that_is_none_does_not_show_a_token(self, fork: Foreign) -> None:
        """sqlite3's own error would quote it."""
        fork.add("max", access_token=None)
        fork.connection.execute("UPDATE accounts SET access_token = CAST(x'736b2d414e54ff' AS TEXT)")

        assert "characters" in only(fork).problem

    @settings(deadline=None, max_examples=50)
    @given(
        row=st.dictionaries(
            st.sampled_from(["name", "refresh_token", "expires_at", "priority", "paused"]),
            st.none()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats()
            | st.text(st.characters(codec="utf-8"))
            | st.binary(),
        )
    )
    def test_whatever_a_row_holds_is_read(self, row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
        foreign = Foreign(tmp_path_factory.mktemp("any") / "x.db", FORK.replace("NOT NULL", ""))
        foreign.add("max", **row)
        foreign.stop()

        found = only(foreign)

        assert (found.account is None) is bool(found.problem)


class TestFiles:
    """A database is read as it is, and left as it was."""

    def test_while_its_owner_runs(self, fork: Foreign) -> None:
        fork.add("max")
        before, names = fork.files(), fork.names()
        assert len(before["better.db-wal"]) > 0

        assert account(fork).name == "max"

        assert (fork.files(), fork.names()) == (before, names)

    def test_when_its_owner_has_stopped(self, fork: Foreign) -> None:
        fork.add("max")
        fork.stop()
        before = fork.files()
        assert before.keys() == {"better.db"}

        assert account(fork).name == "max"

        assert fork.files() == before
        assert fork.names() == {"better.db"}

    def test_when_its_owner_was_killed(self, fork: Foreign, tmp_path: Path) -> None:
        fork.add("max")
        shutil.copytree(fork.path.parent, tmp_path / "killed")
        killed = tmp_path / "killed" / fork.path.name

        (found,) = read_database(killed, NOON)

        assert found.name == "max"
        assert killed.with_name("better.db-wal").read_bytes() == fork.files()["better.db-wal"]

    def test_a_log_without_its_index_is_refused(self, fork: Foreign, tmp_path: Path) -> None:
        fork.add("max")
        (tmp_path / "copy").mkdir()
        for name in ("better.db", "better.db-wal"):
            shutil.copy(fork.path.with_name(name), tmp_path / "copy" / name)

        with pytest.raises(StoreError, match="copy all three"):
            read_database(tmp_path / "copy" / "better.db", NOON)
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {"better.db", "better.db-wal"}

    @pytest.mark.parametrize("content", [b"", b"not a database " * 100, b"SQLite format 3\0" + b"\xff" * 4000])
    def test_what_is_no_database_is_one_sentence(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.db").write_bytes(content)

        with pytest.raises(StoreError, match=r"x\.db: "):
            read_database(tmp_path / "x.db", NOON)
        assert (tmp_path / "x.db").read_bytes() == content

    @pytest.mark.parametrize("schema", ["CREATE TABLE t (a)", "CREATE TABLE accounts (name TEXT, password TEXT)"])
    def test_another_programs_database(self, tmp_path: Path, schema: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as connection:
            connection.execute(schema)

        with pytest.raises(StoreError, match=r"x\.db: "):
            read_database(tmp_path / "x.db", NOON)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such file"):
            read_database(tmp_path / "x.db", NOON)
        assert list(tmp_path.iterdir()) == []


class TestKnown:
    HERE = Account("1", "here", Kind.OAUTH, access_token="a", refresh_token="r")

    def obstacles(self, *accounts: Account) -> list[str]:
        found = [FoundAccount(account.name, account) for account in accounts]
        return [each.problem for each in without_known(found, [self.HERE])]

    def test_by_refresh_token(self) -> None:
        twin = Account("2", "there", Kind.OAUTH, access_token="b", refresh_token="r")

        assert self.obstacles(twin) == ["its token is that of here"]

    def test_by_name(self) -> None:
        namesake = Account("2", "here", Kind.OAUTH, refresh_token="other")

        assert self.obstacles(namesake) == ["there is an account called here already"]

    def test_among_themselves(self) -> None:
        one = Account("2", "new", Kind.API_KEY, api_key="k")
        other = Account("3", "newer", Kind.API_KEY, api_key="k")

        assert self.obstacles(one, other) == ["", "its token is that of new"]


class TestCommand:
    @pytest.fixture
    def database(self, tmp_path: Path) -> Path:
        return tmp_path / "ours" / "ccflare.db"

    def call(self, database: Path, *words: object) -> tuple[int, Desk]:
        desk = Desk(io.StringIO())
        return main(["--database", str(database), *map(str, words)], desk.console()), desk

    def stored(self, database: Path) -> list[Account]:
        with contextlib.closing(Store.open(database, KeyFile(database.with_suffix(".key")))) as store:
            return store.accounts.all()

    def test_a_dry_run_shows_and_changes_nothing(self, database: Path, fork: Foreign) -> None:
        fork.add("max-1", priority=2)
        fork.add("glm", provider="zai")

        code, desk = self.call(database, "import", "--from", "better-ccflare", fork.path)

        assert code == 0
        _, _, glm, maximum = desk.said.splitlines()
        assert glm.endswith("left out: it is another provider's account")
        assert maximum.split() == ["max-1", "OAuth,", "valid", "for", "1", "h", "52", "–", "would", "be", "added"]
        assert "must not refresh these accounts: stop it" in desk.complained
        assert "--yes adds them" in desk.complained
        assert not database.parent.exists()

    def test_yes_does_it_once(self, database: Path, fork: Foreign) -> None:
        fork.add("max-1", paused=1)
        fork.add("max-2", priority=2)
        words = ("import", "--from", "better-ccflare", fork.path, "--yes")

        first, again = self.call(database, *words), self.call(database, *words)

        assert (first[0], again[0]) == (0, 0)
        assert first[1].said.count("  added") == 2
        assert again[1].said.count("left out: its token is that of") == 2
        assert again[1].complained == ""
        assert [(account.name, account.paused) for account in self.stored(database)] == [
            ("max-1", True),
            ("max-2", False),
        ]

    def test_a_dry_run_knows_what_is_there(self, database: Path, fork: Foreign) -> None:
        fork.add("max-1")
        self.call(database, "import", "--from", "better-ccflare", fork.path, "--yes")

        code, desk = self.call(database, "import", "--from", "better-ccflare", fork.path, "--format", "json")

        (row,) = json.loads(desk.said)
        assert (code, row["result"], row["reason"]) == (0, "left_out", "its token is that of max-1")

    def test_the_original(self, database: Path, original: Foreign) -> None:
        original.add("max-1")

        code, _ = self.call(database, "import", "--from", "ccflare", original.path, "--yes")

        assert (code, self.stored(database)[0].refresh_token) == (0, "sk-ant-ort01-max-1")

    def test_claude_codes_login(self, database: Path, tmp_path: Path) -> None:
        login = {"accessToken": "sk-ant-oat01-A", "refreshToken": "sk-ant-ort01-R", "expiresAt": MS + 3_600_000}
        file = tmp_path / ".credentials.json"
        file.write_text(json.dumps({"claudeAiOauth": {**login, "scopes": [], "subscriptionType": "max"}}))
        before = file.read_bytes()

        code, desk = self.call(database, "import", "--from", "claude-code", file, "--yes")

        (account,) = self.stored(database)
        assert (code, file.read_bytes()) == (0, before)
        assert (account.name, account.refresh_token, account.expires_at) == (
            "claude-code",
            "sk-ant-ort01-R",
            NOON + 3600,
        )
        assert (account.login_at, account.login_expires_at) == (None, NOON + 28 * DAY)
        assert "Claude Code must not refresh" in desk.complained

    @pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"claudeAiOauth": {}}', "x" * 70_000])
    def test_what_is_no_login_file_is_one_sentence(self, database: Path, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "file").write_text(text)

        code, desk = self.call(database, "import", "--from", "claude-code", tmp_path / "file", "--yes")

        assert (code, desk.complained.count("\n")) == (1, 1)
        assert not database.parent.exists()

    def test_no_token_is_shown(self, database: Path, fork: Foreign, caplog: pytest.LogCaptureFixture) -> None:
        fork.add("max-1")
        shown = ""
        for words in ([], ["--yes"], ["--format", "json"], ["--format", "csv"]):
            _, desk = self.call(database, "import", "--from", "better-ccflare", fork.path, *words)
            shown += desk.said + desk.complained
        shown += repr(read_database(fork.path, NOON)) + caplog.text

        assert "sk-ant-" not in shown
