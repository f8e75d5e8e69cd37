import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import verdict_cases
from ccflare_core.anthropic.rate_limit_headers import MAX_WINDOWS, Head, Window
from ccflare_core.anthropic.refusals import UNLISTED
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.routes import API
from ccflare_core.anthropic.verdicts import (
    LONGEST_COOLDOWN,
    Backoff,
    Kind,
    Scope,
    Verdict,
    broken_off,
    classify,
    failed_to_connect,
    no_answer,
    recorded,
)
from ccflare_core.exchange.failover import Failover, NextAccount, RetrySame
from verdict_cases import Case


def read_windows(headers: Any, now: float) -> tuple[Window, ...]:
    return Head(headers, now).windows


NOW = 1_785_510_565.0
RESET_5H = 1_785_518_400.0
RESET_7D = 1_786_006_800.0
HOUR = 3600.0

# What a healthy OAuth account gets with every answer.
HEALTHY = {
    "status": "allowed",
    "reset": "1785518400",
    "representative-claim": "five_hour",
    "5h-status": "allowed",
    "5h-reset": "1785518400",
    "5h-utilization": "0.31",
    "7d-status": "allowed",
    "7d-reset": "1786006800",
    "7d-utilization": "0.69",
    "fallback-percentage": "0.5",
    "overage-status": "rejected",
    "overage-disabled-reason": "org_level_disabled",
}
# The 429 that was captured from an account whose five-hour window is spent.
EXHAUSTED = HEALTHY | {
    "status": "rejected",
    "5h-status": "rejected",
    "5h-utilization": "1.01",
    "5h-surpassed-threshold": "1.0",
}
EXHAUSTED_EXTRA = {"retry-after": "7835", "x-robots-tag": "none", "x-should-retry": "true"}
# A rejection of one model's weekly bucket, as reported from the field.
BUCKET = HEALTHY | {
    "status": "rejected",
    "reset": "1786006800",
    "representative-claim": "seven_day_overage_included",
    "7d_oi-status": "rejected",
    "7d_oi-utilization": "1.02",
    "7d_oi-reset": "1786006800",
}


def wire(unified: Mapping[str, str] | None = None, **other: str) -> list[tuple[bytes, bytes]]:
    """Headers as they come: the unified ones by their short names, others with `_` for `-`."""
    named = {f"Anthropic-Ratelimit-Unified-{name}": value for name, value in (unified or {}).items()}
    named |= {name.replace("_", "-"): value for name, value in other.items()}
    return [(b"content-type", b"text/event-stream"), *((k.encode(), v.encode()) for k, v in named.items())]


def judge(status: int, unified: Mapping[str, str] | None = None, error: str | None = None, **other: str) -> Verdict:
    event = {"type": "error", "error": {"type": error, "message": "…"}} if error else None
    return classify(status, wire(unified, **other), event, NOW)


def without(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


# Good answers


def test_healthy_answer_is_ok_and_tells_its_windows() -> None:
    verdict = judge(200, HEALTHY)
    assert verdict.ok
    assert verdict.deliver
    assert (verdict.scope, verdict.rest, verdict.until) == (Scope.REQUEST, None, None)
    assert verdict.windows == (
        Window("5h", "allowed", 0.31, RESET_5H),
        Window("7d", "allowed", 0.69, RESET_7D),
    )


@pytest.mark.parametrize("word", ["allowed_warning", "queueing_soft", "something_new"])
def test_a_warning_costs_nothing(word: str) -> None:
    assert judge(200, HEALTHY | {"status": word, "7d-status": word}).ok


@pytest.mark.parametrize("word", ["rejected", "rate_limited", "blocked", "queueing_hard", "payment_required"])
def test_a_hard_status_on_a_200_is_delivered_and_rests_from_the_next_request_on(word: str) -> None:
    verdict = judge(200, HEALTHY | {"status": word, "5h-status": word})
    assert (verdict.kind, verdict.status, verdict.until) == (Kind.WINDOW_SPENT, 200, RESET_5H)
    assert verdict.deliver
    assert verdict.rest is not None
    assert not verdict.ok


def test_a_rejected_window_that_paid_usage_serves_is_ok() -> None:
    assert judge(200, EXHAUSTED | {"overage-status": "allowed"}).ok


def test_a_200_beside_another_models_spent_bucket_is_ok() -> None:
    assert judge(200, HEALTHY | {"7d_oi-status": "rejected"}).ok


def test_a_200_that_is_the_last_of_its_models_bucket_rests_the_family() -> None:
    verdict = judge(200, BUCKET)
    assert (verdict.kind, verdict.scope, verdict.deliver) == (Kind.MODEL_BUCKET_SPENT, Scope.FAMILY, True)


# 429


def test_captured_429_is_a_spent_window_until_its_own_reset() -> None:
    verdict = judge(429, EXHAUSTED, "rate_limit_error", **EXHAUSTED_EXTRA)
    assert (verdict.kind, verdict.scope, verdict.until) == (Kind.WINDOW_SPENT, Scope.ACCOUNT, RESET_5H)
    assert verdict.reason == "5h window spent"
    assert verdict.windows[0] == Window("5h", "rejected", 1.01, RESET_5H)
    assert not verdict.deliver


def test_captured_429_with_only_per_window_headers_is_the_same() -> None:
    only = {name: EXHAUSTED[name] for name in ("5h-status", "5h-reset", "5h-utilization")}
    verdict = judge(429, only)
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_5H)


