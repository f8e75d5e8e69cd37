"""One audit log that two proxies write into at once, one of which is killed: it is whole, and says if it is not."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.config.location import Location, Server
from database_kit import KEY_VARIABLE
from fake_upstream import FakeUpstream
from harness import REPOSITORY, Proxy, StartProxy, Truncated, eventually, via_base_url

pytestmark = pytest.mark.timeout(600)
SCRIPT = REPOSITORY / "scripts" / "audit.py"
ENTRIES = 25
"""How many each proxy writes at the least before one of them is killed."""


def execute(location: Location, *statements: str) -> None:
    """Change the database as somebody else would."""
    if isinstance(location, Server):
        import psycopg

        with psycopg.connect(location.text, autocommit=True) as server:
            for statement in statements:
                server.execute(statement.encode())
        return
    with contextlib.closing(sqlite3.connect(location, isolation_level=None, timeout=60)) as file:
        for statement in statements:
            file.execute(statement)


class Writing(threading.Thread):
    """Has one proxy pause and resume an account, again and again, until it stops or the proxy is gone."""

    def __init__(self, proxy: Proxy, key: str, account: str) -> None:
        super().__init__()
        self.written = 0
        self._proxy, self._key, self._account = proxy, key, account
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, EOFError, Truncated), via_base_url(self._proxy) as client:
            while not self._is_over.is_set():
                verb = ("pause", "resume")[self.written % 2]
                path = f"/ccflare/accounts/{self._account}/{verb}"
                reply = client.request("POST", path, ((b"Authorization", f"Bearer {self._key}".encode()),))
                assert reply.status == 200, reply.body
                self.written += 1

    def stop(self) -> None:
        self._is_over.set()
        self.join(60)


def asked(proxy: Proxy, key: str) -> bytes:
    """What a proxy says of the accounts."""
    with via_base_url(proxy) as client:
        return client.request("GET", "/ccflare/accounts", ((b"Authorization", f"Bearer {key}".encode()),)).body


def copied(proxy: Proxy) -> set[int]:
    """The rows that a proxy's second copy has."""
    return {json.loads(line)["id"] for line in copy_of(proxy).read_bytes().splitlines() if b'"id"' in line}


def copy_of(proxy: Proxy) -> Path:
    return proxy.folder / "audit.jsonl"


def verified(proxy: Proxy, *arguments: str) -> dict[str, Any]:
    """What `audit.py verify` says."""
    process = proxy._run(
        [sys.executable, str(SCRIPT), "--database", str(proxy.location), "verify", "--format", "json", *arguments],
        capture_output=True,
        text=True,
        env=proxy._environment,
        timeout=120,
    )
    told: dict[str, Any] = json.loads(process.stdout)
    assert process.returncode == (0 if told["intact"] else 1)
    return told


def test_two_proxies_write_one_log_and_a_row_of_either_that_was_changed_is_found(
    location: Location, upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"database": location, "environment": KEY_VARIABLE}
    proxies: list[Proxy] = []
    for name in ("one", "two"):
        copy = tmp_path / f"proxy-{len(proxies) + 1}" / "audit.jsonl"
        accounts = {name: f"sk-ant-api03-{name}"}
        proxies.append(start_proxy(upstream, accounts=accounts, ccflare_audit_file=copy, **options))
    one, two = proxies
    key = one.add_client_key("boss", "--role", "admin")
    for proxy in proxies:  # both know the key and the other's account
        eventually(partial(asked, proxy, key), until=lambda told: b"two" in told)
    writing = [Writing(one, key, "one"), Writing(two, key, "two")]
    eventually(lambda: min(each.written for each in writing) >= ENTRIES, timeout=200)

    os.kill(two.pid, signal.SIGKILL)

    so_far = writing[0].written
    eventually(lambda: writing[0].written >= so_far + 3)
    for each in writing:
        each.stop()
    for proxy in proxies:
        told = verified(one, "--file", str(copy_of(proxy)))
        assert (told["intact"], told["damaged"]) == (True, 0)
        assert told["in_file"] == len(copied(proxy)) >= ENTRIES
    assert copied(one).isdisjoint(copied(two))
    turns = [number in copied(one) for number in sorted(copied(one) | copied(two))]
    assert sum(a != b for a, b in itertools.pairwise(turns)) >= 10, "they took turns"

    drop = "DROP TRIGGER audit_log_keep" + (" ON audit_log" if isinstance(location, Server) else "")
    execute(location, drop)
    for proxy in proxies:
        row = sorted(copied(proxy))[-2]
        (was,) = one.rows("SELECT actor FROM audit_log WHERE id = ?", [row])
        execute(location, f"UPDATE audit_log SET actor = 'nobody' WHERE id = {row}")
        told = verified(one)
        assert not told["intact"]
        assert told["problem"].startswith(f"row {row} ")
        execute(location, f"UPDATE audit_log SET actor = '{was['actor']}' WHERE id = {row}")
    assert verified(one)["intact"]
