"""What comes of a PostgreSQL server, of the network to it and of a proxy that fail, each in its own way.

Requests go on with what the proxy knows, records wait and arrive once each, and no token is spent without a lease.
"""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.config.location import Server
from ccflare_core.errors import Unusable
from ccflare_core.store.store import Store
from database_kit import KEY, KEY_VARIABLE
from fake_upstream import MESSAGES, TOKEN, FakeUpstream, unauthorized
from harness import Proxy, claude_request, eventually, via_base_url
from link import Link
from postgres_kit import GUARDED, PASSWORD, Cluster

pytestmark = pytest.mark.postgres

NAME = "max"
ENOUGH = 5
"""How many requests show that they go on."""
STOPPED = "nothing can be recorded at the moment:"
"""What the writer says; others that use the database may complain before it."""
QUICK = "&tcp_user_timeout=1000&connect_timeout=2"
"""Notice in a second or two that nobody answers."""


class Bench(NamedTuple):
    """A proxy, its upstream, and the way to its database; `inside` leads there directly, as the server's owner."""

    proxy: Proxy
    upstream: FakeUpstream
    link: Link
    cluster: Cluster
    inside: Server
    session: str = ""

    def ask(self) -> int:
        """The status of a request on a connection of its own."""
        with via_base_url(self.proxy) as client:
            return client.request(*claude_request(size=3000, stream=False, session=self.session)).status

    def ask_until(self, said: str, since: int) -> list[int]:
        """The statuses of requests, until the log has said this, and of some more."""
        statuses: list[int] = []

        def is_said() -> bool:
            statuses.append(self.ask())
            return said in self.proxy.log()[since:]

        eventually(is_said)
        return statuses + [self.ask() for _ in range(ENOUGH)]

    def check_record(self, requests: int) -> None:
        """AssertionError if not so many of this test's requests are recorded, each once."""
        sql = (
            "SELECT r.id, outcome, COUNT(*) FROM requests r JOIN attempts a ON a.request_id = r.id "
            f"WHERE session_id = '{self.session}' GROUP BY r.id"
        )
        rows = eventually(
            lambda: self.cluster.execute(sql, self.inside),
            lambda rows: len(rows) >= requests and all(outcome for _, outcome, _ in rows),
        )
        assert [(outcome, count) for _, outcome, count in rows] == [("ok", 1)] * requests

    def pause(self, paused: bool) -> None:
        """Pause the account or resume it, as another proxy does: a frozen one may have the turn for up to 30 s."""

        def is_done() -> bool:
            with contextlib.suppress(Unusable), self.stored() as store:
                store.accounts.update(NAME, paused=paused)
                return True
            return False

        eventually(is_done)

    def stored(self) -> contextlib.closing[Store]:
        """The database as another machine's proxy has it."""
        return contextlib.closing(Store.open(self.inside, KEY))


@pytest.fixture(scope="module")
def running(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    schema = cluster.new()
    cluster.execute(f"ALTER SCHEMA {schema} OWNER TO {GUARDED}")
    with FakeUpstream() as upstream, contextlib.closing(Link(cluster.port)) as link:
        link.start()
        login = f"{GUARDED}:{PASSWORD.replace('%', '%25')}"
        file = tmp_path_factory.mktemp("faults") / "url"
        file.touch(0o600)
        file.write_text(cluster.url(schema=schema, user=login, port=link.port).text + QUICK)
        proxy = Proxy(upstream, database=Server(f"file:{file}"), environment=KEY_VARIABLE, ccflare_hold_seconds=0)
        bench = Bench(proxy, upstream, link, cluster, cluster.url(schema=schema, user=login))
        with bench.stored() as store:
            access, refresh = upstream.logins.new_login()
            tokens: dict[str, Any] = {
                "access_token": access,
                "refresh_token": refresh,
                "expires_at": time.time() + 28_800,
            }
            store.accounts.add(Account(NAME, NAME, Kind.OAUTH, created_at=time.time(), **tokens))
        with proxy:
            yield bench


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The bench, with a session of the test's own."""
    return running._replace(session=str(uuid.uuid4()))


def test_network_cut_costs_no_request_and_no_record(bench: Bench) -> None:
    since = len(bench.proxy.log())
    bench.link.cut()

    statuses = bench.ask_until(f"{STOPPED} the database server cannot be reached", since)
    bench.link.mend()
    statuses += bench.ask_until("recording works again", since)

    assert set(statuses) == {200}
    bench.check_record(len(statuses))


def test_refresh_waits_for_the_network_and_spends_no_token_without_a_lease(bench: Bench) -> None:
    with bench.stored() as store:
        (account,) = store.accounts.all()
    assert account.access_token is not None
    before = bench.upstream.logins.refreshes
    bench.link.cut()
    bench.upstream.always(unauthorized(), credential=account.access_token, path=MESSAGES)

    refused = bench.ask()
    asked_for_tokens = [request for request in bench.upstream.requests if request.path == TOKEN]
    bench.link.mend()

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


def test_server_that_is_two_seconds_late_keeps_no_request_waiting(bench: Bench) -> None:
    bench.link.delay = 2.0  # for each answer; a batch of records takes ten
    try:
        statuses = [bench.ask() for _ in range(ENOUGH)]
        recorded = bench.cluster.execute(f"SELECT id FROM requests WHERE session_id = '{bench.session}'", bench.inside)
    finally:
        bench.link.delay = 0.0

    assert (statuses, recorded) == ([200] * ENOUGH, [])
    bench.check_record(ENOUGH)


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
