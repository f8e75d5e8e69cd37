"""Whose refusal is it? Every answer that was thought of, and what it means: data for tests/anthropic/test_verdicts.py.

`python tests/support/verdict_cases.py` prints it as a page.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

NOW = 1_785_510_565
"""Friday, 31 July 2026, 15:09:25 UTC."""
RESET = NOW + 7835

MESSAGES, COUNT, BATCHES = "/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"
FILES, SKILLS, MODELS = "/v1/files", "/v1/skills", "/v1/models"
PATHS = (MESSAGES, COUNT, BATCHES, FILES, SKILLS, MODELS)

DELIVER = "passed on"
NEXT = "next account"
NEXT_OR_AGREED = "next account; passed on if all say the same"
HOP = "one other account, then passed on"
HOP_OR_502 = "one other account, then our 502"
HOP_OR_WAIT = "one other account, then our 503"
REPEAT = "repeated first"


class Case(NamedTuple):
    """One answer to one request, and the verdict."""

    says: str
    status: int
    kind: str
    scope: str
    reaction: str
    headers: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None
    path: str = MESSAGES
    model: str | None = "claude-opus-4-8"
    mode: str = ""
    betas: tuple[str, ...] = ()


def error(kind: str, message: str = "Sorry.", code: str = "", **details: Any) -> dict[str, Any]:
    """An error of the API's."""
    more = {"details": {"error_code": code, **details}} if code else {}
    return {"type": "error", "error": {"type": kind, "message": message, **more}}


def unified(**fields: str) -> dict[str, str]:
    """Headers that OAuth accounts get; `_5h` stands for 5h."""
    return {f"anthropic-ratelimit-unified-{k.lstrip('_').replace('_', '-')}": v for k, v in fields.items()}


def of_key(name: str, remaining: int = 0) -> dict[str, str]:
    """Headers that API keys get."""
    base = f"anthropic-ratelimit-{name}"
    return {f"{base}-limit": "100", f"{base}-remaining": str(remaining), f"{base}-reset": "2026-07-31T17:20:00Z"}


HEALTHY = unified(status="allowed", _5h_status="allowed", _5h_utilization="0.4", _7d_status="allowed")
SPENT_5H = unified(status="rejected", _5h_status="rejected", _5h_utilization="0.98", _5h_reset=str(RESET))
SPENT_7D = unified(status="rejected", _7d_status="rejected", _7d_reset=str(RESET))
BUCKET = HEALTHY | unified(status="rejected", representative_claim="seven_day_opus")
OI_BUCKET = HEALTHY | {"anthropic-ratelimit-unified-7d_oi-status": "rejected"}
FAST = {"anthropic-fast-input-tokens-remaining": "0", "anthropic-fast-input-tokens-reset": "2026-07-31T15:12:00Z"}
PRIORITY = {"anthropic-priority-input-tokens-remaining": "0", "anthropic-priority-input-tokens-reset": str(RESET)}
SLOW = unified(slow_status="slot_busy", slow_retry_after="20", slow_budget_utilization="1.0")
LIMIT = error("rate_limit_error")
LONG = "context-1m-2025-08-07"

DISABLED = "This organization has been disabled."
LOW_CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
OWN_LIMIT = "You have reached your specified API usage limits. You will regain access on 2026-08-01 at 00:00 UTC."
WORKSPACE_LIMIT = "You have reached your specified workspace API usage limits."
NO_LONG_CONTEXT = "The long context beta is not yet available for this subscription."
NO_OAUTH = "OAuth authentication is currently not supported."
NO_SCOPE = "OAuth token does not meet scope requirement user:file_upload"
REVOKED = "OAuth token has been revoked. Please obtain a new token."
UNEXPECTED = "Unexpected value(s) `fast-2026-02-01` for the `anthropic-beta` header. Please consult our documentation."
NO_BETA = "The fast-2026-02-01 beta is not available for your organization."
TEXTS = (
    *(DISABLED, LOW_CREDIT, OWN_LIMIT, WORKSPACE_LIMIT, NO_LONG_CONTEXT, "model: claude-opus-4-8"),
    *(NO_SCOPE, REVOKED, UNEXPECTED, NO_BETA),
)


