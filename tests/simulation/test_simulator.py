"""The traffic once more: as it was, and as it would have been."""

import logging
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Kind
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.clients import guardrail_files
from ccflare_core.clients.keys import ClientKey
from ccflare_core.config.settings import Settings
from ccflare_core.reports.traffic import Period
from ccflare_core.simulation.capacities import fit
from ccflare_core.simulation.past import Past
from ccflare_core.simulation.plans import Plan, Span
from ccflare_core.simulation.rates import Rates
from ccflare_core.simulation.recorded import read_turns
from ccflare_core.simulation.scenarios import Scenario, usable
from ccflare_core.simulation.simulator import Simulator, replay
from ccflare_core.simulation.tallies import Counts
from ccflare_core.store.store import Store
from history import NOON, History
from large_history import make_large_history
from simulated_world import DAY, MONDAY, Capacity, World

HOUR = 3600.0
USED: dict[str, Any] = {"input_tokens": 10, "output_tokens": 100, "response_time_ms": 5000.0, "first_byte_ms": 1000.0}
CAPACITIES = {
    "max-1": Capacity(1.6, 160, 10),
    "max-2": Capacity(2.2, 190, 20),
    "max-3": Capacity(2.6, 250, 30),
    "max-4": Capacity(16, 350, 50),
}


def turns_of(store: Store, period: Period) -> Any:
    return read_turns(store.query, Rates(PriceList()), period, 18_000.0, tagged=True)


# The past, as it was


WEEK = Period(MONDAY, MONDAY + 6 * DAY)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    """Two times five days of the same office, of which the windows are fitted to the first."""
    logging.disable(logging.WARNING)  # thousands of lines, of every exchange and of every account that rests
    folder, made = tmp_path_factory.mktemp("worlds"), []
    for seed in (1, 2):
        world = World(folder / f"{seed}.db", seed, CAPACITIES, days=5.0, sessions_a_day=110.0)
        world.run()
        made.append(world.store)
    logging.disable(logging.NOTSET)
    yield made[0], made[1]
    for store in made:
        store.close()


@pytest.fixture(scope="module")
def plans(worlds: tuple[Store, Store]) -> dict[str, list[Plan]]:
    store = worlds[0]
    names = {account.id: account.name for account in store.accounts.all()}
    return fit(store.query, turns_of(store, WEEK), names, WEEK)


def test_fit_finds_what_the_provider_alone_knows(plans: dict[str, list[Plan]]) -> None:
    found = {(plan.account, plan.name): plan.capacity for each in plans.values() for plan in each}

    for account, capacity in CAPACITIES.items():
        assert found[account, "5h"] == pytest.approx(capacity.five_hours, rel=0.02)
        assert found[account, "7d"] == pytest.approx(capacity.week, rel=0.02)


def test_past_is_reproduced_on_a_seed_that_the_fit_has_not_seen(
    worlds: tuple[Store, Store], plans: dict[str, list[Plan]]
) -> None:
    store = worlds[1]
    accounts = tuple(map(usable, store.accounts.all()))
    settings = Settings.build({}, {"XDG_DATA_HOME": "/nowhere"})
    fitted = {id: tuple(found) for id, found in plans.items()}
    simulator, past = Simulator(Scenario("as it was", settings, accounts, fitted), WEEK.since, DAY), Past(DAY)

    replay(turns_of(store, WEEK), [simulator], past)

    was, would_be = past.tally.total, simulator.tally.total
    assert was.moved > 300
    assert was.limits > 60
    assert would_be.moved == pytest.approx(was.moved, rel=0.05)
    assert would_be.limits == pytest.approx(was.limits, rel=0.05)
    assert would_be.served == pytest.approx(was.served, rel=0.05)
    assert would_be.cost_usd == pytest.approx(was.cost_usd, rel=0.05)
    assert would_be.lost_usd == pytest.approx(was.lost_usd, rel=0.1)


# What would have been


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-2")
        yield history


def plan(account: str, capacity: float, name: str = "5h") -> Plan:
    span = Span.of(name)
    assert span is not None
    return Plan(account, name, span, 100, capacity)


