"""A standby takes the place of the server: which of two is written to, and what is not relied on any more."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ccflare_core.accounts.account import Account
from ccflare_core.anthropic.oauth import Tokens
from ccflare_core.audit.check import Check
from ccflare_core.config.location import Server
from ccflare_core.db.engine import CommitUnknown
from ccflare_core.db.engine_choice import hear
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import Payload, Record
from ccflare_core.store.store import Store
from database_kit import KEY, NOW, an_account, count, exchange, open_store, started
from harness import eventually
from postgres_kit import Cluster, Relay, Standby

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Cluster]]:
    """The server that takes changes now: each test puts another one in its place."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(Cluster()))]
        yield servers
        stack.callback(servers.pop().close)


@pytest.fixture
def standby(servers: list[Cluster]) -> Iterator[Standby]:
    """A standby that is up to date. At the end it is the server."""
    (primary,) = servers
    servers[:] = [standby := Standby(primary)]
    yield standby
    primary.close()


@pytest.fixture
def relay(standby: Standby) -> Iterator[Relay]:
    relay = Relay(standby.primary.port)
    relay.start()
    yield relay
    relay.close()


@pytest.fixture
def both(standby: Standby, relay: Relay) -> Server:
    """A schema on whichever of the two takes changes; to the primary through the relay."""
    return standby.either(schema=standby.primary.new(), first=relay.port)


def until_it_works(store: Store) -> None:
    """Wait until the store has found the new server."""

    def works() -> bool:
        with contextlib.suppress(StoreError):
            return store.changed()
        return False

    eventually(works)


def test_writing_goes_on_where_changes_are_taken_and_all_is_read_anew(standby: Standby, both: Server) -> None:
    """Nobody has written to the new server yet; what others wrote last to the old one is missing there all the same."""
    with contextlib.closing(open_store(both)) as store, contextlib.closing(open_store(both)) as other:
        store.accounts.add(an_account())
        store.runs.start("early", "host", 1)
        standby.catch_up()
        standby.fall_behind()
        other.accounts.update(an_account().id, paused=True)
        other.runs.start("late", "host", 2)
        assert (store.changed(), store.accounts.all()[0].paused, store.takeover.is_news()) == (True, True, False)

        standby.take_over()
        until_it_works(store)

        assert (store.accounts.all()[0].paused, store.takeover.is_news(), store.takeover.is_news()) == (
            False,
            True,
            False,
        )
        for each, run in ((store, "early"), (other, "late")):
            eventually(functools.partial(beats, each, run))
        assert store.query("SELECT id, host, pid, ended_at FROM runs ORDER BY id") == [
            ("early", "host", 1, None),
            ("late", "host", 2, None),
        ]
        channel = store.channel
        assert channel is not None
        with contextlib.closing(hear(both, channel, "ccflare_database")) as hearing:
            assert hearing.works(store.announce_test)


def beats(store: Store, run: str) -> bool:
    with contextlib.suppress(StoreError):
        store.heartbeat(run)
        return True
    return False


def test_a_server_that_was_taken_over_from_is_not_written_to_when_it_comes_back(standby: Standby, both: Server) -> None:
    with contextlib.closing(open_store(both)) as store:
        standby.catch_up()
        standby.take_over()
        until_it_works(store)
        standby.primary.start()
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ccflare'"
        standby.execute(end)

        for ask in (store.changed, lambda: store.accounts.add(an_account())):
            with pytest.raises(StoreError, match="the one that a standby took over from: stop it"):
                ask()

        standby.primary.stop()
        eventually(lambda: beats(store, "run"))
        assert store.query("SELECT COUNT(*) FROM accounts") == [(0,)]


@pytest.mark.parametrize("is_replicated", [True, False])
def test_a_batch_whose_commit_nobody_has_confirmed_is_there_once_all_the_same(
    standby: Standby, relay: Relay, both: Server, is_replicated: bool
) -> None:
    """The new server may give the transaction's number to another one, so it says nothing about it."""
    with contextlib.closing(open_store(both)) as store:
        store.write(exchange("r0"))
        standby.catch_up()
        if not is_replicated:
            standby.fall_behind()
        relay.cut_at = b"COMMIT\0"
        with pytest.raises(CommitUnknown):
            store.write(batch := exchange("r1"))
        if is_replicated:
            standby.catch_up()
        standby.take_over()
        with contextlib.closing(open_store(both)) as other:
            for number in range(5):
                other.heartbeat(f"run-{number}")

        eventually(lambda: is_written(store, batch))

        assert [count(store, table) for table in ("requests", "attempts", "payloads")] == [2, 2, 2]


def is_written(store: Store, batch: Sequence[Record]) -> bool:
    with contextlib.suppress(StoreError):
        store.write(batch)
        return True
    return False


def body(request: str, turns: int) -> Payload:
    """The request of a conversation that has gone on for so many turns."""
    turn = '{"role": "user", "content": "%s"}'
    messages = ", ".join(turn % (f"turn {number} " * 200) for number in range(turns))
    content = f'{{"model": "x", "messages": [{messages}]}}'.encode()
    return Payload(request, "request", "application/json", "", content, len(content), False, session_id="s-1")


def test_bodies_are_whole_whose_earlier_parts_the_new_server_has_not(standby: Standby, both: Server) -> None:
    with contextlib.closing(open_store(both)) as store:
        store.write([started("r1"), body("r1", 4)])
        assert count(store, "blocks") > 1
        standby.catch_up()
        standby.fall_behind()
        store.write([started("r2"), body("r2", 6)])

        standby.take_over()
        until_it_works(store)  # so nothing fails in the midst of a batch
        store.write([started("r3"), body("r3", 8)])

        for request, turns in (("r1", 4), ("r3", 8)):
            found = store.body(request, "request")
            assert found is not None
            assert found.content == body(request, turns).body
        assert store.body("r2", "request") is None


def test_audit_log_goes_on_and_its_second_copy_has_what_is_missing(
    standby: Standby, both: Server, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    with contextlib.closing(Store.open(both, KEY, audit_file=file)) as store:
        store.accounts.add(an_account())
        standby.catch_up()
        standby.fall_behind()
        store.accounts.update(an_account().id, paused=True)

        standby.take_over()
        until_it_works(store)
        store.accounts.update(an_account().id, priority=7)

        assert "the log was replaced" in str(Check(store.audit).run(file).problem)
        file.rename(tmp_path / "put aside")
        store.accounts.update(an_account().id, priority=8)
        assert Check(store.audit).run(file).problem is None


def test_nobody_spends_a_token_while_another_proxy_may_have_a_newer_one(standby: Standby, both: Server) -> None:
    with contextlib.closing(open_store(both)) as store, contextlib.closing(open_store(both)) as other:
        store.accounts.add(an_account())
        for each, run in ((store, "one"), (other, "two")):
            each.runs.start(run, "host", 1)
        store.peers.look()
        spent = an_account().refresh_token or ""
        standby.catch_up()
        standby.fall_behind()
        other.logins.save_tokens(an_account().id, "two", spent, Tokens("new access", "new refresh", NOW + 60))

        standby.take_over()
        until_it_works(store)

        lease = store.logins.take_lease(an_account().id, "one")
        assert lease is not None
        assert (lease.is_mine, lease.account.refresh_token) == (False, spent)
        eventually(lambda: beats(other, "two"))
        written = other.logins.save_tokens(an_account().id, "two", spent, Tokens("new access", "new refresh", NOW + 60))
        assert isinstance(written, Account)
        assert store.accounts.all()[0].refresh_token == "new refresh"
