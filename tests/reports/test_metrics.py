"""Metrics: what is counted as exchanges end, what accounts show, and that no client can make series without end."""

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.accounts.account import Account
from ccflare_core.anthropic.pricing import TABLE, PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_core.reports.exposition import exposition
from ccflare_core.reports.forecast import Course, Forecast
from ccflare_core.reports.measures import IS_INFERENCE, is_inference
from ccflare_core.reports.metrics import (
    LATENESS,
    MOST_MODELS,
    OTHER,
    Family,
    Gauges,
    Histogram,
    Meter,
    of_accounts,
    of_forecasts,
    of_loop,
    of_process,
)
from exchange_kit import ASKED, EPOCH, JSON, OK, OPUS, OVERLOADED, Bench, Reply, account, cut, deliver, limited
from exposition_check import Page, read_exposition

OPUS_4_8 = "claude-opus-4-8"


def metered(ids: str = "ab", **options: Any) -> tuple[Bench, Meter]:
    bench, meter = Bench(ids, **options), Meter()
    bench.exchanges.ended.append(meter.ended)
    return bench, meter


def shown(families: Iterable[Family]) -> Page:
    """The page that these make; nothing may be wrong with it."""
    page = read_exposition(exposition(families).text)
    assert page.mistakes == []
    return page


def served(bench: Bench, model: str) -> None:
    """One request for a model, answered by it."""
    body = b'{"type":"message","model":"%s","usage":{"input_tokens":1,"output_tokens":1}}' % model.encode()
    bench.serve(Reply(200, JSON, body), facts=replace(OPUS, model=model))


def models(page: Page) -> set[str]:
    return {each.labels["model"] for each in page.series if each.name == "ccflare_requests_total"}


def test_a_request_that_is_served_is_counted_with_all_that_it_has_used() -> None:
    bench, meter = metered()
    exchange = bench.begin()
    exchange.next_step()
    bench.clock.pass_(2)
    exchange.judge(OK.status, OK.headers, None)
    bench.clock.pass_(5)
    deliver(exchange, OK)

    page = shown(meter.families())

    whose = {"account": "max-a", "model": OPUS_4_8}
    assert page.value("ccflare_requests_total", **whose, outcome="ok") == 1
    used = {kind: page.value("ccflare_tokens_total", **whose, kind=kind) for kind in ("input", "output", "cache_read")}
    assert used == {"input": 1000, "output": 312, "cache_read": 204}
    assert page.value("ccflare_cost_usd_total", **whose) == 0.012902
    assert (page.value("ccflare_request_duration_seconds_sum"), page.value("ccflare_first_byte_seconds_count")) == (
        7,
        1,
    )
    assert page.value("ccflare_request_duration_seconds_bucket", le="5.0") == 0
    assert page.value("ccflare_request_duration_seconds_bucket", le="10.0") == 1


def test_a_move_is_counted_by_what_made_it_and_a_repeat_in_place_is_none() -> None:
    bench, meter = metered()
    bench.serve(limited(), OK)
    bench.serve(OVERLOADED, OK)

    page = shown(meter.families())

    kinds = {each.labels["kind"]: each.value for each in page.series if each.name == "ccflare_failovers_total"}
    assert kinds == {"window_spent": 1}
    assert page.value("ccflare_requests_total", account="max-b", model=OPUS_4_8, outcome="ok") == 2


def test_what_failed_has_its_outcome_and_no_duration() -> None:
    bench, meter = metered("a", hold_seconds=0)
    bench.serve(limited())
    exchange = bench.begin()
    exchange.next_step()
    cut(Outcome.CLIENT_ABORT, "it left")(exchange)

    page = shown(meter.families())

    ended = [each.labels for each in page.series if "outcome" in each.labels]
    assert ended == [{"account": "", "model": OPUS_4_8, "outcome": outcome} for outcome in ("client_abort", "refused")]
    assert page.value("ccflare_request_duration_seconds_count") == 0


def test_what_needs_no_account_is_not_counted() -> None:
    bench, meter = metered()
    other = bench.exchanges.begin(replace(ASKED, path="/api/event_logging/batch"))
    other.finish(Outcome.OK)
    assert [each for each in shown(meter.families()).series if each.name == "ccflare_requests_total"] == []


def test_an_unknown_price_is_told_apart_from_none() -> None:
    bench, meter = metered()
    served(bench, "claude-of-tomorrow")

    page = shown(meter.families())

    whose = {"account": "max-a", "model": OTHER}
    assert page.value("ccflare_requests_of_unknown_cost_total", **whose) == 1
    assert page.value("ccflare_cost_usd_total", **whose) is None


