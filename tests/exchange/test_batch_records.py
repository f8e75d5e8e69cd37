"""What exchanges tell of batches."""

import gzip
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ccflare_core.exchange.batch_records import batch_records, is_about_batches, reserved, tells_of_batches
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.final_row import budgeted, final_columns, total_tokens
from ccflare_core.exchange.records import BatchDropped, BatchEnded, BatchMade, BatchRead
from ccflare_core.exchange.steps import Outcome
from exchange_kit import ASKED, EPOCH, JSON, OPUS, Bench, Reply, cut, deliver, refusal

BATCHES = "/v1/messages/batches"
AT = int(EPOCH) * 1000
COUNTS = {"processing": 0, "succeeded": 3, "errored": 1, "canceled": 0, "expired": 2}
ENDED = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended", "request_counts": COUNTS}
RUNNING = ENDED | {"processing_status": "in_progress"}
LINES = (b"content-type", b"application/x-jsonl")


def documented(content: Any) -> Reply:
    return Reply(200, JSON, json.dumps(content).encode())


def result(output: int) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": output, "service_tier": "batch"}
    message = {"type": "message", "model": "claude-opus-4-8", "usage": usage}
    return json.dumps({"custom_id": "r", "result": {"type": "succeeded", "message": message}}).encode() + b"\n"


EXPIRED = b'{"custom_id":"r","result":{"type":"expired"}}\n'
RESULTS = Reply(200, (LINES,), result(20) + EXPIRED + result(40))


def served(method: str, path: str, reply: Reply, *, estimate: Counted | None = None, **options: Any) -> Exchange:
    """The exchange that had this answer."""
    exchange = Bench("a").exchanges.begin(replace(ASKED, method=method, path=path))
    exchange.admit(OPUS, b"{}", "")
    if estimate is not None:
        exchange.await_clearance(lambda: estimate)
    exchange.next_step()
    deliver(exchange, reply, **options)
    return exchange


def told(exchange: Exchange) -> list[object]:
    return list(batch_records(exchange, AT, total_tokens(exchange)))


def test_a_batch_that_was_made_is_told_with_its_estimate() -> None:
    exchange = served("POST", BATCHES, documented(RUNNING), estimate=Counted(700, Decimal("0.25")))

    assert told(exchange) == [BatchMade("msgbatch_1", exchange.id, None, AT, 700, 0.25)]
    assert final_columns(exchange).message_id == "msgbatch_1"
    assert final_columns(exchange).counted_tokens == 700
    assert budgeted(exchange) == (None, None)
    assert tells_of_batches(exchange)


def test_a_batch_whose_id_nobody_has_seen_has_that_of_its_exchange() -> None:
    left = cut(Outcome.CLIENT_ABORT, "left")
    exchange = served("POST", BATCHES, Reply(200, JSON, b"{"), estimate=Counted(700, None), finish=left)

    assert told(exchange) == [BatchMade(exchange.id, exchange.id, None, AT, 700, None)]


def test_a_batch_that_was_refused_is_none() -> None:
    exchange = served("POST", BATCHES, refusal(400), estimate=Counted(700, Decimal(1)))

    assert told(exchange) == [BatchDropped(exchange.id)]


def test_a_batch_is_put_down_before_anything_of_it_goes_upstream() -> None:
    bench = Bench("a")
    exchange = bench.exchanges.begin(replace(ASKED, method="POST", path=BATCHES))
    exchange.admit(OPUS, b"{}", "")
    estimate = Counted(700, Decimal("0.25"))
    exchange.await_clearance(lambda: estimate)

    assert bench.notes.batches == []
    exchange.next_step()
    assert bench.notes.batches == [(exchange.id, estimate)]
    assert reserved(exchange, estimate) == BatchMade(exchange.id, exchange.id, None, AT, 700, 0.25)


def test_a_batch_of_nobody_is_told_without_an_estimate() -> None:
    exchange = served("POST", BATCHES, documented(RUNNING))

    assert told(exchange) == [BatchMade("msgbatch_1", exchange.id, None, AT, None, None)]


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", f"{BATCHES}/msgbatch_1", ENDED),
        ("POST", f"{BATCHES}/msgbatch_1/cancel", ENDED),
        ("GET", BATCHES, {"data": [RUNNING, ENDED, None], "has_more": False}),
    ],
)
def test_an_answer_that_shows_a_batch_as_ended_tells_how_much_of_it_succeeded(
    method: str, path: str, content: Any
) -> None:
    exchange = served(method, path, documented(content))

    assert told(exchange) == [BatchEnded("msgbatch_1", AT, 3, 6)]
    assert tells_of_batches(exchange)


@pytest.mark.parametrize(
    "content",
    [
        RUNNING,
        ENDED | {"request_counts": {"succeeded": 1}},
        ENDED | {"request_counts": COUNTS | {"errored": -1}},
        ENDED | {"id": "../x"},
        ENDED | {"type": "message"},
        {"id": "msgbatch_1", "type": "message_batch_deleted"},
    ],
)
def test_an_answer_that_does_not_tells_nothing(content: Any) -> None:
    exchange = served("GET", f"{BATCHES}/msgbatch_1", documented(content))

    assert told(exchange) == []
    assert not tells_of_batches(exchange)


def test_results_tell_what_the_batch_took() -> None:
    exchange = served("GET", f"{BATCHES}/msgbatch_1/results", RESULTS)

    assert told(exchange) == [BatchRead("msgbatch_1", exchange.id, None, AT, 80, 0.0008)]
    assert budgeted(exchange) == (None, None)
    assert final_columns(exchange).cost_usd == 0.0008


def test_results_without_a_success_tell_that_it_took_nothing() -> None:
    exchange = served("GET", f"{BATCHES}/msgbatch_1/results", Reply(200, (LINES,), EXPIRED))

    assert told(exchange) == [BatchRead("msgbatch_1", exchange.id, None, AT, 0, 0.0)]


@pytest.mark.parametrize(
    ("reply", "options"),
    [
        (RESULTS, {"finish": cut(Outcome.TRUNCATED, "broke off")}),
        (RESULTS, {"finish": cut(Outcome.CLIENT_ABORT, "left")}),
        (Reply(404, (LINES,), b""), {}),
        (Reply(200, ((b"content-type", b"text/html"),), b"<html>"), {}),
        (Reply(200, (LINES, (b"content-encoding", b"rot13")), RESULTS.body), {}),
        (Reply(200, (LINES, (b"content-encoding", b"gzip")), gzip.compress(RESULTS.body) + b"\x1f\x8bno gzip"), {}),
    ],
)
def test_results_that_did_not_come_whole_tell_nothing(reply: Reply, options: dict[str, Any]) -> None:
    assert told(served("GET", f"{BATCHES}/msgbatch_1/results", reply, **options)) == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/files", "/v1/models"])
def test_other_paths_are_not_about_batches(path: str) -> None:
    exchange = served("POST", path, documented(ENDED))

    assert not is_about_batches(exchange)
    assert told(exchange) == []
