"""What an exchange counts for in its client's budget, where the upstream has not told it to the end."""

import gzip
import json
from dataclasses import replace
from decimal import Decimal

import pytest

from ccflare_core.anthropic.request import MOST_OUTPUT, PARSE_LIMIT, Facts, most_tokens
from ccflare_core.exchange.final_row import budgeted, final_columns
from ccflare_core.exchange.steps import Outcome
from exchange_kit import ASKED as ASKED_FOR
from exchange_kit import END, OK, OPUS, START, STREAM, Bench, Reply, cut, deliver

ASKED = b'{"model":"claude-opus-4-8","max_tokens":500,"messages":[{"role":"user","content":"\\"max_tokens\\":9000"}]}'
JSON = ((b"content-type", b"application/json"),)
ODD = (b"content-encoding", b"rot13")


def dollars(prompt: int, output: int) -> Decimal:
    """What so many tokens cost with this model."""
    return (Decimal(prompt * 5) + output * 25).scaleb(-6)


def event(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def tool_input(size: int) -> bytes:
    delta = {"type": "input_json_delta", "partial_json": "x" * size}
    return event({"type": "content_block_delta", "index": 0, "delta": delta})


THINKING = event({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}})


def counts(reply: Reply, *, body: bytes = ASKED, seconds: float = 0.0, is_cut: bool = True) -> tuple[object, object]:
    """The tokens and dollars of an answer that the client has left, after so many seconds."""
    bench = Bench("a")
    exchange = bench.begin(OPUS, body)
    exchange.next_step()
    exchange.delivering(reply.status, reply.headers)
    exchange.capture.add(reply.body)
    bench.clock.pass_(seconds)
    exchange.finish(Outcome.CLIENT_ABORT if is_cut else None)
    return budgeted(exchange)


@pytest.mark.parametrize(
    ("body", "seconds", "output"),
    [
        (START + tool_input(300), 0.0, 100),
        (START + tool_input(30_000), 0.0, 500),  # never more than max_tokens
        (START + THINKING, 4.0, 200),
        (START + THINKING, 400.0, 500),
        (START, 60.0, 0),
    ],
)
def test_a_stream_that_was_left_counts_for_all_that_came(body: bytes, seconds: float, output: int) -> None:
    assert counts(Reply(200, STREAM, body), seconds=seconds) == (25 + output, dollars(25, output))


def test_a_stream_that_was_counted_to_its_end_counts_as_recorded() -> None:
    assert counts(Reply(200, STREAM, START + tool_input(3000) + END)) == (40, Decimal("0.0005"))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, (*JSON, ODD), b"?"),
        Reply(200, (*STREAM[:1], ODD), b"?"),
        Reply(200, (*STREAM[:1], (b"content-encoding", b"gzip")), b"no gzip"),
        Reply(200, JSON, OK.body[:-9]),
    ],
)
def test_an_answer_that_cannot_be_read_counts_as_its_max_tokens(reply: Reply) -> None:
    prompt, body = len(ASKED) // 3, b'{"model":"claude-opus-4-8"}'
    assert counts(reply) == (prompt + 500, dollars(prompt, 500))
    assert counts(reply, body=body) == (9 + MOST_OUTPUT, dollars(9, MOST_OUTPUT))


def test_a_stream_that_becomes_unreadable_counts_its_prompt_as_told() -> None:
    body = gzip.compress(START) + b"\x1f\x8bgarbage"

    assert counts(Reply(200, (*STREAM[:1], (b"content-encoding", b"gzip")), body)) == (525, Decimal("0.012625"))


def test_an_error_counts_nothing() -> None:
    assert counts(Reply(500, JSON, b"{")) == (None, None)


