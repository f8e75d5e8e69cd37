"""One exchange: what each answer leads to, what it holds on to, and that it ends exactly once."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.account import Credential, Kind
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.usage import Ending
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.failover import MOST_ATTEMPTS, Deliver, RetryBudget
from ccflare_core.exchange.final_row import final_columns
from ccflare_core.exchange.steps import Outcome, Send, Ticket, Wait
from exchange_kit import (
    ASKED,
    BARE,
    BROKEN_STREAM,
    END,
    EPOCH,
    EVENT_ERROR,
    FAILED,
    GONE,
    JSON,
    LACKS_SCOPE,
    NO_MODEL,
    OK,
    OVERLOADED,
    REJECTED,
    START,
    STREAM,
    THROTTLED,
    Bench,
    Reply,
    account,
    cut,
    deliver,
    judged,
    limited,
    names,
    refusal,
)

HAIKU = Facts("claude-haiku-4-5", "session-2")


def first_wait(exchange: Exchange) -> Wait:
    step = exchange.next_step()
    assert isinstance(step, Wait)
    return step


def error_of(answer: object) -> dict[str, object]:
    assert isinstance(answer, Answer)
    content: dict[str, object] = json.loads(answer.body)["error"]
    return content


def is_at_rest(bench: Bench) -> bool:
    """Whether nothing is held on to: no exchange, no lease, no share of the retry budget."""
    return (len(bench.exchanges.open), bench.pool.in_flight, repr(bench.exchanges.budget)) == (
        0,
        0,
        "<RetryBudget: 0 under way>",
    )


# --- tickets ----------------------------------------------------------------------------------------------------------


def test_without_a_ticket_nothing_is_sent() -> None:
    bench = Bench()
    exchange = bench.exchanges.begin(ASKED)

    step = exchange.next_step()

    assert isinstance(step, Answer)
    assert step.status == 500
    assert bench.pool.in_flight == 0


def test_an_admitted_request_goes_out_with_the_credential_of_a_leased_account() -> None:
    bench = Bench("a")
    exchange = bench.begin()

    assert exchange.next_step() == Send(Credential(Kind.OAUTH, "token-a"))
    assert bench.pool.in_flight == 1


def test_a_request_that_may_pass_goes_out_as_it_came_and_its_answer_is_never_judged() -> None:
    bench = Bench()
    exchange = bench.exchanges.begin(ASKED)
    exchange.let_pass()

    assert exchange.next_step() == Send(None)
    assert judged(exchange, limited()) == Deliver()
    assert exchange.attempts == ()


def test_organization_of_an_account_is_learned_once_from_a_good_answer() -> None:
    bench = Bench("a")
    other = Reply(headers=(*JSON, (b"Anthropic-Organization-Id", b"another-one")))
    bench.serve()
    assert bench.notes.organizations == []

    bench.serve(Reply(headers=(*JSON, (b"anthropic-organization-id", b"3f1c1f0e-0000-4000-8000-00000000cafe"))))
    bench.serve(other)

    assert bench.notes.organizations == [("a", "3f1c1f0e-0000-4000-8000-00000000cafe")]


@pytest.mark.parametrize("id", [b"", b"a b c d e f", b"x" * 65, b"<script>"])
def test_what_is_no_organizations_id_is_not_kept(id: bytes) -> None:
    bench = Bench("a")
    bench.serve(Reply(headers=(*JSON, (b"anthropic-organization-id", id))))
    assert bench.notes.organizations == []


def test_a_refusal_is_the_end() -> None:
    bench = Bench()
    exchange = bench.exchanges.begin(ASKED)

    answer = exchange.refuse(413, "Too big.")

    assert error_of(answer)["type"] == "request_too_large"
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.REFUSED, 413, "Too big.")
    assert isinstance(exchange.next_step(), Answer)
    assert is_at_rest(bench)


def test_an_exchange_shows_no_secret() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    assert repr(exchange) == f"Exchange({exchange.id}, lease, account=-, outcome=None)"

    exchange.next_step()

    assert repr(exchange) == f"Exchange({exchange.id}, lease, account=max-a, outcome=None)"
    assert "token-a" not in repr(exchange.lease) + repr(bench.exchanges)


# --- other accounts ---------------------------------------------------------------------------------------------------


def test_a_good_answer_is_delivered_and_recorded_once() -> None:
    bench = Bench("a")

    exchange = bench.serve(OK)

    assert (exchange.outcome, exchange.status, exchange.failovers) == (Outcome.OK, 200, 0)
    assert exchange.upstream_request_id == "req_upstream"
    assert bench.notes.started_ones == bench.notes.finished_ones == [exchange]
    assert is_at_rest(bench)


@pytest.mark.parametrize("reply", [limited(), limited(3600, "7d_oi"), REJECTED, LACKS_SCOPE], ids=lambda r: r.status)
def test_what_speaks_about_one_account_moves_on_to_the_next(reply: Reply) -> None:
    bench = Bench("abc")

    exchange = bench.serve(reply, reply)

    assert exchange.outcome is Outcome.OK
    assert names(exchange) == ["max-a", "max-b", "max-c"]
    assert exchange.failovers == 2
    assert exchange.choice_reason == "most headroom"
    assert [id for id, report in bench.notes.reports if report.cooldowns] == ["a", "b"]
    assert is_at_rest(bench)


@pytest.mark.parametrize("reply", [BARE, OVERLOADED], ids=["bare 429", "529"])
def test_what_speaks_about_the_request_hops_once_and_is_then_the_clients(reply: Reply) -> None:
    bench = Bench("abc")

    exchange = bench.serve(*[reply] * 9)

    assert list(dict.fromkeys(names(exchange))) == ["max-a", "max-b"]
    assert (exchange.outcome, exchange.status) == (Outcome.UPSTREAM_ERROR, reply.status)
    assert is_at_rest(bench)


def test_a_one_hop_kind_is_delivered_at_once_if_nobody_else_is_free() -> None:
    exchange = Bench("a").serve(BARE)

    assert (names(exchange), exchange.status, exchange.error) == (["max-a"], 429, "rate_limit_error")


def test_a_short_throttle_without_another_account_is_waited_out() -> None:
    bench = Bench("a")

    exchange = bench.serve(THROTTLED)

    assert (exchange.outcome, names(exchange)) == (Outcome.OK, ["max-a", "max-a"])
    assert bench.clock.wall - EPOCH == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_the_clients_own_mistakes_are_tried_nowhere_else(status: int) -> None:
    bench = Bench()

    exchange = bench.serve(refusal(status, "invalid_request_error"))

    assert (names(exchange), exchange.status) == (["max-a"], status)
    assert all(not report.cooldowns for _, report in bench.notes.reports)


def test_an_error_in_the_stream_before_any_content_moves_on() -> None:
    exchange = Bench().serve(EVENT_ERROR, EVENT_ERROR, EVENT_ERROR)

    assert names(exchange) == ["max-a", "max-a", "max-a", "max-b"]
    assert exchange.outcome is Outcome.OK


def test_an_account_without_a_credential_that_could_be_sent_is_passed_over() -> None:
    bench = Bench()
    exchange = bench.begin()
    spoil(bench, "a")

    assert exchange.next_step() == Send(Credential(Kind.OAUTH, "token-b"))
    exchange.finish(Outcome.CLIENT_ABORT)
    assert is_at_rest(bench)


def spoil(bench: Bench, id: str) -> None:
    """Damage a token behind the pool's back."""
    for status in bench.pool.status():
        if status.account.id == id:
            object.__setattr__(status.account, "access_token", "no\nheader")