def test_when_two_windows_are_spent_the_later_reset_counts() -> None:
    verdict = judge(429, EXHAUSTED | {"7d-status": "rejected"}, retry_after="7835")
    assert (verdict.until, verdict.reason) == (RESET_7D, "5h and 7d window spent")


@pytest.mark.parametrize("status", ["rejected", None])
def test_429_that_only_names_its_claim_uses_that_windows_reset(status: str | None) -> None:
    headers = {"representative-claim": "seven_day", "7d-reset": "1786006800", "reset": "1785518400"}
    verdict = judge(429, headers | ({"status": status} if status else {}), retry_after="30")
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_7D)
    assert verdict.reason == "7d window spent"


def test_429_with_only_the_aggregate_uses_its_reset() -> None:
    verdict = judge(429, {"status": "rejected", "reset": "1785518400"})
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_5H)


@pytest.mark.parametrize(
    "reset", ["1785510564", "soon", "NaN", "Infinity", "-5", "", "1785518400000", "2026-99-31T17:20:00Z"]
)
def test_a_reset_that_makes_no_sense_is_unknown(reset: str) -> None:
    verdict = judge(429, {"5h-status": "rejected", "5h-reset": reset})
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, None)
    assert verdict.rest is not None
    assert [verdict.rest.after(failures) for failures in (1, 2, 3, 4)] == [60.0, 120.0, 240.0, 300.0]


def test_a_reset_in_the_past_leaves_the_word_to_retry_after() -> None:
    verdict = judge(429, EXHAUSTED | {"5h-reset": "1785510000", "reset": "1785510000"}, retry_after="7835")
    assert verdict.until == NOW + 7835


def test_a_rest_by_reset_is_eight_days_at_most() -> None:
    verdict = judge(429, {"30d-status": "rejected", "30d-reset": str(NOW + 30 * 86400)})
    assert verdict.until == NOW + 8 * 86400


def test_spent_model_bucket_rests_the_family_and_trusts_retry_after_more() -> None:
    verdict = judge(429, BUCKET, retry_after="121320")
    assert (verdict.kind, verdict.scope) == (Kind.MODEL_BUCKET_SPENT, Scope.FAMILY)
    assert (verdict.until, verdict.reason) == (NOW + 121320, "7d_oi window spent")
    assert judge(429, BUCKET).until == RESET_7D


@pytest.mark.parametrize("claim", ["seven_day_opus", "seven_day_sonnet", "seven_day_overage_included"])
def test_a_claim_that_names_a_bucket_is_enough(claim: str) -> None:
    verdict = judge(429, HEALTHY | {"status": "rejected", "representative-claim": claim})
    assert (verdict.kind, verdict.scope) == (Kind.MODEL_BUCKET_SPENT, Scope.FAMILY)


def test_a_claim_under_an_allowed_aggregate_rejects_nothing() -> None:
    calm = HEALTHY | {"representative-claim": "seven_day_opus"}
    assert judge(429, calm, retry_after="5").kind is Kind.SHORT_THROTTLE


def test_a_spent_account_window_outweighs_a_spent_bucket() -> None:
    assert judge(429, BUCKET | {"7d-status": "rejected"}).kind is Kind.WINDOW_SPENT


