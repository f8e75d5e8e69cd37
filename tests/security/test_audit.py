"""What SECURITY.md promises of the audit log. Each name starts with the requirement that it proves.

The attacker of these tests can do whatever they like to the database file; what they do not have is the key.
"""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.oauth import Tokens
from ccflare_core.audit.check import Check, Verification
from ccflare_core.audit.entries import By, Entry, Row, Secret
from ccflare_core.config.location import Location
from ccflare_core.errors import AuditError, StoreError
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from ccflare_core.writer.auditor import Auditor
from ccflare_core.writer.writer import Writer
from database_kit import KEY, NOW, SECRETS, an_account, held_lock, start_python
from fake_upstream import FakeUpstream
from harness import StartProxy, claude_request, eventually, via_base_url

ROWS = 6
CLIENT = By("client:ops", "10.0.0.7")
TRIGGERS = ("log_keep", "log_hold", "log_append", "head_keep", "head_advance")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "second" / "audit.jsonl"


@pytest.fixture
def store(path: Path, copy: Path) -> Iterator[Store]:
    """A store with six rows in its log."""
    copy.parent.mkdir()
    store = opened(path, copy)
    for number in range(ROWS):
        store.note("data.read", f"body {number}")
    yield store
    store.close()


def opened(path: Location, copy: Path | None = None) -> Store:
    return Store.open(path, KEY, audit_file=copy, wall=lambda: NOW)