def test_refusal_that_every_account_gives_is_the_clients_and_nobody_rests() -> None:
    bench = Bench("abc")

    exchange = bench.serve(LACKS_SCOPE, LACKS_SCOPE, LACKS_SCOPE)

    assert (names(exchange), exchange.status) == (["max-a", "max-b", "max-c"], 403)
    assert repr(bench.pool) == "<AccountPool max-a: serving; max-b: serving; max-c: serving>"
    assert len(bench.notes.reports[-1][1].cleared) == 3


def test_refusals_that_differ_are_our_503_and_rest_whom_they_are_about() -> None:
    bench = Bench("ab", hold_seconds=0)

    exchange = bench.serve(LACKS_SCOPE, refusal(402, "billing_error"))

    assert (names(exchange), exchange.status) == (["max-a", "max-b"], 503)
    assert repr(bench.pool) == "<AccountPool max-a: serving; max-b: serving, cooling>"


@pytest.mark.parametrize("after", [limited(), refusal(400, "invalid_request_error"), FAILED, BARE, None])
def test_nobody_rests_for_a_model_that_no_account_has_served(after: Reply | None) -> None:
    bench = Bench("ab", hold_seconds=0, retry_attempts=0)
    if after is not None:
        exchange = bench.serve(NO_MODEL, after)
    else:
        exchange = bench.begin()
        steps = bench.steps(exchange, [NO_MODEL])
        next(steps), next(steps)
        exchange.finish(Outcome.CLIENT_ABORT, "the client left")

    assert names(exchange) == ["max-a", "max-b"]
    assert "max-a: serving;" in repr(bench.pool)


