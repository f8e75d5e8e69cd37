"""Whose refusal is it? One odd request makes no account rest, and one that is dead is left at once."""

import contextlib
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ccflare_core.accounts.account import Kind
from fake_upstream import TOKEN, Answer, FakeUpstream, encoded, failure
from harness import Reply, eventually
from rig import Rig

BATCHES, FILES, COUNT = "/v1/messages/batches", "/v1/files", "/v1/messages/count_tokens"
NO_OAUTH = "OAuth authentication is currently not supported."
NO_SCOPE = "OAuth token does not meet scope requirement user:file_upload"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


def refusal(status: int, kind: str, message: str = "Sorry.", code: str = "") -> Answer:
    details: dict[str, Any] = {"details": {"error_code": code}} if code else {}
    body = {"type": "error", "error": {"type": kind, "message": message, **details}}
    return Answer(status, ((b"content-type", b"application/json"),), (json.dumps(body).encode(),))


def html(status: int) -> Answer:
    return Answer(status, ((b"content-type", b"text/html"),), (b"<html>Blocked by the firewall</html>",))


def send(rig: Rig, method: str, path: str, body: bytes = b"{}", betas: str = "") -> Reply:
    headers = [(b"content-type", b"application/json"), (b"x-claude-code-session-id", rig.session.encode())]
    headers += [(b"anthropic-beta", betas.encode())] if betas else []
    with rig.client() as client:
        return client.request(method, path, headers, body)


def message(rig: Rig, model: str = "claude-opus-4-8", betas: str = "", **more: Any) -> Reply:
    content = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}
    return send(rig, "POST", "/v1/messages", json.dumps(content).encode(), betas)


def nobody_rests(rig: Rig, *names: str) -> bool:
    rig.rows()
    return not any(rig.rests(name) for name in names) and all(
        account["reason"] == "serving" for account in rig.health().values()
    )


ODD = [
    ("POST", BATCHES, refusal(401, "authentication_error", NO_OAUTH)),
    ("GET", FILES, refusal(403, "permission_error", NO_SCOPE)),
    ("POST", "/v1/messages", refusal(404, "not_found_error", "model: claude-opus-9")),
    ("POST", "/v1/messages", refusal(403, "permission_error", "Your organization does not have access to claude-x.")),
    ("POST", "/v1/messages", refusal(400, "invalid_request_error", "This model is not available for your plan.")),
    ("GET", FILES, html(403)),
    ("GET", f"{FILES}/file_1", refusal(403, "permission_error", "You may not read this file.")),
    ("POST", "/v1/messages", refusal(402, "billing_error", code="linked_organization_billing_unavailable")),
    ("POST", "/v1/messages", refusal(403, "permission_error", code="user_profile_not_billable")),
    ("POST", BATCHES, refusal(400, "invalid_request_error", code="organization_type_not_supported")),
]


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
@pytest.mark.parametrize(("method", "path", "answer"), ODD)
def test_odd_request_gets_the_upstreams_answer_and_nobody_rests(
    rig: Rig, names: str, method: str, path: str, answer: Answer
) -> None:
    rig.fresh(*names)
    for name in names:
        rig.script(name, always=answer)

    reply = send(rig, method, path, json.dumps({"model": "claude-opus-9"}).encode())

    assert (reply.status, reply.body) == (answer.status, b"".join(c for c in answer.chunks if isinstance(c, bytes)))
    assert nobody_rests(rig, *names)


