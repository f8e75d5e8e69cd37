"""What the database's tests share: ready-made values, and other processes that use the same database."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ccflare_core
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Scope
from ccflare_core.config.location import Location, parse
from ccflare_core.exchange.records import (
    AttemptMade,
    ExchangeFinished,
    ExchangeStarted,
    Payload,
    Record,
    WindowRead,
)
from ccflare_core.secrets.key_sources import GivenKey, KeySource
from ccflare_core.store.store import Store

KEY = GivenKey(b"k" * 32)
KEY_VARIABLE = {"ccflare_ENCRYPTION_KEY": (b"k" * 32).hex()}
"""The same for a process."""
NOW = 1_800_000_000.0
SECRETS = ("sk-ant-oat01-PLANTED-access", "sk-ant-ort01-PLANTED-refresh", "sk-ant-api03-PLANTED-key")
WINDOWS = (Window("5h", "allowed", 0.25, NOW + 60), Window("7d", None, None, None))


def open_store(location: Location | str, *, source: KeySource | None = KEY, now: float = NOW) -> Store:
    where = parse(location) if isinstance(location, str) else location
    return Store.open(where, source, wall=lambda: now)


def an_account(name: str = "max-1", *, priority: int = 50) -> Account:
    access_token, refresh_token, api_key = (each if name == "max-1" else f"{each}-{name}" for each in SECRETS)
    return Account(
        id=f"id of {name}",
        name=name,
        kind=Kind.OAUTH,
        priority=priority,
        access_token=access_token,
        refresh_token=refresh_token,
        api_key=api_key,
        expires_at=NOW + 0.5,
        created_at=NOW,
        login_at=NOW - 1,
    )


def a_part(family: str = "") -> Part:
    """That family of an account, or all of it."""
    return Part(Scope.FAMILY, family) if family else WHOLE


def a_cooldown(account_id: str = "a", family: str = "", *, until: float = NOW + 60, failures: int = 1) -> Cooldown:
    return Cooldown(account_id, a_part(family), until, "5h window spent", "window_spent", failures)


def started(exchange_id: str, *, run_id: str = "run-1", user_agent: str = "claude-cli/2") -> ExchangeStarted:
    return ExchangeStarted(
        id=exchange_id,
        timestamp_ms=round(NOW * 1000),
        method="POST",
        path="/v1/messages?beta=true",
        client_ip="127.0.0.1",
        user_agent=user_agent,
        session_id="s-1",
        door="base",
        run_id=run_id,
        model="claude-opus-4-8",
    )


def attempt(exchange_id: str, number: int = 1) -> AttemptMade:
    return AttemptMade(exchange_id, number, "a", "max-1", 200, "ok", "ok", WINDOWS, round(NOW * 1000), 12.5)


def payload(exchange_id: str, body: bytes = b'{"model": "x"}', part: str = "request") -> Payload:
    return Payload(exchange_id, part, "application/json", "", body, len(body), False)


def exchange(exchange_id: str) -> list[Record]:
    """Every record of an exchange that went well."""
    return [
        started(exchange_id),
        attempt(exchange_id),
        *(WindowRead("a", round(NOW * 1000), window) for window in WINDOWS),
        payload(exchange_id),
        ExchangeFinished(exchange_id, "ok", True, 200, account_used="a", account_name="max-1", attempts=1),
    ]


def count(store: Store, table: str) -> int:
    return int(store.query(f"SELECT COUNT(*) FROM {table}")[0][0])


def start_python(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """A child that runs the program with the core importable; it talks through its standard streams."""
    path = os.pathsep.join([str(Path(next(iter(ccflare_core.__path__))).parent), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )


_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Another process holds the database's write lock for as long as the block runs."""
    child = start_python(_HOLD, path)
    try:
        if child.stdout is None or child.stdout.readline() != "held\n":
            raise RuntimeError("the other process did not get the lock")
        yield
    finally:
        child.communicate("\n", timeout=60)