@pytest.mark.parametrize("head", [{}, {"status": "rejected"}, HEALTHY])
def test_out_of_credits_rests_the_family_for_five_minutes(head: dict[str, str]) -> None:
    verdict = judge(429, head | {"overage-disabled-reason": "out_of_credits"}, x_should_retry="true")
    assert (verdict.kind, verdict.scope, verdict.until) == (Kind.OUT_OF_CREDITS, Scope.FAMILY, None)
    assert verdict.rest == Backoff(300.0, "fixed", 300.0)


@pytest.mark.parametrize("head", [EXHAUSTED, {"status": "rejected", "reset": "1785518400"}])
def test_a_spent_window_of_an_account_without_credits_is_a_spent_window(head: dict[str, str]) -> None:
    verdict = judge(429, head | {"overage-disabled-reason": "out_of_credits"})
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_5H)


def test_bare_429_rests_nobody() -> None:
    verdict = judge(429, None, "rate_limit_error", x_should_retry="true", x_robots_tag="none")
    assert (verdict.kind, verdict.scope, verdict.rest) == (Kind.BARE_429, Scope.REQUEST, None)
    assert not verdict.deliver


@pytest.mark.parametrize(("after", "seconds"), [("2", 2), ("60", 60), ("0", 1)])
@pytest.mark.parametrize("head", [{}, HEALTHY])
def test_small_retry_after_with_allowed_windows_is_a_short_throttle(
    head: dict[str, str], after: str, seconds: int
) -> None:
    verdict = judge(429, head, retry_after=after)
    assert (verdict.kind, verdict.scope, verdict.until) == (Kind.SHORT_THROTTLE, Scope.ACCOUNT, NOW + seconds)


def test_long_retry_after_with_allowed_windows_rests_the_account() -> None:
    verdict = judge(429, HEALTHY, retry_after="61")
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, NOW + 61)


def test_an_allowed_window_does_not_lend_its_reset() -> None:
    verdict = judge(429, HEALTHY)
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, None)


@pytest.mark.parametrize(
    ("date", "until"),
    [("Fri, 31 Jul 2026 17:20:00 GMT", RESET_5H), ("Fri, 99 Jul 2026 17:20:00 GMT", None)],
)
def test_retry_after_can_be_a_date(date: str, until: float | None) -> None:
    verdict = judge(429, retry_after=date)
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, until)


@pytest.mark.parametrize(("value", "until"), [("300", NOW + 300), ("1785518400", RESET_5H), ("later", None)])
def test_x_ratelimit_reset_is_a_delay_or_a_moment(value: str, until: float | None) -> None:
    verdict = judge(429, x_ratelimit_reset=value)
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, until)


def test_api_key_429_is_spent_until_the_family_is_full_again() -> None:
    api_key = {
        "anthropic_ratelimit_requests_limit": "50",
        "anthropic_ratelimit_requests_remaining": "0",
        "anthropic_ratelimit_requests_reset": "2026-07-31T17:20:00Z",
        "anthropic_ratelimit_input_tokens_limit": "40000",
        "anthropic_ratelimit_input_tokens_remaining": "10000",
        "anthropic_ratelimit_input_tokens_reset": "2026-07-31T19:20:00+02:00",
    }
    verdict = judge(429, None, None, retry_after="12", **api_key)
    assert (verdict.kind, verdict.scope, verdict.until) == (Kind.WINDOW_SPENT, Scope.FAMILY, RESET_5H)
    assert verdict.windows == (
        Window("requests", None, 1.0, RESET_5H),
        Window("input-tokens", None, 0.75, RESET_5H),
    )
    assert judge(200, None, None, **api_key).ok