def test_models_are_those_of_the_price_table_whatever_clients_ask_for() -> None:
    bench, meter = metered()
    for model in ("claude-opus-4-8", "claude-haiku-4-5-20251001", *(f"invented-{n}" for n in range(20))):
        served(bench, model)
    bench.serve(facts=replace(OPUS, model=None))  # the answer names one all the same
    bench.exchanges.begin(ASKED).finish(Outcome.REFUSED)

    assert models(shown(meter.families())) == {"claude-opus-4-8", "claude-haiku-4-5", OTHER, ""}


def test_models_are_no_more_than_fifty_even_if_the_table_has_more() -> None:
    bench, meter = metered()
    many = [f"claude-{number}" for number in range(MOST_MODELS + 10)]
    bench.exchanges.prices = PriceList(dict.fromkeys(many, TABLE[OPUS_4_8]))
    for model in [*many, many[0]]:
        served(bench, model)

    page = shown(meter.families())

    assert models(page) == {*many[:MOST_MODELS], OTHER}
    assert page.value("ccflare_requests_total", account="max-a", model=many[0], outcome="ok") == 2
    assert page.value("ccflare_requests_total", account="max-a", model=OTHER, outcome="ok") == 10


def test_no_label_tells_of_a_session_a_project_or_a_client() -> None:
    bench, meter = metered()
    for number in range(5):
        bench.serve(facts=Facts(OPUS_4_8, f"session-{number}", f"127.0.0.{number}"))

    page = shown([*meter.families(), *of_accounts(bench.pool.status())])

    assert {label for each in page.series for label in each.labels} <= {
        *("account", "model", "outcome", "kind", "le", "reason", "window")
    }
    assert "session-" not in repr(page)


def test_accounts_show_whether_they_can_serve_and_why_not() -> None:
    bench = Bench("ab")
    bench.serve(limited(3600), OK)
    accounts: list[Account] = [
        *bench.pool.accounts(),
        replace(account("c"), paused=True),
        account("d", needs_login=True),
    ]
    bench.pool.replace_accounts(accounts)

    page = shown(of_accounts(bench.pool.status()))

    found = {
        each.labels["account"]: (each.labels["reason"], each.value) for each in page.series if "reason" in each.labels
    }
    assert found == {
        "max-a": ("cooling", 0),
        "max-b": ("", 1),
        "max-c": ("paused", 0),
        "max-d": ("needs_login", 0),
    }
    window = {"account": "max-a", "window": "5h"}
    assert page.value("ccflare_account_window_utilization_ratio", **window) == 1
    assert page.value("ccflare_account_window_reset_timestamp_seconds", **window) == EPOCH + 3600


def test_a_forecast_is_there_only_of_a_limit_that_fills() -> None:
    fills = Forecast(Course.FILLS, 0.9, EPOCH + 3600, 0.2, EPOCH + 1800)
    holds = Forecast(Course.HOLDS, 0.1, EPOCH + 3600, 0.01)

    page = shown(of_forecasts({("max-a", "5h"): fills, ("max-a", "7d"): holds}))

    (series,) = page.series
    assert (series.labels, series.value) == ({"account": "max-a", "window": "5h"}, EPOCH + 1800)


def test_the_process_tells_what_waits_and_what_is_lost() -> None:
    page = shown(of_process(Gauges(3, 1, 20, 0.25, 4, 5), "1.2.3"))
    assert {each.name.removeprefix("ccflare_"): each.value for each in page.series} == {
        "requests_open": 3,
        "requests_held": 1,
        "writer_rows_waiting": 20,
        "writer_lag_seconds": 0.25,
        "writer_rows_lost_total": 4,
        "writer_bodies_lost_total": 5,
        "build_info": 1,
    }


def test_lateness_of_the_event_loop_is_a_histogram() -> None:
    lateness = Histogram(LATENESS)
    for seconds in (0.001, 0.2, 7.0):
        lateness.add(seconds)

    page = shown(of_loop(lateness))

    name = "ccflare_event_loop_lag_seconds"
    counts = [page.value(f"{name}_bucket", le=bound) for bound in ("0.005", "0.25", "5.0", "+Inf")]
    assert counts == [1, 2, 2, 3]
    assert page.value(f"{name}_sum") == pytest.approx(7.201)


def test_an_exchange_is_counted_once() -> None:
    bench, meter = metered()
    exchange: Exchange = bench.serve()
    exchange.finish(Outcome.CLIENT_ABORT)
    assert shown(meter.families()).value("ccflare_request_duration_seconds_count") == 1


def test_requests_are_those_that_the_statistics_count() -> None:
    paths = (
        *("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/models", "/v1/files/f_1"),
        *("/v1/complete", "/v1/skills", "/v1/messages/cache_touch", "/api/oauth/profile", "/", "/v2/messages"),
    )
    database = sqlite3.connect(":memory:")
    for path in paths:
        (told,) = database.execute(f"SELECT {IS_INFERENCE} FROM (SELECT ? AS path)", (path,)).fetchone()
        assert is_inference(path) is bool(told), path
    database.close()
