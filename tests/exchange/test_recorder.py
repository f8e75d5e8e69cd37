"""An exchange's rows: what is put down in which mode, in which order, with which columns."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.accounts.cooldowns import WHOLE
from ccflare_core.anthropic.usage import Usage
from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.config.record_mode import Mode
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.final_row import final_columns, recorded_tags, total_of
from ccflare_core.exchange.log_line import line
from ccflare_core.exchange.recorder import Recorder
from ccflare_core.exchange.records import (
    AttemptMade,
    CooldownCleared,
    CooldownSet,
    ExchangeFinished,
    ExchangeStarted,
    PartUsed,
    Payload,
    Record,
    RequestTagged,
    WindowRead,
)
from ccflare_core.exchange.steps import Outcome
from exchange_kit import ASKED, END, EPOCH, OK, OPUS, START, STREAM, Bench, Reply, deliver, judged, limited, refusal

BODY = b'{"model":"claude-opus-4-8"}'
EPOCH_MS = int(EPOCH) * 1000
ONE = Reply(200, (*STREAM, (b"anthropic-ratelimit-unified-5h-utilization", b"0.4")), START + END)


class Rows(list[Record]):
    """A sink."""

    def put(self, record: Record) -> None:
        self.append(record)

    def of[R](self, kind: type[R]) -> list[R]:
        return [record for record in self if isinstance(record, kind)]


class Desk(Bench):
    """A bench whose recorder is the real one, with a list behind it."""

    def __init__(self, ids: str = "ab", *, mode: str = "full", body_limit: int = 1000, **options: Any) -> None:
        self.rows = Rows()
        self.mode = mode
        names = {id: f"max-{id}" for id in ids}
        recorder = Recorder(
            self.rows,
            run_id="run-1",
            mode=lambda opening: Mode(self.mode),
            body_limit=lambda: body_limit,
            wall=lambda: self.clock.wall,
            account_name=lambda id: names.get(id, id),
        )
        super().__init__(ids, recorder=recorder, **options)


def kinds(rows: Rows) -> list[str]:
    return [type(record).__name__ for record in rows]


def final_row(exchange: Exchange) -> dict[str, Any]:
    return final_columns(exchange)._asdict()


# --- which rows -------------------------------------------------------------------------------------------------------


def test_the_rows_of_an_exchange_in_their_order() -> None:
    desk = Desk("a")

    desk.serve(ONE)

    assert kinds(desk.rows) == [
        "ExchangeStarted",
        "AttemptMade",
        "WindowRead",
        "SessionServed",
        "Payload",
        "Payload",
        "ExchangeFinished",
    ]


def test_metadata_only_keeps_no_bodies() -> None:
    desk = Desk("a", mode="metadata")

    desk.serve(OK)

    assert kinds(desk.rows) == ["ExchangeStarted", "AttemptMade", "SessionServed", "ExchangeFinished"]


def test_off_keeps_nothing_but_what_the_pool_learned() -> None:
    desk = Desk("ab", mode="off")

    desk.serve(limited())

    assert kinds(desk.rows) == ["WindowRead", "CooldownSet", "SessionServed"]


def test_tags_come_right_after_the_row_that_they_are_of_without_secrets() -> None:
    desk = Desk()
    tags = {"ticket": "12", "key": "sk-ant-api03-" + "x" * 95}

    exchange = desk.exchanges.begin(replace(ASKED, tags=tags))

    _, ticket, key = desk.rows
    assert ticket == RequestTagged(exchange.id, EPOCH_MS, "ticket", "12")
    assert isinstance(key, RequestTagged)
    assert "sk-ant-api03-x" not in key.value
    assert recorded_tags(exchange) == {"ticket": "12", "key": key.value}


def test_tags_of_what_is_not_recorded_are_not_either() -> None:
    desk = Desk(mode="off")
    desk.exchanges.begin(replace(ASKED, tags={"ticket": "12"}))
    assert desk.rows == []


def test_the_first_row() -> None:
    desk = Desk()

    exchange = desk.exchanges.begin(ASKED)

    (row,) = desk.rows.of(ExchangeStarted)
    assert row[:5] == (exchange.id, EPOCH_MS, "POST", "/v1/messages", "127.0.0.1")
    assert row[5:] == ("claude-cli/2.1", None, "base-url", "run-1", None, None, None)


def test_every_attempt_has_its_row() -> None:
    desk = Desk()
    exchange = desk.begin()
    exchange.next_step()
    desk.clock.pass_(0.25)
    judged(exchange, limited(3600))
    desk.clock.pass_(0.5)

    judged(exchange, OK)

    first, second = desk.rows.of(AttemptMade)
    assert first[:7] == (exchange.id, 1, "a", "max-a", 429, Kind.WINDOW_SPENT, "5h window spent")
    assert first.windows[0][:2] == ("5h", "rejected")
    assert (first.started_at_ms, first.duration_ms) == (EPOCH_MS, 250)
    assert second[:7] == (exchange.id, 2, "b", "max-b", 200, Kind.OK, "ok")
    assert (second.started_at_ms, second.duration_ms) == (EPOCH_MS + 250, 500)


def test_an_attempt_without_an_answer_has_no_status() -> None:
    desk = Desk("a", retry_attempts=0)

    desk.serve(Reply(0))

    assert [row.status_code for row in desk.rows.of(AttemptMade)] == [None]


# --- what the pool learned --------------------------------------------------------------------------------------------


def test_a_cooldown_is_kept_and_warned_of_by_the_accounts_name(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    desk.serve(limited(3600))

    (row,) = desk.rows.of(CooldownSet)
    assert (row.cooldown.account_id, row.cooldown.until) == ("a", EPOCH + 3600)
    assert [record.message for record in caplog.records if record.message.startswith("max-a: cooling until ")]


def test_a_cooldown_that_ended_is_kept_too() -> None:
    desk = Desk("a")
    older = desk.begin()
    older.next_step()
    judged(older, limited(5))
    desk.clock.pass_(5.1)

    desk.serve(OK)

    assert desk.rows.of(CooldownCleared) == [CooldownCleared("a", WHOLE)]


def test_a_window_is_kept_with_the_moment_it_was_read() -> None:
    desk = Desk("a")

    desk.serve(ONE)

    (row,) = desk.rows.of(WindowRead)
    assert (row.account_id, row.at_ms, row.window.name, row.window.utilization) == ("a", EPOCH_MS, "5h", 0.4)


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_both_bodies_are_kept_as_they_were_on_the_wire() -> None:
    desk = Desk("a")

    exchange = desk.serve(ONE)

    assert desk.rows.of(Payload) == [
        Payload(exchange.id, "request", "application/json", "", BODY, len(BODY), False, "session-1"),
        Payload(
            exchange.id, "response", "text/event-stream", "identity", START + END, len(START + END), truncated=False
        ),
    ]


def test_a_long_body_is_cut_and_says_so() -> None:
    desk = Desk("a", body_limit=5, capture_limit_bytes=7)

    desk.serve(OK)

    sent, came = desk.rows.of(Payload)
    assert (sent.body, sent.size, sent.truncated) == (BODY[:5], len(BODY), True)
    assert (came.body, came.size, came.truncated) == (OK.body[:7], len(OK.body), True)


def test_a_body_as_long_as_the_limit_is_kept_whole() -> None:
    desk = Desk("a", body_limit=len(BODY), capture_limit_bytes=len(OK.body))

    desk.serve(OK)

    assert [(row.size - len(row.body), row.truncated) for row in desk.rows.of(Payload)] == [(0, False)] * 2


def test_empty_bodies_are_no_rows() -> None:
    desk = Desk("a")
    exchange = desk.begin(body=b"")
    exchange.next_step()
    judged(exchange, Reply(204, body=b""))

    deliver(exchange, Reply(204, body=b""))

    assert desk.rows.of(Payload) == []


def test_what_only_passes_keeps_no_bodies() -> None:
    desk = Desk()
    exchange = desk.exchanges.begin(ASKED)
    exchange.let_pass()

    deliver(exchange, OK)

    assert kinds(desk.rows) == ["ExchangeStarted", "ExchangeFinished"]


# --- the final row ----------------------------------------------------------------------------------------------------


def test_the_columns_of_a_good_answer() -> None:
    desk = Desk()

    exchange = desk.serve(limited(), OK)

    assert desk.rows[-1] == final_columns(exchange)
    assert {name: value for name, value in final_row(exchange).items() if value is not None} == {
        "id": exchange.id,
        "outcome": "ok",
        "success": True,
        "status_code": 200,
        "account_used": "b",
        "account_name": "max-b",
        "response_time_ms": 0,
        "first_byte_ms": 0,
        "failover_attempts": 1,
        "attempts": 2,
        "model": "claude-opus-4-8",
        "session_id": "session-1",
        "stream": False,
        "choice_reason": "most headroom",
        "upstream_request_id": "req_upstream",
        "prompt_tokens": 1204,
        "completion_tokens": 312,
        "total_tokens": 1516,
        "input_tokens": 1000,
        "output_tokens": 312,
        "cache_read_input_tokens": 204,
        "cost_usd": 0.012902,
        "request_bytes": len(BODY),
        "response_bytes": len(OK.body),
        "stop_reason": "end_turn",
    }


def test_a_refusal_has_no_account_and_no_tokens() -> None:
    desk = Desk("", passthrough="never")

    row = final_row(desk.serve())

    assert (row["outcome"], row["success"], row["status_code"]) == ("refused", False, 503)
    assert (row["account_used"], row["account_name"], row["prompt_tokens"], row["cost_usd"]) == (None,) * 4
    assert row["error_message"] == "No account can serve this request (no account is configured)."


def test_without_an_answer_the_request_tells_whether_it_was_to_stream() -> None:
    desk = Desk()
    exchange = desk.begin(OPUS)

    exchange.finish(Outcome.CLIENT_ABORT)

    row = final_row(exchange)
    assert (row["stream"], row["status_code"], row["first_byte_ms"], row["model"]) == (True, None, None, OPUS.model)


@pytest.mark.parametrize(("reply", "stream"), [(ONE, True), (OK, False), (refusal(400), False)])
def test_the_answer_tells_whether_it_streamed(reply: Reply, stream: bool) -> None:
    assert final_row(Desk("a").serve(reply))["stream"] is stream


def test_an_exchange_without_an_outcome_counts_as_crashed() -> None:
    row = final_row(Desk().begin())

    assert (row["outcome"], row["success"]) == (Outcome.CRASHED, False)


def test_every_count_of_the_usage_has_its_column() -> None:
    assert set(Usage.__slots__) <= set(ExchangeFinished._fields)


def test_totals_are_of_what_is_known() -> None:
    assert (total_of(None, None), total_of(None, 0), total_of(1, None, 2)) == (None, 0, 3)


ITERATION = {"input_tokens": 50_000, "output_tokens": 1500}
ADVISED = json.dumps(
    {
        "type": "message",
        "id": "msg_1",
        "model": "claude-opus-5-5",
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "bio"},
        "input_transformations": [{"type": "thinking_dropped"}],
        "usage": {
            "input_tokens": 1000,
            "output_tokens": 260,
            "speed": "standard",
            "inference_geo": "global",
            "server_tool_use": {"web_fetch_requests": 2},
            "iterations": [
                {"type": "message", "input_tokens": 1000, "output_tokens": 260},
                {"type": "advisor_message", "model": "claude-fable-5-2", **ITERATION},
                {"type": "advisor_message", "model": "claude-fable-5-2", **ITERATION},
                {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500},
            ],
        },
    }
).encode()


def test_what_other_models_did_has_rows_of_its_own_and_is_in_the_cost() -> None:
    desk = Desk("a")

    exchange = desk.serve(Reply(body=ADVISED))

    # 1,000 x 4 + 260 x 20; an advisor 50,000 x 8 + 1,500 x 40; compaction 180,000 x 4 + 3,500 x 20
    row = final_row(exchange)
    assert row["cost_usd"] == pytest.approx(0.0092 + 2 * 0.46 + 0.79)
    assert (row["input_tokens"], row["total_tokens"]) == (1000, 1260 + 2 * 51_500 + 183_500)
    parts = [each for each in desk.rows if isinstance(each, PartUsed)]
    assert [(p.number, p.kind, p.model, p.calls, p.input_tokens, p.output_tokens, p.cost_usd) for p in parts] == [
        (1, "advisor_message", "claude-fable-5-2", 2, 100_000, 3000, 0.92),
        (2, "compaction", "claude-opus-5-5", 1, 180_000, 3500, 0.79),
    ]


def test_what_the_answer_says_of_itself_has_its_columns() -> None:
    row = final_row(Desk("a").serve(Reply(body=ADVISED)))

    told = ("message_id", "stop_reason", "refusal", "input_transformations", "speed", "inference_geo")
    assert [row[name] for name in told] == ["msg_1", "refusal", "bio", "thinking_dropped 1", "standard", "global"]
    assert (row["web_fetch_requests"], row["estimated"]) == (2, None)


def test_an_estimate_says_so() -> None:
    row = final_row(Desk("a").serve(Reply(200, STREAM, START)))

    assert (row["output_tokens"], row["estimated"]) == (0, True)


def test_what_stands_in_clear_holds_no_token_of_a_vendors_form() -> None:
    """A client can put one anywhere: into a path, its name, its betas, a model's name."""
    token = f"ghp_{'Ab3' * 12}"
    asked = replace(ASKED, path=f"/v1/files/{token}", user_agent=f"tool/1 ({token})", betas=f"a,{token}")
    desk = Desk("a", mode="metadata")
    exchange = desk.exchanges.begin(asked)
    exchange.admit(replace(OPUS, model=token), b"{}", "")
    exchange.finish(Outcome.CLIENT_ABORT, f"it said {token}")

    assert "/v1/files/[redacted:github-token]" in line(exchange)
    assert len(desk.rows) == 2
    assert token not in f"{desk.rows} {line(exchange)}"
