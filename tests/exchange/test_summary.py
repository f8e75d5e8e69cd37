"""An exchange in a few lines: who served it, what came of it, what it took, its last attempts."""

import pytest

from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.log_line import line
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.summary import ATTEMPTS, summary
from exchange_kit import EPOCH, OK, START, STREAM, Bench, Reply, deliver, limited, refusal

pytestmark = pytest.mark.usefixtures("utc")


def told(exchange: Exchange, after: float = 0.0) -> list[str]:
    return list(summary(exchange, exchange.reading, EPOCH + after))


def test_an_answer_tells_who_served_it_and_what_it_took() -> None:
    assert told(Bench("a").serve(OK)) == [
        "account: max-a (most headroom)",
        "client: 127.0.0.1",
        "model: claude-opus-4-8",
        "outcome: ok (200) after 0.0 s",
        "usage: 1,204 in (1,000 new, 204 cache read), 312 out, $0.0129",
        "stopped: end_turn",
        "attempt 1: max-a, ok, 0.0 s",
    ]


@pytest.mark.parametrize(
    ("agent", "stands_in"),
    [("", "in place of claude-opus-5-5"), ("reviewer", "for reviewer in place of claude-opus-5-5")],
)
def test_a_model_that_stands_in_is_told_with_the_agent_if_there_is_one(agent: str, stands_in: str) -> None:
    exchange = Bench("a").begin()
    if agent:
        exchange.belongs_to_agent(agent)
    exchange.replaced_model("claude-opus-5-5")

    assert f"model: claude-opus-4-8 ({stands_in})" in told(exchange)
    assert stands_in.replace("claude-", "") in line(exchange)


def test_attempts_tell_why_they_were_not_the_last() -> None:
    found = told(Bench("ab").serve(limited(22_800), OK))
    assert found[-2:] == [
        "attempt 1: max-a, 5h window spent until 14:20, 0.0 s",
        "attempt 2: max-b, ok, 0.0 s",
    ]


def test_only_the_last_attempts_are_told() -> None:
    found = told(Bench("abcde").serve(*[limited()] * 4, OK))
    assert next(line for line in found if line.startswith("attempt")) == "attempts: 2 more before these"
    assert sum(line.startswith("attempt ") for line in found) == ATTEMPTS


def test_a_wait_for_an_account_is_told() -> None:
    found = told(Bench("a", hold_seconds=30).serve(limited(19), OK))
    assert "outcome: ok (200) after 19.0 s, with a wait of 19.0 s for an account" in found
    assert found[-1] == "attempt 2: max-a, ok, 0.0 s, after a wait of 19.0 s for an account"


def test_an_open_exchange_says_how_far_it_is() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    assert told(exchange, 1.5)[0] == "account: no account"
    exchange.next_step()
    assert told(exchange, 1.5)[0] == "account: max-a (most headroom)"
    assert "outcome: no answer yet, after 1.5 s" in told(exchange, 1.5)

    deliver(exchange, Reply(200, STREAM, START), lambda _: None)

    assert "outcome: 200, and it still comes, after 3.0 s" in told(exchange, 3.0)


def test_a_failure_says_what_it_was() -> None:
    failed = told(Bench("a").serve(refusal(404, "not_found_error")))
    assert "outcome: upstream error (404) after 0.0 s: not_found_error" in failed
    bench = Bench("a")
    left = bench.begin()
    left.finish(Outcome.CLIENT_ABORT, "the client left")
    assert "outcome: client abort after 0.0 s: the client left" in told(left)
