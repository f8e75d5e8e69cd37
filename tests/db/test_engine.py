"""Opening: a good database opens privately; anything else is refused in a sentence and left as it was."""

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import peewee
import pytest

from ccflare_core.db.engine import explain
from ccflare_core.db.migrations import MIGRATIONS
from ccflare_core.db.sqlite import APPLICATION_ID
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import Payload
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from ccflare_core.writer.warnings import RateLimitedWarnings
from ccflare_core.writer.watch import Watch
from database_kit import KEY, an_account, open_store, start_python, started
from history import NOON, History


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ccflare.db"


@pytest.fixture
def made(path: Path) -> Path:
    """A closed database with one account and more than one page of data."""
    store = open_store(path)
    store.accounts.add(an_account())
    store.close()
    return path


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


def test_makes_a_private_folder_and_files(path: Path) -> None:
    store = open_store(path)
    store.accounts.add(an_account())
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert modes(path.parent) == {"ccflare.db": 0o600, "ccflare.db-wal": 0o600, "ccflare.db-shm": 0o600}
    store.close()


def test_tightens_files_that_others_can_read(made: Path) -> None:
    made.chmod(0o644)
    open_store(made).close()
    assert modes(made.parent) == {"ccflare.db": 0o600}


def test_settings_of_the_connection(path: Path) -> None:
    store = open_store(path)
    pragmas = ("application_id", "journal_mode", "synchronous", "foreign_keys", "secure_delete", "trusted_schema")
    values = [store.query(f"PRAGMA {pragma}")[0][0] for pragma in (*pragmas, "busy_timeout")]
    assert values == [APPLICATION_ID, "wal", 2, 1, 1, 0, 5000]
    store.close()


@pytest.mark.parametrize("name", ["with space.db", "per%20cent?.db", "#hash&.db", "ünï.db"])
def test_any_file_name_will_do(name: str, tmp_path: Path) -> None:
    open_store(tmp_path / name).close()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_processes_that_start_together_share_one_database(path: Path) -> None:
    program = (
        "import sys, pathlib, database_kit as kit; sys.stdin.readline();"
        "store = kit.open_store(pathlib.Path(sys.argv[1]));"
        "store.accounts.add(kit.an_account(sys.argv[2])); store.close()"
    )
    children = [start_python(program, path, f"account {number}") for number in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate(timeout=60) and child.returncode for child in children] == [0, 0, 0, 0]
    store = open_store(path)
    assert len(store.accounts.all()) == 4
    store.close()


def test_reading_makes_nothing(path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(StoreError, match="no database yet"):
        Store.open(path, None, read_only=True)
    assert list(path.parent.iterdir()) == []


def test_reading_works_while_another_process_writes_and_cannot_write(made: Path) -> None:
    writing = open_store(made)
    reading = Store.open(made, None, read_only=True)
    writing.accounts.add(an_account("second"))
    assert [account.name for account in reading.accounts.all()] == ["max-1", "second"]
    with pytest.raises(StoreError, match="read-only"):
        reading.accounts.remove("id of second")
    reading.close()
    writing.close()


def test_reading_does_not_migrate(made: Path) -> None:
    with sqlite3.connect(made) as connection:
        connection.execute("DELETE FROM migrations WHERE name = ?", (MIGRATIONS[-1].name,))
    connection.close()
    with pytest.raises(StoreError, match="older ccflare"):
        Store.open(made, None, read_only=True)


# -- what is refused


def flip_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(byte ^ 0x5A for byte in content[4096:])
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def empty_with_log(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(path.name + "-wal").write_bytes(b"x" * 100)


def no_database(path: Path) -> None:
    path.write_bytes(b"these are not the bytes of a database" * 200)


def another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES ('9999_future', 0)")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip_pages, "damaged"),
        (cut, "damaged"),
        (empty, "empty"),
        (empty_with_log, "empty"),
        (no_database, "no database"),
        (another_program, "another program"),
        (newer, "newer ccflare"),
    ],
)
def test_refuses_and_leaves_alone(damage: Callable[[Path], None], sentence: str, made: Path) -> None:
    damage(made)
    before = made.read_bytes()
    with pytest.raises(StoreError, match=sentence) as caught:
        open_store(made)
    assert str(made) in str(caught.value)
    assert made.read_bytes() == before
    with pytest.raises(StoreError):
        Store.open(made, None, read_only=True).accounts.all()


