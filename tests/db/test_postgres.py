"""The engine for a server: what is refused and how, who waits for whom, and connections that are lost."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peewee
import psycopg
import pytest

from ccflare_core.config.location import Server
from ccflare_core.db import postgres
from ccflare_core.db.engine import CommitUnknown, as_store_errors, explain
from ccflare_core.db.migrations import MIGRATIONS
from ccflare_core.db.models import TABLES
from ccflare_core.db.postgres import open_to_write
from ccflare_core.errors import StoreError
from ccflare_core.store.store import Store
from ccflare_core.writer.writer import Writer
from database_kit import KEY, NOW, an_account, count, exchange, open_store, start_python, started
from harness import Port, eventually
from link import Link
from postgres_kit import GUARDED, PASSWORD, Cluster, Relay

pytestmark = pytest.mark.postgres


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    store = open_store(server)
    yield store
    store.close()


def as_user(server: Server, user: str) -> Server:
    return Server(server.text.replace("ccflare@", f"{user}@"))


def secret_url(folder: Path, server: Server, password: str = PASSWORD) -> Server:
    """A location whose URL, with a password, is in a file."""
    file = folder / "url"
    file.touch(0o600)
    file.write_text(server.text.replace("ccflare@", f"{GUARDED}:{password.replace('%', '%25')}@") + "\n")
    return Server(f"file:{file}")


# -- who is let in


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("postgres?", "nowhere?"), "no such database"),
        (("ccflare@", "nobody@"), "refuses the login"),
        (("ccflare@", f"{GUARDED}@"), "refuses the login"),
        (("postgres?", "shut?"), "refuses the login"),
        (("?", "?sslmode=require&"), "no TLS"),
        (("?", "?foo=1&"), "does not take this URL"),
    ],
)
def test_who_is_not_let_in_is_told_why(change: tuple[str, str], sentence: str, server: Server) -> None:
    wrong = Server(server.text.replace(*change))
    with pytest.raises(StoreError, match=sentence) as caught:
        open_store(wrong)
    assert str(caught.value).startswith(f"{wrong}: ")


def test_a_server_that_is_not_there_is_told(server: Server) -> None:
    port = Port()
    with pytest.raises(StoreError, match="cannot be reached"):
        open_store(Server(f"postgresql://ccflare@127.0.0.1:{port.number}/ccflare"))
    port.release()


def test_a_password_comes_from_a_private_file_and_is_never_shown(
    cluster: Cluster, server: Server, tmp_path: Path
) -> None:
    schema = server.text.rpartition("%3D")[2]
    cluster.execute(f"ALTER SCHEMA {schema} OWNER TO {GUARDED}")
    location = secret_url(tmp_path, server)
    store = open_store(location)
    store.accounts.add(an_account())
    store.close()
    assert PASSWORD not in f"{store._engine!r} {location!r} {location}"
    with pytest.raises(StoreError, match="refuses the login") as caught:
        open_store(secret_url(tmp_path, server, "PLANTED-wrong"))
    assert "PLANTED" not in f"{caught.value} {caught.value.__cause__!r}"
    (tmp_path / "url").chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        open_store(location)


@pytest.mark.parametrize("text", ["/home/me/ccflare.db", "postgresql://a:50%@PLANTED/x", "postgresql://PLANTED"])
def test_what_leads_to_no_url_is_told_and_not_quoted(text: str, tmp_path: Path) -> None:
    (tmp_path / "url").touch(0o600)
    (tmp_path / "url").write_text(text)
    with pytest.raises(StoreError, match="no postgresql:// URL") as caught:
        open_store(Server(f"file:{tmp_path / 'url'}"))
    assert "PLANTED" not in str(caught.value)


# -- whose tables


def test_another_programs_tables_are_left_alone(cluster: Cluster, server: Server) -> None:
    cluster.execute("CREATE TABLE requests (url TEXT)", server)
    for _ in range(2):
        with pytest.raises(StoreError, match="another program"):
            open_store(server)
    assert cluster.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()", server) == [
        ("requests",)
    ]


def test_a_role_that_may_make_no_tables_is_told(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    schema = server.text.rpartition("%3D")[2]
    cluster.execute(f"GRANT USAGE ON SCHEMA {schema} TO {GUARDED}")
    with pytest.raises(StoreError, match="the role may not"):
        open_store(secret_url(tmp_path, server))


def test_a_schema_that_is_not_there_is_told(server: Server) -> None:
    with pytest.raises(StoreError, match="no schema"):
        open_store(Server(server.text + "_not"))


def test_a_database_that_cannot_hold_every_text_is_refused(cluster: Cluster) -> None:
    cluster.execute("CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="UTF8"):
        open_store(cluster.url("old"))


def test_a_newer_database_is_refused_and_an_older_one_not_read(server: Server, store: Store) -> None:
    store.query("INSERT INTO migrations VALUES ('9999_future', 0)")
    with pytest.raises(StoreError, match=r"newer ccflare.*9999_future"):
        open_store(server)
    store.query("DELETE FROM migrations WHERE name IN ('9999_future', ?)", (MIGRATIONS[-1].name,))
    with pytest.raises(StoreError, match="older ccflare"):
        Store.open(server, None, read_only=True)


def test_reading_makes_nothing_and_cannot_write(server: Server, cluster: Cluster) -> None:
    with pytest.raises(StoreError, match="no database yet"):
        Store.open(server, None, read_only=True)
    assert cluster.execute("SELECT * FROM pg_tables WHERE schemaname = current_schema()", server) == []
    open_store(server).close()
    reading = Store.open(server, KEY, read_only=True)
    with pytest.raises(StoreError, match="read-only"):
        reading.accounts.add(an_account())
    reading.close()


def test_processes_that_start_together_share_one_database(server: Server) -> None:
    program = (
        "import sys, database_kit as kit; sys.stdin.readline(); store = kit.open_store(sys.argv[1]);"
        "store.accounts.add(kit.an_account(sys.argv[2])); store.close()"
    )
    children = [start_python(program, server, f"account {number}") for number in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate(timeout=60) and child.returncode for child in children] == [0, 0, 0, 0]
    store = open_store(server)
    assert (len(store.accounts.all()), len(store.data_keys())) == (4, 1)
    store.close()


def test_migrations_make_what_the_models_say(server: Server, cluster: Cluster) -> None:
    wanted_engine = open_to_write(cluster.url(schema=cluster.new()), 1)
    wanted = wanted_engine.database
    for model in TABLES:
        wanted_engine.select(f"DROP TABLE {model._meta.table_name} CASCADE")
    for model in TABLES:
        peewee.SchemaManager(model, database=wanted).create_table()
    made_engine = open_to_write(server, 1)
    for model in TABLES:
        table = model._meta.table_name
        assert shape(made_engine.database, table) == shape(wanted, table)
    wanted_engine.close()
    made_engine.close()


def shape(database: peewee.Database, table: str) -> dict[str, tuple[str, bool, bool]]:
    """By column: its type, whether it may be NULL, whether it is in the primary key. Ids by number are bigint."""
    keys = set(database.get_primary_keys(table))
    return {
        c.name: (
            "bigint" if c.name.endswith("id") and c.data_type == "integer" else c.data_type,
            c.null,
            c.name in keys,
        )
        for c in database.get_columns(table)
    }


def test_rewrapping_finds_bodies_by_the_index(store: Store) -> None:
    store.query("SET enable_seqscan = off")
    plan = store.query("EXPLAIN SELECT part FROM payloads WHERE substr(body, 1, 9) IN ('\\x01', '\\x02')")
    assert "payloads_key" in str(plan)


def test_figures_are_numbers_of_python(store: Store) -> None:
    sql = "SELECT SUM(n), SUM(n) / 4.0, MAX(n) / 1000.0, SUM(n) - 100 FROM (VALUES (1::bigint), (2)) AS v (n)"
    [figures] = store.query(sql)
    assert [(type(each), each) for each in figures] == [(int, 3), (float, 0.75), (float, 0.002), (int, -97)]


# -- taking turns


def test_a_lock_that_is_held_too_long_is_told_and_leaves_no_trace(server: Server, store: Store) -> None:
    store.query("SET lock_timeout = '50ms'")
    other = open_store(server)
    with other._transaction(), pytest.raises(StoreError, match="lock"):
        store.accounts.add(an_account())
    store.accounts.add(an_account())
    other.close()


def test_a_transaction_sees_what_was_committed_while_it_waited(server: Server, store: Store) -> None:
    store.accounts.add(an_account())
    other = open_store(server)

    def change() -> None:
        with store._transaction():
            seen.append(store.accounts.by_name("renamed").id)

    seen: list[str] = []
    with other._transaction():
        waiting = threading.Thread(target=change)
        waiting.start()
        time.sleep(0.2)
        other.query("UPDATE accounts SET name = 'renamed'")
    waiting.join(60)
    assert seen == ["id of max-1"]
    other.close()


def test_sessions_are_bounded_and_durable(cluster: Cluster, server: Server) -> None:
    role = "ALTER ROLE ccflare {} synchronous_commit"
    cluster.execute(role.format("SET") + " = off")
    store = open_store(server)
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    found = [store.query(f"SHOW {name}")[0][0] for name in names]
    store.close()
    cluster.execute(role.format("RESET"))
    assert found == ["5s", "30s", "30s", "on"]


def test_a_reader_in_the_way_of_a_whole_scrub_is_told(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_LOCK_SECONDS", 0.1)
    assert store.scrub()
    with psycopg.connect(server.text) as reader:
        reader.execute("SELECT * FROM accounts")
        assert not store.scrub(whole=True)
    assert store.scrub(whole=True)


# -- lost connections


def test_a_restart_that_nobody_has_noticed_stays_so(cluster: Cluster, server: Server, store: Store) -> None:
    store.accounts.add(an_account())
    restart(cluster)
    store.write(exchange("r1"))
    restart(cluster)
    assert (count(store, "requests"), store.accounts.all(), store.changed()) == (1, [an_account()], False)


def restart(cluster: Cluster) -> None:
    cluster.stop()
    cluster.start()


def test_a_server_that_is_away_is_asked_again_a_second_later(cluster: Cluster, store: Store) -> None:
    cluster.stop()

    def seconds(ask: Callable[[], object]) -> float:
        before = time.monotonic()
        with pytest.raises(StoreError, match="cannot be reached"):
            ask()
        return time.monotonic() - before

    for ask in (store.accounts.all, store.changed, lambda: store.write([started("r1")])):
        assert any(seconds(ask) < 3 for _ in range(3))  # and not the 5 s that a connection may take, each time
    cluster.start()
    eventually(lambda: works(store.accounts.all))
    assert store.accounts.all() == []


def works(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except StoreError:
        return False
    return True


def test_another_database_in_its_place_is_not_written_to(cluster: Cluster, server: Server, store: Store) -> None:
    cluster.execute("UPDATE ccflare SET id = 'another'", server)
    for ask in (store.changed, lambda: store.accounts.add(an_account())):
        with pytest.raises(StoreError, match="another database than at the start"):
            ask()
    assert count(store, "accounts") == 0


@pytest.fixture
def relay(cluster: Cluster) -> Iterator[Relay]:
    relay = Relay(cluster.port)
    relay.start()
    yield relay
    relay.close()


def test_a_batch_whose_commit_was_lost_on_the_way_back_is_not_written_twice(relay: Relay, cluster: Cluster) -> None:
    store = open_store(cluster.url(schema=cluster.new(), port=relay.port))
    batch = exchange("r1")
    relay.cut_at = b"COMMIT\0"
    with pytest.raises(CommitUnknown, match="cannot be reached"):
        store.write(batch)
    store.write(batch)
    store.write(exchange("r2"))
    assert (count(store, "requests"), count(store, "attempts")) == (2, 2)
    store.close()


def test_a_connection_lost_before_the_commit_has_written_nothing(relay: Relay, cluster: Cluster) -> None:
    store = open_store(cluster.url(schema=cluster.new(), port=relay.port))
    relay.cut_at = b"INSERT INTO"
    with pytest.raises(StoreError, match="cannot be reached"):
        store.write(exchange("r1"))
    assert count(store, "requests") == 0
    store.write(exchange("r1"))
    assert (count(store, "requests"), count(store, "attempts")) == (1, 1)
    store.close()


def test_the_next_address_of_the_url_serves_when_the_first_is_gone(cluster: Cluster) -> None:
    with contextlib.closing(Link(cluster.port)) as first, contextlib.closing(Link(cluster.port)) as second:
        first.start()
        second.start()
        url = cluster.url(schema=cluster.new(), port=first.port).text
        both = url.replace(f":{first.port}/", f":{first.port},127.0.0.1:{second.port}/")
        store = open_store(Server(f"{both}&tcp_user_timeout=1000&connect_timeout=2"))
        store.write(exchange("r1"))
        first.cut()

        eventually(lambda: works(lambda: store.write(exchange("r2"))))

        assert (count(store, "requests"), count(store, "attempts")) == (2, 2)
        store.close()


def test_the_writer_keeps_what_comes_while_the_server_is_away(cluster: Cluster, server: Server) -> None:
    troubles: list[str] = []
    writer = Writer(lambda: open_store(server), on_change=lambda _: None, on_trouble=troubles.append)
    writer.start()
    put(writer, "before")
    assert writer.flush(60)
    cluster.stop()
    put(writer, "meanwhile")
    eventually(lambda: any("cannot be reached" in told for told in troubles))
    cluster.start()
    put(writer, "after")
    assert writer.flush(60)
    written = writer.call(lambda store: store.query("SELECT r.id, COUNT(*) FROM requests r JOIN attempts a ON "
                                                    "a.request_id = r.id GROUP BY r.id"))  # fmt: skip
    assert dict(written.result(60)) == {"before": 1, "meanwhile": 1, "after": 1}
    assert (writer.dropped_rows, "works again" in troubles[-1]) == (0, True)
    assert writer.close(60)


def put(writer: Writer, name: str) -> None:
    for record in exchange(name):
        writer.put(record)


def test_writing_is_acknowledged_only_when_it_is_there_even_if_connections_die_all_the_time(
    cluster: Cluster, server: Server
) -> None:
    """Each exchange arrives once, whenever the server ends the connection."""
    writer = Writer(lambda: open_store(server), on_change=lambda _: None, on_trouble=lambda _: None)
    writer.start()
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ccflare'"
    for number in range(60):
        put(writer, f"r{number}")
        if number % 3 == 0:
            cluster.execute(end)
        time.sleep(0.01)
    assert writer.flush(60)
    store = open_store(server)
    assert (count(store, "requests"), count(store, "attempts"), count(store, "payloads")) == (60, 60, 60)
    assert (writer.dropped_rows, writer.close(60)) == (0, True)
    store.close()


# -- causes


class DriverError(Exception):
    """What psycopg raises, as peewee wraps it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("PLANTED")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("53100", "disk is full"),
        ("53300", "too many connections"),
        ("57014", "took too long"),
        ("57P01", "cannot be reached"),
        ("25006", "is read-only here"),
        ("25P02", "a statement before this one failed"),
        ("25P03", "stood still"),
        ("08P01", "a pooler in front"),
        ("08006", "cannot be reached"),
        ("40P01", "the database reports"),
        ("XX001", "damaged"),
        ("XX000", "the database reports"),
    ],
)
def test_a_cause_has_its_sentence(state: str, sentence: str) -> None:
    error = peewee.OperationalError(DriverError(state), "as the driver says")
    assert sentence in explain(error)
    with pytest.raises(StoreError, match=sentence), as_store_errors():
        raise error