# Other failures


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, "invalid_request_error", Kind.CLIENT_ERROR),
        (402, "billing_error", Kind.OUT_OF_FUNDS),
        (404, "not_found_error", Kind.CLIENT_ERROR),
        (413, "request_too_large", Kind.CLIENT_ERROR),
        (422, None, Kind.CLIENT_ERROR),
        (403, "invalid_request_error", Kind.CLIENT_ERROR),
        (101, None, Kind.CLIENT_ERROR),
        (304, None, Kind.CLIENT_ERROR),
        (401, "authentication_error", Kind.CREDENTIAL_REJECTED),
        (403, "authentication_error", Kind.CREDENTIAL_REJECTED),
        (403, "permission_error", Kind.PERMISSION_DENIED),
        (403, None, Kind.CLIENT_ERROR),
        (529, "overloaded_error", Kind.OVERLOADED),
        (500, "api_error", Kind.UPSTREAM_FAILURE),
        (502, None, Kind.UPSTREAM_FAILURE),
        (503, "overloaded_error", Kind.UPSTREAM_FAILURE),
        (504, None, Kind.UPSTREAM_FAILURE),
        (524, None, Kind.UPSTREAM_FAILURE),
        (0, None, Kind.UPSTREAM_FAILURE),
    ],
)
def test_kind_of_every_other_status(status: int, error: str | None, kind: Kind) -> None:
    verdict = judge(status, HEALTHY, error)
    assert (verdict.kind, verdict.status) == (kind, status)
    assert verdict.deliver is (kind is Kind.CLIENT_ERROR)
    is_about_the_request = kind in (Kind.CLIENT_ERROR, Kind.PERMISSION_DENIED)
    assert (verdict.scope is Scope.REQUEST) is (verdict.rest is None) is is_about_the_request


@pytest.mark.parametrize(
    ("status", "rests"),
    [
        (401, [300.0, 600.0, 1200.0, 2400.0, 3600.0]),
        (503, [5.0, 10.0, 15.0]),
        (529, [10.0, 10.0]),
    ],
)
def test_how_long_each_failure_rests(status: int, rests: list[float]) -> None:
    rest = judge(status).rest
    assert rest is not None
    assert [rest.after(failures) for failures in range(1, len(rests) + 1)] == rests


def test_a_client_error_stays_one_when_a_window_is_rejected() -> None:
    verdict = judge(400, EXHAUSTED, "invalid_request_error")
    assert (verdict.kind, verdict.reason) == (Kind.CLIENT_ERROR, "400 invalid_request_error")


@pytest.mark.parametrize("status", [400, 402, 403, 500, 529])
def test_a_legacy_hard_status_is_hard_with_every_failure(status: int) -> None:
    verdict = judge(status, {"status": "payment_required", "reset": "1785518400"})
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_5H)


def test_529_rests_as_long_as_it_says_but_a_minute_at_most() -> None:
    assert judge(529).until is None
    assert judge(529, retry_after="20").until == NOW + 20
    assert judge(529, retry_after="3600").until == NOW + 60


@pytest.mark.parametrize(("status", "may"), [(503, False), (529, False), (429, True), (403, True), (200, True)])
def test_x_should_retry_counts_for_5xx_only(status: int, may: bool) -> None:
    assert judge(status, EXHAUSTED, x_should_retry="False").may_retry is may
    assert judge(status, EXHAUSTED, x_should_retry="true").may_retry


def test_failed_to_connect_is_an_upstream_failure_without_a_status() -> None:
    verdict = failed_to_connect("connection refused\x1b[31m" + "x" * 999)
    assert (verdict.kind, verdict.status, verdict.scope) == (Kind.UPSTREAM_FAILURE, 0, Scope.UPSTREAM)
    assert verdict.reason.startswith("connection refused[31mx")
    assert len(verdict.reason) <= 200


def test_a_type_that_nobody_knows_is_not_repeated() -> None:
    for status, told in ((400, f"400 {UNLISTED}"), (200, f"{UNLISTED} in the stream"), (403, f"403 {UNLISTED}")):
        verdict = judge(status, HEALTHY, "sk-ant-api03-echoed")
        assert (verdict.kind, verdict.reason) == (Kind.CLIENT_ERROR, told)


def test_windows_and_claims_that_nobody_knows_are_not_named() -> None:
    secret = "sk-ant-api03-echoed"
    named = judge(429, {f"{secret}-status": "rejected", f"{secret}-reset": "1785518400"})
    assert named.windows == (Window("other", "rejected", 1.0, RESET_5H),)
    assert (named.kind, named.reason) == (Kind.MODEL_BUCKET_SPENT, "other window spent")
    assert judge(429, {"status": "rejected", "representative-claim": secret}).reason == "other window spent"
    assert judge(429, {"5h-status": secret}).windows == (Window("5h", "other", None, None),)


