"""A database with a past: accounts, requests, attempts and limits, written by the real store."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import (
    AttemptMade,
    CooldownSet,
    ExchangeFinished,
    ExchangeStarted,
    Record,
    RequestTagged,
    WindowRead,
)
from ccflare_core.secrets.key_sources import GivenKey, KeySource
from ccflare_core.store.store import Store
from database_kit import a_part

KEY = GivenKey(bytes(range(32)))


def at_local(day: int, hour: int, minute: int = 0) -> float:
    """Epoch seconds of a local time in November 2026, in whatever time zone the test runs."""
    return time.mktime((2026, 11, day, hour, minute, 0, 0, 0, -1))


NOON = at_local(24, 12)
"""The present in these tests: Tuesday, 24 November 2026."""


class History:
    """Writes what happened, a call for each event. Times are epoch seconds."""

    def __init__(self, location: Location, source: KeySource = KEY) -> None:
        self.location = location
        self.store = Store.open(location, source, wall=lambda: NOON)
        self._numbers = itertools.count(1)
        self._waiting: list[Record] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def account(self, name: str, **fields: Any) -> Account:
        """An account whose id is its name in capitals."""
        tokens: dict[str, Any] = {"access_token": f"token-of-{name}", "expires_at": NOON + 6 * 3600}
        if fields.get("kind") is not Kind.API_KEY:
            tokens["refresh_token"] = f"refresh-token-of-{name}"
        account = Account(id=name.upper(), name=name, **{"kind": Kind.OAUTH, **tokens, **fields})
        self.store.accounts.add(account)
        return account

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what happens in the block at once: a hundred requests take no longer than one."""
        self._waiting = []
        yield
        records, self._waiting = self._waiting, None
        self.store.write(records)

    def _write(self, *records: Record) -> None:
        if self._waiting is None:
            self.store.write(records)
        else:
            self._waiting += records

    def exchange(
        self,
        at: float,
        account: str | None = "max-1",
        *,
        path: str = "/v1/messages?beta=true",
        session: str | None = "session-1",
        client: str = "127.0.0.1",
        key: str | None = None,
        model: str | None = "claude-opus-4-8",
        outcome: str | None = "ok",
        tags: Mapping[str, str] = {},
        **finished: Any,
    ) -> str:
        """One request with its tags and, unless `outcome` is None, its end with these columns of ExchangeFinished.

        `key` names the client's key, whose id is its name in capitals.
        """
        request_id, key_id = f"request-{next(self._numbers)}", key and key.upper()
        started = ExchangeStarted(
            *(request_id, round(at * 1000), "POST", path, client, "claude-cli/2.1.330", session, "base", "run", model),
            *(key_id, key),
        )
        self._write(started, *(RequestTagged(request_id, started.timestamp_ms, *tag) for tag in tags.items()))
        if outcome is not None:
            end = ExchangeFinished(
                request_id,
                outcome,
                outcome == "ok",
                account_used=account and account.upper(),
                account_name=account,
                **{"attempts": 1, **finished},
            )
            self._write(end)
        return request_id

    def attempt(self, request: str, at: float, account: str, verdict: str, reason: str, status: int) -> None:
        """One try upstream of a request."""
        made = AttemptMade(request, 1, account.upper(), account, status, verdict, reason, (), round(at * 1000), 20.0)
        self.store.write([made])

    def window(
        self,
        account: str,
        name: str,
        utilization: float | None,
        resets_at: float | None,
        status: str = "allowed",
        at: float = NOON,
    ) -> None:
        """A reading of a limit."""
        reading = Window(name, status, utilization, resets_at)
        self._write(WindowRead(account.upper(), round(at * 1000), reading))

    def add_up(self) -> None:
        """Have the past added up, as the proxy does it in the background."""
        while self.store.usage.step():
            pass

    def cooldown(self, account: str, until: float, reason: str, family: str = "") -> None:
        """A rest of an account, or of one model family on it."""
        cooldown = Cooldown(account.upper(), a_part(family), until, reason, "window_spent", 1)
        self.store.write([CooldownSet(cooldown)])