@pytest.mark.parametrize(
    "text",
    [
        "Your credit balance is too low to access the Anthropic API.",
        "This organization has been disabled.",
        "You have reached your specified API usage limits.",
    ],
)
def test_text_that_a_400_quotes_from_the_prompt_rests_nobody(rig: Rig, text: str) -> None:
    rig.fresh("a", "b")
    rig.script("a", refusal(400, "invalid_request_error", f"messages.0.content: {text}"))

    assert message(rig).status == 400
    assert rig.asked == ["a"]
    assert nobody_rests(rig, "a", "b")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(400, "invalid_request_error", "Your credit balance is too low to access it."), "out_of_funds"),
        (refusal(402, "billing_error"), "out_of_funds"),
        (refusal(400, "invalid_request_error", "This organization has been disabled."), "account_disabled"),
        (refusal(400, "invalid_request_error", code="organization_on_hold"), "account_disabled"),
        (refusal(429, "rate_limit_error", code="enforced_spend_limit_reached"), "spend_limit"),
        (refusal(429, "rate_limit_error", code="contract_spend_limit_reached"), "spend_limit"),
    ],
)
def test_dead_account_is_left_at_once_and_not_asked_again(rig: Rig, answer: Answer, kind: str) -> None:
    rig.fresh("a", "b")
    rig.script("a", always=answer)

    assert [message(rig).status for _ in range(3)] == [200, 200, 200]

    assert rig.asked == ["a", "b", "b", "b"]
    rig.rows(3)
    assert rig.kinds()[0] == kind


def test_dead_accounts_end_in_a_503_that_names_them(rig: Rig) -> None:
    rig.fresh("a")
    rig.script("a", always=refusal(402, "billing_error"))

    reply = message(rig)

    assert reply.status == 503
    assert f"{rig.name('a')}: cooling until" in reply.json()["error"]["message"]


def test_disabled_account_needs_attention_until_it_is_resumed(rig: Rig) -> None:
    rig.fresh("a", "b")
    rig.script("a", refusal(400, "invalid_request_error", "This organization has been disabled."))
    assert message(rig).status == 200

    told = "needs attention: This organization has been disabled. (https://support.claude.com)"
    assert rig.health()["a"]["reason"] == told
    stored = "SELECT attention FROM accounts WHERE name = ?"
    rig.proxy.rows(stored, (rig.name("a"),), until=lambda rows: rows[0]["attention"] is not None)
    assert rig.proxy.log().count(f"{rig.name('a')} needs attention") == 1

    with contextlib.closing(rig._store()) as store:
        store.accounts.update(rig._accounts["a"].id, paused=False)
    rig.wait_for_reason("a", "serving")
    assert message(rig).status == 200
    assert rig.asked == ["a", "b", "a"]
    audited = "SELECT action, actor, detail FROM audit_log WHERE target = ? ORDER BY id"
    rows = rig.proxy.rows(audited, (rig.name("a"),))
    assert [row["action"] for row in rows] == ["account.add", "account.attention", "account.resume"]
    assert (rows[1]["actor"], json.loads(rows[1]["detail"])["reason"]) == ("proxy", told.partition(": ")[2])
    assert json.loads(rows[2]["detail"])["changes"]["attention"]["after"] is None


def test_family_that_one_plan_lacks_is_served_by_the_next_and_others_go_on(rig: Rig) -> None:
    rig.fresh("a", "b")
    rig.script("a", refusal(400, "invalid_request_error", "claude-opus-4-8 is not available for your plan."))

    assert [message(rig).status, message(rig).status, message(rig, "claude-haiku-4-5").status] == [200] * 3

    assert rig.asked == ["a", "b", "b", "a"]
    rig.rows(3)
    assert [rest.family for rest in rig.rests("a")] == ["opus"]
    assert rig.health()["a"]["reason"].startswith("serving, cooling for opus until ")


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "invalid_request_error", "Unexpected value(s) `b-12`, `b-13` for the `anthropic-beta` header."),
        refusal(400, "invalid_request_error", "Not for you: b-12, b-13.", code="organization_not_enrolled_in_beta"),
        refusal(403, "permission_error", "The b-12 beta is not available for your organization."),
    ],
)
def test_beta_that_one_plan_lacks_is_served_by_the_next_and_others_go_on(rig: Rig, answer: Answer) -> None:
    rig.fresh("a", "b")
    rig.script("a", answer)

    assert [message(rig, betas=betas).status for betas in ("b-11, b-12", "b-12", "b-11")] == [200] * 3

    assert rig.asked == ["a", "b", "b", "a"]
    rig.rows(3)
    assert [rest.family for rest in rig.rests("a")] == ["b-12"]
    assert "serving, cooling for b-12 until " in rig.health()["a"]["reason"]