# Errors inside a stream


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("overloaded_error", Kind.OVERLOADED),
        ("api_error", Kind.UPSTREAM_FAILURE),
        ("timeout_error", Kind.UPSTREAM_FAILURE),
        ("authentication_error", Kind.CREDENTIAL_REJECTED),
        ("permission_error", Kind.PERMISSION_DENIED),
        ("invalid_request_error", Kind.CLIENT_ERROR),
        (UNLISTED, Kind.CLIENT_ERROR),
    ],
)
def test_an_error_event_counts_like_the_status_it_stands_for(error: str, kind: Kind) -> None:
    verdict = judge(200, HEALTHY, error)
    assert (verdict.kind, verdict.status) == (kind, 200)
    assert verdict.reason == f"{error} in the stream"
    assert verdict.deliver is (kind is Kind.CLIENT_ERROR)


@pytest.mark.parametrize("head", [{}, HEALTHY, HEALTHY | {"overage-disabled-reason": "out_of_credits"}])
def test_rate_limit_error_in_a_stream_rests_the_account_a_minute(head: dict[str, str]) -> None:
    verdict = judge(200, head, "rate_limit_error")
    assert (verdict.kind, verdict.scope, verdict.until) == (Kind.WINDOW_SPENT, Scope.ACCOUNT, None)
    assert verdict.rest == Backoff(60.0, "double", 300.0)
    assert not verdict.deliver


def test_rate_limit_error_in_a_stream_rests_until_the_reset_of_its_head() -> None:
    verdict = judge(200, EXHAUSTED, "rate_limit_error")
    assert (verdict.kind, verdict.until) == (Kind.WINDOW_SPENT, RESET_5H)


@pytest.mark.parametrize(
    "event", [{}, {"type": "message_start"}, {"type": "content_block_delta", "error": {"type": "api_error"}}]
)
def test_an_event_that_is_no_error_changes_nothing(event: dict[str, Any]) -> None:
    assert classify(200, wire(HEALTHY), event, NOW).ok


# Hostile input


@pytest.mark.parametrize("used", ["nan", "-0.5", "inf", "full", "1e9", ""])
def test_a_utilization_that_makes_no_sense_is_unknown(used: str) -> None:
    assert read_windows(wire({"5h-utilization": used}), NOW) == (Window("5h", None, None, None),)


def test_a_remainder_without_its_limit_tells_only_that_nothing_is_left() -> None:
    remaining = "anthropic_ratelimit_tokens_remaining"
    assert read_windows(wire(None, **{remaining: "7"}), NOW)[0].utilization is None
    assert read_windows(wire(None, **{remaining: "0"}), NOW)[0].utilization == 1.0


def test_windows_nobody_has_heard_of_are_read_but_not_without_bound() -> None:
    flood = wire({f"{n}d_new-status": "allowed" for n in range(99)} | {"x" * 65 + "-status": "allowed"})
    windows = read_windows(flood, NOW)
    assert windows[0] == Window("0d_new", "allowed", None, None)
    assert len(windows) == MAX_WINDOWS


NAMES = st.one_of(
    st.binary(max_size=90),
    st.sampled_from([b"retry-after", b"X-RateLimit-Reset", b"x-should-retry", b"x-ratelimit-x"]),
    st.builds(
        lambda kind, window, field: b"anthropic-ratelimit-" + kind + window + field,
        st.sampled_from([b"", b"unified-"]),
        st.sampled_from([b"", b"5h-", b"7d-", b"7d_oi-", b"requests-", b"overage-", b"\xff-", b"y" * 70 + b"-"]),
        st.sampled_from([b"status", b"reset", b"utilization", b"limit", b"remaining", b"representative-claim"]),
    ),
)
VALUES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"rejected", b"blocked", b"allowed", b"seven_day_opus", b"five_hour", b"false", b"0"]),
    st.floats().map(lambda number: repr(number).encode()),
    st.floats(-9 * 86400, 9 * 86400).map(lambda ahead: repr(NOW + ahead).encode()),
    st.datetimes().map(lambda date: date.isoformat().encode()),
    st.datetimes().map(lambda date: f"Fri, {date:%d} Jul {date.year:04d} {date:%H:%M:%S} GMT".encode()),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.none() | st.dictionaries(st.text(max_size=5), JSON, max_size=3)
ERRORS = st.builds(lambda error: {"type": "error", "error": error}, JSON | st.builds(dict, type=JSON))
STATUSES = st.sampled_from([200, 204, 301, 400, 401, 403, 429, 500, 529]) | st.integers(-10, 10**6)


