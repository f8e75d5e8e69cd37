"""The questions, asked of a database that the real store wrote."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.config.location import Location
from ccflare_core.reports.queries import Exchange, Position, Reports, Wanted
from ccflare_core.reports.running import listed
from ccflare_core.reports.traffic import By, Period, Spread
from history import NOON, History, at_local

TICKET = {"ticket": "12", "who": "me"}
DAY = Period(NOON - 86_400, NOON + 0.001)


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        history.account("max-1")
        history.account("max-2")
        yield history


def place(exchange: Exchange) -> Position:
    return Position(int(exchange.at * 1000), exchange.id)


def reports(past: History) -> Reports:
    return Reports(past.store.query)


class TestSplits:
    def test_are_those_of_each_question_for_itself(self, past: History) -> None:
        for number in range(12):
            account, model = f"max-{number % 2 + 1}", ("a", "b", "c")[number % 3]
            past.exchange(NOON - 9 - 1800 * number, account, model=model, project="p" if number % 4 else None)
        past.add_up()
        by = (By.MODEL, By.ACCOUNT, By.PROJECT)

        assert reports(past).splits(DAY, by) == [reports(past).traffic(DAY, (each,), latencies=False) for each in by]


class TestFilters:
    @pytest.mark.parametrize("outcome", ["ok", "client_abort", "upstream_error", "refused", "open"])
    def test_an_outcome_is_found_by_its_name(self, past: History, outcome: str) -> None:
        for each in ("ok", "client_abort", "upstream_error", "refused", None):
            past.exchange(NOON - 9, outcome=each)

        found = reports(past).exchanges(DAY, 9, wanted=Wanted(outcome=outcome))
        assert [exchange.outcome or "open" for exchange in found] == [outcome]


class TestListed:
    def test_open_requests_stand_among_those_that_are_wanted_by_their_time(self, past: History) -> None:
        late, early = past.exchange(NOON - 20, outcome=None), past.exchange(NOON - 40, outcome=None)
        mine = past.exchange(NOON - 30, model="mine")
        past.exchange(NOON - 10, model="other")

        found = listed(
            reports(past), DAY, 9, open_ids=[early, late, mine, "unrecorded"], wanted=Wanted(model="mine"), before=None
        )
        assert [each.id for each in found] == [late, mine, early]
        rest = listed(
            reports(past), DAY, 1, open_ids=[early, late], wanted=Wanted(model="mine"), before=place(found[0])
        )
        assert [each.id for each in rest] == [mine]


class TestTags:
    def spend(self, past: History) -> None:
        used: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.5}
        past.exchange(NOON - 7200, tags=TICKET, **used)
        past.exchange(NOON - 9, "max-2", tags={"ticket": "13"}, outcome="upstream_error", error_message="no", **used)
        past.exchange(NOON - 8, tags={"ticket": "12"}, stop_reason="refusal", **used)
        past.exchange(NOON - 7, outcome="upstream_error", error_message="no", **used)
        past.exchange(NOON - 6, stop_reason="refusal", **used)
        past.add_up()

    def test_one_is_all_that_is_asked_about(self, past: History) -> None:
        self.spend(past)
        tagged = Reports(past.store.query, "ticket=12")

        assert (tagged.total(DAY).requests, tagged.total(DAY).cost_usd) == (2, 1.0)
        assert [group.keys for group in tagged.traffic(DAY, (By.ACCOUNT,), switches=True)] == [("max-1",)]
        assert [group.requests for group in tagged.traffic(DAY, (By.HOUR,))] == [1, 1]
        assert len(tagged.exchanges(DAY, 9)) == 2
        assert tagged.errors(DAY, 9) == []
        assert [trouble.number for trouble in tagged.refusals(DAY, 9)] == [1]
        assert [trouble.number for trouble in Reports(past.store.query, "ticket=13").errors(DAY, 9)] == [1]

    def test_failures_that_others_covered_are_those_of_its_requests(self, past: History) -> None:
        for tags in (TICKET, {}):
            moved = past.exchange(NOON, attempts=2, tags=tags)
            past.attempt(moved, NOON, "max-2", "overloaded", "overloaded", 529)

        assert [trouble.number for trouble in reports(past).covered(DAY, 9)] == [2]
        assert [trouble.number for trouble in Reports(past.store.query, "who=me").covered(DAY, 9)] == [1]

    def test_a_switch_is_seen_by_the_requests_around_it_too(self, past: History) -> None:
        used: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5}
        past.exchange(NOON - 90, "max-1", cache_creation_input_tokens=100_000, **used)
        past.exchange(NOON - 60, "max-2", cache_creation_input_tokens=100_000, tags=TICKET, **used)

        (group,) = Reports(past.store.query, "ticket=12").traffic(DAY, (), switches=True)
        assert (group.requests, group.switches, group.rebilled_tokens) == (1, 1, 100_000)

    def test_a_request_counts_for_each_of_its_own_and_once_in_all(self, past: History) -> None:
        self.spend(past)

        total, groups = reports(past).total_and_split(DAY, (By.TAG,))

        assert total.requests == 5
        assert {group.keys[0]: group.requests for group in groups} == {"ticket=12": 2, "ticket=13": 1, "who=me": 1}
        assert groups[0].latency == reports(past).traffic(DAY, (By.TAG,))[0].latency


class TestTotal:
    def test_of_an_empty_database_is_all_zero(self, past: History) -> None:
        total = reports(past).total(DAY)

        assert reports(past).is_empty()
        assert (total.requests, total.cost_usd, total.success_rate) == (0, 0, None)
        assert total.latency == Spread(None, None)

    def test_success_is_ok_among_the_finished(self, past: History) -> None:
        for outcome in ("ok", "ok", "upstream_error", "truncated", "crashed", "client_abort", "refused", None):
            past.exchange(NOON - 60, outcome=outcome)

        total = reports(past).total(DAY)

        assert (total.requests, total.open, total.client_aborts, total.refused) == (8, 1, 1, 1)
        assert (total.ok, total.finished) == (2, 5)
        assert total.success_rate == 0.4

    def test_other_paths_are_counted_apart(self, past: History) -> None:
        past.exchange(NOON, path="/api/claude_code/metrics", outcome="upstream_error")
        past.exchange(NOON, path="/v1/messages/count_tokens")
        past.exchange(NOON, path="/v1/models")

        assert reports(past).total(DAY).requests == 2
        assert reports(past).others(DAY) == 1

    def test_only_the_period_counts(self, past: History) -> None:
        for at in (DAY.since - 0.001, DAY.since, NOON, DAY.until):
            past.exchange(at)

        assert reports(past).total(DAY).requests == 2

    def test_tokens_are_added_by_kind(self, past: History) -> None:
        kinds: dict[str, Any] = {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3}
        kinds |= {"cache_creation_input_tokens": 4, "thinking_tokens": 5, "web_search_requests": 6}
        past.exchange(NOON, **kinds)
        past.exchange(NOON, **kinds)
        past.exchange(NOON)

        total = reports(past).total(DAY)

        assert (total.input_tokens, total.output_tokens) == (2, 4)
        assert (total.cache_read_tokens, total.cache_creation_tokens) == (6, 8)
        assert (total.thinking_tokens, total.web_searches) == (10, 12)

    def test_counted_tokens_are_not_used_tokens(self, past: History) -> None:
        past.exchange(NOON, path="/v1/messages/count_tokens", input_tokens=5000, cost_usd=0.02)

        total = reports(past).total(DAY)

        assert (total.requests, total.input_tokens, total.cost_usd) == (1, 0, 0)

    def test_an_unknown_cost_is_counted_and_no_usage_costs_nothing(self, past: History) -> None:
        past.exchange(NOON, output_tokens=10, cost_usd=0.5)
        past.exchange(NOON, output_tokens=10, cost_usd=None)
        past.exchange(NOON, outcome="upstream_error")

        total = reports(past).total(DAY)

        assert (total.cost_usd, total.unknown_costs) == (0.5, 1)

    def test_latencies_are_those_of_the_ok_ones(self, past: History) -> None:
        for ms in range(1, 101):
            past.exchange(NOON, response_time_ms=ms * 10.0, first_byte_ms=float(ms))
        past.exchange(NOON, outcome="upstream_error", response_time_ms=90_000.0)

        total = reports(past).total(DAY)

        assert total.latency == Spread(0.5, 0.95)
        assert total.first_byte == Spread(0.050, 0.095)

    @pytest.mark.parametrize("ms", [0.2, 7.0, 999.6, 1234.0, 9_996.0, 61_234.0, 599_999.0])
    def test_percentiles_are_within_one_percent_or_a_millisecond(self, past: History, ms: float) -> None:
        past.exchange(NOON, response_time_ms=ms)

        median = reports(past).total(DAY).latency.p50

        assert median is not None
        assert abs(median * 1000 - ms) <= max(1.0, ms / 100)

    def test_failovers_count_requests_and_moves(self, past: History) -> None:
        for moves in (0, 1, 3):
            past.exchange(NOON, failover_attempts=moves)

        total = reports(past).total(DAY)

        assert (total.moved, total.failovers) == (2, 4)


class TestSplit:
    def test_by_account_has_todays_names_and_the_last_one_of_a_removed_account(self, past: History) -> None:
        past.exchange(NOON, "max-1")
        past.exchange(NOON, "max-1")
        past.exchange(NOON, "gone")
        past.exchange(NOON, None, outcome="refused")
        past.store.accounts.update("MAX-1", name="renamed")

        groups = reports(past).traffic(DAY, [By.ACCOUNT])

        assert {group.keys[0]: group.requests for group in groups} == {
            "renamed": 2,
            "gone (removed)": 1,
            None: 1,
        }

    def test_each_group_has_its_own_percentiles(self, past: History) -> None:
        past.exchange(NOON, model="claude-opus-4-8", response_time_ms=800.0)
        past.exchange(NOON, model="claude-haiku-4-5", response_time_ms=90.0)

        groups = reports(past).traffic(DAY, [By.MODEL])

        assert {group.keys[0]: group.latency.p50 for group in groups} == {
            "claude-opus-4-8": 0.8,
            "claude-haiku-4-5": 0.09,
        }

    def test_by_day_is_by_the_local_day_and_leaves_out_empty_ones(self, past: History) -> None:
        for at in (at_local(20, 23, 59), at_local(23, 0), at_local(23, 23, 59)):
            past.exchange(at)

        groups = reports(past).traffic(Period(0, DAY.until), [By.DAY])

        assert [(group.keys, group.requests) for group in groups] == [
            (("2026-11-20",), 1),
            (("2026-11-23",), 2),
        ]

    def test_by_client_has_the_keys_name_of_today_or_the_last_one_known(self, past: History) -> None:
        past.exchange(NOON, key="laptop")
        past.exchange(NOON, key=None)

        groups = reports(past).traffic(DAY, [By.CLIENT])

        assert {group.keys[0]: group.requests for group in groups} == {"laptop (removed)": 1, None: 1}

    def test_by_project_and_agent(self, past: History) -> None:
        past.exchange(NOON, project="shop", agent="reviewer")
        past.exchange(NOON, project="shop")

        groups = reports(past).traffic(DAY, [By.PROJECT, By.AGENT])

        assert [(group.keys, group.requests) for group in groups] == [(("shop", "reviewer"), 1), (("shop", None), 1)]

    def test_two_splits_keep_the_first_key_together(self, past: History) -> None:
        past.exchange(at_local(24, 9, 10), "max-2")
        past.exchange(at_local(24, 10, 10), "max-1")
        past.exchange(at_local(24, 10, 50), "max-2")

        groups = reports(past).traffic(DAY, [By.ACCOUNT, By.HOUR])

        assert [group.keys for group in groups] == [
            ("max-1", "2026-11-24 10:00"),
            ("max-2", "2026-11-24 09:00"),
            ("max-2", "2026-11-24 10:00"),
        ]

    def test_sessions_know_their_first_and_last_request(self, past: History) -> None:
        past.exchange(NOON - 60, session="one")
        past.exchange(NOON - 30, session="two")
        past.exchange(NOON - 10, session="one")

        groups = reports(past).traffic(DAY, [By.SESSION], latencies=False)

        assert [(group.keys, group.first_at, group.last_at) for group in groups] == [
            (("one",), NOON - 60, NOON - 10),
            (("two",), NOON - 30, NOON - 30),
        ]


class TestLists:
    def test_requests_come_newest_first(self, past: History) -> None:
        past.exchange(NOON - 9, status_code=200, response_time_ms=1500.0, cost_usd=0.25)
        past.exchange(NOON, None, outcome=None, path="/v1/models", model=None)

        first, second = reports(past).exchanges(DAY, 10)

        assert (first.outcome, first.account, first.path) == (None, None, "/v1/models")
        assert (second.at, second.seconds, second.cost_usd) == (NOON - 9, 1.5, 0.25)
        assert reports(past).exchanges(DAY, 1) == [first]

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (Wanted(), {"plain", "other", "failed", "open", "gone"}),
            (Wanted(account="max-2"), {"other"}),
            (Wanted(account="removed"), {"gone"}),
            (Wanted(account="MAX-1"), set()),
            (Wanted(model="claude-haiku-4-5"), {"failed"}),
            (Wanted(session="two"), {"other", "failed"}),
            (Wanted(session="two", model="claude-haiku-4-5"), {"failed"}),
            (Wanted(project="ccflare"), {"plain"}),
            (Wanted(client="laptop"), {"other"}),
            (Wanted(tag="ticket=12"), {"other", "failed"}),
            (Wanted(tag="ticket=12", session="two", outcome="ok"), {"other"}),
            (Wanted(tag="ticket=1"), set()),
            (Wanted(outcome="upstream_error"), {"failed"}),
            (Wanted(outcome="open"), {"open"}),
            (Wanted(session="' OR 1=1 --"), set()),
        ],
    )
    def test_requests_are_those_that_are_wanted(self, past: History, wanted: Wanted, found: set[str]) -> None:
        ids = {
            past.exchange(NOON - 5, project="ccflare"): "plain",
            past.exchange(NOON - 4, "max-2", session="two", key="laptop", tags=TICKET): "other",
            past.exchange(
                NOON - 3, session="two", model="claude-haiku-4-5", outcome="upstream_error", tags=TICKET
            ): "failed",
            past.exchange(NOON - 2, None, outcome=None): "open",
            past.exchange(NOON - 1, "removed"): "gone",
        }
        assert {ids[each.id] for each in reports(past).exchanges(DAY, 10, wanted=wanted)} == found

    def test_a_list_that_was_cut_goes_on_where_it_was_also_within_a_millisecond(self, past: History) -> None:
        for at in (NOON - 3, NOON - 2, NOON - 2, NOON - 2, NOON - 1):
            past.exchange(at)
        whole = reports(past).exchanges(DAY, 10)
        assert len(whole) == 5

        pages, before = list[list[Exchange]](), None
        while page := reports(past).exchanges(DAY, 2, before=before):
            pages.append(page)
            before = Position(round(page[-1].at * 1000), page[-1].id)

        assert [len(page) for page in pages] == [2, 2, 1]
        assert [each for page in pages for each in page] == whole

    def test_equal_errors_are_one_row_and_a_client_that_left_is_none(self, past: History) -> None:
        for at in (NOON - 20, NOON - 10):
            past.exchange(at, outcome="upstream_error", status_code=529, error_message="Overloaded")
        past.exchange(NOON, outcome="client_abort")
        past.exchange(NOON - 5, None, outcome="refused", status_code=503)

        refused, overloaded = reports(past).errors(DAY, 10)

        assert (refused.kind, refused.status, refused.account) == ("refused", 503, None)
        assert (overloaded.number, overloaded.last_at, overloaded.account) == (2, NOON - 10, "max-1")

    def test_covered_attempts_are_those_of_requests_that_ended_ok(self, past: History) -> None:
        served = past.exchange(NOON, "max-2", attempts=2, failover_attempts=1)
        past.attempt(served, NOON, "max-1", "window_spent", "5h window spent", 429)
        past.attempt(served, NOON, "max-2", "ok", "", 200)
        failed = past.exchange(NOON, "max-2", outcome="upstream_error", attempts=2)
        past.attempt(failed, NOON, "max-1", "overloaded", "529 overloaded", 529)

        (covered,) = reports(past).covered(DAY, 10)

        assert (covered.kind, covered.account, covered.message) == ("window_spent", "max-1", "5h window spent")

    def test_use_is_the_last_request_ever_and_the_number_in_the_period(self, past: History) -> None:
        past.exchange(NOON - 9 * 86_400, "max-1")
        past.exchange(NOON - 8 * 86_400, "max-1")

        assert reports(past).use("MAX-1", DAY) == (NOON - 8 * 86_400, 0)
        assert reports(past).use("MAX-2", DAY) == (None, 0)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[History]:
    """A past whose database other programs can open."""
    with History(tmp_path / "ccflare.db") as history:
        yield history


def test_the_published_monitoring_query_runs_unchanged(file: History, tmp_path: Path) -> None:
    file.exchange(time.time(), "max-1")
    with closing(sqlite3.connect(tmp_path / "ccflare.db")) as database:
        found = database.execute(
            "SELECT COUNT(*) as count, account_used FROM requests "
            "WHERE timestamp > strftime('%s', 'now', '-1 hour') * 1000 GROUP BY account_used ORDER BY count DESC"
        ).fetchall()

    assert found == [(1, "MAX-1")]