def simulated(past: History, *, capacities: dict[str, float] | None = None, **changes: Any) -> Counts:
    """What comes of the recorded day, in accounts with these 5h windows and with these fields of a Scenario.

    One whose window takes nothing is not there.
    """
    options = {f"ccflare_{name}": value for name, value in changes.pop("options", {}).items()}
    wanted = capacities or {}
    accounts = tuple(usable(each) for each in past.store.accounts.all() if wanted.get(each.name) != 0)
    found = {
        account.id: (plan(account.name, wanted.get(account.name, 1000.0)),)
        for account in accounts
        if account.kind is Kind.OAUTH
    }
    settings = Settings.build(options, {"XDG_DATA_HOME": "/nowhere"})
    simulator = Simulator(Scenario("as it is", settings, accounts, found, **changes), NOON - DAY, HOUR)
    replay(turns_of(past.store, Period(NOON - DAY, NOON + 1)), [simulator], Past(HOUR))
    assert sum(counts.requests for counts in simulator.tally.steps.values()) == simulator.tally.total.requests
    return simulator.tally.total


def session(
    past: History, number: int, *, usd: float = 1.0, every: float = 60.0, since: float = NOON - 20_000, **fields: Any
) -> None:
    """So many turns of a session that all read what the turns before have written."""
    with past.together():
        for turn in range(number):
            cached = {"cache_read_input_tokens": 1000 * turn, "cache_creation_input_tokens": 1000}
            past.exchange(since + every * turn, cost_usd=usd, **{**USED, **cached, **fields})


def test_account_whose_window_is_full_hands_its_sessions_on(past: History) -> None:
    session(past, 10)

    counts = simulated(past, capacities={"max-1": 4.5, "max-2": 100.0})

    assert (counts.served, counts.refused, counts.moved, counts.limits) == (10, 0, 1, 1)
    assert counts.lost_tokens == 5000
    assert counts.lost_usd == pytest.approx(5000 * (6.25 - 0.5) / 1e6)
    assert counts.cost_usd == pytest.approx(10 + counts.lost_usd)


def test_requests_are_refused_when_all_windows_are_full(past: History) -> None:
    session(past, 10)

    counts = simulated(past, capacities={"max-1": 2.5, "max-2": 2.5})

    assert (counts.served, counts.refused) == (6, 4)


def test_request_waits_for_a_window_that_is_soon_reset(past: History) -> None:
    begun = NOON - 20_000
    past.exchange(begun, cost_usd=5.0, **USED)
    past.exchange(begun + 5 * HOUR - 20, cost_usd=1.0, **USED)

    held = simulated(past, capacities={"max-1": 4.0, "max-2": 0.0}, options={"hold_seconds": 60})
    at_once = simulated(past, capacities={"max-1": 4.0, "max-2": 0.0}, options={"hold_seconds": 0})

    assert (held.served, held.waited, held.refused) == (2, 1, 0)
    assert held.waited_seconds == pytest.approx(20, abs=3)
    assert (at_once.served, at_once.waited, at_once.refused) == (1, 0, 1)


def test_strategies_differ(past: History) -> None:
    session(past, 20, usd=2.0)

    assert simulated(past).moved == 0
    assert simulated(past, options={"strategy": "round-robin"}).moved == 19


def test_what_was_refused_is_served_with_the_size_of_its_session(past: History) -> None:
    session(past, 2)
    past.exchange(NOON - 19_800, None, outcome="refused", status_code=503)

    counts = simulated(past)

    assert (counts.served, counts.refused, counts.unsized, counts.cost_usd) == (3, 0, 1, 3.0)


def test_what_was_asked_again_is_not_asked_again_once_it_is_served(past: History) -> None:
    with past.together():
        for number in range(4):
            past.exchange(NOON - 900 + 60 * number, None, outcome="refused", status_code=503, request_bytes=700)

    counts = simulated(past)

    assert (counts.requests, counts.served) == (1, 1)


def test_weather_of_the_provider_comes_again(past: History) -> None:
    request = past.exchange(NOON - 900, outcome="upstream_error", attempts=3)
    for _ in range(9):
        past.attempt(request, NOON - 900, "max-1", "overloaded", "529 overloaded", 529)

    counts = simulated(past)

    assert (counts.served, counts.failed, counts.refused) == (0, 1, 0)


