"""Backups: worth nothing without the key, whole or not at all, and never in the way of what runs."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodies_kit import contents, is_sound, record, turns
from ccflare_cli.audit.main import main as audit
from ccflare_cli.maintain.main import main
from ccflare_cli.output import local
from ccflare_core.audit.check import Check, Verification
from ccflare_core.audit.entries import By
from ccflare_core.db import sqlite
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.http.addresses import Network
from ccflare_core.secrets.key_sources import GivenKey, KeyFile
from ccflare_core.secrets.vault import Chunks
from ccflare_core.store import backup
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from database_kit import NOW, SECRETS, an_account, exchange, payload, started
from desk import Desk

TURNS = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "here" / "ccflare.db"


@pytest.fixture
def key(path: Path) -> KeyFile:
    return KeyFile(path.with_suffix(".key"))


@pytest.fixture
def store(path: Path, key: KeyFile) -> Iterator[Store]:
    with contextlib.closing(Store.open(path, key, wall=lambda: NOW)) as store:
        store.accounts.add(an_account())
        record(store, list(turns(TURNS)))
        yield store


def run(path: Path, *argv: str, code: int = 0, now: float = NOW) -> Desk:
    desk = Desk(now=now)
    assert main([*argv, "--database", str(path)], desk.console()) == code, desk.complained
    return desk


@pytest.fixture
def made(path: Path, store: Store, tmp_path: Path) -> Path:
    """A backup."""
    target = tmp_path / "a.backup"
    run(path, "backup", str(target))
    return target


@contextlib.contextmanager
def opened(path: Path, *, copied: bool = False) -> Iterator[Store]:
    """The store; with `copied` its audit log has its second copy."""
    file = path.with_suffix(".audit.jsonl") if copied else None
    key = KeyFile(path.with_suffix(".key"))
    with contextlib.closing(Store.open(path, key, audit_file=file, wall=lambda: NOW)) as store:
        yield store


def entries(store: Store) -> list[tuple[str, str]]:
    """Action and outcome of every audit entry."""
    return store.query("SELECT action, outcome FROM audit_log ORDER BY id")


def look(path: Path, *anchors: str) -> Verification:
    """What `audit.py verify` finds."""
    with opened(path) as store:
        return Check(store.audit).run(path.with_suffix(".audit.jsonl"), anchors, is_used=True)


def is_complete(path: Path) -> bool:
    with opened(path) as store:
        whole = is_sound(store) and not store.problems()
        return whole and store.accounts.all() == [an_account()] and contents(store, TURNS) == list(turns(TURNS))


def stray(folder: Path) -> list[str]:
    """Files with passing names."""
    return [file.name for file in folder.rglob("*") if len(file.suffix) == 17]


def test_r28_a_backup_is_restored_on_another_machine_that_has_the_key(path: Path, made: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / "ccflare.db"
    assert "missing" in run(there, "restore", str(made), code=1).complained
    assert not there.exists()
    shutil.copy(path.with_suffix(".key"), there.with_suffix(".key"))
    run(there, "restore", str(made))
    assert is_complete(there)
    with opened(there) as store:
        assert entries(store)[-2:] == [("account.add", "ok"), ("backup.restore", "ok")]
    with opened(path) as store:
        assert entries(store)[-2:] == [("account.add", "ok"), ("backup.make", "ok")]
    assert stray(tmp_path) == []


def test_r28_without_the_key_it_is_worth_nothing(made: Path, tmp_path: Path) -> None:
    content = made.read_bytes()
    for planted in (*SECRETS, "SQLite format 3", "max-1", "claude-opus", "s-1/0", "CREATE TABLE"):
        assert planted.encode() not in content
    stranger = KeyFile(tmp_path / "there" / "ccflare.key")
    (tmp_path / "there").mkdir()
    stranger.wrap(b"x" * 32, b"")
    assert "not the one" in run(tmp_path / "there" / "ccflare.db", "restore", str(made), code=1).complained
    assert not (tmp_path / "there" / "ccflare.db").exists()


def test_r28_another_key_source_is_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="set ccflare_key_source to file"):
        backup.unpack(made, GivenKey(b"k" * 32), tmp_path / "x", lambda done, total: None)


def test_r28_a_pipe_is_no_backup_and_nobody_waits_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(StoreError, match="this is no backup"):
        backup.examine(pipe)


def test_r52_a_backup_is_its_owners_alone_and_never_written_over(path: Path, made: Path) -> None:
    before = made.read_bytes()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert "already" in run(path, "backup", str(made), code=1).complained
    assert made.read_bytes() == before
    assert "check the path" in run(path, "backup", str(made / "x"), code=1).complained
    with opened(path) as store:
        outcomes = store.query("SELECT outcome, detail FROM audit_log WHERE action = 'backup.make' ORDER BY id")
    assert [outcome for outcome, _ in outcomes] == ["ok", "failed", "failed"]
    assert ["already" in outcomes[1][1], "check the path" in outcomes[2][1]] == [True, True]


def test_r34_a_backup_that_cannot_be_audited_is_not_there(path: Path, store: Store, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TRIGGER audit_head_keep")
        other.execute("DELETE FROM audit_head")
    assert "does not hold together" in run(path, "backup", str(tmp_path / "a.backup"), code=1).complained
    assert not (tmp_path / "a.backup").exists()
    assert stray(tmp_path) == []


def cut_at_a_piece(content: bytes) -> bytes:
    return content[: content.rindex(b"}", 0, 800) + 1 + 1024 * 1024 + 16]


def two_pieces_swapped(content: bytes) -> bytes:
    at, size = content.rindex(b"}", 0, 800) + 1, 1024 * 1024 + 16
    return content[:at] + content[at + size : at + 2 * size] + content[at : at + size] + content[at + 2 * size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        cut_at_a_piece,
        two_pieces_swapped,
        lambda content: content.replace(b'"made_at": "20', b'"made_at": "21'),
        lambda content: content[:50],
        lambda content: b"",
        lambda content: b"PK" + content,
    ],
)
def test_r28_what_was_changed_or_cut_is_refused_and_nothing_happens(
    path: Path, store: Store, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    for number in range(30):
        store.write([started(f"big-{number}"), payload(f"big-{number}", os.urandom(100_000))])
    target = tmp_path / "a.backup"
    run(path, "backup", str(target))
    target.write_bytes(damage(target.read_bytes()))
    store.close()
    said = run(path, "restore", str(target), code=1).complained
    assert "backup" in said
    assert sorted(file.name for file in path.parent.iterdir()) == ["ccflare.audit.jsonl", "ccflare.db", "ccflare.key"]
    assert is_complete(path)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
def test_r28_pieces_open_in_their_order_and_with_their_end_alone(pieces: list[bytes], data: st.DataObject) -> None:
    chunks = Chunks(b"k" * 32, b"head")
    sealed = [chunks.seal(n, piece, is_last=n == len(pieces) - 1) for n, piece in enumerate(pieces)]
    assert [chunks.open(n, each, is_last=n == len(pieces) - 1) for n, each in enumerate(sealed)] == pieces
    n, wrong = data.draw(st.integers(0, len(pieces) - 1)), data.draw(st.integers(0, 9))
    is_last = data.draw(st.booleans())
    if (wrong, is_last) != (n, n == len(pieces) - 1):
        with pytest.raises(VaultError):
            chunks.open(wrong, sealed[n], is_last=is_last)
    with pytest.raises(VaultError):
        Chunks(b"k" * 32, b"another head").open(n, sealed[n], is_last=n == len(pieces) - 1)


def test_r28_the_old_database_is_kept_aside(path: Path, store: Store, made: Path) -> None:
    store.write(exchange("later"))
    store.close()
    said = run(path, "restore", str(made))
    assert is_complete(path)
    (aside,) = [file for file in path.parent.iterdir() if "before-restore" in file.name]
    assert str(aside) in said.said
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    with contextlib.closing(Store.open(aside, KeyFile(path.with_suffix(".key")))) as old:
        assert old.query("SELECT COUNT(*) FROM requests WHERE id = 'later'") == [(1,)]


def test_r28_nothing_is_replaced_under_a_program_that_has_it_open(path: Path, made: Path) -> None:
    holder = sqlite3.connect(path)
    holder.execute("SELECT COUNT(*) FROM requests").fetchall()
    child = os.fork()
    if not child:  # in another process, as in life: a process does not see its own locks
        code = main(["restore", str(made), "--database", str(path)], Desk(now=NOW).console())
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert holder.execute("SELECT COUNT(*) FROM requests").fetchone() == (TURNS,)
    holder.close()
    assert stray(path.parent) == []
    assert (look(path).problem, look(path).replaced) == (None, 0)
    with opened(path) as other:
        assert entries(other)[-1] == ("backup.make", "ok")


# -- The audit log after a restore


def restored(path: Path, made: Path, *actions: str) -> None:
    """Have these entries in the log and its second copy, then put the backup back."""
    with opened(path, copied=True) as store:
        for action in actions:
            store.note(action)
    run(path, "restore", str(made))


def test_r35_after_a_restore_the_log_is_whole_and_says_what_was_replaced(path: Path, store: Store, made: Path) -> None:
    store.close()
    restored(path, made, "account.pause", "account.resume")
    report = look(path)
    assert (report.problem, report.replaced) == (None, 3)  # these two, and the one about the backup
    with opened(path) as again:
        [(target, detail)] = again.query("SELECT target, detail FROM audit_log WHERE action = 'backup.restore'")
    assert target == str(made)
    assert json.loads(detail)["replaced"] == f"before-restore-{local(NOW):%Y%m%dT%H%M%S}"


def test_r35_after_a_restore_rows_of_later_keys_and_anchors_are_proven_still(
    path: Path, store: Store, made: Path
) -> None:
    store.close()
    with opened(path, copied=True) as again:
        assert again.keys is not None
        again.keys.rotate()
        again.note("account.pause")
        anchor = again.audit.anchor()
    run(path, "restore", str(made))
    assert look(path, anchor).problem is None
    copy = path.with_suffix(".audit.jsonl")
    copy.write_text(copy.read_text().replace("account.pause", "account.limit"))
    assert "was changed" in str(look(path).problem)


def test_r35_an_older_copy_is_found_after_a_restore_too(path: Path, store: Store, made: Path, tmp_path: Path) -> None:
    store.close()
    restored(path, made, *["account.pause"] * 9)
    shutil.copy(path, tmp_path / "older.db")
    with opened(path, copied=True) as again:
        again.note("account.resume")
    shutil.copy(tmp_path / "older.db", path)
    copy = path.with_suffix(".audit.jsonl")
    assert "there once was a row" in str(look(path).problem)
    lines = copy.read_bytes().splitlines(keepends=True)
    [restore] = [line for line in lines if b'"backup.restore"' in line]
    copy.write_bytes(b"".join([*lines, restore]))  # a second time it explains nothing
    assert "there once was a row" in str(look(path).problem)


def test_r35_an_anchor_that_nothing_explains_is_named(path: Path, store: Store, made: Path) -> None:
    store.close()
    with opened(path) as again:
        again.note("account.pause")
        anchor = again.audit.anchor()
    run(path, "restore", str(made))
    assert "before a backup was restored" in str(look(path, anchor).problem)


def test_r28_a_database_that_cannot_be_put_in_place_is_the_old_one(
    path: Path, store: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()

    def fail(draft: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    before = look(path)
    assert "No space left" in run(path, "restore", str(made), code=1).complained
    assert is_complete(path)
    assert look(path) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["ccflare.audit.jsonl", "ccflare.db", "ccflare.key"]


def killed(work: Callable[[], object]) -> None:
    """Have it done in another process, which kills itself (-9) on the way."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(path: Path, *, is_committed: bool) -> None:
    with opened(path, copied=True) as store:
        store.note("account.resume")
        if is_committed:  # in the table, and not yet in the second copy
            store.audit.file = None
            store.note("account.resume")
            kill()
        with store.audited("account.resume"):
            kill()


