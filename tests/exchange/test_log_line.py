"""The story of an exchange, word for word, in the log."""

import logging
from dataclasses import replace
from decimal import Decimal

import pytest

from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.anthropic.request import Facts
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.log_line import (
    KINDS,
    PassedRequests,
    line,
    log_exchange,
    money,
    path_class_of,
    warn_of_cooldown,
)
from ccflare_core.exchange.steps import Outcome
from ccflare_core.http.headers import Header
from database_kit import a_part
from exchange_kit import (
    ASKED,
    END,
    EPOCH,
    JSON,
    OK,
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

ENCODED: tuple[Header, ...] = ((b"content-type", b"application/octet-stream"),)

pytestmark = pytest.mark.usefixtures("utc")


def test_a_good_answer() -> None:
    exchange = Bench("a").serve(OK)

    assert line(exchange) == "POST /v1/messages 200 ok · max-a · opus-4-8 · 1,204 in / 312 out · $0.0129 · 0 ms"


def test_an_answer_that_was_moved() -> None:
    bench = Bench("abc")

    exchange = bench.serve(limited(22_800), refusal(401, "authentication_error"))

    assert line(exchange) == (
        "POST /v1/messages 200 ok · max-c · opus-4-8 · 1,204 in / 312 out · $0.0129 · "
        "moved from max-a (5h window spent until 14:20), moved from max-b (credential rejected) · 0 ms"
    )


def test_an_account_that_was_only_asked_twice_was_not_moved_from() -> None:
    assert "moved" not in line(Bench("a").serve(refusal(500), OK))


def test_an_unknown_price_is_a_question_mark_and_never_nothing() -> None:
    exchange = Bench("a").serve(Reply(body=OK.body.replace(b"claude-opus-4-8", b"other")), facts=Facts("other"))

    assert line(exchange) == "POST /v1/messages 200 ok · max-a · other · 1,204 in / 312 out · $? · 0 ms"


def test_a_failure_says_of_which_type_it_is() -> None:
    exchange = Bench("a").serve(refusal(404, "not_found_error"))

    assert line(exchange) == ("POST /v1/messages 404 upstream error · max-a · opus-4-8 · 0 ms · not_found_error")


def test_a_wait_for_an_account_is_told() -> None:
    bench = Bench("a", hold_seconds=30)

    exchange = bench.serve(limited(19), OK)

    assert "a wait of 19.0 s for an account" in line(exchange)
    assert (round(exchange.waited), [round(attempt.waited) for attempt in exchange.attempts]) == (19, [0, 19])


def test_a_failure_without_words_is_named() -> None:
    exchange = Bench("a").serve(Reply(404, JSON, b""))

    assert line(exchange) == "POST /v1/messages 404 upstream error · max-a · opus-4-8 · 0 ms"


def test_a_cut_answer_tells_what_it_had_used() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    bench.clock.pass_(1.2346)

    deliver(exchange, Reply(200, STREAM, START), cut(Outcome.CLIENT_ABORT, "the client left"))

    assert line(exchange) == (
        "POST /v1/messages 200 client abort · max-a · opus-4-8 · 25 in / ~0 out · ~$0.0001 · 1,235 ms · the client left"
    )


def test_a_request_that_never_had_an_account() -> None:
    bench = Bench("a", hold_seconds=0)
    bench.pool.replace_accounts([account("a", paused=True)])

    exchange = bench.serve()

    told = "No account can serve this request (max-a: paused)."
    assert line(exchange) == f"POST /v1/messages 503 refused · no account · opus-4-8 · 0 ms · {told}"


def test_a_request_that_passed() -> None:
    exchange = Bench("").serve(Reply(200, STREAM, START + END))

    told = "client's own credential · opus-4-8 · 25 in / 15 out · $0.0005"
    assert line(exchange) == f"POST /v1/messages 200 ok · {told} · 0 ms"


def test_a_request_of_which_nothing_is_known_yet() -> None:
    exchange = Bench().exchanges.begin(ASKED)

    assert line(exchange) == "POST /v1/messages - open · no account · 0 ms"


def test_an_answer_that_tells_no_tokens() -> None:
    exchange = Bench("a").serve(Reply(200, ENCODED, b"file"), facts=Facts())

    assert line(exchange) == "POST /v1/messages 200 ok · max-a · 0 ms"


@pytest.mark.parametrize(
    ("cost", "text"),
    [(None, "$?"), (Decimal("0"), "$0.0000"), (Decimal("0.01234"), "$0.0123"), (Decimal("1234.5"), "$1,234.5000")],
)
def test_money(cost: Decimal | None, text: str) -> None:
    assert money(cost) == text


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("", "max-1: cooling until 14:20: 5h window spent"),
        ("opus", "max-1: cooling for opus until 14:20: 5h window spent"),
    ],
)
def test_a_cooldown_is_warned_of(caplog: pytest.LogCaptureFixture, family: str, text: str) -> None:
    warn_of_cooldown(
        "max-1",
        Cooldown("a", a_part(family), EPOCH + 22_800, "5h window spent", "window_spent", 1),
        EPOCH,
    )

    assert caplog.record_tuples == [("ccflare", logging.WARNING, text)]