def test_refuses_a_missing_database_whose_log_is_there(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("ccflare.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match="-wal"):
        open_store(path)
    assert not path.exists()


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a file"):
        open_store(tmp_path)


def test_refuses_a_path_through_a_file(made: Path) -> None:
    with pytest.raises(StoreError, match="check the path"):
        open_store(made / "x.db")


def test_refuses_a_file_of_another_user(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: made.stat().st_uid + 1)
    with pytest.raises(StoreError, match="another user"):
        Store.open(made, KEY)


def test_damage_that_shows_while_rows_are_fetched_is_told(path: Path) -> None:
    store = open_store(path)
    store.write([started(f"r{number}", user_agent="x" * 3000) for number in range(100)])
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[:-200_000] + bytes(200_000))
    store = Store.open(path, None, read_only=True)
    with pytest.raises(StoreError, match="damaged"):
        store.query("SELECT user_agent FROM requests")
    store.close()


# -- damage at run time


def tail(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(8192)


def head(path: Path) -> None:
    with path.open("rb+") as file:
        file.write(b"x" * 4096)


def middle(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(8192)
        file.write(b"\xa5" * (path.stat().st_size - 8192))


def nothing_left(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(0)


@pytest.mark.parametrize(
    "damage", [tail, head, middle, nothing_left, Path.unlink, lambda path: path.rename(f"{path}.x")]
)
def test_a_file_that_is_spoilt_while_in_use_is_told_within_a_minute(damage: Callable[[Path], None], path: Path) -> None:
    store, told, now = open_store(path), list[str](), 0.0
    store.write([started(f"r{number}") for number in range(100)])
    store.scrub()
    warnings = RateLimitedWarnings(told.append, lambda: now)
    watch = Watch(store, lambda accounts: None, warnings, lambda: now, begin=lambda work: work())
    for _ in range(30):
        now += 1
        watch.look()
    assert told == []
    damage(path)
    for _ in range(60):
        now += 1
        watch.look()
    assert any("damaged" in text or "deleted or replaced" in text for text in told)
    assert len(told) <= 3
    store.close()


# -- the true cause


def test_the_cause_behind_a_failed_rollback_is_told(path: Path) -> None:
    store = open_store(path)
    pages = store.query("PRAGMA page_count")[0][0]
    store.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="disk is full"):
        fill(store)
    store.close()


def fill(store: Store) -> None:
    for number in range(1000):
        store.accounts.add(an_account(f"account {number}"))


def test_an_unknown_cause_is_quoted() -> None:
    assert explain(peewee.OperationalError("no such thing")) == "the database reports: no such thing"


# -- where nothing can be written


UNAUDITED = "This copy of the database cannot be written, so its audit log does not tell that you read it."
_READ = """
import contextlib, importlib, io, json, os, sys
commands = json.loads(sys.argv[1])
mains = [importlib.import_module(module).main for module, *_ in commands]
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for main, (_, *words) in zip(mains, commands):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
_OPEN = """
import os, pathlib, sys
from ccflare_core.errors import StoreError
from ccflare_core.store.store import Store
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = None
try:
    store = Store.open(pathlib.Path(sys.argv[1]), None, read_only=True)
    print(len(store.accounts.all()), flush=True)
    sys.stdin.readline()
    store.close()
    store.close()
    print("closed")
except StoreError as error:
    print(error)
"""


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A database in a folder that nobody here can write, as on a medium that is mounted read-only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "ccflare.db"
        with History(path, KeyFile(folder / "ccflare.key")) as past:
            past.account("max-1")
            request = past.exchange(NOON, path="/v1/messages")
            body = b'{"messages": [{"role": "user", "content": "hello"}]}'
            past.store.write([Payload(request, "request", "application/json", "", body, len(body), truncated=False)])
        freeze(folder)
        yield path
        folder.chmod(0o700)


def freeze(folder: Path) -> None:
    for file in (*folder.iterdir(), folder):
        file.chmod(0o500 if file.is_dir() else 0o400)
        if os.geteuid() == 0:  # whom no mode keeps from writing, so another user reads
            os.chown(file, 65534, 65534)


def test_copy_that_cannot_be_written_is_read_by_what_reads(frozen: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in frozen.parent.iterdir()}
    where = ("--database", str(frozen))
    reading = [
        ("ccflare_cli.accounts.main", *where, "list"),
        ("ccflare_cli.stats.main", *where, "accounts"),
        ("ccflare_cli.audit.main", *where, "show"),
        ("ccflare_cli.audit.main", *where, "who-used", "max-1"),
        ("ccflare_cli.keys.main", *where, "status"),
        ("ccflare_cli.keys.main", *where, "client", "list"),
        ("ccflare_cli.access", *where, "list"),
        ("ccflare_cli.maintain.main", *where, "check"),
    ]
    unaudited = [
        ("ccflare_cli.show", *where, "last"),
        ("ccflare_cli.search", *where, "hello"),
        ("ccflare_cli.maintain.main", *where, "export"),
    ]
    writing = ("ccflare_cli.accounts.main", *where, "pause", "max-1")

    child = start_python(_READ, json.dumps([*reading, *unaudited, writing]))
    told = [json.loads(line) for line in child.communicate(timeout=60)[0].splitlines()]

    *readings, (code, _, sentence) = told
    assert [each[0] for each in readings] == [0] * len(readings)
    assert [each[2] for each in readings] == [""] * len(reading) + [f"{UNAUDITED}\n"] * len(unaudited)
    assert "max-1" in readings[0][1]
    assert (code, sentence.count("\n")) == (1, 1)
    assert {file.name: file.stat().st_mtime_ns for file in frozen.parent.iterdir()} == before


def test_copy_that_cannot_be_written_is_believed_if_it_stays_as_it_is(frozen: Path) -> None:
    child = start_python(_OPEN, frozen)
    assert child.communicate("\n", timeout=60)[0].splitlines() == ["1", "closed"]


def test_copy_that_changes_while_it_is_read_is_told(frozen: Path) -> None:
    child = start_python(_OPEN, frozen)
    assert child.stdout is not None
    assert child.stdout.readline() == "1\n"
    os.utime(frozen, ns=(1, 1))

    (told,) = child.communicate("\n", timeout=60)[0].splitlines()

    assert "the file was changed while it was read" in told


def test_copy_whose_log_has_changes_is_not_read_without_them(frozen: Path) -> None:
    frozen.parent.chmod(0o700)
    frozen.with_name("ccflare.db-wal").write_bytes(b"x")
    freeze(frozen.parent)

    (told,) = start_python(_OPEN, frozen).communicate("\n", timeout=60)[0].splitlines()

    assert "its -wal holds changes" in told