def restore_and_die(path: Path, made: Path, number: int, *, is_in_place: bool) -> None:
    if is_in_place:
        sqlite.sync_folder = lambda folder: kill()  # type: ignore[attr-defined]
    else:
        Path.replace = lambda *names: kill()  # type: ignore[assignment, method-assign]
    run(path, "restore", str(made), now=NOW + number)


STEPS = (
    *("add", "pause", "not copied", "rotate", "prune", "restart", "killed", "killed after"),
    *("backup", "restore", "refused", "killed restore", "killed after restore", "not copied restore"),
)


def step(path: Path, what: str, number: int, backups: list[Path]) -> None:
    """One thing that happens to the database."""
    if what.startswith("killed") and "restore" not in what:
        killed(lambda: write_and_die(path, is_committed=what == "killed after"))
    elif what == "restart":  # of a log that holds together: refused
        assert audit(["restart", "--yes", "--database", str(path)], Desk(now=NOW).console()) == 1
    elif what == "backup":
        backups.append(path.with_name(f"{number}.backup"))
        run(path, "backup", str(backups[-1]))
    elif what == "refused":
        run(path, "restore", str(path.with_suffix(".key")), code=1)
    elif "restore" in what:
        if backups:
            put_back(path, what, number, backups[number % len(backups)])
    else:
        with opened(path, copied=what != "not copied") as store:
            change(store, what, number)