def test_a_stream_without_a_word_counts_its_prompt() -> None:
    assert counts(Reply(200, STREAM, b": nothing\n\n")) == (len(ASKED) // 3, dollars(len(ASKED) // 3, 0))


def left_before_its_head(facts: Facts, *, path: str = "/v1/messages", seconds: float = 0.0) -> tuple[object, object]:
    """What counts of a request that the client has left so long after it went out."""
    bench = Bench("a")
    exchange = bench.exchanges.begin(replace(ASKED_FOR, path=path))
    exchange.admit(facts, ASKED, "")
    exchange.next_step()
    exchange.sent()
    bench.clock.pass_(seconds)
    exchange.finish(Outcome.CLIENT_ABORT)
    return budgeted(exchange)


@pytest.mark.parametrize(
    ("is_streamed", "seconds", "output"), [(True, 30.0, 0), (False, 0.0, 0), (False, 4.0, 200), (False, 60.0, 500)]
)
def test_an_answer_that_was_left_before_its_head_counts_its_prompt_and_the_time(
    is_streamed: bool, seconds: float, output: int
) -> None:
    prompt = len(ASKED) // 3

    counted = left_before_its_head(replace(OPUS, stream=is_streamed), seconds=seconds)

    assert counted == (prompt + output, dollars(prompt, output))


def test_a_request_that_was_left_before_it_went_out_counts_nothing() -> None:
    exchange = Bench("a").begin(OPUS, ASKED)
    exchange.next_step()
    exchange.finish(Outcome.CLIENT_ABORT)

    assert budgeted(exchange) == (None, None)


def test_an_answer_that_took_too_long_counts_as_one_that_was_left() -> None:
    bench = Bench("a")
    exchange = bench.begin(replace(OPUS, stream=False), ASKED)
    exchange.next_step()
    exchange.sent()
    bench.clock.pass_(600)
    exchange.too_late("the upstream sent no answer within 600 s", asked=True)

    assert budgeted(exchange) == (len(ASKED) // 3 + 500, dollars(len(ASKED) // 3, 500))


def test_a_request_that_the_upstream_has_broken_off_counts_nothing() -> None:
    exchange = Bench("a").begin(OPUS, ASKED)
    exchange.next_step()
    exchange.sent()
    exchange.unreachable("connection reset")
    exchange.finish(Outcome.CLIENT_ABORT)

    assert budgeted(exchange) == (None, None)


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models", "/v1/files"])
def test_what_takes_no_tokens_counts_nothing_when_it_was_left(path: str) -> None:
    assert left_before_its_head(OPUS, path=path) == (None, None)


def test_a_text_completion_counts_as_all_that_was_asked_for() -> None:
    exchange = Bench("a").exchanges.begin(replace(ASKED_FOR, path="/v1/complete"))
    body = b'{"model":"claude-opus-4-8","prompt":"%s","max_tokens_to_sample":300}' % (b"x" * 900)
    exchange.admit(OPUS, body, "")
    exchange.next_step()
    deliver(exchange, Reply(200, JSON, b'{"type":"completion","completion":" Hello.","model":"claude-opus-4-8"}'))

    assert budgeted(exchange) == (len(body) // 3 + 300, dollars(len(body) // 3, 300))


def test_what_a_budget_counts_stands_in_the_record_beside_what_is_shown() -> None:
    exchange = Bench("a").begin(OPUS, ASKED)
    exchange.next_step()
    deliver(exchange, Reply(200, STREAM, START + tool_input(300)), cut(Outcome.CLIENT_ABORT, "the client left"))

    row = final_columns(exchange)

    assert (row.output_tokens, row.cost_usd, row.estimated) == (0, 0.000125, True)
    assert (row.counted_tokens, row.counted_usd) == (125, 0.002625)


def test_most_tokens_are_those_that_the_request_itself_asks_for() -> None:
    assert most_tokens(ASKED) == 500
    assert most_tokens(gzip.compress(ASKED), content_encoding="gzip") == 500
    assert most_tokens(b'{"max_tokens_to_sample":7,"max_tokens":1}') == 7
    assert most_tokens(b'{"tools":[{"max_tokens":1}],"max\\u005ftokens":500}') == 500


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"?",
        b"[]",
        b"{}",
        b"7",
        b'{"max_tokens":"9"}',
        b'{"max_tokens":true}',
        b'{"max_tokens":-1}',
        b'{"max_tokens":1,"max_tokens":500}',
        b'{"tools":[{"max_tokens":1}]}',
        b'{"max_tokens":1}' + b" " * PARSE_LIMIT,
    ],
)
def test_a_limit_that_is_not_certain_is_none(body: bytes) -> None:
    assert most_tokens(body) is None
    assert most_tokens(body, content_encoding="rot13") is None


def test_a_limit_that_is_not_the_requests_own_makes_no_answer_cheaper() -> None:
    asked = b'{"model":"claude-opus-4-8","tools":[{"max_tokens":1}],"max\\u005ftokens":500}'

    assert counts(Reply(200, STREAM, START + tool_input(900)), body=asked)[0] == 25 + 300