def attack(path: Path, *statements: str) -> None:
    """Change the database behind the program's back, triggers or not."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS audit_{name}")
        for statement in statements:
            connection.execute(statement)


def look(path: Location, copy: Path | None = None, *anchors: str) -> Verification:
    with contextlib.closing(opened(path)) as store:
        return Check(store.audit).run(copy, anchors, is_used=True)


def rows(path: Path) -> list[Row]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [Row(*row) for row in connection.execute(f"SELECT {', '.join(Row._fields)} FROM audit_log ORDER BY id")]


# -- R32: the table


def test_r32_the_reviews_query_runs_as_written(store: Store) -> None:
    store.configurations.take("host:8080", {"ccflare_strategy": "round-robin"})
    [row] = store.query("SELECT * FROM audit_log WHERE action LIKE '%config%'")
    columns = [column[1] for column in store.query("PRAGMA table_info(audit_log)")]
    assert {*Row._fields} == {*columns}
    assert row[columns.index("action")] == "config.change"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET outcome = 'ok' WHERE id = 2",
        "DELETE FROM audit_log WHERE id = 2",
        "DELETE FROM audit_log",
        "INSERT OR REPLACE INTO audit_log VALUES (2, '', '', '', '', '', '', '', '', '', '', '')",
        "DELETE FROM audit_head",
        "UPDATE audit_head SET last_id = 3",
    ],
)
def test_r32_rows_can_only_be_appended(statement: str, path: Path, store: Store) -> None:
    before = rows(path)
    with (
        contextlib.closing(sqlite3.connect(path)) as other,
        pytest.raises(sqlite3.IntegrityError, match=r"cannot|only"),
    ):
        other.execute(statement)
    assert rows(path) == before


_ADD = """
import sys
from pathlib import Path
from ccflare_core.audit.entries import By
from ccflare_core.config.location import parse
from ccflare_core.store.store import Store
from database_kit import KEY
name, number = sys.argv[2], int(sys.argv[3])
store = Store.open(parse(sys.argv[1]), KEY, by=By(name), audit_file=Path(sys.argv[4]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(number):
    store.note("data.read", str(n))
    if n % 20 == 0:
        print(n, flush=True)
store.close()
"""


def adding(path: Location, copy: Path, name: str, number: int) -> "subprocess.Popen[str]":
    child = start_python(_ADD, path, name, number, copy)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def begin(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_r32_two_processes_that_write_at_once_make_one_chain(location: Location, tmp_path: Path) -> None:
    copy = tmp_path / "audit.jsonl"
    opened(location).close()
    children = [adding(location, copy, name, 500) for name in ("cli:one", "cli:two")]
    for child in children:
        begin(child)
    for child in children:
        child.communicate(timeout=100)
        assert child.returncode == 0
    report = look(location, copy)
    assert (report.problem, report.rows, report.in_file) == (None, 1000, 1000)


def test_r32_a_process_that_is_killed_leaves_a_whole_chain(path: Path, copy: Path, store: Store) -> None:
    for turn in range(3):
        child = adding(path, copy, f"cli:{turn}", 1_000_000)
        begin(child)
        assert child.stdout is not None
        for _ in range(turn + 1):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
    report = look(path, copy)
    assert report.problem is None
    assert report.rows > ROWS + 40
    assert report.rows - report.in_file <= 3


# -- R33: secrets


def test_r33_secrets_are_marks_that_can_be_compared_but_not_read(path: Path, copy: Path, store: Store) -> None:
    store.accounts.add(an_account())
    store.logins.save_tokens("id of max-1", "run-1", SECRETS[1], Tokens("sk-ant-oat01-PLANTED-2", None, NOW + 60))
    store.configurations.take("here", {"web_password": Secret("PLANTED-password"), "ccflare_client_id": SECRETS[0]})
    with contextlib.suppress(ZeroDivisionError), store.audited("data.read"):
        raise ZeroDivisionError(SECRETS[0])
    store.note(
        "login.done", SECRETS[0], "failed", reason=f"the provider said {SECRETS[2]}", at={SECRETS[1]: [SECRETS[2]]}
    )

    files = [file for file in (*path.parent.iterdir(), copy) if file.is_file()]
    assert not [file.name for file in files if b"PLANTED" in file.read_bytes()]
    marks = [store.audit.signer.digest(secret) for secret in SECRETS]
    details = [row.detail for row in rows(path)]
    assert [sum(mark in detail for detail in details) for mark in marks] == [1, 2, 1]


def test_r33_old_marks_and_rows_outlive_the_data_key_they_were_made_with(path: Path, store: Store) -> None:
    assert store.keys is not None
    store.note("client.add", "ops", key=Secret("the key"))
    [old] = store.data_keys()
    store.keys.rotate()
    store.keys.retire(old.id)
    assert look(path).problem is None
    with contextlib.closing(opened(path)) as fresh:
        assert fresh.audit.signer.digest("the key", old.id) in rows(path)[ROWS].detail


# -- R34: no row, no change


def fails_whole(store: Store) -> None:
    """Nothing administrative can be done, and nothing of it has happened."""
    before = store.accounts.all()
    for change in (
        lambda: store.accounts.add(an_account("max-2")),
        lambda: store.accounts.update("id of max-1", paused=True),
        lambda: store.accounts.remove("id of max-1"),
        lambda: store.keys.rotate() if store.keys else None,
        lambda: store.note("data.read", "a body"),
        lambda: store.configurations.take("here", {"ccflare_hold_seconds": 1}),
    ):
        with pytest.raises(StoreError, match=r"\w: \w"):  # what is wrong: what to do
            change()
    assert store.accounts.all() == before
    assert len(store.data_keys()) == 1


def noted(store: Store) -> int:
    store.note("data.read", "x" * 400, "ok", text="y" * 400)
    return 1


def test_r34_a_full_disk_refuses_it(path: Path, store: Store) -> None:
    store.accounts.add(an_account())
    [(pages,)] = store.query("PRAGMA page_count")
    store.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="disk is full"):
        drain(noted(store) for _ in range(100))
    fitted = len(rows(path))
    with pytest.raises(StoreError, match="disk is full"):
        store.accounts.add(an_account("x" * 400))
    assert [account.name for account in store.accounts.all()] == ["max-1"]
    assert len(rows(path)) == fitted
    assert look(path).problem is None


def test_r34_a_locked_database_refuses_it(path: Path, store: Store) -> None:
    store.accounts.add(an_account())
    store.query("PRAGMA busy_timeout = 50")
    with held_lock(path):
        fails_whole(store)
    store.accounts.update("id of max-1", paused=True)


def test_r34_a_database_that_cannot_be_written_refuses_it(store: Store) -> None:
    store.accounts.add(an_account())
    store.query("PRAGMA query_only = 1")
    fails_whole(store)


def test_r34_an_audit_table_that_is_gone_or_forged_refuses_it_until_somebody_restarts_it(
    path: Path, store: Store
) -> None:
    store.accounts.add(an_account())
    attack(path, "UPDATE audit_head SET last_id = last_id - 1, mac = hash")
    fails_whole(store)
    store.audit.restart(CLIENT, "the head was changed")
    store.accounts.update("id of max-1", paused=True)
    attack(path, "DELETE FROM audit_head")
    fails_whole(store)
    attack(path, "ALTER TABLE audit_log RENAME TO elsewhere")
    with pytest.raises(Exception, match="no such table"):
        store.note("data.read")


def test_r34_a_dead_writer_stops_new_requests_after_the_time_that_was_set(path: Path) -> None:
    now = 0.0
    writer = Writer(lambda: opened(path), on_change=lambda accounts: None, on_trouble=lambda trouble: None)
    auditor = Auditor(writer, stop_after=lambda: 60, clock=lambda: now)
    writer.start()
    assert auditor.halted() is None
    writer.close(5)
    for seconds, is_halted in ((1, False), (59, False), (62, True)):
        now = seconds
        assert (auditor.halted() is not None) is is_halted
    assert Auditor(writer, stop_after=lambda: 0, clock=lambda: now).halted() is None


def test_r34_requests_are_refused_while_nothing_can_be_audited_and_served_again_afterwards(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(
        upstream, accounts={"one": SECRETS[2]}, ccflare_audit_file="off", ccflare_audit_stop_after_seconds=3
    )

    def ask() -> int:
        with via_base_url(proxy) as client:
            return client.request(*claude_request()).status

    with held_lock(proxy.database):
        assert ask() == 200
        eventually(ask, lambda status: status == 503, timeout=60)
    eventually(ask, lambda status: status == 200, timeout=60)


# -- R35: what was done to the log is found, and the row named


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        *((f"UPDATE audit_log SET {column} = 'x' WHERE id = 3", "row 3 was changed") for column in Row._fields[1:9]),
        ("UPDATE audit_log SET key_id = 'x' WHERE id = 3", "row 3 names a key that there is not"),
        ("UPDATE audit_log SET hash = prev_hash WHERE id = 3", "row 3 was changed"),
        ("DELETE FROM audit_log WHERE id = 1", "row 1 is missing"),
        ("DELETE FROM audit_log WHERE id = 3", "row 3 is missing"),
        ("DELETE FROM audit_log WHERE id = 6", "row 6 is missing: the log was cut off there, it had 6 rows"),
        ("DELETE FROM audit_log WHERE id > 2", "row 3 is missing: the log was cut off there, it had 6 rows"),
        ("DELETE FROM audit_log", "row 1 is missing: the log was cut off there, it had 6 rows"),
        ("DELETE FROM audit_log WHERE id = 3; UPDATE audit_log SET id = id - 1 WHERE id > 3", "row 3 was changed"),
        (
            "UPDATE audit_log SET id = 99 WHERE id = 3; UPDATE audit_log SET id = 3 WHERE id = 4; "
            "UPDATE audit_log SET id = 4 WHERE id = 99",
            "row 3 was changed",
        ),
        (
            "INSERT INTO audit_log VALUES (7, '', '', '', '', '', '', '', '', '', '', '')",
            "row 7 was put in: the log ends with row 6",
        ),
        ("UPDATE audit_head SET last_id = 5", "the head of the log was changed"),
        ("UPDATE audit_head SET pruned_id = 3", "the head of the log was changed"),
        ("DELETE FROM audit_head", "the head of the log is missing"),
        ("DELETE FROM audit_head; DELETE FROM audit_log", "the head of the log is missing"),
    ],
)
def test_r35_any_change_of_the_table_is_found_and_named(
    statements: str, problem: str, path: Path, store: Store
) -> None:
    attack(path, *statements.split("; "))
    assert str(look(path).problem).startswith(problem)


def test_r35_a_row_from_another_place_in_the_chain_does_not_fit(path: Path, store: Store) -> None:
    """Its own signature is good, but not for this place."""
    first = rows(path)[0]
    attack(
        path, "DELETE FROM audit_log WHERE id = 2", f"UPDATE audit_log SET prev_hash = '{first.prev_hash}' WHERE id = 3"
    )
    assert look(path).problem == "row 2 is missing"


@pytest.mark.parametrize("known", ["file", "anchor"])
def test_r35_an_older_copy_of_the_database_is_found_by_what_lies_elsewhere(
    known: str, path: Path, copy: Path, store: Store
) -> None:
    store.query("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = path.with_suffix(".old")
    shutil.copy(path, backup)
    store.note("data.purge", "everything")
    store.note("data.read", "more")
    anchor = store.audit.anchor()
    assert look(path, copy, anchor).problem is None
    report = look(backup, copy) if known == "file" else look(backup, None, anchor)
    assert look(backup).problem is None
    assert str(report.problem).startswith("row 7 is missing: there once was a row")


def test_r35_a_whole_new_log_is_found_by_what_lies_elsewhere(path: Path, copy: Path, store: Store) -> None:
    anchor = store.audit.anchor()
    attack(path, "DELETE FROM audit_log", "DELETE FROM audit_head")
    for number in range(ROWS + 1):
        store.note("data.read", f"harmless {number}")
    copy.write_bytes(b"".join(copy.read_bytes().splitlines(keepends=True)[:ROWS]))
    assert look(path).problem is None
    assert str(look(path, copy).problem).startswith("row 1 is another one than there once was")
    assert str(look(path, None, anchor).problem).startswith("row 6 is another one than there once was")


def test_r35_who_has_a_former_key_cannot_say_where_the_log_ends(path: Path, store: Store) -> None:
    before = store.query("SELECT last_id, hash, key_id, mac FROM audit_head")[0]
    assert store.keys is not None
    store.keys.rotate()
    attack(
        path,
        "DELETE FROM audit_log WHERE id > 6",
        "UPDATE audit_head SET last_id = {}, hash = '{}', key_id = '{}', mac = '{}'".format(*before),
    )
    assert str(look(path).problem).startswith("the head of the log is not signed by the newest key")


def test_r35_a_changed_line_of_the_second_copy_is_found(path: Path, copy: Path, store: Store) -> None:
    copy.write_text(copy.read_text().replace("body 3", "body 9"))
    assert str(look(path, copy).problem).startswith("what the file has as row 4 was changed (line 4 of ")


def test_r35_a_break_stays_named_after_the_log_goes_on(path: Path, store: Store) -> None:
    attack(path, "DELETE FROM audit_log WHERE id > 4")
    store.note("data.read")  # the head is still good: the chain goes on behind the hole
    assert look(path).problem == "row 5 is missing"


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM audit_log WHERE id < 5", "UPDATE audit_head SET pruned_id = 4, pruned_hash = {hash4}"),
        ("UPDATE audit_head SET pruned_id = 6, pruned_hash = hash", "DELETE FROM audit_log"),
        ("INSERT INTO audit_log VALUES (7, '', '', '', '', '', '', '', '', '', '', '')",),
        ("DELETE FROM audit_head", "DELETE FROM audit_log WHERE id = 2"),
    ],
)
def test_r35_a_restart_makes_no_break_good(statements: tuple[str, ...], path: Path, store: Store) -> None:
    hash4 = f"'{rows(path)[3].hash}'"
    attack(path, *(statement.format(hash4=hash4) for statement in statements))
    with pytest.raises(AuditError, match="does not hold together"):
        store.note("data.read")
    store.audit.restart(CLIENT, "it was attacked")
    store.note("data.read")
    assert look(path).problem is not None


def test_r35_rows_that_were_deleted_on_purpose_leave_a_chain(path: Path, store: Store) -> None:
    with contextlib.closing(Store.open(path, KEY, wall=lambda: NOW + 10)) as later:
        later.note("data.read")
        assert list(later.audit.prune(NOW + 5, CLIENT)) == [ROWS]
    report = look(path)
    assert (report.problem, report.first_id, report.last_id) == (None, ROWS + 1, ROWS + 2)
    attack(path, "DELETE FROM audit_log WHERE id = 7")
    assert look(path).problem == "row 7 is missing"


def test_r35_a_broken_log_is_not_pruned(path: Path, store: Store) -> None:
    attack(path, "UPDATE audit_log SET actor = 'x' WHERE id = 2")
    with pytest.raises(AuditError, match="row 2 was changed: nothing was deleted"):
        list(store.audit.prune(NOW + 5, CLIENT))
    assert len(rows(path)) == ROWS


# -- R36: one sink is enough


def test_r36_without_the_file_the_table_goes_on_and_without_the_table_the_file(
    path: Path, copy: Path, store: Store
) -> None:
    denied = Entry.of(CLIENT, "auth.denied", "", "denied", reason="no key")
    shutil.rmtree(copy.parent)
    store.accounts.add(an_account())
    assert store.audit.file is not None
    assert "cannot be written" in str(store.audit.file.trouble)
    copy.parent.mkdir()
    store.query("PRAGMA busy_timeout = 50")
    with held_lock(path):
        store.report(denied)
        assert store.audit.failing_since is None
        shutil.rmtree(copy.parent)
        store.audit._told_at = 0
        store.report(denied)
        assert store.audit.failing_since is not None
    store.note("data.read")
    assert store.audit.failing_since is None


def test_r36_what_the_file_took_alone_is_signed_too(path: Path, copy: Path, store: Store) -> None:
    store.query("PRAGMA busy_timeout = 50")
    with held_lock(path):
        store.report(Entry.of(CLIENT, "auth.denied", "", "denied"))
    assert (look(path, copy).problem, look(path, copy).aside) == (None, 2)
    copy.write_text(copy.read_text().replace('"auth.denied"', '"auth.allowed"'))
    assert str(look(path, copy).problem).startswith("what the file has as row 0 was changed")


# -- R37: nothing that is logged can look like something else

HOSTILE = "a\nb\r\n2026-01-01 ok\x1b[2J\x00\u2028\u202e\udcff\"},{'" + "x" * 10_000


def test_r37_hostile_text_stays_one_row_and_one_line(path: Path, copy: Path, store: Store) -> None:
    entry = Entry(
        HOSTILE, "denied", HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}], "n": 1}
    )
    store.report(entry)
    [line] = copy.read_bytes().splitlines()[ROWS:]
    assert Row(**json.loads(line)) == (row := rows(path)[-1])
    assert line.isascii()
    assert all(text.isprintable() and len(text) <= 8000 for text in row[1:])
    assert look(path, copy).problem is None


def test_r37_times_are_utc_with_their_offset(path: Path, store: Store) -> None:
    assert {row.ts_utc for row in rows(path)} == {"2027-01-15T08:00:00.000+00:00"}


# -- R38: what is logged (R7, R10, R11 and R23 name parts of it)


def test_r38_a_proxys_life_is_in_the_log(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": SECRETS[2]}, ccflare_retry_attempts=2)
    proxy.accounts("pause", "one")
    for _ in range(20):
        with via_base_url(proxy) as client:
            method, path, headers, body = claude_request()
            assert client.request(method, path, [*headers, (b"origin", b"https://evil.example")], body).status == 403
    proxy.close()

    found = proxy.rows("SELECT * FROM audit_log ORDER BY id")
    assert [row["action"] for row in found] == [
        "account.add",
        "config.change",
        "proxy.start",
        "account.pause",
        "auth.denied",
        "proxy.stop",
    ]
    assert {row["actor"] for row in found} >= {"proxy"}
    assert found[0]["actor"].startswith("cli:")
    denied = json.loads(found[4]["detail"])
    assert (found[4]["ip"], found[4]["target"], denied["count"]) == ("127.0.0.1", "/v1/messages", 20)
    changes = json.loads(found[1]["detail"])["changes"]
    assert changes["ccflare_retry_attempts"] == {"before": None, "after": 2}
    assert "The audit log is whole: rows 1 to 6." in proxy.run_script("audit.py", "verify")
    kept = [json.loads(line) for line in proxy.database.with_suffix(".audit.jsonl").read_text().splitlines()]
    anchors = [line["anchor"] for line in kept if "anchor" in line]
    assert anchors[0].startswith(f"{found[2]['id']}:{found[2]['hash']}:")
    assert "audit anchor" not in proxy.log()
    assert "The audit log is whole" in proxy.run_script("audit.py", "verify", "--anchor", anchors[0])


def test_r10_a_changed_option_is_noted_once_and_by_value(path: Path, store: Store) -> None:
    take = store.configurations.take
    assert take("here", {"ccflare_strategy": "session", "web_password": Secret("one")}) == [
        "ccflare_strategy",
        "web_password",
    ]
    assert take("here", {"ccflare_strategy": "session", "web_password": Secret("one")}) == []
    assert store.keys is not None
    store.keys.rotate()
    assert take("here", {"ccflare_strategy": "session", "web_password": Secret("one")}) == []
    assert take("here", {"web_password": Secret("two")}) == ["ccflare_strategy", "web_password"]
    changes = json.loads(rows(path)[-1].detail)["changes"]
    assert changes["ccflare_strategy"] == {"before": "session", "after": None}
    assert changes["web_password"]["before"].startswith("hmac-sha256:")


def test_r52_the_second_copy_is_its_owners_alone(copy: Path, store: Store) -> None:
    assert copy.stat().st_mode & 0o777 == 0o600