def test_account_rests_for_a_model_that_another_one_has_served() -> None:
    bench = Bench("ab")

    assert bench.serve(NO_MODEL).status == 200
    assert repr(bench.pool) == "<AccountPool max-a: serving, cooling for opus; max-b: serving>"


@pytest.mark.parametrize("reply", [REJECTED, refusal(402, "billing_error"), limited()], ids=["401", "402", "429"])
def test_what_is_never_the_requests_fault_is_our_503_though_all_agree(reply: Reply) -> None:
    bench = Bench("ab", hold_seconds=0)

    assert bench.serve(reply, reply).status == 503


# --- the same account -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [FAILED, GONE], ids=["500", "no connection"])
def test_a_failure_is_repeated_in_place_with_growing_pauses_and_then_elsewhere(reply: Reply) -> None:
    bench = Bench(retry_attempts=2, retry_delay_ms=1000, retry_backoff=4)
    exchange = bench.begin()

    steps = list(bench.steps(exchange, [reply] * 3))

    assert [step.seconds for step in steps if isinstance(step, Wait)] == [0.75, 3.0]
    assert names(exchange) == ["max-a", "max-a", "max-a", "max-b"]
    assert [(id, bool(report.cooldowns)) for id, report in bench.notes.reports] == [("a", True), ("b", False)]


def test_only_the_last_word_of_an_account_counts_for_it() -> None:
    bench = Bench("a")

    bench.serve(FAILED, FAILED, OK)

    assert [report.cooldowns for _, report in bench.notes.reports] == [()]


def test_the_lease_is_kept_during_the_pause_before_a_repeat() -> None:
    bench = Bench("ab")
    exchange = bench.begin()
    exchange.next_step()

    assert isinstance(judged(exchange, FAILED), Wait)
    assert bench.pool.in_flight == 1
    assert exchange.next_step() == Send(Credential(Kind.OAUTH, "token-a"))


def test_no_connection_anywhere_is_a_502_of_ours() -> None:
    bench = Bench("a", retry_attempts=1)

    exchange = bench.serve(GONE, GONE)

    assert (exchange.outcome, exchange.status) == (Outcome.UPSTREAM_ERROR, 502)
    assert exchange.error == "The upstream could not be used: connection refused."
    assert [attempt.verdict.status for attempt in exchange.attempts] == [0, 0]
    assert is_at_rest(bench)


def test_no_connection_for_a_request_that_passes_is_a_502_without_retries() -> None:
    bench = Bench()
    exchange = bench.exchanges.begin(ASKED)
    exchange.let_pass()
    exchange.next_step()

    answer = exchange.unreachable("name or service not known")

    assert error_of(answer) == {
        "type": "api_error",
        "message": "The upstream could not be used: name or service not known.",
    }


def test_no_connection_when_the_budget_is_spent_is_a_502_at_once() -> None:
    bench = Bench()
    bench.exchanges.budget = RetryBudget(share=0.0, minimum=0)

    exchange = bench.serve(GONE)

    assert (len(exchange.attempts), exchange.status) == (1, 502)


def test_x_should_retry_false_is_respected() -> None:
    exchange = Bench().serve(refusal(500, headers=((b"x-should-retry", b"false"),)))

    assert (names(exchange), exchange.status) == (["max-a"], 500)


def test_the_budget_bounds_how_many_repeat_at_once() -> None:
    bench = Bench("a")
    failing = [bench.begin(Facts("claude-opus-4-8", f"session-{n}")) for n in range(5)]
    for exchange in failing:
        exchange.next_step()

    steps = [judged(exchange, FAILED) for exchange in failing]

    assert [type(step) for step in steps] == [Wait, Wait, Wait, Deliver, Deliver]
    failing[0].finish(Outcome.CLIENT_ABORT)
    assert repr(bench.exchanges.budget) == "<RetryBudget: 2 under way>"