def accounts() -> Iterator[Case]:
    """Refusals of the account as a whole."""
    for path in PATHS:
        on_hold = error("invalid_request_error", code="organization_on_hold", appeal_url="https://x.example")
        yield Case("organization_on_hold", 400, "account_disabled", "account", NEXT, body=on_hold, path=path)
        yield Case("disabled, in words", 400, "account_disabled", "account", NEXT, {}, said(400, DISABLED), path)
        yield Case("credit balance", 400, "out_of_funds", "account", NEXT, {}, said(400, LOW_CREDIT), path)
        yield Case("billing_error", 402, "out_of_funds", "account", NEXT, {}, error("billing_error"), path)
        yield Case("5h window spent", 429, "window_spent", "account", NEXT, SPENT_5H, LIMIT, path)
    yield Case("402 without a body", 402, "out_of_funds", "account", NEXT)
    yield Case("disabled, as a 403", 403, "account_disabled", "account", NEXT, {}, said(403, DISABLED))
    yield Case("the key is disabled", 400, "account_disabled", "account", NEXT, {}, coded("cmek_key_disabled"))
    left = coded("claude_code_key_creator_not_member")
    yield Case("the key's user has left", 400, "account_disabled", "account", NEXT, {}, left)
    unverified = coded("verification_required", "permission_error")
    yield Case("to be verified", 403, "account_disabled", "account", NEXT, {}, unverified)
    yield Case(
        "its key is not reached", 400, "permission_denied", "account", NEXT, {}, coded("cmek_key_network_blocked")
    )
    yield Case("own usage limit", 400, "spend_limit", "account", NEXT, {}, said(400, OWN_LIMIT))
    yield Case("workspace's usage limit", 400, "spend_limit", "account", NEXT, {}, said(400, WORKSPACE_LIMIT))
    for code in ("enforced_spend_limit_reached", "contract_spend_limit_reached"):
        yield Case(code, 429, "spend_limit", "account", NEXT, {}, coded(code, "rate_limit_error"))
    ramp = coded("ramp_limit_exceeded", "rate_limit_error")
    yield Case("ramp_limit_exceeded", 429, "short_throttle", "account", HOP_OR_WAIT, {"retry-after": "5"}, ramp)
    yield Case("ramp limit, no span", 429, "short_throttle", "account", HOP_OR_WAIT, {}, ramp)
    yield Case("7d window spent", 429, "window_spent", "account", NEXT, SPENT_7D, LIMIT)
    for mode in ("fast", "priority", "slow"):
        yield Case("5h spent in this mode", 429, "window_spent", "account", NEXT, SPENT_5H, LIMIT, mode=mode)
    yield Case("short throttle", 429, "short_throttle", "account", HOP_OR_WAIT, HEALTHY | {"retry-after": "2"}, LIMIT)
    yield Case("throttle for long", 429, "window_spent", "account", NEXT, HEALTHY | {"retry-after": "61"}, LIMIT)
    yield Case("rate limit in the stream", 200, "window_spent", "account", NEXT, HEALTHY, LIMIT)
    yield Case("served, but spent now", 200, "window_spent", "account", DELIVER, SPENT_5H)
    for status in (400, 402, 403):
        legacy = unified(status="payment_required", reset=str(RESET))
        yield Case("payment_required", status, "window_spent", "account", NEXT, legacy, error("api_error"))


