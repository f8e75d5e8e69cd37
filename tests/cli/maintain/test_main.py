"""`scripts/maintain.py`, as a person uses it."""

import base64
import csv
import gzip
import io
import json
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bodies_kit import is_sound, turns
from ccflare_cli.maintain.main import main
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.config.location import Location, Server
from ccflare_core.exchange.records import ExchangeFinished, Payload, Record, RequestTagged, WindowRead
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from database_kit import WINDOWS, attempt, count, started
from desk import Desk
from history import NOON

DAY = 86_400
Run = Callable[..., Desk]
SAID = b'{"model":"claude-opus-4-8","messages":[{"role":"user","content":"hello \xc3\xa4"}]}'


def recorded(number: int, days: float, session: str, body: bytes = SAID, client: str = "127.0.0.1") -> list[Record]:
    at = round((NOON - days * DAY) * 1000) + number
    id_ = f"req_{at:012x}{number:012x}"
    begun = started(id_, user_agent=f"PLANTED-{session}-agent")
    begun = begun._replace(timestamp_ms=at, session_id=session, client_ip=client)
    asked = Payload(id_, "request", "application/json", "", body, len(body), False, session)
    told = gzip.compress(b"event: ping\n\n", mtime=0)
    end = ExchangeFinished(id_, "ok", True, 200, response_time_ms=80.0, first_byte_ms=30.0, request_bytes=len(body))
    replied = Payload(id_, "response", "text/event-stream", "gzip", told, len(told), False)
    return [begun, attempt(id_), asked, replied, end]


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return tmp_path / "ccflare.db"


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "ccflare.key")


@pytest.fixture
def store(location: Location, key: KeyFile) -> Iterator[Store]:
    """Requests of three sessions, 40 and 10 days old and of today; an account."""
    with closing(Store.open(location, key, wall=lambda: NOON)) as store:
        store.accounts.add(Account("a", "max-1", Kind.API_KEY, api_key="sk-ant-api03-PLANTED", created_at=NOON))
        for number, (days, session) in enumerate(((40, "oldest"), (10, "middle"), (0, "newest"), (0, "newest"))):
            store.write(recorded(number, days, session, client=f"10.0.0.{number}"))
            store.write([WindowRead("a", round((NOON - days * DAY) * 1000), window) for window in WINDOWS])
        yield store


@pytest.fixture
def run(location: Location, tmp_path: Path, store: Store) -> Run:
    environ = {"ccflare_CONFIG_PATH": str(tmp_path / "none.yaml")}
    (tmp_path / "none.yaml").write_text(f"ccflare_key_file: {tmp_path / 'ccflare.key'}\n")

    def run(*argv: str, code: int = 0) -> Desk:
        desk = Desk(environ=environ)
        assert main([*argv, "--database", str(location)], desk.console()) == code, desk.complained
        return desk

    return run


def entries(store: Store, action: str) -> list[tuple[str, str, int | None]]:
    """Outcome, stage and rows of every audit entry about this."""
    found = store.query("SELECT outcome, detail FROM audit_log WHERE action = ? ORDER BY id", (action,))
    details = [(outcome, json.loads(detail)) for outcome, detail in found]
    return [(outcome, detail["stage"], detail.get("rows")) for outcome, detail in details]


def counts(store: Store) -> tuple[int, int, int]:
    return count(store, "requests"), count(store, "payloads"), count(store, "windows")


def actions(store: Store) -> list[str]:
    return [action for (action,) in store.query("SELECT action FROM audit_log ORDER BY id")]