def change(store: Store, what: str, number: int) -> None:
    if what in ("add", "not copied"):
        store.accounts.add(an_account(f"max-{number}"))
        store.clients.add(new_key(f"key-{number}", NOW))
    elif what == "pause":
        store.blocklist.block(Network.parse(f"192.0.2.{number}"))
        for key in [key for key in store.clients.all() if key.revoked_at is None][1:]:
            store.clients.revoke(key.name)
        for account in store.accounts.all():
            store.accounts.update(account.id, paused=not account.paused)
    elif what == "rotate":
        assert store.keys is not None
        store.keys.rotate()
    else:
        list(store.audit.prune(NOW + 1, By("cli:x")))


def put_back(path: Path, what: str, number: int, made: Path) -> None:
    copy = path.with_suffix(".audit.jsonl")
    before = copy.read_bytes()
    if what.startswith("killed"):
        killed(lambda: restore_and_die(path, made, number, is_in_place="after" in what))
    else:
        run(path, "restore", str(made), now=NOW + number)
    if what == "not copied restore":
        copy.write_bytes(before)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_r35_whatever_happened_to_the_database_its_log_tells_the_truth(steps: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path, backups = Path(folder) / "ccflare.db", list[Path]()
        for number, what in enumerate(["add", *steps, "add"]):
            step(path, what, number, backups)
        report = look(path)
        assert report.problem is None
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as attacker:
            attacker.execute("DROP TRIGGER audit_log_keep")
            attacker.execute("UPDATE audit_log SET actor = 'cli:nobody' WHERE id = ?", (report.last_id,))
        assert look(path).problem == f"row {report.last_id} was changed"


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 500, None])
def test_r28_a_damaged_or_missing_database_is_replaced(
    path: Path, store: Store, made: Path, damage: bytes | None
) -> None:
    store.close()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    run(path, "restore", str(made))
    with opened(path) as again:
        assert again.accounts.all() == [replace(an_account(), needs_login=damage is not None)]
        assert contents(again, TURNS) == list(turns(TURNS))


