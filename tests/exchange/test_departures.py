from dataclasses import replace

import pytest

from ccflare_core.anthropic.request import Facts
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.departures import AGAIN_SECONDS, SILENT_SECONDS, Departure, Departures, SameRequest
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Opening, Outcome, Send
from exchange_kit import ASKED, END, OK, OPUS, START, STREAM, Bench, Reply, account, deliver, limited, names

BODY = b'{"model":"claude-opus-4-8"}'
GONE_AT = Departure("req_1", "a", 100.0, 2.0, is_blamed=False)


def left(opening: Opening = ASKED, facts: Facts = OPUS, body: bytes = BODY) -> Departures:
    departures = Departures()
    departures.note(SameRequest.of(opening, facts, body), GONE_AT)
    return departures


def test_departure_is_told_of_once() -> None:
    departures = left()

    assert departures.take(ASKED, OPUS, BODY, 104.9) == GONE_AT
    assert departures.take(ASKED, OPUS, BODY, 104.9) is None


@pytest.mark.parametrize(
    ("opening", "facts", "body", "now"),
    [
        (ASKED, OPUS, BODY + b" ", 101.0),
        (ASKED, replace(OPUS, session_id="another"), BODY, 101.0),
        (replace(ASKED, query="beta=true"), OPUS, BODY, 101.0),
        (replace(ASKED, path="/v1/messages/count_tokens"), OPUS, BODY, 101.0),
        (replace(ASKED, key=ClientKey("k", "laptop")), OPUS, BODY, 101.0),
        (ASKED, OPUS, BODY, 100.1 + AGAIN_SECONDS),
    ],
    ids=["body", "session", "query", "path", "client key", "time"],
)
def test_other_request_is_no_repeat(opening: Opening, facts: Facts, body: bytes, now: float) -> None:
    assert left().take(opening, facts, body, now) is None


def test_departures_are_bounded() -> None:
    departures = Departures()
    sessions = [replace(OPUS, session_id=f"session-{n}") for n in range(300)]
    for facts in sessions:
        departures.note(SameRequest.of(ASKED, facts, BODY), GONE_AT)

    found = [departures.take(ASKED, facts, BODY, 101.0) for facts in sessions]

    assert found == [None] * 44 + [GONE_AT] * 256


# --- what an exchange makes of it -------------------------------------------------------------------------------------


def leave(bench: Bench, seconds: float = 2.0, *, streamed: bytes = b"") -> Exchange:
    """An exchange on max-a that ends as its client leaves, so long after the last byte."""
    exchange = bench.begin()
    assert isinstance(exchange.next_step(), Send)
    if streamed:
        exchange.judge(200, STREAM, None)
        exchange.delivering(200, STREAM)
        exchange.capture.add(streamed)
    bench.clock.pass_(seconds)
    exchange.finish(Outcome.CLIENT_ABORT, "the client left")
    return exchange


@pytest.mark.parametrize(
    ("streamed", "silence"), [(b"", 0.0), (b"", 2.0), (START, SILENT_SECONDS), (START, 20.0)], ids=str
)
def test_repeat_within_five_seconds_tells_that_the_upstream_was_silent(streamed: bytes, silence: float) -> None:
    bench = Bench()
    first = leave(bench, silence, streamed=streamed)
    bench.clock.pass_(4.9)

    again = bench.serve()

    why = f"the upstream sent nothing for {silence:.1f} s, and the client asked again"
    assert first.outcome is Outcome.CLIENT_ABORT
    assert bench.notes.corrections == [(first.id, Outcome.UPSTREAM_ERROR, why)]
    assert names(again) == ["max-b"]
    assert repr(bench.pool) == "<AccountPool max-a: serving; max-b: serving>"


def test_repeat_avoids_the_silent_account_once() -> None:
    bench = Bench()
    leave(bench)

    assert names(bench.serve(limited())) == ["max-b", "max-a"]
    leave(bench)
    assert names(bench.serve()) == ["max-a"]  # nobody else is free


