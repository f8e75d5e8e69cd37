"""A flow's comment, word for word: what the list shows of it, and what it can be found by."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from mitmproxy.test import tflow

from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.request import Facts
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.inspector.comment import Comments, comment, short, short_money
from exchange_kit import (
    ASKED,
    END,
    JSON,
    OK,
    OPUS,
    START,
    STREAM,
    Bench,
    Reply,
    account,
    cut,
    deliver,
    limited,
    refusal,
)

pytestmark = pytest.mark.usefixtures("utc")


def headline(exchange: Exchange) -> str:
    """What the list shows."""
    return comment(exchange).splitlines()[0]


def running(bench: Bench, **opening: Any) -> Exchange:
    exchange = bench.exchanges.begin(replace(ASKED, **opening))
    exchange.admit(OPUS, b"{}", "")
    return exchange


# --- the first line ---------------------------------------------------------------------------------------------------


def test_a_good_answer_tells_who_with_what_and_for_how_much() -> None:
    assert headline(Bench("a").serve(OK)) == "max-a ▸ opus-4-8 · 1.2k→312 · $0.013"


def test_an_exchange_that_moved_tells_from_whom_and_why_at_its_beginning() -> None:
    told = headline(Bench("ab").serve(limited(22_800), OK))
    assert told == "max-a→max-b ▸ opus-4-8 · 1.2k→312 · $0.013 · 5h spent until 14:20"
    assert told[:25] == "max-a→max-b ▸ opus-4-8 · "


def test_a_retry_in_place_is_counted_and_no_move() -> None:
    exchange = Bench("a").serve(refusal(500), refusal(500), OK)
    assert headline(exchange) == "max-a ↻2 ▸ opus-4-8 · 1.2k→312 · $0.013"


def test_a_long_way_is_told_by_its_ends() -> None:
    exchange = Bench("abcd").serve(limited(), limited(), limited(), OK)
    assert headline(exchange).startswith("max-a→…→max-d ▸ opus-4-8 · ")


def test_long_names_leave_room_for_the_model() -> None:
    bench = Bench()
    bench.pool.replace_accounts([replace(account("a"), name="somebody@example.org")])
    exchange = bench.serve(OK)
    assert headline(exchange).startswith("somebody@exa… ▸ opus-4-8 · ")
    assert "account=somebody@example.org" in comment(exchange)


def test_a_failure_stands_where_it_is_seen() -> None:
    assert headline(Bench("a").serve(refusal(404, "not_found_error"))) == "max-a ✗ not_found_error ▸ opus-4-8"


def test_a_failure_without_words_is_named() -> None:
    assert headline(Bench("a").serve(Reply(404, JSON, b""))) == "max-a ✗ upstream error ▸ opus-4-8"


def test_a_refusal_that_nobody_was_asked_for_begins_with_its_reason() -> None:
    bench = Bench("a", hold_seconds=0)
    bench.pool.replace_accounts([account("a", paused=True)])
    assert headline(bench.serve()) == "✗ No account can serve this request (max-a: paused). ▸ opus-4-8"


def test_a_client_that_left_is_told_with_what_the_answer_had_used() -> None:
    exchange = Bench("a").begin()
    exchange.next_step()
    deliver(exchange, Reply(200, STREAM, START), cut(Outcome.CLIENT_ABORT, "the client left"))
    assert headline(exchange) == "max-a ✗ the client left ▸ opus-4-8 · 25→~0 · ~$0.0001"


def test_what_passed_went_with_the_clients_own_credential() -> None:
    exchange = Bench("").serve(Reply(200, STREAM, START + END))
    assert headline(exchange) == "own credential ▸ opus-4-8 · 25→15 · $0.0005"


def test_an_unknown_price_is_a_question_mark() -> None:
    exchange = Bench("a").serve(Reply(body=OK.body.replace(b"claude-opus-4-8", b"other")), facts=Facts("other"))
    assert headline(exchange) == "max-a ▸ other · 1.2k→312 · $?"


def test_a_wait_for_an_account_is_told() -> None:
    exchange = Bench("a", hold_seconds=30).serve(limited(19), OK)
    assert headline(exchange).endswith(" · a wait of 19.0 s for an account")


def test_another_model_and_the_key_are_told() -> None:
    exchange = running(Bench("a"), key=ClientKey("k1", "laptop"))
    exchange.belongs_to_agent("reviewer")
    exchange.replaced_model("claude-haiku-4-5")
    exchange.next_step()
    deliver(exchange, OK)
    assert headline(exchange).endswith("$0.013 · for reviewer in place of haiku-4-5 · for laptop")


def test_an_exchange_of_which_nothing_is_known_yet_says_so() -> None:
    assert headline(Bench().exchanges.begin(ASKED)) == "no account"


def test_an_exchange_that_runs_tells_its_account_and_why_it_moved() -> None:
    bench = Bench("ab")
    exchange = running(bench)
    exchange.next_step()
    assert headline(exchange) == "max-a ▸ opus-4-8"
    reply = limited(22_800)
    exchange.judge(reply.status, reply.headers, reply.event)
    assert headline(exchange) == "max-a→max-b ▸ opus-4-8 · 5h spent until 14:20"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9950, "10k"), (999_499, "999k"), (12_345_678, "12M")],
)
def test_numbers_of_tokens_are_short(number: int, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("cost", "text"),
    [("0.00004", "$0.0000"), ("0.0099", "$0.0099"), ("0.0123", "$0.012"), ("0.5", "$0.500"), ("1234.567", "$1,234.57")],
)
def test_dollars_are_short(cost: str, text: str) -> None:
    assert short_money(Decimal(cost)) == text


# --- the lines below --------------------------------------------------------------------------------------------------


def test_each_attempt_has_a_line_and_the_last_one_is_to_search_by() -> None:
    exchange = running(Bench("ab"), key=ClientKey("k1", "laptop"), tags={"ticket": "12"})
    exchange.identified(Provenance(project="shop"))
    for reply in (limited(22_800), OK):
        exchange.next_step()
        exchange.judge(reply.status, reply.headers, reply.event)
    deliver(exchange, OK)
    assert comment(exchange).splitlines()[1:] == [
        "attempt 1: max-a, 5h window spent until 14:20, 0.0 s",
        "attempt 2: max-b, ok, 0.0 s",
        f"account=max-b session=session-1 project=shop key=laptop outcome=ok request={exchange.id} tag=ticket=12",
    ]


def test_what_runs_can_be_searched_for() -> None:
    exchange = running(Bench("a"))
    exchange.next_step()
    assert comment(exchange).splitlines()[1] == f"account=max-a session=session-1 outcome=running request={exchange.id}"


def test_what_came_from_outside_cannot_begin_a_line_or_hide() -> None:
    exchange = running(Bench("a"))
    exchange.identified(Provenance(project="a\nrequest=x"))
    exchange.finish(Outcome.UPSTREAM_ERROR, "one\ntwo \u202ethree")
    lines = comment(exchange).splitlines()
    assert lines[0] == "✗ one two <U+202E>three ▸ opus-4-8"
    assert lines[1].startswith("session=session-1 project=a request=x outcome=")
    assert len(lines) == 2


# --- in a flow --------------------------------------------------------------------------------------------------------


def test_a_flow_gets_its_comment_once_for_each_change() -> None:
    flow, exchange, comments = tflow.tflow(), running(Bench("a")), Comments()
    exchange.next_step()
    assert comments.write(flow, exchange)
    assert not comments.write(flow, exchange)
    assert flow.comment == comment(exchange)

    exchange.finish(Outcome.CLIENT_ABORT)
    assert comments.write(flow, exchange)
    assert flow.comment == comment(exchange)


@pytest.mark.parametrize("is_later", [False, True])
def test_what_a_person_has_written_stays_above_ours(is_later: bool) -> None:
    flow, exchange, comments = tflow.tflow(), running(Bench("a")), Comments()
    exchange.next_step()
    if is_later:
        comments.write(flow, exchange)
        flow.comment = f"mine\n{flow.comment}"
    else:
        flow.comment = "mine"

    exchange.finish(Outcome.CLIENT_ABORT)
    comments.write(flow, exchange)

    assert flow.comment == f"mine\n{comment(exchange)}"