def test_r28_a_backup_under_load_is_of_one_moment(
    path: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_COPIED_PAGES", 200)
    for number in range(40):
        store.write([started(f"big-{number}"), payload(f"big-{number}", os.urandom(100_000))])
    target, written = tmp_path / "b.backup", list[str]()
    assert store.keys is not None
    with opened(path) as other:

        def write_on(_done: int, _pages: int) -> None:
            written.append(f"x-{len(written)}")
            other.write([started(written[-1]), payload(written[-1], b"x" * 5000)])

        backup.make(path, store.keys, target, NOW, write_on, store.audited("backup.make", str(target)))
    there = tmp_path / "there" / "ccflare.db"
    there.parent.mkdir()
    shutil.copy(path.with_suffix(".key"), there.with_suffix(".key"))
    run(there, "restore", str(target))
    with opened(there) as restored:
        counts = "SELECT (SELECT COUNT(*) FROM requests), (SELECT COUNT(DISTINCT request_id) FROM payloads)"
        assert restored.query(counts) == [(TURNS + 40, TURNS + 40)]
        assert restored.problems() == []
    assert len(written) > 3
    assert len(store.query("SELECT id FROM requests WHERE id LIKE 'x-%'")) == len(written)


def test_a_copy_leaves_nothing_beside_it(path: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy.db").touch()
    seen: list[tuple[int, int]] = []
    sqlite.copy(path, tmp_path / "copy.db", lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("copy")] == ["copy.db"]
    with pytest.raises(StoreError):
        sqlite.copy(tmp_path / "none.db", tmp_path / "copy.db", lambda done, total: None)
