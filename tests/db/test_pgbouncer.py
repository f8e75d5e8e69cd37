"""PgBouncer between a proxy and its PostgreSQL server: sessions are shared, so no program leaves anything in one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ccflare_core.config.location import Server
from ccflare_core.db import postgres
from ccflare_core.errors import StoreError
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from database_kit import KEY, an_account, count, exchange, open_store, payload, started
from harness import eventually
from listening_kit import Other
from postgres_kit import Cluster, Pooler, check_both_are_encrypted, verified
from tls_kit import Authority

pytestmark = pytest.mark.postgres

CHINESE = "\N{CJK UNIFIED IDEOGRAPH-4F60}\N{CJK UNIFIED IDEOGRAPH-597D}"


@pytest.fixture(params=["transaction", "session"])
def pooled(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Server]:
    """A database behind a pooler. In transaction mode every client gets the same session."""
    mode: str = request.param
    with contextlib.closing(Pooler(cluster, mode, size=1 if mode == "transaction" else 10)) as pooler:
        yield pooler.new()


@pytest.fixture
def store(pooled: Server) -> Iterator[Store]:
    with contextlib.closing(open_store(pooled)) as store:
        yield store


def test_a_reader_leaves_nothing_behind_that_keeps_the_proxy_from_writing(pooled: Server, store: Store) -> None:
    with contextlib.closing(Store.open(pooled, KEY, read_only=True)) as reading:
        assert reading.query("SELECT COUNT(*) FROM requests") == [(0,)]
        with reading.snapshot():
            reading.accounts.all()
        for number in range(3):
            store.write(exchange(f"r-{number}"))
            assert count(reading, "requests") == number + 1
        with pytest.raises(StoreError, match="read-only"):
            reading.accounts.add(an_account())


def test_two_writers_take_turns(pooled: Server, store: Store) -> None:
    store.accounts.add(an_account())
    with contextlib.closing(open_store(pooled)) as other:
        for number in range(4):
            (store, other)[number % 2].write(exchange(f"r-{number}"))
            assert (other, store)[number % 2].changed()
        assert other.accounts.all() == [an_account()]
    assert count(store, "requests") == 4


def test_a_transaction_that_fails_leaves_the_session_as_it_was(store: Store) -> None:
    with pytest.raises(RuntimeError), store.audited("data.purge"):
        raise RuntimeError
    store.write(exchange("r-1"))
    assert store.query("SELECT COUNT(*) FROM audit_log") == [(0,)]


def test_everything_else_that_is_done_to_a_database_works(store: Store) -> None:
    store.accounts.add(an_account())
    store.write([started("r-1"), payload("r-1", b'{"x": 1}')])
    assert store.keys is not None
    store.keys.rotate()
    drain(store.resealing().rewrap(), lambda: None)
    assert (store.scrub(), store.scrub(whole=True)) == (True, True)
    body = store.body("r-1", "request")
    assert body is not None
    assert body.content == b'{"x": 1}'


def test_limits_are_those_of_each_transaction_and_end_with_it(pooled: Server, store: Store) -> None:
    names = ("lock_timeout", "statement_timeout", "default_transaction_read_only")
    assert [store.query(f"SHOW {name}")[0][0] for name in names] == ["5s", "30s", "off"]
    with psycopg.connect(pooled.text, autocommit=True) as other:
        found = [other.execute(f"SHOW {name}").fetchone() for name in names]
    assert found == [("0",), ("0",), ("off",)]


def test_texts_of_every_script_are_kept_whatever_the_environment_says(
    pooled: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with contextlib.closing(open_store(pooled)) as store:
        store.write([started("r-1", user_agent=CHINESE)])
        assert store.query("SELECT user_agent FROM requests") == [(CHINESE,)]


def test_announcements_need_a_way_around_a_pooler_of_transactions(cluster: Cluster) -> None:
    """Through it one hears nothing, which is said; the poll goes on, and other programs have no leftover of ours."""
    with contextlib.closing(Pooler(cluster, "transaction")) as pooler:
        location = pooler.new()
        direct = Server(location.text.replace(f":{pooler.port}/", f":{cluster.port}/"))
        with contextlib.closing(open_store(location)) as store, Other(location, location, poll=0.05).running() as other:
            eventually(lambda: other.said, timeout=60)
            assert f"nothing that is announced comes through {location}; set ccflare_notify_database" in other.said[0]
            assert (other.listening.works, other.listening.problem) == (False, other.said[0])
            store.accounts.add(an_account())
            eventually(lambda: other.paused, timeout=60)
            assert len(other.said) == 1
            with psycopg.connect(location.text, autocommit=True) as anybody:
                assert anybody.execute("SELECT pg_listening_channels()").fetchall() == []
            with Other(location, direct).running() as around:
                eventually(lambda: around.listening.works and around.looks >= 2, timeout=60)
                store.accounts.update(an_account().id, paused=True)
                eventually(lambda: around.paused == {an_account().name: True}, timeout=60)


def test_tls_is_verified_on_both_sides_of_a_pooler(cluster: Cluster, tmp_path: Path) -> None:
    authority, other = (Authority(tmp_path, name) for name in ("ours", "other"))
    own = authority.issue("localhost", server=True)
    with contextlib.closing(Cluster(tls=own)) as guarded:
        with contextlib.closing(Pooler(guarded, "transaction", tls=(own, authority.file))) as pooler:
            location = pooler.new()
            direct = Server(location.text.replace(f":{pooler.port}/", f":{guarded.port}/"))
            check_both_are_encrypted(guarded, verified(location, authority.file), verified(direct, authority.file))
            with pytest.raises(StoreError, match="cannot be verified"):
                open_store(verified(location, other.file))
        with contextlib.closing(Pooler(guarded, "transaction", tls=(own, other.file))) as pooler:
            location = verified(guarded.url(port=pooler.port), authority.file)
            with pytest.raises(StoreError, match="cannot be reached"):  # it keeps the client waiting, and says nothing
                open_store(Server(f"{location}&connect_timeout=2"))


def test_pooled_statements_are_refused_at_the_start(cluster: Cluster) -> None:
    with contextlib.closing(Pooler(cluster, "statement")) as pooler:
        location = pooler.new()
        with pytest.raises(StoreError, match="set its pool_mode to transaction"):
            open_store(location)
    direct = Server(location.text.replace(f":{pooler.port}/", f":{cluster.port}/"))
    assert cluster.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'", direct) == []


def test_a_parameter_that_the_pooler_does_not_pass_on_is_named(cluster: Cluster) -> None:
    with contextlib.closing(Pooler(cluster, "session", size=5)) as pooler:
        location = pooler.new()
        with pytest.raises(StoreError, match="refuses a parameter of the URL"):
            open_store(Server(f"{location.text}?options=-csearch_path%3Dpublic"))


def test_a_pooler_whose_server_is_away_is_told(cluster: Cluster) -> None:
    with contextlib.closing(Pooler(cluster, "transaction")) as pooler:
        location = cluster.url("nowhere", port=pooler.port)
        with pytest.raises(StoreError, match=r"no such database|a pooler in front"):
            postgres.open_to_write(location, 0)