def families() -> Iterator[Case]:
    """Refusals of one model family."""
    yield Case("weekly bucket of a model", 429, "model_bucket_spent", "family", NEXT, BUCKET, LIMIT)
    yield Case("weekly bucket, overage", 429, "model_bucket_spent", "family", NEXT, OI_BUCKET, LIMIT)
    credits = HEALTHY | unified(overage_disabled_reason="out_of_credits")
    yield Case("out of credits", 429, "out_of_credits", "family", NEXT, credits, LIMIT)
    told = error("rate_limit_error", "Extra usage is required for long context requests.")
    yield Case("out of credits, told", 429, "out_of_credits", "family", NEXT, credits, told)
    for code in ("credits_required", "extra_usage_out_of_credits"):
        needed = coded(code, "rate_limit_error")
        yield Case(code, 429, "out_of_credits", "family", NEXT, HEALTHY, needed)
        yield Case(f"{code} in the stream", 200, "out_of_credits", "family", NEXT, HEALTHY, needed)
    for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
        yield Case(f"an API key's {kind}", 429, "window_spent", "family", NEXT, of_key(kind), LIMIT)
    for model in ("claude-haiku-4-5", "claude-sonnet-5", None):
        yield Case("an API key's tokens", 429, "window_spent", "family", NEXT, of_key("tokens"), LIMIT, model=model)
    for path in (MESSAGES, COUNT):
        unknown = error("not_found_error", "model: claude-opus-4-8")
        yield Case("404 model", 404, "model_unavailable", "family", NEXT_OR_AGREED, {}, unknown, path)
        plan = error("invalid_request_error", "This model is not available for your plan.")
        yield Case("not in this plan", 400, "model_unavailable", "family", NEXT_OR_AGREED, {}, plan, path)
        lacks = error("permission_error", "Your organization does not have access to claude-opus-4-8.")
        yield Case("403 model", 403, "model_unavailable", "family", NEXT_OR_AGREED, {}, lacks, path)
        suspended = coded("model_access_suspended", "permission_error")
        yield Case("model suspended", 403, "model_unavailable", "family", NEXT_OR_AGREED, {}, suspended, path)
    for name in ("Claude Opus 4.8", "claude-opus-4-8"):
        text = f"{name} is not yet available for this subscription."
        yield Case("not in this plan", 400, "model_unavailable", "family", NEXT_OR_AGREED, {}, said(400, text))
    yield Case("no long context", 400, "beta_unavailable", "family", NEXT_OR_AGREED, {}, said(400, NO_LONG_CONTEXT))
    text = "claude-opus-4-8 is suspended for this organization."
    yield Case("suspended, in words", 403, "model_unavailable", "family", NEXT_OR_AGREED, {}, said(403, text))


def betas() -> Iterator[Case]:
    """Refusals of a beta: of those that the request asks for."""
    fast, asked = "fast-2026-02-01", ("a-1", "fast-2026-02-01", LONG)
    for status in (400, 403):
        yield Case(
            "no long context",
            status,
            "beta_unavailable",
            "beta",
            NEXT_OR_AGREED,
            {},
            said(status, NO_LONG_CONTEXT),
            betas=asked,
        )
    texts = (
        UNEXPECTED,
        NO_BETA,
        f"Unexpected value(s) `a-1`, `{fast}` for the `anthropic-beta` header.",
        f"{fast} is not yet available for this subscription.",
        f"The beta {fast} is not enabled for this workspace.",
        f"Your organization is not enrolled in the {fast} beta.",
        f"Your account does not have access to the beta `{fast}`.",
        "This authentication style is incompatible with the long context beta header.",
    )
    for text in texts:
        yield Case("a beta refused", 400, "beta_unavailable", "beta", NEXT_OR_AGREED, {}, said(400, text), betas=asked)
    enrolled = error("invalid_request_error", f"Not for you: {fast}.", "organization_not_enrolled_in_beta")
    for path in PATHS:
        yield Case("not enrolled", 400, "beta_unavailable", "beta", NEXT_OR_AGREED, {}, enrolled, path, betas=asked)
        yield Case("not enrolled", 400, "beta_unavailable", "request", NEXT_OR_AGREED, {}, enrolled, path)
    yield Case("a beta not asked for", 400, "beta_unavailable", "request", NEXT_OR_AGREED, {}, said(400, UNEXPECTED))


