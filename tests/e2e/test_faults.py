"""What comes of a PostgreSQL server, of the network to it and of a proxy that fail, each in its own way.

Requests go on with what the proxy knows, records wait and arrive once each, and no token is spent without a lease.
The long forms (CCFLARE_LONG_TESTS) let a fault last for minutes.
"""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from ccflare_core.accounts.account import Account
from fake_upstream import TOKEN, Gate, sse
from faults_kit import ENOUGH, LOGIN, QUICK, STOPPED, Bench, in_file, own_schema
from harness import Proxy, RawClient, Truncated, claude_request, eventually, via_base_url
from link import Link
from postgres_kit import GUARDED, Cluster

pytestmark = pytest.mark.postgres

IS_LONG = bool(os.environ.get("CCFLARE_LONG_TESTS"))
SLOW_SECONDS = 120 if IS_LONG else 0
FROZEN_SECONDS = 90 if IS_LONG else 0
"""Longer than it takes until the others hold a proxy for dead."""


@pytest.fixture(scope="module")
def link(cluster: Cluster) -> Iterator[Link]:
    with contextlib.closing(Link(cluster.port)) as link:
        link.start()
        yield link


@pytest.fixture(scope="module")
def running(cluster: Cluster, link: Link, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    schema = own_schema(cluster)
    url = cluster.url(schema=schema, user=LOGIN, port=link.port)
    location = in_file(tmp_path_factory.mktemp("faults"), type(url)(url.text + QUICK))
    with Bench.on(cluster, location, cluster.url(schema=schema, user=LOGIN)) as bench:
        yield bench


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The bench, with a session of the test's own."""
    return running._replace(session=str(uuid.uuid4()))


def test_network_cut_costs_no_request_and_no_record(bench: Bench, link: Link) -> None:
    since = len(bench.proxy.log())
    link.cut()

    statuses = bench.ask_until(f"{STOPPED} the database server cannot be reached", since)
    link.mend()
    statuses += bench.ask_until("recording works again", since)

    assert set(statuses) == {200}
    bench.check_record(len(statuses))


def test_refresh_waits_for_the_network_and_spends_no_token_without_a_lease(bench: Bench, link: Link) -> None:
    before = bench.upstream.logins.refreshes
    bench.refuse_token()
    link.cut()

    refused = bench.ask()
    asked_for_tokens = [request for request in bench.upstream.requests if request.path == TOKEN]
    link.mend()

    assert (refused, len(asked_for_tokens)) == (503, before)
    eventually(bench.ask, until=lambda status: status == 200)
    assert (bench.upstream.logins.refreshes, bench.upstream.logins.reuses) == (before + 1, 0)


def test_server_without_a_free_connection_costs_no_request_and_no_record(bench: Bench) -> None:
    since = len(bench.proxy.log())
    role = f"ALTER ROLE {GUARDED} CONNECTION LIMIT"
    bench.cluster.execute(f"{role} 0")
    try:
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{GUARDED}'"
        bench.cluster.execute(ended)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(bench.inside.text)
        statuses = bench.ask_until(f"{STOPPED} the database server says: too many connections", since)
    finally:
        bench.cluster.execute(f"{role} -1")
    statuses += bench.ask_until("recording works again", since)

    assert set(statuses) == {200}
    bench.check_record(len(statuses))


def test_server_that_is_two_seconds_late_keeps_no_request_waiting(bench: Bench, link: Link) -> None:
    link.delay = 2.0  # for each answer; a batch of records takes ten
    try:
        statuses = [bench.ask() for _ in range(ENOUGH)]
        recorded = bench.cluster.execute(f"SELECT id FROM requests WHERE session_id = '{bench.session}'", bench.inside)
        deadline = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < deadline:
            statuses.append(bench.ask())
            time.sleep(1.0)  # as long as what is late can still be written soon after
    finally:
        link.delay = 0.0

    assert (set(statuses), recorded) == ({200}, [])
    bench.check_record(len(statuses))


def test_proxy_that_was_frozen_learns_what_has_changed_meanwhile(bench: Bench) -> None:
    os.kill(bench.proxy.pid, signal.SIGSTOP)
    try:
        bench.pause(True)
    finally:
        os.kill(bench.proxy.pid, signal.SIGCONT)
    eventually(bench.ask, until=lambda status: status == 503)
    asked = len(bench.upstream.requests)
    assert (bench.ask(), len(bench.upstream.requests)) == (503, asked)
    bench.pause(False)
    eventually(bench.ask, until=lambda status: status == 200)


def run_of(bench: Bench, proxy: Proxy) -> str:
    newest = f"SELECT id FROM runs WHERE pid = {proxy.pid} ORDER BY started_at DESC LIMIT 1"
    [(run,)] = bench.cluster.execute(newest, bench.inside)
    return str(run)


def outcomes(bench: Bench, run: str) -> list[tuple[str | None]]:
    return bench.cluster.execute(f"SELECT outcome FROM requests WHERE run_id = '{run}'", bench.inside)


def begin_stream(bench: Bench, proxy: Proxy, client: RawClient) -> tuple[str, Gate]:
    """Have a request answered in the midst of which nothing more comes before the gate is opened.

    It is recorded that it has begun; by the run that is returned.
    """
    gate, whole, run = Gate(), sse(5), run_of(bench, proxy)
    bench.upstream.answer(replace(whole, chunks=(*whole.chunks[:4], gate, *whole.chunks[4:])))
    client.send_request(*claude_request(3000))
    assert client.read_head().status == 200
    eventually(lambda: outcomes(bench, run), until=lambda found: found == [(None,)])
    return run, gate


def test_what_a_killed_proxy_had_open_has_crashed_and_what_it_held_is_free(bench: Bench) -> None:
    """Another proxy on its machine sees that within 15 s, one elsewhere within 75 s (tests/store/test_dead_runs.py)."""
    since = len(bench.proxy.log())
    with bench.another() as victim, via_base_url(victim) as client:
        run, gate = begin_stream(bench, victim, client)
        with bench.stored() as store:
            (account,) = store.accounts.all()
        assert has_lease(bench, account, run)
        told = f"SELECT in_flight FROM runs WHERE id = '{run}'"
        eventually(lambda: bench.cluster.execute(told, bench.inside), until=lambda rows: account.id in str(rows))

        victim.kill()

        with pytest.raises((Truncated, ConnectionError)):
            client.read_body()
        gate.open()
        eventually(lambda: outcomes(bench, run), until=lambda found: found == [("crashed",)])
        assert has_lease(bench, account, "another")
    eventually(lambda: "another proxy crashed with 1 exchange open: recorded as crashed" in bench.proxy.log()[since:])
    assert bench.ask() == 200
    assert outcomes(bench, run) == [("crashed",)]


def has_lease(bench: Bench, account: Account, run: str) -> bool:
    """Whether the run gets the lease to refresh the account's token."""
    with bench.stored() as store:
        lease = store.logins.take_lease(account.id, run)
    return lease is not None and lease.is_mine


def test_proxy_that_was_frozen_in_a_stream_goes_on_with_it(bench: Bench) -> None:
    """In the long form others take it for dead meanwhile; its exchange has its true outcome all the same."""
    with bench.another() as frozen, via_base_url(frozen) as client:
        run, gate = begin_stream(bench, frozen, client)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            time.sleep(FROZEN_SECONDS)
            assert outcomes(bench, run) == [("crashed" if IS_LONG else None,)]
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        gate.open()
        assert b"message_stop" in client.read_body()
        eventually(lambda: outcomes(bench, run), until=lambda found: found == [("ok",)])
        ended = f"SELECT ended_at FROM runs WHERE id = '{run}'"
        eventually(lambda: bench.cluster.execute(ended, bench.inside), until=lambda rows: rows == [(None,)])


def test_older_proxy_goes_on_when_a_newer_version_has_migrated_the_database(bench: Bench) -> None:
    """All that it knows of is there still: migrations only add. At its next start it says what is wrong (db/)."""
    with bench.stored() as store:
        store.query("INSERT INTO migrations VALUES ('9999_future', 0)")
        store.query("ALTER TABLE requests ADD COLUMN newer TEXT NULL")
    try:
        statuses = [bench.ask() for _ in range(ENOUGH)]
        assert statuses == [200] * ENOUGH
        bench.check_record(ENOUGH)
    finally:
        bench.cluster.execute("DELETE FROM migrations WHERE name = '9999_future'", bench.inside)
