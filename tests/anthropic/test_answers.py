"""Our own answers: the shape that Anthropic's clients expect, and what they may and may not hold."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.answers import SECURITY, Answer, Bound, error, exhausted, json_answer
from ccflare_core.text import iso, local_time
from exchange_kit import EPOCH

REASONS = (("max-1", "5h window spent until 14:20", EPOCH + 90.0), ("max-2", "paused", None))
BACK = local_time(EPOCH + 90, EPOCH)


def content(answer: Answer) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(answer.body)
    return parsed


def exhausted_for(wait: float | None) -> Answer:
    return exhausted(REASONS, wait, now=EPOCH, request_id="req_1")


def test_json_says_how_long_it_is_and_is_kept_by_nobody() -> None:
    answer = json_answer(200, {"name": "Zürich"})

    assert answer.body == '{"name": "Zürich"}'.encode()
    assert dict(answer.headers) == {
        b"content-type": b"application/json",
        b"content-length": b"19",
        **dict(SECURITY),
    }
    assert dict(SECURITY)[b"cache-control"] == b"no-store"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (403, "permission_error"), (413, "request_too_large"), (502, "api_error")],
)
def test_an_error_has_anthropics_shape(status: int, kind: str) -> None:
    answer = error(status, "No.", request_id="req_1")

    assert content(answer) == {
        "type": "error",
        "error": {"type": kind, "message": "No."},
        "request_id": "req_1",
    }
    assert (answer.status, answer.reason) == (status, "No.")
    assert dict(answer.headers)[b"request-id"] == b"req_1"
    assert b"retry-after" not in dict(answer.headers)


def test_an_exhausted_pool_names_every_account_and_the_first_recovery() -> None:
    answer = exhausted_for(90.0)

    back = local_time(EPOCH + 90, EPOCH)
    problem = content(answer)["error"]
    assert answer.status == 503
    assert problem["type"] == "api_error"
    assert problem["message"] == answer.reason
    assert answer.reason == (
        "No account can serve this request (max-1: 5h window spent until 14:20; max-2: paused). "
        f"The first one is back at {back}."
    )
    assert problem["next_available_at"] == problem["accounts"][0]["available_at"]
    assert [account["name"] for account in problem["accounts"]] == ["max-1", "max-2"]
    assert problem["accounts"][1] == {"name": "max-2", "reason": "paused", "available_at": None}


def test_an_exhausted_pool_has_no_rate_limit_headers_of_its_own() -> None:
    assert not [name for name, _ in exhausted_for(90.0).headers if b"ratelimit" in name]


def test_without_a_known_recovery_none_is_promised() -> None:
    answer = exhausted_for(None)

    assert answer.reason.endswith("max-2: paused).")
    assert content(answer)["error"]["next_available_at"] is None


@pytest.mark.parametrize(
    ("wait", "end"),
    [
        (90.0, f"It is back at {local_time(EPOCH + 90, EPOCH)}."),
        (None, "It is back when somebody sees to it: `scripts/accounts.py list` says what it lacks."),
    ],
)
def test_one_account_that_alone_could_is_told_with_its_end(wait: float | None, end: str) -> None:
    answer = exhausted(
        REASONS[:1],
        wait,
        now=EPOCH,
        request_id="req_1",
        bound=Bound("This request is about Managed Agents, which live in", "max-1"),
    )

    why = "max-1: 5h window spent until 14:20"
    assert (answer.status, answer.reason) == (
        503,
        "This request is about Managed Agents, which live in account max-1, and that account cannot serve it now "
        f"({why}). {end}",
    )


@pytest.mark.parametrize(
    ("named", "wait", "message", "accounts"),
    [
        (
            {"max-1"},
            90.0,
            f"No account can serve this request (max-1: away). The first one is back at {BACK}.",
            [{"name": "max-1", "reason": "away", "available_at": iso(REASONS[0][2])}],
        ),
        (set(), 90.0, f"No account can serve this request. The first one is back at {BACK}.", []),
        (
            {"max-2"},
            None,
            "No account can serve this request (max-2: out of use). Whoever runs this proxy has to see to it.",
            [{"name": "max-2", "reason": "out of use", "available_at": None}],
        ),
    ],
)
def test_who_may_not_look_at_the_accounts_is_told_the_kind_and_the_time(
    named: set[str], wait: float | None, message: str, accounts: list[object]
) -> None:
    answer = exhausted(REASONS, wait, now=EPOCH, request_id="req_1", may_name=named.__contains__)

    problem = content(answer)["error"]
    assert (problem["message"], problem["accounts"]) == (message, accounts)
    assert answer.reason == exhausted_for(wait).reason  # the record has it all
    assert dict(answer.headers) | {b"content-length": b""} == dict(exhausted_for(wait).headers) | {
        b"content-length": b""
    }


@pytest.mark.parametrize(("named", "who"), [({"max-1"}, "account max-1"), (set(), "one account")])
def test_the_one_account_that_could_is_named_to_whom_it_concerns(named: set[str], who: str) -> None:
    bound = Bound("This request names file_1, which", "max-1", " has made")
    answer = exhausted(REASONS[:1], None, now=EPOCH, request_id="req_1", bound=bound, may_name=named.__contains__)

    away = " (max-1: away)" if named else ""
    assert content(answer)["error"]["message"] == (
        f"This request names file_1, which {who} has made, and that account cannot serve it now{away}. "
        "It is back when somebody sees to it."
    )


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(None, b"60"), (0.0, b"1"), (0.2, b"1"), (2.0, b"2"), (3.0, b"3"), (3.01, b"4"), (1e5, b"3600")],
)
def test_retry_after_is_honest_and_bounded(wait: float | None, seconds: bytes) -> None:
    assert dict(exhausted_for(wait).headers)[b"retry-after"] == seconds


@given(st.text(st.characters()))  # lone surrogates too
def test_no_message_can_reach_a_header(message: str) -> None:
    answer, other = error(403, message, request_id="req_1"), error(403, "No.", request_id="req_1")

    assert content(answer)["error"]["message"] == message.encode(errors="replace").decode()
    assert {name for name, value in answer.headers if (name, value) not in other.headers} <= {b"content-length"}