def test_a_file_that_may_not_grow_is_a_full_disk_whatever_the_reason() -> None:
    """A quota has no code of its own."""
    error = DriverError("XX000")
    error.args = ('could not extend file "base/5/1": File too large\nHINT:  Check free disk space.',)
    assert "disk is full" in explain(error)


def test_a_server_that_refuses_for_another_reason_is_quoted(cluster: Cluster) -> None:
    cluster.execute("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    with pytest.raises(StoreError, match='the database server says: database "closed" is not currently accepting'):
        open_store(cluster.url("closed"))


@pytest.mark.parametrize("state", ["22021", "23505", "42804", "54000"])
def test_what_is_wrong_with_the_values_is_no_trouble_of_the_database(state: str) -> None:
    with pytest.raises(peewee.OperationalError), as_store_errors():
        raise peewee.OperationalError(DriverError(state), "as the driver says")


def test_a_value_that_fits_no_index_is_the_records_fault(server: Server) -> None:
    writer = Writer(lambda: open_store(server), on_change=lambda _: None, on_trouble=lambda _: None)
    writer.start()
    writer.put(started("r1")._replace(session_id=random.Random(1).randbytes(5000).hex()))
    writer.put(started("r2"))
    assert writer.flush(60)
    assert writer.call(lambda store: store.query("SELECT id FROM requests")).result(60) == [("r2",)]
    assert (writer.dropped_rows, writer.close(60)) == (1, True)


def test_the_clock_of_the_database_is_not_asked(store: Store) -> None:
    store.runs.start("run", "host", 1)
    assert store.query("SELECT started_at FROM runs") == [(round(NOW * 1000),)]