@given(
    STATUSES,
    st.lists(st.tuples(NAMES, VALUES), max_size=40),
    EVENTS | ERRORS,
    st.floats(0, 4e9) | st.just(NOW),
)
@example(429, [(b"retry-after", b"Fri, 31 Jul 0000 99:99:99 GMT")], None, NOW)
@example(429, [(b"anthropic-ratelimit-tokens-reset", b"0001-01-01T00:00:00+23:59")], None, NOW)
def test_any_answer_gets_a_bounded_verdict(
    status: int, headers: list[tuple[bytes, bytes]], event: dict[str, Any] | None, now: float
) -> None:
    verdict = classify(status, headers, event, now)
    assert verdict.until is None or now <= verdict.until <= now + LONGEST_COOLDOWN
    assert len(verdict.windows) <= MAX_WINDOWS
    assert all(1 <= len(w.name) <= 64 and w.name.isprintable() for w in verdict.windows)
    assert all(w.resets_at is None or w.resets_at > now for w in verdict.windows)
    assert len(verdict.reason) <= 300
    assert verdict.reason.isprintable()
    assert verdict.rest is not None or verdict.scope is Scope.REQUEST or verdict.needs_attention
    assert not verdict.ok or (verdict.deliver and verdict.rest is None)


@given(st.floats(), st.sampled_from(["fixed", "double", "add"]), st.floats(0, 1e9), st.integers())
def test_a_rest_is_finite_and_never_above_its_ceiling(
    seconds: float, growth: Any, ceiling: float, failures: int
) -> None:
    assert 0.0 <= Backoff(seconds, growth, ceiling).after(failures) <= ceiling


# The whole table, see tests/support/verdict_cases.py


RESOURCES = {rule.shape: rule.resource for rule in API}


def verdict_on(case: Case) -> Verdict:
    headers = [(name.encode(), value.encode()) for name, value in case.headers.items()]
    facts = Facts(case.model, path_class=RESOURCES[case.path], mode=case.mode, betas=case.betas)
    return classify(case.status, headers, case.body, verdict_cases.NOW, facts)


def reaction(verdict: Verdict) -> str:
    match Failover(attempts=1, delay=1.0, backoff=2.0).after(verdict):
        case RetrySame():
            return verdict_cases.REPEAT
        case NextAccount(or_deliver=True) if verdict.withheld:
            return verdict_cases.HOP_OR_502
        case NextAccount(or_deliver=True):
            return verdict_cases.HOP
        case NextAccount(if_all_agree=True):
            return verdict_cases.NEXT_OR_AGREED
        case NextAccount():
            return verdict_cases.HOP_OR_WAIT if verdict.kind is Kind.SHORT_THROTTLE else verdict_cases.NEXT
        case _:
            return verdict_cases.DELIVER


@pytest.mark.parametrize("case", verdict_cases.CASES, ids=lambda case: f"{case.status} {case.says} {case.path}")
def test_answer_is_judged_by_what_it_is_about(case: Case) -> None:
    verdict = verdict_on(case)

    assert (verdict.kind, verdict.scope, reaction(verdict)) == (case.kind, case.scope, case.reaction)
    assert not (verdict.scope is Scope.REQUEST and verdict.rest)
    assert bool(verdict.betas) == (verdict.scope is Scope.BETA)
    assert set(verdict.betas) <= set(case.betas)


def test_table_is_large_and_reads_as_a_page() -> None:
    assert len(verdict_cases.CASES) >= 120
    assert verdict_cases.page().count("\n") == len(verdict_cases.CASES) + 1


def test_readme_tells_of_every_kind_what_rests() -> None:
    readme = (
        (Path(__file__).parents[2] / "README.md").read_text().partition("| The upstream says")[2].partition("\n4. ")[0]
    )
    rows = dict(re.findall(r"^\|[^|]*\| `(\w+)` \| ([^|]*) \|", readme, re.MULTILINE))
    words = {"path_class": "path class"}

    assert set(rows) == {case.kind for case in verdict_cases.CASES} - {"ok"}
    for case in verdict_cases.CASES:
        assert case.kind == "ok" or words.get(case.scope, case.scope) in rows[case.kind]


def test_monthly_limit_is_tried_every_hour_and_ends_on_the_first() -> None:
    first = datetime(2026, 8, 1, tzinfo=UTC).timestamp()
    limit = verdict_cases.said(400, verdict_cases.OWN_LIMIT)

    assert classify(400, [], limit, first - 7200).until == first - 3600
    assert classify(400, [], limit, first - 60).until == first
    december = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    assert classify(400, [], limit, december).until == december + 60