@pytest.mark.parametrize(
    ("reply", "level"), [(OK, logging.INFO), (refusal(400), logging.WARNING), (Reply(0), logging.WARNING)]
)
def test_what_went_wrong_is_louder(caplog: pytest.LogCaptureFixture, reply: Reply, level: int) -> None:
    exchange = Bench("a", retry_attempts=0).serve(reply)

    log_exchange(exchange, PassedRequests(lambda: EPOCH))

    assert caplog.record_tuples == [("ccflare", level, line(exchange))]


@pytest.mark.parametrize(
    ("outcome", "level"), [(Outcome.CLIENT_ABORT, logging.INFO), (Outcome.SHUTDOWN, logging.WARNING)]
)
def test_a_client_that_left_is_nobodys_mistake(caplog: pytest.LogCaptureFixture, outcome: Outcome, level: int) -> None:
    exchange = Bench("a").begin()
    exchange.finish(outcome)

    log_exchange(exchange, PassedRequests(lambda: EPOCH))

    assert [record.levelno for record in caplog.records] == [level]


def passed(bench: Bench, path: str, client: str = "127.0.0.1", key: ClientKey | None = None) -> Exchange:
    """A finished exchange that went out with the client's own credential."""
    exchange = bench.exchanges.begin(replace(ASKED, method="GET", path=path, client=client, key=key))
    exchange.let_pass()
    deliver(exchange, OK)
    return exchange


def test_a_passed_request_is_told_once_a_path_class_client_and_hour(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    requests = PassedRequests(lambda: bench.clock.wall)
    caplog.set_level(logging.DEBUG, "ccflare")
    key = ClientKey("k1", "laptop")

    for path, client, by in (
        ("/api/oauth/profile", "127.0.0.1", None),
        ("/api/oauth/usage", "127.0.0.1", None),
        ("/api/event_logging/v2/batch", "127.0.0.1", None),
        ("/api/oauth/usage", "10.0.0.2", None),
        ("/api/oauth/usage", "127.0.0.1", key),
        ("/api/oauth/usage", "10.0.0.2", key),
    ):
        log_exchange(passed(bench, path, client, by), requests)
    bench.clock.pass_(3599)
    log_exchange(passed(bench, "/api/oauth/usage"), requests)
    bench.clock.pass_(1)
    log_exchange(passed(bench, "/api/oauth/usage"), requests)

    told = [record.message.partition(" · 0 ms")[2] for record in caplog.records if record.levelno == logging.INFO]
    assert told == [
        " · first request of /api/oauth/… from 127.0.0.1 this hour",
        " · first request of /api/event_logging/… from 127.0.0.1 this hour",
        " · first request of /api/oauth/… from 10.0.0.2 this hour",
        " · first request of /api/oauth/… from laptop this hour",
        " · first request of /api/oauth/… from 127.0.0.1 this hour",
    ]
    assert [record.message for record in caplog.records if record.levelno == logging.DEBUG] == [
        "GET /api/oauth/usage 200 ok · client's own credential · 0 ms",
        "GET /api/oauth/usage 200 ok · for laptop · client's own credential · 0 ms",
        "GET /api/oauth/usage 200 ok · client's own credential · 0 ms",
    ]


def test_passed_requests_of_ever_new_kinds_do_not_fill_the_log() -> None:
    requests = PassedRequests(lambda: EPOCH)

    firsts = [requests.is_first(f"/{number}", "127.0.0.1") for number in range(KINDS + 5)]

    assert firsts == [True] * KINDS + [False] * 5


@pytest.mark.parametrize(
    ("path", "path_class"),
    [
        ("/", "/"),
        ("", ""),
        ("/v1/sessions", "/v1/sessions"),
        ("/v1/sessions/sesn_1/events", "/v1/sessions/…"),
        ("/api/oauth/profile", "/api/oauth/…"),
    ],
)
def test_path_class_has_no_id(path: str, path_class: str) -> None:
    assert path_class_of(path) == path_class


def test_the_first_failure_of_a_kind_that_passed_is_told_too() -> None:
    requests = PassedRequests(lambda: 0.0)

    told = [requests.is_first("/api/oauth/…", "127.0.0.1", failed=failed) for failed in (False, True, True, False)]

    assert told == [True, True, False, False]