# --- no account -------------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_is_waited_for_if_it_recovers_in_time() -> None:
    bench = Bench(hold_seconds=30)

    exchange = bench.serve(limited(20), limited(25))

    assert (exchange.outcome, names(exchange)) == (Outcome.OK, ["max-a", "max-b", "max-a"])
    assert bench.clock.wall - EPOCH == pytest.approx(20, abs=0.3)
    assert is_at_rest(bench)


def test_while_held_it_looks_often_and_leases_nothing() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()

    assert judged(exchange, limited(20)) == Wait(0.25)
    assert bench.pool.in_flight == 0
    bench.clock.pass_(19.9)
    assert first_wait(exchange).seconds == pytest.approx(0.1)


@pytest.mark.parametrize(("seconds", "hold"), [(40, 30), (1, 0)])
def test_an_exhausted_pool_is_told_if_it_recovers_too_late(seconds: int, hold: int) -> None:
    bench = Bench("a", hold_seconds=hold)

    exchange = bench.serve(limited(seconds))

    assert (exchange.outcome, exchange.status) == (Outcome.REFUSED, 503)
    assert exchange.error is not None
    assert exchange.error.startswith("No account can serve this request (max-a: cooling until ")
    assert (exchange.lease, len(exchange.attempts)) == (None, 1)
    assert is_at_rest(bench)


TIED = Facts("claude-haiku-5-5", "session-1", has_thinking=True)


@pytest.mark.parametrize(
    ("reply", "others", "own"),
    [
        (limited(20), "ab", "aa"),
        (limited(40), "ab", "ab"),
        (OVERLOADED, "aaab", "aaaa"),
        (GONE, "aaaab", "aaaaa"),
        (BARE, "ab", "ab"),
    ],
)
def test_a_session_whose_thinking_is_tied_waits_rather_than_moves(reply: Reply, others: str, own: str) -> None:
    for facts, asked in ((replace(TIED, has_thinking=False), others), (TIED, own)):
        bench = Bench(hold_seconds=30)
        replies = [reply] * (1 if reply.status in (429,) else len(asked) - 1)
        exchange = bench.serve(*replies, facts=facts)

        assert names(exchange) == [f"max-{letter}" for letter in asked]
        assert exchange.outcome is Outcome.OK
        assert is_at_rest(bench)


def test_what_is_tied_moves_when_the_hold_is_over() -> None:
    bench = Bench(hold_seconds=30)

    exchange = bench.serve(limited(20), limited(15), facts=TIED)

    assert (names(exchange), exchange.outcome) == (["max-a", "max-a", "max-b"], Outcome.OK)


def test_what_is_tied_moves_when_there_is_no_room_to_wait() -> None:
    bench = Bench(hold_seconds=30, max_waiting=0, passthrough="always")

    assert names(bench.serve(limited(20), facts=TIED)) == ["max-a", "max-b"]


def test_what_is_tied_comes_back_to_the_account_that_broke() -> None:
    """The client repeats by itself after a cut: another account would answer without what was thought so far."""
    for facts, whose in ((replace(TIED, has_thinking=False), "max-b"), (TIED, "max-a")):
        bench = Bench(hold_seconds=30)
        broken = bench.begin(facts)
        broken.next_step()
        judged(broken, Reply(200, STREAM))
        deliver(broken, Reply(200, STREAM, START), cut(Outcome.TRUNCATED, "reset"))

        assert names(bench.serve(facts=facts)) == [whose]


def stateful(bench: Bench, name: str = "max-b", method: str = "POST") -> Exchange:
    """An exchange about Managed Agents, which live in this account."""
    opening = replace(ASKED, method=method, path="/v1/sessions/s_1/events", stateful_account=name)
    exchange = bench.exchanges.begin(opening)
    exchange.admit_stateful(Facts(path_class="sessions"))
    return exchange


def run(bench: Bench, exchange: Exchange, *replies: Reply) -> Exchange:
    for step in bench.steps(exchange, replies):
        if isinstance(step, Wait):
            bench.clock.pass_(step.seconds)
    return exchange


@pytest.mark.parametrize(
    ("reply", "method", "asked", "status"),
    [
        (OK, "POST", 1, 200),
        (FAILED, "POST", 1, 500),
        (FAILED, "GET", 4, 500),
        (GONE, "DELETE", 1, 502),
        (OVERLOADED, "POST", 3, 529),
        (REJECTED, "POST", 1, 401),
        (limited(3600), "GET", 1, 503),
    ],
)
def test_managed_agents_have_one_account(reply: Reply, method: str, asked: int, status: int) -> None:
    bench = Bench(hold_seconds=30, passthrough="always")

    exchange = run(bench, stateful(bench, method=method), *[reply] * 9)

    assert (names(exchange), exchange.status) == (["max-b"] * asked, status)
    assert (exchange.is_stateful, exchange.metered, exchange.cost) == (True, False, None)
    assert is_at_rest(bench)