def raw(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


# -- cleanup


def test_r51_without_force_nothing_is_deleted(run: Run, store: Store) -> None:
    before, audited = counts(store), actions(store)
    rows = json.loads(run("cleanup", "--older-than", "30d", "--format", "json").said)
    assert [(row["type"], row["rows"]) for row in rows] == [("payloads", 2), ("requests", 1), ("windows", 2)]
    assert "--force" in run("cleanup").complained
    assert (counts(store), actions(store)) == (before, audited)
    assert run("cleanup", "--force").complained == "It was deleted.\n"


def test_r51_with_force_it_is_and_the_audit_log_has_it(run: Run, store: Store) -> None:
    run("cleanup", "--older-than", "30d", "--force")
    assert counts(store) == (3, 6, 6)
    assert actions(store)[-6:] == ["data.cleanup"] * 6
    assert entries(store, "data.cleanup") == [
        entry for rows in (2, 1, 2) for entry in (("ok", "begin", rows), ("ok", "end", rows))
    ]


def test_the_options_say_how_old_is_too_old(run: Run, store: Store) -> None:
    run("cleanup", "--force")
    assert counts(store) == (4, 4, 8)


@pytest.mark.parametrize(("kind", "left"), [("requests", (2, 4, 8)), ("payloads", (4, 4, 8)), ("windows", (4, 8, 4))])
def test_one_kind_alone(run: Run, store: Store, kind: str, left: tuple[int, int, int]) -> None:
    run("cleanup", "--type", kind, "--older-than", "9d", "--force")
    assert counts(store) == left


def test_the_audit_log_is_shortened_from_its_beginning(run: Run, store: Store, tmp_path: Path) -> None:
    assert "--older-than" in run("cleanup", "--type", "audit", "--force", code=1).complained
    for _ in range(3):
        store.note("account.pause", "x")
    later = Desk(now=NOON + 10 * DAY, environ={"ccflare_CONFIG_PATH": str(tmp_path / "none.yaml")})
    arguments = [
        "cleanup",
        "--type",
        "audit",
        "--older-than",
        "5d",
        "--force",
        "--database",
        str(tmp_path / "ccflare.db"),
    ]
    assert main(arguments, later.console()) == 0
    assert actions(store) == ["data.cleanup", "audit.prune", "data.cleanup"]


@pytest.mark.parametrize("wrong", ["all", "soon", "0d", "-1d"])
def test_an_age_that_is_none_is_misuse(run: Run, wrong: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run("cleanup", "--older-than", wrong)
    assert caught.value.code == 2


# -- purge


def test_r55_without_force_a_session_is_only_counted(run: Run, store: Store) -> None:
    said = run("purge", "--session", "newest", "--format", "json")
    assert [(row["rows"], row["bodies"]) for row in json.loads(said.said)] == [(2, 4)]
    assert counts(store)[0] == 4


@pytest.mark.parametrize("whose", [("--session", "middle"), ("--client", "10.0.0.1")])
def test_r55_what_was_purged_leaves_no_trace_in_the_file(
    run: Run, store: Store, tmp_path: Path, whose: tuple[str, str]
) -> None:
    for number in range(10, 60):
        store.write(recorded(number, 10, "middle", client="10.0.0.1"))
        store.write(recorded(number, 0, "newest", client="10.0.0.9"))
    store.scrub()
    assert b"PLANTED-middle" in raw(tmp_path / "ccflare.db")
    run("purge", *whose, "--force")
    left = raw(tmp_path / "ccflare.db")
    assert (b"PLANTED-middle" in left, b"PLANTED-newest" in left, b"PLANTED-oldest" in left) == (False, True, True)
    assert store.query("SELECT COUNT(*) FROM requests WHERE session_id = 'middle'") == [(0,)]
    assert actions(store)[-1] == "data.purge"
    assert is_sound(store)


def test_what_others_need_of_a_purged_conversation_stays(run: Run, store: Store) -> None:
    bodies = list(turns(6))
    for number, body in enumerate(bodies, 100):
        store.write(recorded(number, 0, "one" if number < 103 else "two", body))
    run("purge", "--session", "one", "--force")
    ids = [id_ for (id_,) in store.query("SELECT id FROM requests WHERE session_id = 'two' ORDER BY id")]
    found = [store.body(id_, "request") for id_ in ids]
    assert [body and body.content for body in found] == bodies[3:]
    assert is_sound(store)


# -- compact and check


def test_compact_gives_the_room_back(run: Run, store: Store, tmp_path: Path) -> None:
    for number in range(20, 60):
        store.write(recorded(number, 0, "big", bytes(range(256)) * 200))
    store.history.delete_oldest_bodies(NOON + DAY)
    while store.history.delete_oldest_bodies(NOON + DAY):
        pass
    store.scrub()
    before = (tmp_path / "ccflare.db").stat().st_size
    assert "now" in run("compact").said
    assert entries(store, "data.compact") == [("ok", "begin", None), ("ok", "end", None)]
    assert (tmp_path / "ccflare.db").stat().st_size < before
    assert actions(store)[-1] == "data.compact"


def test_compact_that_a_reader_keeps_from_its_work_is_audited_as_failed(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "scrub", lambda self, *, whole: False)
    assert "is reading the database" in run("compact", code=1).complained
    assert entries(store, "data.compact") == [("ok", "begin", None), ("failed", "end", None)]


def test_an_old_file_learns_to_shrink(run: Run, store: Store) -> None:
    assert store.query("PRAGMA auto_vacuum") == [(2,)]


def test_check_finds_nothing_in_a_sound_database(run: Run, store: Store) -> None:
    for number, body in enumerate(turns(5), 100):
        store.write(recorded(number, 0, "one", body))
    rows = json.loads(run("check", "--format", "json").said)
    assert [(row["check"], row["problems"]) for row in rows] == [
        (what, []) for what in ("file", "blocks", "bodies", "accounts", "sealed bodies")
    ]


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("UPDATE payloads SET body = (SELECT body FROM payloads LIMIT 1) WHERE part = 'response'", "sealed bodies"),
        ("UPDATE accounts SET api_key = zeroblob(60)", "accounts"),
        ("INSERT INTO blocks (address, body) VALUES (x'00', x'00')", "blocks"),
        ("DELETE FROM chapter_blocks", "bodies"),
        ("INSERT INTO attempts SELECT 999, 'x', 1, NULL, '', 1, '', '', '', 1, 1", "file"),
    ],
)
def test_check_finds_damage(run: Run, store: Store, tmp_path: Path, damage: str, check: str) -> None:
    for number, body in enumerate(turns(5), 100):
        store.write(recorded(number, 0, "one", body))
    with closing(sqlite3.connect(tmp_path / "ccflare.db", isolation_level=None)) as other:
        other.execute(damage)
    rows = json.loads(run("check", "--format", "json", code=1).said)
    assert check in [row["check"] for row in rows if row["problems"]]


