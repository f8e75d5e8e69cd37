"""Several real proxies on one database, SQLite and PostgreSQL: each shows all of them, and one does the upkeep."""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from ccflare_core.config.location import Location
from database_kit import KEY_VARIABLE
from fake_upstream import FakeUpstream
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url

pytestmark = pytest.mark.timeout(600)
KEY = "sk-ant-api03-one"
API = "/ccflare/api/v1"
TAKES_OVER = "this proxy does the upkeep from now on"
ROUND = "upkeep: what is too old or too much is deleted"


@pytest.fixture
def three(location: Location, upstream: FakeUpstream, start_proxy: StartProxy) -> list[Proxy]:
    """Three proxies on one database, which keep requests for a day."""
    options: dict[str, Any] = {
        "database": location,
        "environment": KEY_VARIABLE,
        "ccflare_request_days": 1,
        "ccflare_payload_days": 1,
        "ccflare_log_level": "debug",
    }
    first = start_proxy(upstream, accounts={"one": KEY}, **options)
    return [first, *(start_proxy(upstream, **options) for _ in range(2))]


def get(proxy: Proxy, path: str) -> Any:
    with via_base_url(proxy) as client:
        reply = client.request("GET", path)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def told(proxy: Proxy) -> dict[int, dict[str, Any]]:
    """What a proxy's API says of all of them, by process."""
    return {each["pid"]: each for each in get(proxy, f"{API}/proxies?since=all")["proxies"]}


def keeper_of(proxies: Sequence[Proxy]) -> Proxy:
    """The one that does the upkeep, which all say."""

    def all_say() -> list[set[bool]]:
        return [{told(each)[proxy.pid]["has_upkeep"] for each in proxies} for proxy in proxies]

    found = eventually(all_say, lambda found: sorted(map(str, found)) == ["{False}"] * (len(proxies) - 1) + ["{True}"])
    return proxies[found.index({True})]


def test_every_proxy_shows_all_of_them_and_which_one_served_what(three: list[Proxy]) -> None:
    first, second, third = three
    for proxy, number in zip(three, (1, 2, 0), strict=True):
        with via_base_url(proxy) as client:
            for _ in range(number):
                assert client.request(*claude_request(2_000)).status == 200
    first.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=lambda rows: len(rows) == 3)
    names = {proxy.pid: f"{os.uname().nodename}:{proxy.port}" for proxy in three}

    def all_told() -> bool:
        return all({pid: each["name"] for pid, each in told(proxy).items()} == names for proxy in three)

    eventually(all_told)

    seen = eventually(lambda: told(third), lambda seen: all(each["state"] == "serving" for each in seen.values()))
    assert [seen[proxy.pid]["requests"] for proxy in three] == [1, 2, 0]
    assert [seen[proxy.pid]["address"] for proxy in three] == [f"127.0.0.1:{proxy.port}" for proxy in three]
    assert len({(each["version"], each["mitmproxy"], each["python"]) for each in seen.values()}) == 1
    assert get(third, f"{API}/proxies")["notice"] is None
    assert get(second, "/ccflare/health")["proxy"] == names[second.pid]
    assert get(second, "/ccflare/health")["run"] == seen[second.pid]["run"]

    asked = get(third, f"{API}/requests?proxy={names[second.pid]}")["requests"]
    assert [each["proxy"] for each in asked] == [names[second.pid]] * 2
    shown = json.loads(third.run_script("stats.py", "requests", "--proxy", names[first.pid], "--format", "json"))
    assert [each["proxy"] for each in shown] == [names[first.pid]]
    assert f":{first.port}" in third.run_script("show.py", shown[0]["id"])
    table = json.loads(third.run_script("stats.py", "proxies", "--format", "json"))
    assert {each["name"] for each in table} == set(names.values())


def test_a_proxy_that_drains_ends_or_dies_says_so_or_is_found(three: list[Proxy]) -> None:
    first, second, third = three
    pids = [proxy.pid for proxy in three]
    eventually(lambda: told(first), lambda seen: [each["state"] for each in seen.values()] == ["serving"] * 3)
    second.stop()
    os.kill(third.pid, signal.SIGKILL)

    seen = eventually(
        lambda: told(first),
        lambda seen: [seen[pid]["state"] for pid in pids] == ["serving", "ended", "crashed"],
        timeout=200,  # the upkeep looks once a minute, and may have been the third's
    )

    assert seen[pids[2]]["ended_at"] is not None
    assert seen[pids[2]]["open_requests"] is None


def test_retention_runs_in_one_proxy_and_another_one_goes_on_when_that_is_killed(three: list[Proxy]) -> None:
    keeper = keeper_of(three)
    others = [proxy for proxy in three if proxy is not keeper]

    eventually(lambda: keeper.log().count(ROUND))
    os.kill(keeper.pid, signal.SIGKILL)
    (heir,) = eventually(lambda: [proxy for proxy in others if TAKES_OVER in proxy.log()], timeout=400)

    assert keeper_of(others) is heir
    assert [TAKES_OVER in proxy.log() for proxy in others] == [proxy is heir for proxy in others]
    eventually(lambda: heir.log().count(ROUND))
    (bystander,) = [proxy for proxy in others if proxy is not heir]
    rounds = [proxy.log().count(ROUND) for proxy in three]
    assert [count > 0 for count in rounds] == [proxy is not bystander for proxy in three]