def test_managed_agents_wait_for_their_account_alone() -> None:
    bench = Bench(hold_seconds=30)

    exchange = run(bench, stateful(bench), limited(20))

    assert (names(exchange), exchange.status) == (["max-b"] * 2, 200)
    assert exchange.waited == pytest.approx(20, abs=0.3)


def test_managed_agents_are_refused_where_their_account_is_gone() -> None:
    bench = Bench(hold_seconds=30, passthrough="always")

    exchange = run(bench, stateful(bench, "max-z"))

    assert (exchange.status, exchange.attempts, exchange.ticket) == (503, (), Ticket.NONE)


def test_the_hold_is_one_span_however_often_the_pool_is_empty() -> None:
    bench = Bench("a", hold_seconds=30)

    exchange = bench.serve(limited(20), limited(45))

    assert (exchange.outcome, len(exchange.attempts)) == (Outcome.REFUSED, 2)
    assert bench.clock.wall - EPOCH == pytest.approx(20, abs=0.3)


def test_r13_so_many_may_wait_for_an_account_and_the_next_one_is_told_at_once() -> None:
    bench = Bench("a", max_waiting=1)
    first, second = bench.begin(), bench.begin()
    first.next_step()
    assert judged(first, limited(20)) == Wait(0.25)

    answer = second.next_step()

    assert isinstance(answer, Answer)
    assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"20")
    assert isinstance(first.next_step(), Wait)
    first.finish(Outcome.CLIENT_ABORT)
    assert isinstance(bench.begin().next_step(), Wait)


def test_a_client_that_leaves_ends_the_hold() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    assert isinstance(judged(exchange, limited(20)), Wait)

    exchange.finish(Outcome.CLIENT_ABORT, "the client left")

    assert is_at_rest(bench)
    assert isinstance(exchange.next_step(), Answer)


def test_when_an_account_comes_back_one_request_probes_it_and_the_others_wait() -> None:
    bench = Bench("a")
    held = [bench.begin(Facts("claude-opus-4-8", f"session-{n}")) for n in range(3)]
    held[0].next_step()
    assert isinstance(judged(held[0], limited(20)), Wait)
    bench.clock.pass_(20.5)

    steps = [exchange.next_step() for exchange in held]

    assert [type(step) for step in steps] == [Send, Wait, Wait]


@pytest.mark.parametrize(
    ("passthrough", "ids", "passes"),
    [
        ("auto", "", True),
        ("auto", "a", False),
        ("always", "", True),
        ("always", "a", True),
        ("never", "", False),
        ("never", "a", False),
    ],
)
def test_who_goes_out_with_the_clients_own_credential(passthrough: str, ids: str, passes: bool) -> None:
    bench = Bench("", passthrough=passthrough)
    bench.pool.replace_accounts([account(id, paused=True) for id in ids])
    exchange = bench.begin()

    step = exchange.next_step()

    assert (step == Send(None)) is passes
    assert (exchange.ticket is Ticket.PASS) is passes
    assert passes or error_of(step)["type"] == "api_error"


def test_no_account_at_all_is_said_in_so_many_words() -> None:
    exchange = Bench("", passthrough="never").serve()

    assert exchange.error == "No account can serve this request (no account is configured)."


def test_what_passes_is_metered_all_the_same() -> None:
    exchange = Bench("").serve(OK)

    assert exchange.reading is not None
    assert exchange.cost == Decimal("0.012902")
    assert exchange.choice_reason == "no account: the client's own credential"


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_comes_once() -> None:
    bench = Bench("a")
    exchange = bench.serve(OK)

    exchange.finish(Outcome.CLIENT_ABORT, "too late")
    exchange.answered(exchange.refuse(500, "too late"))

    assert (exchange.outcome, exchange.error) == (Outcome.OK, None)
    assert len(bench.notes.finished_ones) == 1


