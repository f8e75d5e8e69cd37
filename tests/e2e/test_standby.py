"""The database server dies and its standby takes over, while proxies serve requests and one has just refreshed a token.

What the old server has acknowledged and the standby has not heard of is lost, but for tokens: a refresh token that was
spent is not spent again, since the proxies that know its successor write that to the new server.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.store.store import Store
from database_kit import KEY
from faults_kit import LOGIN, NAME, Bench, in_file, own_schema
from harness import eventually, via_base_url
from postgres_kit import PASSWORD, Cluster, Standby

pytestmark = pytest.mark.postgres

IS_LONG = bool(os.environ.get("CCFLARE_LONG_TESTS"))


@pytest.fixture
def standby() -> Iterator[Standby]:
    with contextlib.closing(Cluster()) as primary, contextlib.closing(Standby(primary)) as standby:
        yield standby


def test_failover_loses_no_request_and_no_token(standby: Standby, tmp_path: Path) -> None:
    """Requests: none fails. Record: what the standby has not heard of is missing, all else is there once.

    Tokens: the one that was refreshed last is on the new server a moment later. Limits and changes: announced there.
    In the long form the second proxy goes on, so the next refresh waits until it had the time to write what it knows.
    """
    schema = own_schema(standby.primary)
    standby.catch_up()
    location = in_file(tmp_path, standby.either(user=LOGIN, schema=schema))
    with Bench.on(standby, location, standby.either(user=LOGIN, schema=schema)) as bench, bench.another() as second:
        logins = bench.upstream.logins
        early = bench._replace(session=SESSIONS[0])
        assert [early.ask() for _ in range(3)] == [200] * 3
        early.check_record(3)
        standby.catch_up()
        standby.fall_behind()

        lost = bench._replace(session=SESSIONS[1])
        bench.refuse_token()
        assert bench.ask() == 200
        assert [lost.ask() for _ in range(3)] == [200] * 3
        lost.check_record(3)
        newest = refresh_token(bench)
        assert (logins.refreshes, logins.is_live(newest)) == (1, True)

        late = bench._replace(session=SESSIONS[2])
        standby.take_over()
        statuses = late.ask_until("a standby has taken the place of the database server", 0)
        eventually(lambda: refresh_token(bench), until=lambda token: token == newest)
        assert set(statuses) == {200}
        late.check_record(len(statuses))
        early.check_record(3)
        gone = f"SELECT id FROM requests WHERE session_id = '{lost.session}'"
        assert standby.execute(gone, bench.inside) == []
        second.wait_for_log("a standby has taken the place of the database server")
        assert bench.proxy.log().count("the database has a token again that was spent already") <= 1

        eventually(lambda: changes(bench), until=lambda told: told == "announced")
        bench.pause(True)
        eventually(bench.ask, until=lambda status: status == 503)
        bench.pause(False)
        if not IS_LONG:
            second.stop()
        with bench.stored() as store:
            store.accounts.update(NAME, expires_at=time.time() - 1)
        eventually(lambda: bench.ask() == 200 and logins.refreshes == 2, timeout=120)
        assert (logins.reuses, logins.is_live(refresh_token(bench))) == (0, True)
        for proxy in (bench.proxy, second):
            assert PASSWORD not in proxy.log()
            assert LOGIN.partition(":")[2] not in proxy.log()


SESSIONS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(3)]


def refresh_token(bench: Bench) -> str:
    """As the database has it, whichever server that is."""
    with contextlib.closing(Store.open(bench.inside, KEY, read_only=True)) as store:
        return store.accounts.by_name(NAME).refresh_token or ""


def changes(bench: Bench) -> str:
    """How the proxy hears of changes by others."""
    with via_base_url(bench.proxy) as client:
        return str(client.request("GET", "/ccflare/health").json()["changes"])
