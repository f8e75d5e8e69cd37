"""Token keepers without a network: a real database and pool, clocks of ours, and the fake upstream's token endpoint."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import fake_upstream
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.accounts.renewal import Renewal
from ccflare_core.accounts.token_keeper import TokenKeeper
from ccflare_core.accounts.token_refresh import Refresher
from ccflare_core.anthropic import oauth
from ccflare_core.errors import StoreError
from ccflare_core.http.messages import Request, Response
from ccflare_core.store.store import Store
from database_kit import KEY, NOW
from fake_upstream import TOKEN, Logins

T = TypeVar("T")
Sender = Callable[[Request], Awaitable[Response]]

HOUR = 3600.0


class Clock:
    """Both clocks, in seconds. Sleeping moves them; `jump` moves only the wall's."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.wall = NOW

    def pass_(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds

    async def sleep(self, seconds: float) -> None:
        self.pass_(seconds)
        await asyncio.sleep(0)


class Provider:
    """The token endpoint. `answers` come first: Answers, exceptions to raise, or functions to call before the usual."""

    def __init__(self) -> None:
        self.logins = Logins()
        self.answers: deque[Response | Exception | Callable[[], Awaitable[object]]] = deque()
        self.sent: list[Request] = []

    def account(self, id: str = "a", *, expires_in: float = 8 * HOUR, **fields: Any) -> Account:
        """An account with a login of its own."""
        access, refresh = self.logins.new_login()
        known = {"access_token": access, "refresh_token": refresh, "expires_at": NOW + expires_in, "login_at": NOW}
        named: dict[str, Any] = {"name": f"max-{id}", "kind": Kind.OAUTH, **known, **fields}
        return Account(id, **named)

    async def send(self, request: Request) -> Response:
        self.sent.append(request)
        await asyncio.sleep(0)
        scripted = self.answers.popleft() if self.answers else None
        if isinstance(scripted, Response):
            return scripted
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is None:
            return self.grant(request)
        answer = self.grant(request)  # the provider has acted, whatever becomes of the answer
        await scripted()
        return answer

    def grant(self, request: Request) -> Response:
        headers = ((b"content-type", b"application/json"),)
        answer = self.logins.token(fake_upstream.Request("POST", TOKEN, headers, request.body, "", "", 0, ""))
        body = b"".join(chunk for chunk in answer.chunks if isinstance(chunk, bytes))
        return Response(answer.status, (("content-type", "application/json"),), body)


class Desk:
    """One process: its store, its pool and its keeper. Several may share a path, a provider and a clock."""

    def __init__(self, path: Path, provider: Provider, clock: Clock, *, owner: str = "run-1") -> None:
        self.provider = provider
        self.clock = clock
        self.store = Store.open(path, KEY, wall=lambda: clock.wall)
        self.store.runs.start(owner, "host", 1)
        self.is_broken = False
        self.slow_seconds = 0.0
        """How long the store takes for what it is asked."""
        self.frozen_seconds: deque[float] = deque()
        """How long this process stands still after each of the next answers."""
        self.before_seconds = 1800.0
        self.pool = AccountPool(
            clock=lambda: clock.mono,
            wall=lambda: clock.wall,
            expired=lambda account: self.keeper.unavailable(account),
            is_refreshing=lambda account: self.keeper.is_refreshing(account),
        )
        self.refresher = Refresher(
            call=self.call,
            send=provider.send,
            endpoints=oauth.Endpoints,
            owner=owner,
            clock=lambda: clock.mono,
            wall=lambda: clock.wall,
            sleep=clock.sleep,
        )
        self.keeper = TokenKeeper(
            self.refresher,
            accounts=self.pool.accounts,
            adopted=self.pool.change_account,
            before_seconds=lambda: self.before_seconds,
            clock=lambda: clock.mono,
            wall=lambda: clock.wall,
            random=lambda: 0.5,
            sleep=clock.sleep,
        )
        self.look()

    async def call(self, function: Callable[[Store], T], /) -> T:
        await asyncio.sleep(0)
        if self.is_broken:
            raise StoreError("the disk is full: free some space")
        self.clock.pass_(self.slow_seconds)
        answer = function(self.store)
        self.clock.pass_(self.frozen_seconds.popleft() if self.frozen_seconds else 0.0)
        return answer

    def look(self) -> None:
        """What the writer does when the database has changed."""
        self.pool.replace_accounts(self.keeper.overlay(self.store.accounts.all()))

    def known(self, id: str = "a") -> Account:
        """The account as the pool has it."""
        return next(account for account in self.pool.accounts() if account.id == id)

    def stored(self, id: str = "a") -> Account:
        return next(account for account in self.store.accounts.all() if account.id == id)

    async def renew(self, id: str = "a", **options: Any) -> Renewal:
        return await done(self.keeper.renew(id, **options))

    async def tend(self, seconds: float = 3.0) -> None:
        """Let the keeper run for so long."""
        task = asyncio.ensure_future(self.keeper.run())
        until = self.clock.mono + seconds
        while self.clock.mono < until:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await settled()


async def done(renewal: Renewal) -> Renewal:
    """The renewal, once it is."""
    async with asyncio.timeout(60):
        while not renewal.done:
            await asyncio.sleep(0)
    return renewal


async def settled() -> None:
    """Return when nothing is under way any more."""
    for _ in range(100):
        await asyncio.sleep(0)


def answer(content: Any, status: int = 200, content_type: str = "application/json") -> Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Response(status, (("content-type", content_type),), body)
