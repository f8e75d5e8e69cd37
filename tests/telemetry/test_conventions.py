"""What an exchange is called in OpenTelemetry, by the table: real exchanges of a scripted upstream, no SDK."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.exchange.steps import Outcome
from ccflare_core.telemetry import conventions
from ccflare_core.telemetry.conventions import Attributes, measured, of_attempt, of_exchange, span_name
from ccflare_core.telemetry.finished import Finished
from exchange_kit import ASKED, EPOCH, GONE, OPUS, START, STREAM, Bench, Reply, cut, deliver
from telemetry_kit import UPSTREAM, finished, moved


def of_ours(attributes: Attributes) -> set[str]:
    return {name for name in attributes if name.startswith("ccflare.")}


def test_tokens_and_cost_are_on_the_attempt_that_was_answered_alone() -> None:
    told = moved()

    left, served = (of_attempt(told, attempt, UPSTREAM) for attempt in told.attempts)

    usage = {"gen_ai.usage.input_tokens": 25, "gen_ai.usage.output_tokens": 15}
    assert served.items() >= {**usage, "ccflare.cost_usd": told.row.cost_usd, "ccflare.verdict": "ok"}.items()
    assert (served["server.address"], served["server.port"]) == ("api.anthropic.com", 443)
    assert served["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert "error.type" not in served
    assert (
        left.items() >= {"error.type": "window_spent", "http.response.status_code": 429, "ccflare.attempt": 1}.items()
    )
    assert not [name for each in (left, of_exchange(told)) for name in each if "usage" in name or "cost" in name]


def test_span_of_an_exchange_says_who_served_it_and_why() -> None:
    told = of_exchange(moved())

    assert (
        told.items()
        >= {
            "http.request.method": "POST",
            "url.path": "/v1/messages",
            "http.response.status_code": 200,
            "ccflare.outcome": "ok",
            "ccflare.account": "max-b",
            "ccflare.attempts": 2,
            "ccflare.failovers": 1,
            "gen_ai.conversation.id": "session-1",
            "session.id": "session-1",
        }.items()
    )
    assert "gen_ai.request.model" not in told  # or a receiver would count the model's answer twice


def test_names_of_the_conventions_are_those_of_one_version() -> None:
    asked = {"operation.name", "provider.name", "request.model", "request.stream", "conversation.id"}
    answered = {"response.id", "response.model", "response.finish_reasons", "response.time_to_first_chunk"}
    kinds = {"input_tokens", "output_tokens", "cache_read.input_tokens", "cache_write.input_tokens"}
    usage = {f"usage.{kind}" for kind in {*kinds, "reasoning.output_tokens"}}
    tables = (conventions.EXCHANGE, conventions.ASKED, conventions.ANSWERED, conventions.ATTEMPT)
    names = {name for table in tables for name in table}

    assert conventions.SCHEMA == "semantic-conventions-genai v0.1.0"
    assert {name for name in names if name.startswith("gen_ai.")} == {
        f"gen_ai.{each}" for each in asked | answered | usage
    }
    assert all(re.fullmatch(r"[a-z][a-z0-9_.]*", name) for name in names)


def test_metrics_are_those_of_the_same_version_and_two_of_ours() -> None:
    inference = "gen_ai.client.inference."
    counted = {"input_tokens", "output_tokens", "cache_read.input_tokens", "cache_write.input_tokens"}
    usage = {f"{inference}usage.{kind}" for kind in {*counted, "reasoning.output_tokens"}}
    spread = {f"{inference}{kind}" for kind in ("duration", "time_to_first_chunk")}
    spread |= {f"{inference}operation.{kind}" for kind in ("input_tokens", "output_tokens")}

    assert {metric.name for metric in conventions.METRICS if not metric.bounds} == {
        *usage,
        "ccflare.cost",
        "ccflare.failovers",
    }
    assert {metric.name for metric in conventions.METRICS if metric.bounds} == spread


def test_metrics_of_a_request_that_moved() -> None:
    told = moved()

    found = {metric.name.removeprefix("gen_ai.client.inference."): value for metric, value in measured(told)}

    assert found == {
        "duration": 1.75,
        "time_to_first_chunk": pytest.approx(1.25),  # from the second attempt on
        "operation.input_tokens": 25,
        "operation.output_tokens": 15,
        "usage.input_tokens": 25,
        "usage.output_tokens": 15,
        "ccflare.cost": told.row.cost_usd,
        "ccflare.failovers": 1,
    }
    assert conventions.labels(told) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-opus-4-8",
        "ccflare.account": "max-b",
    }


def test_model_that_no_price_knows_makes_no_series_of_its_own() -> None:
    told = finished(Bench("a").serve(*[GONE] * 9, facts=replace(OPUS, model="claude-made-up-7")))

    assert told.asked_model == "claude-made-up-7"
    assert conventions.labels(told)["gen_ai.request.model"] == "other"


def test_times_of_attempts_are_their_own_and_the_last_ends_with_the_exchange() -> None:
    told = moved()

    assert [(a.started_at - EPOCH, told.end_of(a) - EPOCH) for a in told.attempts] == [(0.0, 0.5), (0.5, 1.75)]
    assert told.ended_at - EPOCH == 1.75


def test_answer_that_broke_off_is_an_error_of_its_attempt() -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    exchange.judge(200, STREAM, None)
    deliver(exchange, Reply(200, STREAM, START), cut(Outcome.TRUNCATED, "it broke off"))
    told = finished(exchange)

    assert of_attempt(told, told.attempts[-1], UPSTREAM)["error.type"] == "truncated"
    assert of_exchange(told)["error.type"] == "truncated"
    assert "it broke off" not in str(of_exchange(told))  # its words may be the upstream's


def opened(**changes: Any) -> Finished:
    """An exchange that came to nothing, of a request like this."""
    exchange = Bench("a").exchanges.begin(replace(ASKED, **changes))
    exchange.refuse(403, "no")
    return finished(exchange)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/messages", "POST /v1/messages"),
        ("DELETE", "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w", "DELETE /v1/files/…"),
        ("BREW", "/v1/messages", "_OTHER /v1/messages"),
    ],
)
def test_names_of_spans_have_no_ids(method: str, path: str, name: str) -> None:
    assert opened(method=method, path=path).name == name


def test_span_of_an_attempt_is_called_by_operation_and_model() -> None:
    assert span_name(moved()) == "chat claude-opus-4-8"
    assert span_name(opened(path="/v1/complete")) == "text_completion"
    assert span_name(opened(method="GET", path="/v1/models")) == "GET /v1/models"


def test_other_requests_are_not_told_as_a_model_s() -> None:
    told = opened(method="GET", path="/v1/models")

    assert not [name for name in of_exchange(told) if name.startswith("gen_ai.")]
    assert list(measured(told)) == []


def test_secrets_in_a_row_are_blanked_whatever_they_are_in() -> None:
    """A client chooses its session's id and its project, for example, and the upstream its own ids."""
    secret, seen = "sk-ant-api03-" + "x" * 95, moved()
    row = seen.row._replace(
        session_id=secret, project=secret, upstream_request_id=secret, message_id=secret, stop_reason=secret
    )
    told = replace(seen, row=row)

    assert secret not in str([of_exchange(told), *(of_attempt(told, each, UPSTREAM) for each in told.attempts)])


def test_secrets_in_a_path_and_a_user_agent_are_blanked() -> None:
    secret = "sk-ant-api03-" + "x" * 95

    told = str(of_exchange(opened(path=f"/v1/{secret}", user_agent=f"curl {secret}")))

    assert secret not in told


def test_who_asks_is_told_by_the_name_of_the_client_key_and_not_by_an_address() -> None:
    told = of_exchange(opened(client="203.0.113.9", user_agent="claude-cli/2.1"))

    assert "203.0.113.9" not in str(told)
    assert told["user_agent.original"] == "claude-cli/2.1"
    assert of_ours(told) <= set(conventions.EXCHANGE)


def test_readme_has_all_names_of_ours() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = readme.partition("## OpenTelemetry")[2].partition("\n## ")[0]
    names = {*conventions.EXCHANGE, *conventions.ATTEMPT, *conventions.ANSWERED, *(m.name for m in conventions.METRICS)}
    ours = {name for name in names if name.startswith("ccflare.")}

    assert {name for name in ours if f"`{name}`" not in section and f"`{name[8:]}`" not in section} == set()