def test_after_the_end_nothing_is_taken_any_more() -> None:
    bench = Bench()
    exchange = bench.begin()
    exchange.next_step()
    exchange.finish(Outcome.SHUTDOWN)

    steps = [judged(exchange, reply) for reply in (limited(), FAILED, OVERLOADED, GONE)]

    assert all(isinstance(step, Answer) for step in steps)
    assert [attempt.verdict.kind for attempt in exchange.attempts] == ["unanswered"]
    assert is_at_rest(bench)


def test_a_verdict_without_a_lease_leads_nowhere() -> None:
    exchange = Bench().begin()

    assert error_of(judged(exchange, OK))["message"] == "The proxy lost its lease for this request."


def test_shutdown_ends_all_that_is_open() -> None:
    bench = Bench()
    open_ones = [bench.begin(), bench.begin(HAIKU)]
    open_ones[0].next_step()

    assert bench.exchanges.finish_all(Outcome.SHUTDOWN) == 2

    assert {exchange.outcome for exchange in open_ones} == {Outcome.SHUTDOWN}
    assert is_at_rest(bench)
    assert bench.exchanges.finish_all(Outcome.SHUTDOWN) == 0


@pytest.mark.parametrize(
    ("reply", "outcome", "error"),
    [
        (OK, Outcome.OK, None),
        (Reply(200, STREAM, START + END), Outcome.OK, None),
        (Reply(200, STREAM, START), Outcome.TRUNCATED, None),
        (Reply(200, STREAM, START + BROKEN_STREAM), Outcome.UPSTREAM_ERROR, "overloaded_error"),
        (Reply(200, STREAM, b""), Outcome.TRUNCATED, None),
        (Reply(200, JSON, b'{"type":'), Outcome.TRUNCATED, None),
        (Reply(204, JSON, b""), Outcome.OK, None),
        (refusal(404, "not_found_error"), Outcome.UPSTREAM_ERROR, "not_found_error"),
        (Reply(404, JSON, b""), Outcome.UPSTREAM_ERROR, None),
    ],
)
def test_the_answer_tells_the_outcome(reply: Reply, outcome: Outcome, error: str | None) -> None:
    exchange = Bench("a").serve(reply)

    assert (exchange.outcome, exchange.error) == (outcome, error)


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_ABORT, Outcome.TRUNCATED, Outcome.SHUTDOWN])
def test_an_answer_that_was_cut_keeps_what_it_told(outcome: Outcome) -> None:
    exchange = Bench("a").begin()
    exchange.next_step()

    deliver(exchange, Reply(200, STREAM, START), cut(outcome, "gone"))

    assert (exchange.outcome, exchange.error) == (outcome, "gone")
    assert exchange.reading is not None
    assert (exchange.reading.ending, exchange.reading.usage.input_tokens) == (Ending.TRUNCATED, 25)


def test_usage_and_cost_come_from_the_answer() -> None:
    exchange = Bench("a").serve(OK)

    assert exchange.reading is not None
    assert (exchange.reading.usage.input_tokens, exchange.reading.usage.output_tokens) == (1000, 312)
    assert exchange.cost == Decimal("0.012902")


def test_an_unknown_model_costs_what_the_one_that_was_asked_for_would() -> None:
    answer = Reply(body=OK.body.replace(b"opus-4-8", b"next-9"))

    assert Bench("a").serve(answer).cost == Decimal("0.012902")
    assert Bench("a").serve(answer, facts=Facts("claude-next-9", client="127.0.0.1")).cost is None


def test_the_answer_of_another_path_is_not_read() -> None:
    exchange = Bench().exchanges.begin(ASKED)
    exchange.let_pass()
    exchange.next_step()

    deliver(exchange, OK)

    assert (exchange.outcome, exchange.reading, exchange.cost) == (Outcome.OK, None, None)


def test_times_are_those_of_the_clock() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    bench.clock.pass_(0.5)
    judged(exchange, OK)
    exchange.delivering(200, JSON)
    bench.clock.pass_(2)

    exchange.finish()

    assert exchange.started_at == EPOCH
    assert (exchange.first_byte, exchange.duration, exchange.attempts[0].duration) == (0.5, 2.5, 0.5)


# --- whatever upstream says -------------------------------------------------------------------------------------------

REPLIES = st.one_of(
    st.sampled_from([OK, GONE, OVERLOADED, FAILED, REJECTED, BARE, THROTTLED, EVENT_ERROR, Reply(200, STREAM, START)]),
    st.builds(limited, st.integers(1, 60), st.sampled_from(["5h", "7d", "7d_oi"])),
    st.builds(refusal, st.integers(300, 599)),
)
LIVES = st.lists(st.tuples(st.lists(REPLIES, max_size=25), st.integers(0, 40) | st.none()), min_size=1, max_size=6)


