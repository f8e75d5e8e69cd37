"""The disk of the database server is full: requests go on, records wait within bounds, and tokens wait for their lease.

The server runs into a limit on the size of its files, which it reports as it does a full disk: no right to mount is
needed. What is full are the tables of requests and leases. Had its log no room either, the server would end by itself,
which is what test_postgres_live.py does to one.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator

import pytest

from ccflare_core.writer.writer import Writer
from database_kit import exchange, open_store
from faults_kit import ENOUGH, STOPPED, Bench
from harness import eventually
from postgres_kit import Cluster

pytestmark = pytest.mark.postgres

PAGES = 160
"""As many has each of the two tables; more than a segment of the server's log."""
PAGE = 8192
FULL = f"{STOPPED} the disk is full: free some space"
_ROWS = {
    "requests": "(id, timestamp, method, path, client_ip, user_agent, door, run_id, outcome) "
    "VALUES ('fill' || n, 0, 'POST', '/', '', repeat('x', {size}), 'base', 'fill', 'ok')",
    "refresh_leases": "(account_id, owner, term) VALUES ('fill' || n, repeat('x', {size}), '')",
}
_LONG = {"requests": "user_agent", "refresh_leases": "owner"}
_LAST = {"requests": 7500, "refresh_leases": 7985}
"""Beside one small row, the latter leaves less than a lease takes."""
_FILL = """DO $$ DECLARE n int := 0; BEGIN
    WHILE pg_relation_size('{table}') < {all_but_one} LOOP n := n + 1; INSERT INTO {table} {large}; END LOOP;
    WHILE pg_relation_size('{table}') = {all_but_one} LOOP n := n + 1; INSERT INTO {table} {small}; END LOOP;
    n := n + 1; INSERT INTO {table} {last};
END $$"""
"""Pages of one row each, then small ones until what is left anywhere is too little for one, then the last page."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server of the test's own, with a log in segments of 1 MiB. It leaves dead rows alone."""
    with contextlib.closing(Cluster(options=["--wal-segsize=1"], settings=["autovacuum=off"])) as cluster:
        yield cluster


def fill(bench: Bench) -> None:
    """Have no page of these tables room for a row, and let their files grow no more."""
    for table, row in _ROWS.items():
        sizes = {"large": 7900, "small": 60, "last": _LAST[table]}
        rows = {name: row.format(size=size) for name, size in sizes.items()}
        bench.cluster.execute(f"ALTER TABLE {table} ALTER {_LONG[table]} SET STORAGE PLAIN", bench.inside)
        fill = _FILL.format(table=table, all_but_one=(PAGES - 1) * PAGE, **rows)
        bench.cluster.execute(fill, bench.inside)
        size = f"SELECT pg_relation_size('{table}')"
        assert bench.cluster.execute(size, bench.inside) == [(PAGES * PAGE,)]
    bench.cluster.execute("CHECKPOINT")
    bench.cluster.limit_files(PAGES * PAGE + PAGE // 2)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ccflare'"
    bench.cluster.execute(ended)  # a connection knows pages that still had room


def test_full_disk_costs_no_request_no_record_and_no_token(cluster: Cluster) -> None:
    """Requests: none fails but for a token. Record: complete once there is space. Tokens: refreshed then.

    Limits: each proxy goes by what it learns itself. What waits is bounded, and what is dropped then is told.
    """
    inside = cluster.url(schema=cluster.new())
    with Bench.on(cluster, inside, inside) as bench:
        bench = bench._replace(session=str(uuid.uuid4()))
        assert bench.ask() == 200
        bench.check_record(1)
        fill(bench)

        statuses = bench.ask_until(FULL, 0)
        assert set(statuses) == {200}
        drops(bench)
        bench.refuse_token()
        other = bench._replace(session="")
        assert (other.ask(), bench.upstream.logins.refreshes) == (503, 0)
        bench.proxy.wait_for_log("the token was not refreshed (the disk is full: free some space)")

        cluster.limit_files(None)
        bench.proxy.wait_for_log("recording works again")
        eventually(other.ask, until=lambda status: status == 200)
        assert (bench.upstream.logins.refreshes, bench.upstream.logins.reuses) == (1, 0)
        bench.check_record(1 + len(statuses))


def drops(bench: Bench) -> None:
    """A writer that may keep little keeps no more than that, and says how much it has dropped."""
    said: list[str] = []
    writer = Writer(lambda: open_store(bench.inside), on_change=lambda _: None, on_trouble=said.append, max_rows=20)
    writer.start()

    def put(name: str) -> None:
        for number in range(20 * ENOUGH):
            for record in exchange(f"{name}-{number}"):
                writer.put(record)

    def is_full() -> bool:
        put(f"before-{time.monotonic()}")  # a page may have room for some rows yet
        return any("the disk is full" in each for each in said)

    eventually(is_full)
    put("meanwhile")
    assert writer._backlog.records <= 20
    eventually(lambda: any("rows are lost so far" in each for each in said))
    assert writer.dropped_rows > 20 * ENOUGH
    assert writer.dropped_payloads >= 20 * ENOUGH
    assert not writer.close(1)