@pytest.mark.parametrize(
    ("streamed", "silence", "later"),
    [(START + END, 20.0, 1.0), (START, 0.1, 1.0), (b"", 2.0, 5.1)],
    ids=["it had all", "the stream flowed", "too late"],
)
def test_client_that_had_its_answer_or_lost_interest_has_left(streamed: bytes, silence: float, later: float) -> None:
    bench = Bench()
    leave(bench, silence, streamed=streamed)
    bench.clock.pass_(later)

    assert names(bench.serve()) == ["max-a"]
    assert bench.notes.corrections == []


def test_repeat_after_a_clients_limit_or_our_own_goes_elsewhere_and_corrects_nothing() -> None:
    bench = Bench()
    assert leave(bench, 182).outcome is Outcome.UPSTREAM_ERROR
    assert names(bench.serve()) == ["max-b"]

    bench = Bench()
    exchange = bench.begin()
    exchange.next_step()
    bench.clock.pass_(600)
    exchange.too_late("the upstream sent no answer within 600 s", asked=True)
    assert names(bench.serve()) == ["max-b"]

    bench = Bench()
    exchange = bench.begin()
    exchange.next_step()
    exchange.judge(200, STREAM, None)
    deliver(exchange, Reply(200, STREAM, START), lambda exchange: exchange.broke_off("silent for 600 s", late=True))
    bench.clock.pass_(1)
    assert names(bench.serve(OK)) == ["max-a"]  # it was not silent: the clock says so

    assert bench.notes.corrections == []


# --- after an answer that broke off -----------------------------------------------------------------------------------

SONNET = Facts("claude-sonnet-5", "session-1", "127.0.0.1", stream=True)


def broken(bench: Bench, facts: Facts = OPUS) -> Exchange:
    """An exchange whose answer is cut in the middle."""
    exchange = bench.begin(facts)
    assert isinstance(exchange.next_step(), Send)
    exchange.judge(200, STREAM, None)
    deliver(exchange, Reply(200, STREAM, START), lambda exchange: exchange.broke_off("reset by the upstream"))
    return exchange


def test_session_keeps_off_the_account_that_broke_its_answer_until_it_is_served() -> None:
    bench = Bench()
    assert names(broken(bench)) == ["max-a"]
    bench.clock.pass_(600)  # the rest is over, and the user is back

    assert names(bench.serve(Reply(200, STREAM, START + END))) == ["max-b"]
    bench.pool.replace_accounts([account("a"), account("b", priority=51)])
    assert names(bench.serve()) == ["max-a"]


@pytest.mark.parametrize("other", [SONNET, replace(OPUS, session_id="session-2")], ids=["model", "session"])
def test_others_are_not_kept_off_the_account(other: Facts) -> None:
    bench = Bench()
    bench.pool.replace_accounts([account("a"), account("b", priority=51)])
    broken(bench)
    bench.clock.pass_(6)

    assert names(bench.serve(facts=other)) == ["max-a"]
    assert names(bench.serve()) == ["max-b"]


def test_account_is_asked_all_the_same_if_no_other_one_is_free_or_long_after() -> None:
    alone = Bench("a")
    broken(alone)
    alone.clock.pass_(6)
    assert names(alone.serve()) == ["max-a"]

    bench = Bench()
    broken(bench)
    bench.clock.pass_(3601)
    assert names(bench.serve()) == ["max-a"]


def test_broken_sessions_are_bounded() -> None:
    departures = Departures()
    sessions = [replace(OPUS, session_id=f"session-{n}") for n in range(4100)]
    for facts in sessions:
        departures.broke_off(ASKED, facts, "a", 100.0)

    found = [departures.avoided(ASKED, facts, 100.0) for facts in sessions]

    assert found == [None] * 4 + ["a"] * 4096