# -- export


def test_json_lines_have_all_that_is_kept(run: Run, store: Store) -> None:
    lines = [json.loads(line) for line in run("export", "--session", "newest").said.splitlines()]
    assert [line["session_id"] for line in lines] == ["newest"] * 2
    first: dict[str, Any] = lines[0]
    assert first["attempts"][0]["verdict"] == "ok"
    assert first["bodies"]["request"]["text"] == SAID.decode()
    exact = base64.b64decode(first["bodies"]["response"]["text"])
    assert (gzip.decompress(exact), first["bodies"]["response"]["encoding"]) == (b"event: ping\n\n", "base64")
    assert actions(store)[-1] == "data.export"


def test_a_har_is_one_of_version_1_2(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.har"
    assert "3 requests" in run("export", "--format", "har", "--since", "20d", "--output", str(target)).said
    log = json.loads(target.read_text())["log"]
    assert (log["version"], log["creator"]["name"], len(log["entries"])) == ("1.2", "ccflare", 3)
    entry = log["entries"][-1]
    assert set(entry) >= {"startedDateTime", "time", "request", "response", "cache", "timings"}
    assert entry["time"] == sum(entry["timings"].values())
    assert entry["request"]["url"] == "https://api.anthropic.com/v1/messages?beta=true"
    assert entry["request"]["queryString"] == [{"name": "beta", "value": "true"}]
    assert entry["request"]["postData"] == {"mimeType": "application/json", "text": SAID.decode()}
    assert entry["response"]["content"]["text"] == "event: ping\n\n"
    for side in ("request", "response"):
        assert set(entry[side]) >= {"httpVersion", "cookies", "headers", "headersSize", "bodySize"}
    assert not {"authorization", "x-api-key", "cookie"} & {h["name"] for h in entry["request"]["headers"]}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_csv_has_the_figures(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export", "--format", "csv", "--client", "10.0.0.1").said)))
    assert [(row["session_id"], row["status_code"]) for row in rows] == [("middle", "200")]


def test_an_export_is_of_what_has_a_tag_and_has_the_tags(run: Run, store: Store) -> None:
    [(id_,)] = store.query("SELECT id FROM requests WHERE session_id = 'middle'", ())
    store.write([RequestTagged(id_, 0, "ticket", "ä"), RequestTagged(id_, 0, "who", "me")])

    (line,) = map(json.loads, run("export", "--tag", "ticket=ä").said.splitlines())
    rows = list(csv.DictReader(io.StringIO(run("export", "--format", "csv").said)))

    assert (line["session_id"], line["tags"]) == ("middle", {"ticket": "ä", "who": "me"})
    tags = [json.loads(row["tags"]) for row in rows]
    assert sorted(tags, key=len) == [{}, {}, {}, line["tags"]]
    assert "no recorded request fits" in run("export", "--tag", "ticket=a", code=1).complained


def test_a_time_has_two_ends(run: Run) -> None:
    said = run("export", "--format", "csv", "--since", "20d", "--until", "5d").said
    assert [row["session_id"] for row in csv.DictReader(io.StringIO(said))] == ["middle"]


def test_nothing_is_written_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "already" in run("export", "--output", str(tmp_path / "mine"), code=1).complained
    assert "cannot be written" in run("export", "--output", str(tmp_path / "no" / "x"), code=1).complained
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("whose", [("--session", "nobody"), ("--client", "nobody"), ("--since", "2031-01-01")])
def test_an_export_of_nothing_is_an_exit_code_and_leaves_no_file(
    run: Run, tmp_path: Path, whose: tuple[str, str]
) -> None:
    target = tmp_path / "nothing.jsonl"

    desk = run("export", *whose, "--output", str(target), code=1)

    assert desk.complained.count("\n") == 1
    assert not target.exists()


def test_sessions_may_be_shortened(run: Run, store: Store, tmp_path: Path) -> None:
    run("export", "--session", "newe", "--output", str(tmp_path / "newest.jsonl"))
    run("purge", "--session", "midd", "--force")

    assert (tmp_path / "newest.jsonl").read_text().count('"session_id": "newest"') == 2
    assert store.query("SELECT DISTINCT session_id FROM requests ORDER BY 1") == [("newest",), ("oldest",)]


@pytest.mark.parametrize("whose", [("--session", "nobody"), ("--client", "nobody")])
def test_a_purge_of_nothing_is_an_exit_code(run: Run, whose: tuple[str, str]) -> None:
    assert run("purge", *whose, "--force", code=1).complained.count("\n") == 1


def test_what_does_not_open_ends_an_export_and_leaves_no_file(run: Run, store: Store, tmp_path: Path) -> None:
    store.query("UPDATE payloads SET body = zeroblob(80)")
    run("export", "--output", str(tmp_path / "x"), code=1)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("x")]


# -- on a server


@pytest.mark.postgres
def test_all_but_backups_works_on_a_server(server: Server, key: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"ccflare_key_file: {tmp_path / 'ccflare.key'}\nccflare_audit_file: 'off'\n")
    with closing(Store.open(server, key, wall=lambda: NOON)) as store:
        for number, days in enumerate((40, 10, 0)):
            store.write(recorded(number, days, f"s-{number}"))

        def run(*argv: str, code: int = 0) -> Desk:
            desk = Desk(environ={"ccflare_CONFIG_PATH": str(tmp_path / "c.yaml")})
            assert main([*argv, "--database", str(server)], desk.console()) == code, desk.complained
            return desk

        assert len(run("export").said.splitlines()) == 3
        run("cleanup", "--older-than", "30d", "--force")
        run("purge", "--session", "s-1", "--force")
        assert count(store, "requests") == 1
        assert "fine" in run("check").said
        assert "anew" in run("compact").said
        for command in ("backup", "restore"):
            assert "pg_dump" in run(command, str(tmp_path / "x"), code=1).complained


def test_without_a_database_it_is_said(tmp_path: Path) -> None:
    for command in (["cleanup"], ["check"], ["compact"], ["export"], ["backup", "x"], ["purge", "--session", "x"]):
        desk = Desk()
        assert main([*command, "--database", str(tmp_path / "none.db")], desk.console()) == 1
        assert "none.db" in desk.complained or "no database" in desk.complained