def test_rules_keep_projects_to_their_accounts_and_replace_models(past: History, tmp_path: Path) -> None:
    session(past, 5, project="shop")
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "shop: {when: {project: shop}, accounts: max-2}\n"
        "thrifty: {when: {model: claude-opus-*}, models: claude-sonnet-*, replace: claude-sonnet-5}\n"
    )

    counts = simulated(past, capacities={"max-1": 100.0, "max-2": 0.9}, guardrails=guardrail_files.load(rules))

    assert counts.served == 3  # at 2/5 of the price
    assert counts.refused == 2
    assert counts.cost_usd == pytest.approx(1.2)


def test_rules_forbid_models(past: History, tmp_path: Path) -> None:
    session(past, 5)
    rules = tmp_path / "rules.yaml"
    rules.write_text("haiku: {models: claude-haiku-*}\n")

    assert simulated(past, guardrails=guardrail_files.load(rules)).refused == 5


def test_rules_match_tags(past: History, tmp_path: Path) -> None:
    session(past, 3, tags={"team": "blue"})
    rules = tmp_path / "rules.yaml"
    rules.write_text("blue: {when: {tag: team=blue}, models: claude-haiku-*}\n")

    assert simulated(past, guardrails=guardrail_files.load(rules)).refused == 3


def test_budgets_of_client_keys_are_kept(past: History) -> None:
    session(past, 10, key="ci")
    key = ClientKey("CI", "ci", dollars_per_day=Decimal(4))

    counts = simulated(past, keys=(key,))

    assert (counts.served, counts.refused) == (4, 6)


def test_accounts_of_client_keys_are_kept(past: History) -> None:
    session(past, 10, key="ci")
    key = ClientKey("CI", "ci", not_accounts=("max-1",))

    counts = simulated(past, capacities={"max-2": 3.5}, keys=(key,))

    assert (counts.served, counts.refused) == (4, 6)


def test_sessions_stay_with_the_account_that_they_had_before(past: History) -> None:
    session(past, 3, since=NOON - DAY + 60)

    for held in ("MAX-1", "MAX-2"):
        assert simulated(past, sessions=(("session-1", held, NOON - DAY - 60),)).moved == 0


def test_accounts_with_an_api_key_are_never_full_and_are_billed(past: History) -> None:
    past.account("key-1", kind=Kind.API_KEY, priority=60, api_key="sk-ant-api03-x")
    session(past, 6)

    counts = simulated(past, capacities={"max-1": 1.5, "max-2": 1.5})

    assert (counts.served, counts.refused) == (6, 0)
    assert 0 < counts.billed_usd < counts.cost_usd


def test_a_simulation_gives_the_same_each_time(past: History) -> None:
    session(past, 30)
    limits = {"max-1": 7.5, "max-2": 9.0}

    assert simulated(past, capacities=limits) == simulated(past, capacities=limits)


def test_accounts_are_usable_and_have_no_secret(past: History) -> None:
    account = replace(past.store.accounts.all()[0], needs_login=True, expires_at=1.0)

    made = usable(account)

    assert made.token_problem(NOON) is None
    assert (made.access_token, made.refresh_token, made.api_key) == ("simulated", None, None)


def peak_of(path: Path) -> int:
    """The most bytes that a simulation of that whole database has held at once."""
    with_all = Period(NOON - 366 * DAY, NOON)
    store = Store.open(path, None, read_only=True)
    try:
        accounts = tuple(map(usable, store.accounts.all()))
        settings = Settings.build({}, {"XDG_DATA_HOME": "/nowhere"})
        tracemalloc.start()
        names = {account.id: account.name for account in accounts}
        fitted = fit(store.query, turns_of(store, with_all), names, with_all)
        scenario = Scenario("as it is", settings, accounts, {id: tuple(found) for id, found in fitted.items()})
        replay(turns_of(store, with_all), [Simulator(scenario, with_all.since, DAY)], Past(DAY))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        store.close()


def test_memory_does_not_grow_with_the_record(tmp_path: Path) -> None:
    for requests in (1_000, 6_000):
        make_large_history(tmp_path / f"{requests}.db", requests)
    peak_of(tmp_path / "1000.db")  # what is kept for good, such as caches of patterns

    assert peak_of(tmp_path / "6000.db") < 1.3 * peak_of(tmp_path / "1000.db")
