"""A running proxy whose record is too old, too large or gone: traffic goes on."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ccflare_core.exchange.records import ExchangeFinished, Payload
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from database_kit import started
from fake_upstream import FakeUpstream
from harness import REPOSITORY, Proxy, StartProxy, claude_request, eventually, via_base_url

KEY = "sk-ant-api03-one"
DAY = 86_400

LIMITER = """
import asyncio, pathlib
from mitmproxy import ctx

WISH = pathlib.Path({wish!r})

def limit(store):
    pages = store.query("PRAGMA page_count")[0][0]
    store.query("PRAGMA max_page_count = " + str(pages if WISH.read_text() == "full" else 1_000_000))
    WISH.unlink()

async def look():
    while True:
        if WISH.exists():
            await asyncio.wrap_future(ctx.master.addons.get("ccflare")._app.storage.writer.call(limit))
        await asyncio.sleep(0.05)

async def running():
    globals()["task"] = asyncio.create_task(look())
"""
"""Makes the disk of the database full, as far as SQLite can tell."""


def ask(proxy: Proxy, session: str) -> int:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(session=session, size=30_000)).status


def recorded(proxy: Proxy, session: str, number: int) -> None:
    """Return when so many of the session's exchanges are recorded to their end."""
    sql = "SELECT COUNT(*) AS n FROM requests WHERE session_id = ? AND outcome = 'ok'"
    proxy.rows(sql, (session,), until=lambda rows: rows[0]["n"] == number, timeout=60)


def add_old_requests(proxy: Proxy, days: float, number: int) -> None:
    with contextlib.closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
        for each in range(number):
            at = round((time.time() - days * DAY) * 1000) + each
            id_ = f"req_{at:012x}{each:012x}"
            body = Payload(id_, "response", "text/plain", "", os.urandom(20_000), 20_000, False)
            begun = started(id_)._replace(timestamp_ms=at, session_id=f"old-{days}")
            store.write([begun, body, ExchangeFinished(id_, "ok", True)])


def test_r50_what_is_old_goes_while_requests_are_served(upstream: FakeUpstream, tmp_path: Path) -> None:
    with contextlib.closing(Proxy(upstream, folder=tmp_path)) as proxy:
        proxy.add_api_key("one", KEY)
        add_old_requests(proxy, 8, 60)
        add_old_requests(proxy, 400, 60)
        with proxy:
            took = []
            for _ in range(20):
                began = time.monotonic()
                assert ask(proxy, "now") == 200
                took.append(time.monotonic() - began)
            old = "FROM requests r LEFT JOIN payloads p ON p.request_id = r.id WHERE session_id LIKE 'old%'"
            left = f"SELECT COUNT(p.part) AS bodies, COUNT(DISTINCT r.id) AS requests {old}"
            proxy.rows(left, until=lambda rows: rows == [{"bodies": 0, "requests": 60}], timeout=60)
            recorded(proxy, "now", 20)
            assert proxy.rows("SELECT COUNT(*) AS n FROM payloads")[0]["n"] == 40
    assert sorted(took)[10] < 3  # and not the 5 s that a writer waits for another


def test_r61_a_disk_without_room_costs_bodies_and_no_request(
    upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path).free
    proxy = start_proxy(upstream, accounts={"one": KEY}, ccflare_minimum_free_bytes=free + free // 2)
    proxy.wait_for_log("the disk is nearly full: no bodies are kept")
    assert [ask(proxy, "tight") for _ in range(3)] == [200] * 3
    recorded(proxy, "tight", 3)
    assert proxy.rows("SELECT COUNT(*) AS n FROM payloads") == [{"n": 0}]
    assert proxy.log().count("the disk is nearly full") == 1


def test_a_full_disk_is_told_once_and_outlived(upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path) -> None:
    wish, script = tmp_path / "wish", tmp_path / "limiter.py"

    def make(text: str) -> None:
        (tmp_path / "new wish").write_text(text)
        (tmp_path / "new wish").rename(wish)  # which is read at any moment

    script.write_text(LIMITER.format(wish=str(wish)))
    proxy = start_proxy(upstream, accounts={"one": KEY}, arguments=("-s", str(script)))
    assert ask(proxy, "before") == 200
    recorded(proxy, "before", 1)
    make("full")
    eventually(lambda: not wish.exists())
    assert [ask(proxy, "meanwhile") for _ in range(30)] == [200] * 30
    proxy.wait_for_log("nothing can be recorded at the moment: the disk is full")
    make("room")
    proxy.wait_for_log("recording works again", timeout=60)
    recorded(proxy, "meanwhile", 30)
    assert proxy.log().count("nothing can be recorded") == 1
    assert proxy.log().count("the disk is full") <= 3
    assert proxy.stop() == 0


def test_with_its_database_deleted_it_serves_says_so_and_stops_at_once(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, accounts={"one": KEY})
    assert ask(proxy, "before") == 200
    proxy.database.unlink()
    assert [ask(proxy, "after") for _ in range(5)] == [200] * 5
    proxy.wait_for_log("the database file was deleted or replaced")
    began = time.monotonic()
    assert proxy.stop() == 0
    assert time.monotonic() - began < 9  # and not the 10 s that what cannot be written is given
    assert not proxy.database.exists()


def test_r28_a_backup_of_a_running_proxy_is_restored_only_when_it_has_stopped(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    target = tmp_path / "a.backup"
    with contextlib.closing(Proxy(upstream, folder=tmp_path / "proxy")) as proxy:
        proxy.add_api_key("one", KEY)
        with proxy:
            assert ask(proxy, "kept") == 200
            recorded(proxy, "kept", 1)
            proxy.run_script("maintain.py", "backup", str(target))
            assert ask(proxy, "lost") == 200
            recorded(proxy, "lost", 1)
            restore = [sys.executable, str(REPOSITORY / "scripts" / "maintain.py"), "restore", str(target)]
            refused = subprocess.run(
                [*restore, "--database", str(proxy.database)], capture_output=True, text=True, timeout=60
            )
            assert (refused.returncode, "stop the proxy" in refused.stderr) == (1, True)
            assert "is whole" in proxy.run_script("audit.py", "verify")
            assert ask(proxy, "lost") == 200
            proxy.stop()
            proxy.run_script("maintain.py", "restore", str(target))
            proxy.start()
            assert ask(proxy, "again") == 200
            recorded(proxy, "again", 1)
            assert proxy.rows("SELECT DISTINCT session_id FROM requests ORDER BY 1") == [
                {"session_id": "again"},
                {"session_id": "kept"},
            ]
            assert "fine" in proxy.run_script("maintain.py", "check")
            assert "about what a restored backup has replaced" in proxy.run_script("audit.py", "verify")