@given(st.sampled_from(["", "a", "ab", "abc"]), LIVES, st.sampled_from([0, 5, 30]))
def test_any_answers_end_in_one_outcome_and_nothing_is_held_on_to(
    ids: str, lives: list[tuple[list[Reply], int | None]], hold: int
) -> None:
    bench = Bench(ids, hold_seconds=hold)
    exchanges = [bench.begin(Facts("claude-opus-4-8", f"session-{n}")) for n in range(len(lives))]
    running = [
        (exchange, bench.steps(exchange, replies), leaves)
        for exchange, (replies, leaves) in zip(exchanges, lives, strict=True)
    ]

    for turn in range(2000):
        for exchange, steps, leaves in list(running):
            if turn == leaves:
                exchange.finish(Outcome.CLIENT_ABORT)
            if exchange.outcome is not None or next(steps, None) is None:
                running.remove((exchange, steps, leaves))
        bench.clock.pass_(0.25)
        if not running:
            break

    assert not running
    assert all(exchange.outcome for exchange in exchanges)
    assert sorted(e.id for e in bench.notes.finished_ones) == sorted(e.id for e in exchanges)
    assert all(len(exchange.attempts) <= MOST_ATTEMPTS for exchange in exchanges)
    assert is_at_rest(bench)


AFTER_THE_END: tuple[Callable[[Exchange], object], ...] = (
    lambda exchange: exchange.admit(Facts(client="::1", model="other"), b"{}", "gzip"),
    lambda exchange: exchange.let_pass(),
    lambda exchange: exchange.refuse(403, "No."),
    lambda exchange: exchange.delivering(201, STREAM),
    lambda exchange: exchange.broke_off("gone", 504),
    lambda exchange: exchange.finish(Outcome.SHUTDOWN, "late"),
)


@pytest.mark.parametrize("late", AFTER_THE_END)
def test_end_is_the_last_word(late: Callable[[Exchange], object]) -> None:
    bench = Bench("a")
    exchange = bench.serve(OK)
    told = final_columns(exchange), exchange.ticket

    late(exchange)

    assert (final_columns(exchange), exchange.ticket) == told
    assert bench.notes.finished_ones == [exchange]


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(170, "client_abort"), (181, "upstream_error"), (359, "upstream_error")]
)
def test_client_that_leaves_at_its_limit_before_a_head_has_waited_in_vain(seconds: float, outcome: str) -> None:
    bench = Bench()
    exchange = bench.begin()
    bench.clock.pass_(0.5)
    assert isinstance(exchange.next_step(), Send)
    bench.clock.pass_(seconds)

    exchange.finish(Outcome.CLIENT_ABORT, "the client left")

    told = f"the upstream sent nothing for {seconds + 0.5:.0f} s, and the client gave up"
    assert (exchange.outcome, exchange.error) == (outcome, "the client left" if outcome == "client_abort" else told)
    assert [attempt.verdict.kind for attempt in exchange.attempts] == ["unanswered"]
    assert [report for _, report in bench.notes.reports if report.cooldowns] == []


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(60, "client_abort"), (180, "upstream_error"), (301, "upstream_error")]
)
def test_client_that_leaves_in_a_stream_is_judged_by_the_silence_since_the_last_byte(
    seconds: float, outcome: str
) -> None:
    bench = Bench()
    exchange = bench.begin()
    exchange.next_step()
    exchange.judge(200, STREAM, None)
    exchange.delivering(200, STREAM)
    bench.clock.pass_(100)
    exchange.capture.add(START)
    bench.clock.pass_(seconds)

    exchange.finish(Outcome.CLIENT_ABORT, "the client left")

    assert exchange.outcome == outcome
    assert [report for _, report in bench.notes.reports if report.cooldowns] == []


def test_client_that_leaves_while_it_is_held_has_not_waited_for_the_upstream() -> None:
    bench = Bench("a", hold_seconds=600)
    first = bench.begin()
    for step in bench.steps(first, [limited(400)]):
        if isinstance(step, Wait):
            break
    bench.clock.pass_(182)

    first.finish(Outcome.CLIENT_ABORT, "the client left")

    assert first.outcome is Outcome.CLIENT_ABORT