def parts() -> Iterator[Case]:
    """Refusals of a path class, a mode or a beta."""
    for path in PATHS:
        how = NEXT if path in (MESSAGES, COUNT) else NEXT_OR_AGREED
        yield Case("401", 401, "credential_rejected", "path_class", how, {}, error("authentication_error"), path)
        yield Case("401 OAuth", 401, "credential_rejected", "path_class", how, {}, said(401, NO_OAUTH), path)
        yield Case("403 scope", 403, "permission_denied", "path_class", NEXT_OR_AGREED, {}, said(403, NO_SCOPE), path)
    yield Case("401 without a body", 401, "credential_rejected", "path_class", NEXT)
    auth = error("authentication_error")
    yield Case("403 authentication", 403, "credential_rejected", "path_class", NEXT, {}, auth)
    not_allowed = said(403, "OAuth authentication is currently not allowed for this organization.")
    yield Case("OAuth not allowed", 403, "credential_rejected", "path_class", NEXT, {}, not_allowed)
    yield Case("401 in the stream", 200, "credential_rejected", "path_class", NEXT, HEALTHY, auth)
    kinds = ("organization_type_not_supported", "parent_organization_required", "api_key_scope_missing")
    for code, path in ((code, path) for code in kinds for path in (BATCHES, FILES, SKILLS)):
        body = coded(code)
        yield Case(code, 400, "permission_denied", "path_class", NEXT_OR_AGREED, {}, body, path)
    revoked = said(403, REVOKED)
    yield Case("token revoked", 403, "credential_rejected", "path_class", NEXT, {}, revoked)
    yield Case("token revoked", 403, "credential_rejected", "path_class", NEXT_OR_AGREED, {}, revoked, FILES)
    for path in (COUNT, BATCHES, FILES, SKILLS, MODELS):
        throttled = HEALTHY | {"retry-after": "5"}
        yield Case("its own throttle", 429, "short_throttle", "path_class", HOP_OR_WAIT, throttled, LIMIT, path)
        yield Case("its own requests", 429, "window_spent", "path_class", NEXT, of_key("requests"), LIMIT, path)
    fast = FAST | {"retry-after": "5"}
    yield Case("fast mode's limit", 429, "short_throttle", "mode", HOP_OR_WAIT, fast, LIMIT, mode="fast")
    yield Case("fast mode's tokens", 429, "window_spent", "mode", NEXT, FAST, LIMIT, mode="fast")
    yield Case("priority tier's limit", 429, "window_spent", "mode", NEXT, PRIORITY, LIMIT, mode="priority")
    yield Case("the slow lane is busy", 429, "window_spent", "mode", NEXT, HEALTHY | SLOW, LIMIT, mode="slow")


