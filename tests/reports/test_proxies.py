"""All proxies on a database: their states by their last signs of life, who took what, and versions that differ."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.config.location import Location
from ccflare_core.db.models import RunRow
from ccflare_core.exchange.records import RunTold
from ccflare_core.reports.fields import PROXY, record
from ccflare_core.reports.proxies import (
    SILENT_SECONDS,
    UPKEEP,
    ProxyStatus,
    differing,
    proxies,
    running_elsewhere,
)
from ccflare_core.reports.queries import Reports, Wanted
from ccflare_core.reports.traffic import Period
from ccflare_core.store.runs import Program
from ccflare_core.store.store import Store
from database_kit import NOW, open_store, started

DAY = 86_400


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with contextlib.closing(open_store(location)) as store:
        yield store


def begin(store: Store, run: str, *, host: str = "alpha", version: str = "1.0 (aa)", **told: Any) -> None:
    """A run that serves, and tells this."""
    store.runs.start(run, host, 7, Program(version, "12.3", "3.13"))
    store.write([RunTold(run, {"state": "serving", "name": f"{host}:8080", "address": "127.0.0.1:8080", **told})])


def seen(store: Store, run: str, *, since: float = NOW - DAY, after: float = 0.0) -> ProxyStatus:
    (found,) = [each for each in proxies(store.query, since, NOW + after) if each.run == run]
    return found


def test_a_proxy_is_as_it_tells(store: Store) -> None:
    begin(store, "one", open_requests=3, lag_ms=12, changes="announced")
    store.duties.take(UPKEEP, "one")
    found = seen(store, "one", after=4)
    assert found == ProxyStatus(
        name="alpha:8080",
        run="one",
        host="alpha",
        pid=7,
        worker=None,
        version="1.0 (aa)",
        mitmproxy="12.3",
        python="3.13",
        address="127.0.0.1:8080",
        state="serving",
        started_at=NOW,
        seen_seconds=4.0,
        ended_at=None,
        open_requests=3,
        requests=0,
        loop_lag_seconds=0.012,
        changes="announced",
        has_upkeep=True,
    )


def test_one_that_gives_no_sign_of_life_is_silent_and_one_that_does_is_back(store: Store, location: Location) -> None:
    begin(store, "one")
    assert seen(store, "one", after=SILENT_SECONDS).state == "serving"
    assert seen(store, "one", after=SILENT_SECONDS + 1).state == "silent"
    with contextlib.closing(open_store(location, now=NOW + 100)) as later:
        later.runs.heartbeat("one")
    assert seen(store, "one", after=101).state == "serving"


@pytest.mark.parametrize("state", ["starting", "serving", "draining"])
def test_one_that_others_took_for_dead_is_put_right_by_its_next_sign_of_life(store: Store, state: str) -> None:
    begin(store, "one", state=state)
    store.runs.current = None
    store.runs.close_dead("alpha", lambda pid: False)
    assert seen(store, "one").state == "crashed"
    store.runs.heartbeat("one")
    assert seen(store, "one").state == "serving"
    assert seen(store, "one").ended_at is None


def test_a_proxys_own_clock_makes_it_neither_dead_nor_alive(store: Store) -> None:
    begin(store, "slow", host="beta")
    store.runs.current = None
    with store._transaction():
        RunRow.update(heartbeat_at=1).where(RunRow.id == "slow").execute(store._database)
    assert store.runs.close_dead("alpha", lambda pid: True) == 0
    assert seen(store, "slow").state == "serving"
    store.runs.close_dead("alpha", lambda pid: True, NOW + 3601)
    assert seen(store, "slow", since=0).state == "crashed"


def test_those_that_are_gone_are_listed_for_a_while_behind_the_others(store: Store) -> None:
    for run in ("a", "b", "c"):
        begin(store, run)
    store.runs.end("a")
    store.runs.close_dead("alpha", lambda pid: pid != 7, NOW)
    states = [(each.run, each.state) for each in proxies(store.query, NOW - 1, NOW)]
    assert states == [("a", "ended"), ("b", "crashed"), ("c", "crashed")]
    assert proxies(store.query, NOW + 1, NOW + 1) == []


def test_an_older_versions_run_is_told_from_what_it_leaves(store: Store) -> None:
    old = dict.fromkeys(("beat_at", "name", "state", "version"))
    for run in ("lives", "ended", "died"):
        begin(store, run)
    with store._transaction():
        RunRow.update(old).execute(store._database)
        RunRow.update(ended_at=RunRow.heartbeat_at + 5).where(RunRow.id == "ended").execute(store._database)
        RunRow.update(ended_at=RunRow.heartbeat_at).where(RunRow.id == "died").execute(store._database)
    states = {each.run: (each.name, each.state) for each in proxies(store.query, 0, NOW)}
    assert states == {"lives": ("alpha", "serving"), "ended": ("alpha", "ended"), "died": ("alpha", "crashed")}


def test_requests_are_counted_by_who_took_them_and_found_by_that(store: Store) -> None:
    begin(store, "one")
    begin(store, "two", host="beta")
    store.write([started("r1", run_id="one"), started("r2", run_id="two"), started("r3", run_id="two")])
    assert [seen(store, run).requests for run in ("one", "two")] == [1, 2]
    assert seen(store, "two", since=NOW + DAY).requests == 0
    reports, day = Reports(store.query), Period(NOW - DAY, NOW + DAY)
    for name in ("beta:8080", "beta", "two"):
        found = reports.exchanges(day, 10, wanted=Wanted(proxy=name))
        assert {(each.id, each.proxy) for each in found} == {("r2", "beta:8080"), ("r3", "beta:8080")}
    assert reports.exchanges(day, 10, wanted=Wanted(proxy="gamma")) == []


def test_versions_that_differ_are_told_of_those_that_are_there(store: Store) -> None:
    begin(store, "one")
    begin(store, "two", host="beta")
    assert differing(proxies(store.query, 0, NOW)) == ""
    begin(store, "three", host="gamma", version="0.9 (bb)")
    assert differing(proxies(store.query, 0, NOW)) == (
        "The proxies run different versions of ccflare: 0.9 (bb) on gamma:8080; 1.0 (aa) on alpha:8080, beta:8080. "
        "Bring the older ones up to date."
    )
    store.runs.end("three")
    assert differing(proxies(store.query, 0, NOW)) == ""


def test_what_is_open_elsewhere_is_what_the_living_tell(store: Store) -> None:
    begin(store, "mine", running=json.dumps([{"id": "r1"}]))
    told = {"id": "r2", "path": "/v1/messages", "seconds": 1.5, "model": "m"}
    begin(store, "other", running=json.dumps([told, "x", {"id": 3}]))
    begin(store, "broken", running="[")
    found = running_elsewhere(store.query, "mine", NOW)
    assert found.keys() == {"r2"}
    assert found["r2"].items() >= told.items()
    assert running_elsewhere(store.query, "mine", NOW + SILENT_SECONDS + 1) == {}
    store.runs.end("other")
    assert running_elsewhere(store.query, "mine", NOW) == {}


def test_requests_of_a_period_are_counted_by_its_index(tmp_path: Path) -> None:
    plans = list[str]()

    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:

        def query(sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
            plans.extend(str(step[3]) for step in store.query(f"EXPLAIN QUERY PLAN {sql}", parameters))
            return store.query(sql, parameters)

        begin(store, "one")
        assert [each.run for each in proxies(query, NOW - 3600, NOW)] == ["one"]

    assert any("requests_timestamp" in plan for plan in plans)
    assert not any("SCAN requests" in plan for plan in plans)


@pytest.mark.parametrize("column", ["started_at", "heartbeat_at", "beat_at", "ended_at", "lag_ms"])
@pytest.mark.parametrize("value", ["yesterday", "", -1, 2**63 - 1])
def test_a_row_that_no_proxy_has_written_keeps_no_other_from_starting_or_being_shown(
    tmp_path: Path, column: str, value: object
) -> None:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        begin(store, "bad")
        begin(store, "good")
        store.query(f"UPDATE runs SET host = 'elsewhere', {column} = ? WHERE id = 'bad'", (value,))

        found = [record(each, PROXY) for each in proxies(store.query, 0, NOW)]

        assert "good" in [each["run"] for each in found]
        store.runs.close_dead("here", lambda pid: False)