def test_account_that_is_disabled_is_told_in_words_of_the_list() -> None:
    for case in verdict_cases.accounts():
        if case.kind == "account_disabled":
            verdict = verdict_on(case)
            assert verdict.needs_attention
            assert verdict.reason.endswith("(https://support.claude.com)")


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("https://claude.ai/appeals/new", "https://claude.ai/appeals/new"),
        ("https://console.anthropic.com/verify", "https://console.anthropic.com/verify"),
        ("https://claude.ai.example/appeals", "https://support.claude.com"),
        ("https://claude.ai/appeals/sk-ant-oat01-x", "https://support.claude.com"),
        ("https://claude.ai/appeals?token=x", "https://support.claude.com"),
        ("http://claude.ai/appeals", "https://support.claude.com"),
        (7, "https://support.claude.com"),
    ],
)
@pytest.mark.parametrize(
    ("code", "name"), [("organization_on_hold", "appeal_url"), ("verification_required", "remediation_url")]
)
def test_link_of_the_providers_own_is_told_if_it_can_hold_nothing_else(
    code: str, name: str, link: Any, told: str
) -> None:
    details: dict[str, Any] = {name: link}
    body = verdict_cases.error("invalid_request_error", code=code, **details)

    assert classify(400, [], body, NOW).reason.endswith(f" ({told})")


@pytest.mark.parametrize("name", ["slow", "slow-budget", "grace", "grace-5h", "overage", "overage-period", "fallback"])
def test_what_is_no_window_of_the_account_is_none(name: str) -> None:
    fields = {f"{name}-status": "rejected", f"{name}-utilization": "1.0", f"{name}-reset": str(RESET_5H)}
    assert read_windows(wire(fields), NOW) == ()
    assert judge(200, HEALTHY | fields).ok


@pytest.mark.parametrize("used", ["0.1", "0.98", "", None])
def test_window_that_has_rejected_is_full(used: str | None) -> None:
    fields = {"5h-status": "rejected"} | ({} if used is None else {"5h-utilization": used})
    assert read_windows(wire(fields), NOW)[0].utilization == 1.0


@pytest.mark.parametrize(
    ("location", "host"),
    [
        (b"https://login.example/v1/messages?token=secret", "login.example"),
        (b"//a.example:8443/x", "a.example"),
        (b"https://user:secret@a.example#x", "a.example"),
        (b"http://[::1]/x", "[::1]"),
        (b"/v1/elsewhere", "somewhere"),
        (b"https://a.example\nx: secret/", "somewhere"),
        (b"", "somewhere"),
    ],
)
def test_redirect_names_the_host_alone_and_is_the_clients_never(location: bytes, host: str) -> None:
    verdict = classify(307, [(b"Location", location)], None, NOW)

    assert (verdict.kind, verdict.reason) == (Kind.REDIRECTED, f"a redirect to {host}")
    assert (verdict.scope, verdict.rest, verdict.withheld) == (Scope.REQUEST, None, True)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.OK, Kind.UNANSWERED)])
def test_recorded_verdict_is_what_the_record_has_told(kind: Kind) -> None:
    verdict = recorded(kind, 418, "as it was\n", NOW)

    assert (verdict.kind, verdict.status, verdict.reason, verdict.until) == (kind, 418, "as it was", None)


def test_recorded_verdict_is_the_same_as_that_on_the_answer() -> None:
    assert recorded(Kind.OVERLOADED, 529, "529 overloaded", NOW) == classify(529, (), None, NOW)
    assert recorded(Kind.BROKEN_OFF, 200, "reset", NOW) == broken_off(200, "reset")


def test_what_is_no_answer_or_breaks_off_is_withheld_and_is_the_upstreams() -> None:
    nothing, broken = no_answer(200, "the answer is empty"), broken_off(200, "reset\n")

    assert (nothing.kind, nothing.status, nothing.reason) == (Kind.UPSTREAM_FAILURE, 200, "the answer is empty")
    assert (broken.kind, broken.reason, broken.rest) == (Kind.BROKEN_OFF, "reset", Backoff(5.0, "fixed", 5.0))
    assert [(each.scope, each.withheld, each.ok) for each in (nothing, broken)] == [(Scope.UPSTREAM, True, False)] * 2
