"""Which batches a client key may make: by its models, by its budgets, and what a batch counts that was made."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from mitmproxy import http

from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.prompt_size import estimated_tokens
from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.exchange.counted import NOTHING
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome, Send, Step, Wait
from exchange_kit import JSON, Bench, Reply, deliver, judged, refusal
from flow_kit import asked
from guard_kit import SECRET, a_gate, a_key, an_authenticator, enter

MADE = Reply(200, JSON, b'{"id":"msgbatch_1","type":"message_batch","processing_status":"in_progress"}')
REFUSED = refusal(400, "invalid_request_error")


def request(model: str = "claude-opus-4-8", max_tokens: int = 1000) -> dict[str, Any]:
    return {"custom_id": "r", "params": {"model": model, "max_tokens": max_tokens, "messages": []}}


def batch(*requests: Any) -> bytes:
    return json.dumps({"requests": requests}).encode()


ONE = batch(request())
PROMPT = estimated_tokens(json.dumps(request()).encode())
TOKENS = PROMPT + 1000
DOLLARS = Decimal(PROMPT * 5 + 1000 * 25) / 2_000_000


class Desk:
    """A gate, and a client key with these limits."""

    def __init__(self, **limits: Any) -> None:
        self.bench = Bench("a")
        self.key = a_key(**limits)
        self.rates = RateLimits(print)
        self.gate = a_gate(self.bench, an_authenticator(self.key), rates=self.rates)
        self.flows: list[http.HTTPFlow] = []  # their exchanges are found as long as they are there

    def begin(self, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Exchange:
        """The exchange that asks for a batch with this body."""
        flow = asked("/v1/messages/batches?beta=true", body=body, headers=((b"x-api-key", SECRET.encode()), *headers))
        self.flows.append(flow)
        return enter(self.gate, flow)

    def first_step(self, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> tuple[Exchange, Step]:
        """What an exchange does once its batch is read."""
        exchange = self.begin(body, headers)
        while isinstance(step := exchange.next_step(), Wait):
            time.sleep(0.01)
        if isinstance(step, Answer):
            exchange.answered(step)
        return exchange, step

    def refusal(self, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> tuple[int, str]:
        """The status and the message with which this batch is refused, for good."""
        exchange, step = self.first_step(body, headers)
        assert isinstance(step, Answer)
        assert exchange.outcome is Outcome.REFUSED
        if step.status != 403:
            assert (b"x-should-retry", b"false") in step.headers
        return step.status, json.loads(step.body)["error"]["message"]

    def make(self, body: bytes, *replies: Reply) -> Exchange:
        """The exchange of a batch to which the upstream says this."""
        exchange, step = self.first_step(body)
        for reply in replies:
            assert isinstance(step, Send)
            exchange.sent()
            step = judged(exchange, reply)
        deliver(exchange, replies[-1])
        return exchange

    @property
    def tokens_used(self) -> int:
        today = datetime.fromtimestamp(self.bench.clock.wall, UTC).date()
        return self.rates.budgets.used(self.key.id, today)[0].tokens


def test_a_batch_waits_until_it_is_read_and_goes_on() -> None:
    exchange, step = Desk().first_step(ONE)

    assert isinstance(step, Send)
    assert exchange.outcome is None


@pytest.mark.parametrize("body", [ONE, batch(request("claude-haiku-4-5"), request())])
def test_a_batch_is_refused_for_a_model_that_the_key_may_not_use(body: bytes) -> None:
    assert Desk(models=("claude-haiku-*",)).refusal(body) == (
        403,
        "This client key may not use this model. It may use claude-haiku-*.",
    )


def test_a_batch_of_any_size_is_looked_at_for_its_models() -> None:
    large = request("claude-haiku-4-5") | {"custom_id": "x" * 6_000_000}
    desk = Desk(models=("claude-haiku-*",))

    assert isinstance(desk.first_step(batch(large))[1], Send)
    assert desk.refusal(batch(large, request()))[0] == 403


@pytest.mark.parametrize("limits", [{"tokens_per_day": 9}, {"dollars_per_day": 1}, {"dollars_per_month": 1}])
def test_a_batch_that_cannot_be_read_is_refused_to_a_key_with_a_budget(limits: dict[str, Any]) -> None:
    desk = Desk(**limits)

    for body, headers, why in (
        (b"?", (), "its body is not one JSON document with one reading"),
        (ONE, ((b"content-encoding", b"rot13"),), "in an unknown coding: send it without a content coding"),
    ):
        status, message = desk.refusal(body, headers)
        assert status == 400
        assert message.startswith("This batch cannot be counted in the budget of the client key laptop, for ")
        assert why in message


def test_a_batch_that_cannot_be_read_is_refused_to_a_key_with_models() -> None:
    status, message = Desk(models=("*",)).refusal(b"?")

    assert status == 400
    assert message.startswith("The models of this batch cannot be compared with those of the client key laptop, for ")


def test_a_batch_that_cannot_be_read_is_the_upstreams_to_refuse_where_nothing_depends_on_it() -> None:
    desk = Desk()
    exchange = desk.make(b"?", REFUSED)

    assert (exchange.status, desk.tokens_used) == (400, 0)


def test_a_batch_above_what_is_left_is_refused_with_the_sum() -> None:
    desk = Desk(tokens_per_day=2 * TOKENS - 1)
    desk.make(ONE, MADE)

    assert desk.refusal(ONE) == (
        429,
        f"This batch of 1 request may take {TOKENS} tokens, by the size of its prompts and its max_tokens, and the "
        f"client key laptop has {TOKENS - 1} tokens left of its {2 * TOKENS - 1} tokens of today.",
    )


def test_two_batches_at_once_do_not_have_the_same_budget() -> None:
    desk = Desk(tokens_per_day=2 * TOKENS - 1)

    assert isinstance(desk.first_step(ONE)[1], Send)
    assert desk.refusal(ONE)[0] == 429


def test_a_batch_counts_from_the_moment_at_which_it_is_made() -> None:
    desk = Desk(tokens_per_day=TOKENS)

    exchange = desk.make(ONE, MADE)

    assert exchange.counted == (TOKENS, DOLLARS)
    assert desk.tokens_used == TOKENS
    flow = asked(headers=((b"x-api-key", SECRET.encode()),))
    desk.gate.enter(flow)
    assert flow.response is not None
    assert flow.response.status_code == 429


def test_a_batch_that_the_upstream_refuses_counts_nothing() -> None:
    desk = Desk(tokens_per_day=TOKENS)

    exchange = desk.make(ONE, REFUSED)

    assert exchange.counted == NOTHING
    assert desk.tokens_used == 0


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_batch_counts_if_nobody_knows_whether_it_was_made(is_sent: bool) -> None:
    desk = Desk()
    exchange, _ = desk.first_step(ONE)
    if is_sent:
        exchange.sent()
    exchange.finish(Outcome.CLIENT_ABORT)

    assert exchange.counted == ((TOKENS, DOLLARS) if is_sent else NOTHING)
    assert desk.tokens_used == (TOKENS if is_sent else 0)


def test_a_batch_counts_if_the_upstream_broke_off_while_it_made_it() -> None:
    desk = Desk()
    exchange, _ = desk.first_step(ONE)
    exchange.sent()
    step = exchange.unreachable("connection reset")
    assert isinstance(step, Answer | Wait | Send)
    exchange.finish(Outcome.UPSTREAM_ERROR)

    assert desk.tokens_used == TOKENS


def test_a_client_that_leaves_has_its_batch_read_for_nothing() -> None:
    desk = Desk(tokens_per_day=1)
    exchange = desk.begin(ONE)
    exchange.finish(Outcome.CLIENT_ABORT)

    assert desk.tokens_used == 0
    assert not desk.bench.exchanges.open
