"""A proxy on a PostgreSQL server that has a fault, and what must be true of it all the same."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.config.location import Server
from ccflare_core.errors import Unusable
from ccflare_core.store.store import Store
from database_kit import KEY, KEY_VARIABLE
from fake_upstream import MESSAGES, FakeUpstream, unauthorized
from harness import Proxy, claude_request, eventually, via_base_url
from postgres_kit import GUARDED, PASSWORD, Cluster

NAME = "max"
ENOUGH = 5
"""How many requests show that they go on."""
STOPPED = "nothing can be recorded at the moment:"
"""What the writer says; others that use the database may complain before it."""
QUICK = "&tcp_user_timeout=1000&connect_timeout=2"
"""Notice in a second or two that nobody answers."""
LOGIN = f"{GUARDED}:{PASSWORD.replace('%', '%25')}"
"""Of the role that needs a password, as a URL has it."""


def own_schema(cluster: Cluster) -> str:
    """A new schema of that role."""
    schema = cluster.new()
    cluster.execute(f"ALTER SCHEMA {schema} OWNER TO {GUARDED}")
    return schema


def in_file(folder: Path, url: Server) -> Server:
    """The location of a URL with a password."""
    file = folder / "url"
    file.touch(0o600)
    file.write_text(url.text)
    return Server(f"file:{file}")


def add_login(upstream: FakeUpstream, location: Server) -> None:
    """Add an account with tokens that are good for hours."""
    access, refresh = upstream.logins.new_login()
    tokens: dict[str, Any] = {"access_token": access, "refresh_token": refresh, "expires_at": time.time() + 28_800}
    with contextlib.closing(Store.open(location, KEY)) as store:
        store.accounts.add(Account(NAME, NAME, Kind.OAUTH, created_at=time.time(), **tokens))


class Bench(NamedTuple):
    """A proxy, its upstream and its database; `inside` leads there directly."""

    proxy: Proxy
    upstream: FakeUpstream
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

    @classmethod
    @contextlib.contextmanager
    def on(cls, cluster: Cluster, location: Server, inside: Server) -> "Iterator[Bench]":
        """One that runs, with an account."""
        with FakeUpstream() as upstream:
            add_login(upstream, inside)
            with Proxy(upstream, database=location, environment=KEY_VARIABLE, ccflare_hold_seconds=0) as proxy:
                yield cls(proxy, upstream, cluster, inside)

    def another(self) -> Proxy:
        """A second proxy on the same database and upstream, which has not been started."""
        return Proxy(self.upstream, database=self.proxy.location, environment=KEY_VARIABLE, ccflare_hold_seconds=0)

    def refuse_token(self) -> None:
        """From now on the upstream refuses the access token that is stored."""
        with self.stored() as store:
            (account,) = store.accounts.all()
        self.upstream.always(unauthorized(), credential=account.access_token, path=MESSAGES)
