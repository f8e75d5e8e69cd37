"""A running proxy, its upstream and accounts that are new in every test: a bench for one exchange after another.

Starting a proxy takes seconds, so a test file has one; accounts with new ids know nothing of the tests before.
"""

import contextlib
import itertools
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from fake_upstream import Answer, AnswerFunction, FakeUpstream, Header, Request
from harness import Proxy, RawClient, Reply, claude_request, eventually, via_base_url


class Rest(NamedTuple):
    """A stored cooldown: what rests ("" for the whole account), the seconds that were left of it when the account had
    answered for the last time (now, if it has not), why, and its kind.
    """

    family: str
    left: float
    reason: str
    source: str


class Rig:
    """See the module. `fresh` begins a test; all else is about what has happened since."""

    def __init__(self, proxy: Proxy, upstream: FakeUpstream | str) -> None:
        self.proxy = proxy
        self._upstream = upstream
        self.session = ""
        self._numbers = itertools.count(1)
        self._accounts: dict[str, Account] = {}
        self._begin = 0
        self._is_plain = True
        """Whether the accounts are as `fresh` makes them, and the upstream has no standing answers to them."""

    @classmethod
    @contextmanager
    def running(cls, upstream: FakeUpstream | str, **options: Any) -> Iterator["Rig"]:
        """A rig around a new proxy with quick retries and no hold, unless the options say otherwise.

        An upstream that is but a URL has no requests to look at.
        """
        quick = {"ccflare_hold_seconds": 0, "ccflare_retry_attempts": 1, "ccflare_retry_delay_ms": 20}
        with Proxy(upstream, **{**quick, **options}) as proxy:
            yield cls(proxy, upstream)

    @property
    def upstream(self) -> FakeUpstream:
        """The upstream; ValueError if it is but a URL."""
        if isinstance(self._upstream, str):
            raise ValueError(f"{self._upstream} is no fake upstream")
        return self._upstream

    # -- the accounts

    def fresh(
        self, *names: str, kind: Kind = Kind.OAUTH, each: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any
    ) -> None:
        """Let these be the only accounts, asked in this order, and forget what was before.

        `fields` are those of all, `each` has some of single ones.
        """
        self.session, own = str(uuid.uuid4()), each or {}
        made = [self._make(name, kind, at, {**fields, **own.get(name, {})}) for at, name in enumerate(names, start=1)]
        self._accounts = dict(zip(names, made, strict=True))
        with contextlib.closing(self._store()) as store:
            for old in store.accounts.all():
                store.accounts.remove(old.id)
            for account in made:
                store.accounts.add(account)
        eventually(self.health, lambda health: list(health) == list(names))
        self._is_plain = not (each or fields)
        self._begin = 0 if isinstance(self._upstream, str) else len(self.upstream.requests)

    def renew(self, *names: str) -> None:
        """As `fresh`, but at once if nothing has come of the accounts that there are: it takes the same again."""
        untouched = all(a["reason"] == "serving" and not a["in_flight"] for a in self.health().values())
        if list(names) != list(self._accounts) or not (untouched and self._is_plain):
            self.fresh(*names)
            return
        self.session = str(uuid.uuid4())
        self._begin = len(self.upstream.requests)

    def secret(self, name: str) -> str:
        """The credential of an account."""
        account = self._accounts[name]
        return account.access_token or account.api_key or ""

    def name(self, name: str) -> str:
        """The name of an account as the proxy has it: no other test's has the same."""
        return self._accounts[name].name

    def script(
        self, name: str, *answers: Answer | AnswerFunction, always: Answer | AnswerFunction | None = None
    ) -> None:
        """What upstream says to an account: these answers, then always that one or else the usual."""
        self.upstream.answer(*answers, credential=self.secret(name))
        if always is not None:
            self._is_plain = False
            self.upstream.always(always, credential=self.secret(name))

    def change(self, name: str, **fields: Any) -> None:
        """Change an account in the database."""
        with contextlib.closing(self._store()) as store:
            store.accounts.update(self._accounts[name].id, **fields)

    def _make(self, name: str, kind: Kind, priority: int, fields: dict[str, Any]) -> Account:
        key = f"{name}-{next(self._numbers)}"
        account = Account(f"id-{key}", key, kind, priority=priority, created_at=time.time())
        if kind is Kind.API_KEY:
            return replace(account, **{"api_key": f"sk-ant-api03-{key}", **fields})
        end = time.time() + 28_800
        token = {"access_token": f"sk-ant-oat01-{key}", "expires_at": end, "login_expires_at": end + 31_000_000}
        return replace(account, **{**token, **fields})

    def stored(self) -> contextlib.closing[Store]:
        """The database with its key, for who reads more than rows."""
        return contextlib.closing(self._store())

    def _store(self) -> Store:
        path = self.proxy.database
        return Store.open(path, KeyFile(path.with_suffix(".key")))

    # -- a client

    def client(self) -> RawClient:
        """A connection to the proxy as to the API itself."""
        return via_base_url(self.proxy)

    def send(self, client: RawClient, **options: Any) -> None:
        """Send what Claude Code sends, for this test's session."""
        client.send_request(*claude_request(**{"size": 3000, "session": self.session, **options}))

    def ask(self, **options: Any) -> Reply:
        """One whole exchange on a connection of its own."""
        with self.client() as client:
            return client.request(*claude_request(**{"size": 3000, "session": self.session, **options}))

    # -- what came of it

    @property
    def requests(self) -> list[Request]:
        """What reached the upstream in this test, without what the proxy asks for itself."""
        return [r for r in self.upstream.requests[self._begin :] if not r.path.startswith("/api/oauth/")]

    @property
    def asked(self) -> list[str]:
        """The accounts that were sent upstream, in order; "?" is none of this test's."""
        names = {self.secret(name): name for name in self._accounts}
        return [names.get(request.credential, "?") for request in self.requests]

    def wait_for(self, count: int) -> list[Request]:
        """The requests at the upstream, as soon as there are that many."""
        return eventually(lambda: self.requests, lambda requests: len(requests) >= count)

    def rows(self, count: int = 1) -> list[dict[str, Any]]:
        """The rows of this session's first exchanges, as soon as all of them have ended."""
        sql = "SELECT * FROM requests WHERE session_id = ? ORDER BY timestamp"
        return self.proxy.rows(sql, (self.session,), until=lambda rows: len(rows) >= count)

    def row(self) -> dict[str, Any]:
        """The row of this test's only exchange; `account` is the name of the account in this test."""
        (row,) = self.rows()
        short = {account.name: name for name, account in self._accounts.items()}
        return {**row, "account": short.get(row["account_name"])}

    def kinds(self) -> list[str]:
        """The verdicts on this session's attempts, in order."""
        sql = "SELECT verdict FROM attempts a JOIN requests r ON r.id = a.request_id WHERE session_id = ? ORDER BY a.id"
        return [row["verdict"] for row in self.proxy.rows(sql, (self.session,))]

    def rests(self, name: str) -> list[Rest]:
        """The cooldowns of an account as they are stored; those of exchanges whose row has ended are there."""
        asked = "SELECT MAX(started_at + duration_ms) FROM attempts a WHERE a.account_id = c.account_id"
        sql = f"SELECT c.*, ({asked}) AS asked_at FROM scope_cooldowns c WHERE account_id = ?"
        rows = self.proxy.rows(sql, (self._accounts[name].id,))
        return [
            Rest(r["name"], (r["until"] - (r["asked_at"] or time.time() * 1000)) / 1000, r["reason"], r["source"])
            for r in rows
        ]

    def health(self, proxy: Proxy | None = None) -> dict[str, dict[str, Any]]:
        """Each account of this test as the health page shows it; one of another test has its full name.

        `proxy` is another one on the same database, which learns of the accounts at its own time.
        """
        short = {account.name: name for name, account in self._accounts.items()}
        return {short.get(a["name"], a["name"]): a for a in self._health(proxy)["accounts"]}

    def wait_for_reason(self, name: str, reason: str) -> None:
        """Return when the health page says this of an account."""
        eventually(lambda: self.health()[name]["reason"], lambda found: reason in found)

    def is_idle(self) -> bool:
        """Whether no exchange is open and no lease is out."""
        health = self._health()
        return health["open_exchanges"] == 0 and not any(a["in_flight"] for a in health["accounts"])

    def _health(self, proxy: Proxy | None = None) -> Any:
        def ask() -> Reply:
            with via_base_url(proxy or self.proxy) as client:
                return client.request("GET", "/ccflare/health")

        return eventually(ask, lambda reply: reply.status != 429).json()  # who has to wait for it asks again and again


def texts(events: Sequence[dict[str, Any] | None]) -> list[str]:
    """The text deltas among events."""
    return [e["delta"]["text"] for e in events if e and e["type"] == "content_block_delta"]


def visible(answer: Answer) -> tuple[Header, ...]:
    """The header fields of an account's answer that a client gets to see."""
    hidden = (b"anthropic-organization-id", b"anthropic-workspace-id")
    return tuple(header for header in answer.headers if header[0] not in hidden)