def test_api_keys_opus_tokens_do_not_rest_haiku(rig: Rig) -> None:
    rig.fresh("a", "b", kind=Kind.API_KEY)
    spent = ((b"anthropic-ratelimit-input-tokens-limit", b"9"), (b"anthropic-ratelimit-input-tokens-remaining", b"0"))
    answer = refusal(429, "rate_limit_error")
    rig.script("a", Answer(429, (*answer.headers, *spent, (b"retry-after", b"90")), answer.chunks))

    assert [message(rig).status, message(rig, "claude-haiku-4-5").status] == [200, 200]

    assert rig.asked == ["a", "b", "a"]


def test_limits_of_fast_mode_leave_the_account_to_others(rig: Rig) -> None:
    rig.fresh("a", "b")
    answer = refusal(429, "rate_limit_error")
    fast = ((b"anthropic-fast-input-tokens-remaining", b"0"), (b"retry-after", b"30"))
    rig.script("a", Answer(429, (*answer.headers, *fast), answer.chunks))

    assert [message(rig, speed="fast").status, message(rig, speed="fast").status, message(rig).status] == [200] * 3

    assert rig.asked == ["a", "b", "b", "a"]


def test_limits_of_count_tokens_leave_the_account_to_messages(rig: Rig) -> None:
    rig.fresh("a", "b")
    answer = refusal(429, "rate_limit_error")
    rig.script("a", Answer(429, (*answer.headers, (b"retry-after", b"40")), answer.chunks))

    assert send(rig, "POST", COUNT, b'{"model":"claude-opus-4-8","messages":[]}').status == 200
    assert message(rig).status == 200

    assert rig.asked == ["a", "b", "a"]


def test_401_of_messages_is_never_the_clients(rig: Rig) -> None:
    rig.fresh("a", "b")
    for name in "ab":
        rig.script(name, always=refusal(401, "authentication_error"))

    reply = message(rig)

    assert reply.status == 503
    rig.rows()
    assert [rest.family for rest in rig.rests("a")] == ["messages"]
    eventually(rig.is_idle, bool)


def test_refusals_that_differ_end_in_a_503_and_rest_whom_they_are_about(rig: Rig) -> None:
    rig.fresh("a", "b")
    rig.script("a", always=refusal(403, "permission_error", NO_SCOPE))
    rig.script("b", always=refusal(429, "rate_limit_error", code="enforced_spend_limit_reached"))

    assert send(rig, "GET", "/v1/models").status == 503
    rig.rows()
    eventually(lambda: [rest.source for rest in rig.rests("b")], lambda found: found == ["spend_limit"])
    eventually(lambda: rig.rests("a"), lambda found: found == [])
    assert send(rig, "GET", "/v1/models").status == 403  # of those that may serve it, all say so


@pytest.mark.parametrize("token", [failure(), refusal(400, "invalid_grant")], ids=["token endpoint down", "login over"])
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_401_of_another_path_is_the_clients_unchanged_when_there_is_no_new_token(
    rig: Rig, token: Answer, coding: str
) -> None:
    rig.fresh("a", refresh_token="ort-none")
    refused = refusal(401, "authentication_error", NO_OAUTH)
    rig.script("a", always=encoded(refused, coding) if coding else refused)
    rig.upstream.always(token, path=TOKEN)

    reply = send(rig, "POST", BATCHES)

    rig.upstream.always(lambda _: None, path=TOKEN)
    (body,) = refused.chunks
    assert (reply.status, gzip.decompress(reply.body) if coding else reply.body) == (401, body)
    (row,) = rig.rows()
    assert (row["status_code"], row["outcome"], row["attempts"]) == (401, "upstream_error", 1)
    assert rig.rests("a") == []


def test_401_that_quotes_the_token_is_kept_without_it(rig: Rig) -> None:
    rig.fresh("a", refresh_token="ort-none")
    rig.script("a", always=refusal(401, "authentication_error", f"{rig.secret('a')} is refused."))
    rig.upstream.always(failure(), path=TOKEN)

    reply = send(rig, "POST", BATCHES)

    rig.upstream.always(lambda _: None, path=TOKEN)
    assert (reply.status, rig.secret("a").encode() in reply.body) == (401, False)
    assert reply.json()["error"]["message"].endswith("is refused.")
