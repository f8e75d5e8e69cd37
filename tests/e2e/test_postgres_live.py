"""Proxies and scripts on a PostgreSQL server, which is restarted under them and never sees a secret in clear."""

import contextlib
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.config.location import Server
from database_kit import KEY_VARIABLE
from fake_upstream import MESSAGES, FakeUpstream, Gate, limited_5h, message_json
from harness import Proxy, RawClient, StartProxy, claude_request, eventually, via_base_url
from postgres_kit import GUARDED, PASSWORD, Cluster

pytestmark = pytest.mark.postgres

KEY = "sk-ant-api03-PLANTED"
HEALTH = "/ccflare/health"


@pytest.fixture
def guarded(cluster: Cluster, tmp_path: Path) -> tuple[Server, Server]:
    """A schema whose owner needs a password: as the proxy gets it, and as the tests look into it."""
    schema = cluster.new()
    cluster.execute(f"ALTER SCHEMA {schema} OWNER TO {GUARDED}")
    file = tmp_path / "url"
    file.touch(0o600)
    url = cluster.url(schema=schema, user=f"{GUARDED}:{PASSWORD.replace('%', '%25')}")
    file.write_text(url.text)
    return Server(f"file:{file}"), cluster.url(schema=schema)


def test_the_servers_password_is_shown_nowhere(
    guarded: tuple[Server, Server], cluster: Cluster, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    location, inside = guarded
    web = start_proxy(
        upstream,
        database=location,
        program="mitmweb",
        environment=KEY_VARIABLE,
        accounts={"one": KEY},
        anew=True,
        ccflare_log_level="debug",
    )
    with via_base_url(web) as client:
        assert client.request(*claude_request()).status == 200
    eventually(lambda: cluster.execute("SELECT COUNT(*) FROM payloads", inside), lambda rows: rows == [(2,)])
    with RawClient("127.0.0.1", web.web_port) as client:
        credential = ((b"Authorization", f"Bearer {web.web_token}".encode()),)
        shown = [client.request("GET", path, credential).body for path in ("/options", "/state", "/events")]
    said = [web.run_script("accounts.py", "list"), web.run_script("stats.py"), web.run_script("keys.py", "rotate")]
    assert location.text.encode() in shown[0]
    assert "one" in said[0]
    arguments = Path(f"/proc/{web.pid}/cmdline").read_text()
    for text in (web.log(), arguments, *said, *map(str, shown)):
        assert PASSWORD not in text
        assert PASSWORD.replace("%", "%25") not in text


def test_the_server_holds_no_secret_in_clear(
    cluster: Cluster, server: Server, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    key = "sk-ant-api03-of-this-test-alone"  # other tests put theirs into the same server in clear
    proxy = start_proxy(upstream, database=server, environment=KEY_VARIABLE, accounts={"one": key})
    with via_base_url(proxy) as client:
        assert client.request(*claude_request()).status == 200
    proxy.rows("SELECT * FROM payloads", until=lambda rows: len(rows) == 2)
    proxy.accounts("remove", "one", "--yes")
    cluster.execute("CHECKPOINT")
    body = upstream.requests[-1].body[:200]
    files = [file.read_bytes() for file in cluster.folder.rglob("*") if file.is_file()]
    assert any(server.text.rpartition("%3D")[2].encode() in content for content in files)
    assert not any(key.encode() in content or body in content for content in files)


def test_a_restart_of_the_server_costs_no_request_and_no_record(
    cluster: Cluster, server: Server, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(upstream, database=server, environment=KEY_VARIABLE, accounts={"one": KEY})
    statuses: list[int] = []
    longest: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        with via_base_url(proxy) as client:
            while not is_over.is_set():
                before = time.monotonic()
                statuses.append(client.request(*claude_request(stream=False)).status)
                longest.append(time.monotonic() - before)

    client = threading.Thread(target=ask)
    client.start()
    eventually(lambda: len(statuses) > 10)
    cluster.stop()
    proxy.wait_for_log("the database server cannot be reached")
    so_far = len(statuses)
    eventually(lambda: len(statuses) > so_far + 20)
    cluster.start()
    proxy.wait_for_log("recording works again")
    is_over.set()
    client.join(60)

    assert set(statuses) == {200}
    assert sorted(longest)[-3] < 5  # but for what the machine itself stands still
    sql = "SELECT r.id, outcome, COUNT(*) AS tries FROM requests r JOIN attempts a ON a.request_id = r.id GROUP BY r.id"
    rows = proxy.rows(sql, until=lambda rows: len(rows) == len(statuses))
    assert {(row["outcome"], row["tries"]) for row in rows} == {("ok", 1)}
    assert len([r for r in upstream.requests if r.path == MESSAGES]) == len(statuses)


def test_what_one_proxy_learns_all_know(server: Server, upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    """An account that is new, and then that it is spent: no other proxy asks it."""
    options = {"database": server, "environment": KEY_VARIABLE, "ccflare_hold_seconds": 0}
    one, two = (start_proxy(upstream, **options) for _ in range(2))
    one.add_api_key("shared", KEY)
    upstream.always(limited_5h(time.time() + 3600), credential=KEY)
    with via_base_url(one) as first, via_base_url(two) as second:
        eventually(lambda: b"shared" in first.request("GET", HEALTH).body)
        eventually(lambda: b"shared" in second.request("GET", HEALTH).body)
        assert first.request(*claude_request(stream=False)).status == 503
        asked = len(upstream.requests)
        health = eventually(
            lambda: json.loads(second.request("GET", HEALTH).body),
            lambda health: "5h window spent" in health["accounts"][0]["reason"] and health["changes"] == "announced",
        )
        assert health["changes_problem"] is None
        assert second.request(*claude_request(stream=False)).status == 503
    assert len(upstream.requests) == asked


def test_sessions_keep_their_accounts_on_another_proxy_and_after_a_restart(
    server: Server, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    options = {"database": server, "environment": KEY_VARIABLE}
    one, two = (start_proxy(upstream, **options) for _ in range(2))
    for name in ("a", "b"):
        one.add_api_key(name, f"{KEY}-{name}")
    for proxy in (one, two):
        sees(proxy, "b")
    first, second = (str(uuid.uuid4()) for _ in range(2))
    assert [serves(one, session, upstream) for session in (first, second)] == ["a", "b"]
    one.rows("SELECT session FROM session_accounts", until=lambda rows: len(rows) == 2)
    for sign in ("later", "later-still"):  # what was committed before the first is known before the second comes
        one.add_api_key(sign, f"{KEY}-{sign}", priority=99)
        sees(two, sign)

    assert [serves(two, session, upstream) for session in (second, first)] == ["b", "a"]

    two.stop()
    two.start()
    assert [serves(two, session, upstream) for session in (second, first)] == ["b", "a"]


def test_after_a_rest_one_proxy_sends_the_first_request_and_the_others_wait(
    server: Server, upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    options = {"database": server, "environment": KEY_VARIABLE, "ccflare_hold_seconds": 0}
    one, two = (start_proxy(upstream, **options) for _ in range(2))
    one.add_api_key("shared", KEY)
    for proxy in (one, two):
        sees(proxy, "shared")
    assert any(rest(one, two, seconds, upstream) for seconds in (4, 12, 36))
    so_far, gate = len(upstream.requests), Gate()
    upstream.answer(replace(message_json(), before=(gate,)), credential=KEY)

    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        stack.callback(gate.open)
        served = [threads.submit(ask_until_served, proxy) for proxy in (one, two)]
        assert gate.reached.wait(60)
        one.rows("SELECT in_flight FROM runs", until=lambda rows: any(row["in_flight"] for row in rows))
        assert len(upstream.requests) == so_far + 1
        assert not any(each.done() for each in served)
        gate.open()
        for each in served:
            each.result(60)
    one.rows("SELECT owner FROM probes", until=lambda rows: not rows)


def rest(one: Proxy, two: Proxy, seconds: int, upstream: FakeUpstream) -> bool:
    """Whether `two` knows that the account rests, as an answer to `one` says, before that is over."""
    so_far, end = len(upstream.requests), time.time() + seconds
    upstream.answer(limited_5h(end), credential=KEY)
    eventually(lambda: ask(one) == 503 and len(upstream.requests) > so_far)
    while time.time() < end - 1:
        if "spent" in health(two)["accounts"][0]["reason"]:
            return True
    return False


def ask(proxy: Proxy) -> int:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(2000, stream=False)).status


def ask_until_served(proxy: Proxy) -> None:
    eventually(lambda: ask(proxy), lambda status: status == 200)


def health(proxy: Proxy) -> Any:
    with via_base_url(proxy) as client:
        return json.loads(client.request("GET", HEALTH).body)


def serves(proxy: Proxy, session: str, upstream: FakeUpstream) -> str:
    """The account that a request of the session goes to."""
    with via_base_url(proxy) as client:
        assert client.request(*claude_request(2000, session=session, stream=False)).status == 200
    return upstream.requests[-1].credential.rpartition("-")[2]


def sees(proxy: Proxy, account: str) -> None:
    """Wait until the proxy knows the account."""
    eventually(lambda: [each["name"] for each in health(proxy)["accounts"]], lambda found: account in found)