def requests() -> Iterator[Case]:
    """What rests nobody."""
    yield Case("served", 200, "ok", "request", DELIVER, HEALTHY)
    yield Case("served on overage", 200, "ok", "request", DELIVER, SPENT_5H | unified(overage_status="allowed"))
    yield Case("another model's bucket", 200, "ok", "request", DELIVER, OI_BUCKET)
    for path in PATHS:
        yield Case("a firewall's page", 403, "client_error", "request", DELIVER, path=path)
    for text in TEXTS:
        for quoted in (f"messages.0.content: {text}", f"system.0: {text}", f"tools.0.name: {text}", f"'{text}'"):
            yield Case("quotes the request", 400, "client_error", "request", DELIVER, {}, said(400, quoted))
        yield Case("too long", 400, "client_error", "request", DELIVER, {}, said(400, text + " " * 400))
    for status in (400, 404, 405, 408, 409, 413, 415, 422):
        yield Case("any other mistake", status, "client_error", "request", DELIVER, {}, error("invalid_request_error"))
    for code in ("already_continued", "continue_in_flight", "fingerprint_mismatch", "unsupported_request"):
        yield Case(f"thread_{code}", 400, "client_error", "request", DELIVER, {}, coded(f"thread_{code}"))
    yield Case("thread gone", 404, "client_error", "request", DELIVER, {}, coded("thread_not_found", "not_found_error"))
    for code in ("thread_not_found", "file_expired", "claude_code_version_too_old", "request_body_encoding_invalid"):
        yield Case(code, 404 if "found" in code else 400, "client_error", "request", DELIVER, {}, coded(code))
    extra = "Third-party apps now draw from your extra usage, not your plan limits."
    yield Case("extra usage", 400, "client_error", "request", DELIVER, {}, said(400, extra))
    for path in PATHS:
        denied = error("permission_error", "Your API key does not have permission to use the specified resource.")
        yield Case("403 names no scope", 403, "permission_denied", "request", NEXT_OR_AGREED, {}, denied, path)
    denied = error("permission_error")
    yield Case("403 in the stream", 200, "permission_denied", "request", NEXT_OR_AGREED, HEALTHY, denied)
    for code in ("linked_organization_billing_unavailable", "linked_organization_spend_limit_reached"):
        yield Case("its user profile", 402, "client_error", "request", DELIVER, {}, coded(code, "billing_error"))
    for code in ("user_profile_billing_not_authorized", "user_profile_not_billable", "sandbox_egress_restricted"):
        yield Case("its user profile", 403, "client_error", "request", DELIVER, {}, coded(code, "permission_error"))
    for text in ("Extra usage is required for long context requests.", "Usage credits are required for long context."):
        body = error("rate_limit_error", text)
        yield Case("a long context", 429, "bare_429", "request", HOP, HEALTHY, body)
    yield Case("an unknown type", 403, "client_error", "request", DELIVER, {}, error("made_up_error"))
    yield Case("404 file", 404, "client_error", "request", DELIVER, {}, said(404, "File not found: file_1"), FILES)
    yield Case("304 not modified", 304, "client_error", "request", DELIVER)
    for status in (301, 302, 303, 307, 308):
        yield Case("a redirect", status, "redirected", "request", HOP_OR_502, {"location": "https://a.example/x"})
    yield Case("429 without a reason", 429, "bare_429", "request", HOP, {}, LIMIT)
    yield Case("429 without a reason", 429, "bare_429", "request", HOP, {"x-should-retry": "true"}, LIMIT, COUNT)
    yield Case("mistake in the stream", 200, "client_error", "request", DELIVER, {}, error("invalid_request_error"))


def upstreams() -> Iterator[Case]:
    """The upstream's own trouble."""
    yield Case("overloaded", 529, "overloaded", "upstream", REPEAT, {}, error("overloaded_error"))
    yield Case("overloaded in the stream", 200, "overloaded", "upstream", REPEAT, {}, error("overloaded_error"))
    for status in (500, 502, 503, 504, 520, 524):
        yield Case("failure", status, "upstream_failure", "upstream", REPEAT, {}, error("api_error"))
    final = {"x-should-retry": "false"}
    yield Case("not to be repeated", 503, "upstream_failure", "upstream", DELIVER, final, error("api_error"))
    for kind in ("api_error", "timeout_error"):
        yield Case("failure in the stream", 200, "upstream_failure", "upstream", REPEAT, {}, error(kind))


_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


def said(status: int, message: str) -> dict[str, Any]:
    """The usual error of that status, with this message."""
    return error(_TYPES[status], message)


def coded(code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """An error with this code."""
    return error(kind, code=code)


CASES = (*accounts(), *families(), *betas(), *parts(), *requests(), *upstreams())


def page() -> str:
    """All of it as a table in Markdown."""
    lines = [
        "| The upstream says | Status | Path | Model, mode, betas | Kind | Scope | The request |",
        "|" + " --- |" * 7,
    ]
    for case in CASES:
        asked = ", ".join(filter(None, (case.model, case.mode, *case.betas)))
        cells = (case.says, str(case.status), case.path, asked, case.kind, case.scope, case.reaction)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
