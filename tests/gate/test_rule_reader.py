"""What the owner's rules let a request do: by its head and its body, for one request and for a batch."""

import gzip
import json
import time
from typing import Any

import pytest
from mitmproxy import http

from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.request import PARSE_LIMIT
from ccflare_core.clients.guardrail_files import parse
from ccflare_core.clients.guardrails import Guardrails
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome, Send, Step, Ticket, Wait
from exchange_kit import Bench, limited
from flow_kit import asked
from guard_kit import SECRET, a_gate, a_key, an_authenticator, enter

OPUS, HAIKU = "claude-opus-4-8", "claude-haiku-4-5"
CLAUDE = (b"user-agent", b"claude-cli/2.1.330 (external, cli)")
CHEAP = "cheap: {models: claude-haiku-*}"
SWAP = "swap: {models: claude-haiku-*, replace: claude-haiku-4-5}"


def rules(*texts: str) -> Guardrails:
    return parse("\n".join(texts).encode(), "rules.yaml")


def request(model: str = OPUS, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [], **more}


def in_project(name: str, model: str = OPUS) -> dict[str, Any]:
    return request(model, system=[{"type": "text", "text": f"Working directory: /home/me/{name}\nToday"}])


class Desk:
    """A gate with these rules, before a pool with accounts of one letter each."""

    def __init__(self, *texts: str, accounts: str = "ab", key: dict[str, Any] | None = None, **options: Any) -> None:
        self.bench = Bench(accounts, **options)
        self.bench.exchanges.guardrails = rules(*texts)
        keys = [a_key(**key)] if key is not None else []
        self.headers = ((b"x-api-key", SECRET.encode()),) if keys else ()
        self.gate = a_gate(self.bench, an_authenticator(*keys))
        self.flows: list[http.HTTPFlow] = []

    def ask(
        self,
        content: dict[str, Any] | bytes | None = None,
        *headers: tuple[bytes, bytes],
        path: str = "/v1/messages",
        method: str = "POST",
    ) -> Exchange:
        body = content if isinstance(content, bytes) else json.dumps(content or request()).encode()
        flow = asked(path, method, body=body, headers=(*self.headers, *headers))
        self.flows.append(flow)
        return enter(self.gate, flow)

    def account(self, *arguments: Any, **more: Any) -> str:
        """The letter of the account that serves this."""
        exchange = self.ask(*arguments, **more)
        step = settled(exchange)
        assert isinstance(step, Send), step
        assert exchange.lease is not None
        exchange.finish(Outcome.OK)
        return exchange.lease.account.id

    def refusal(self, *arguments: Any, **more: Any) -> tuple[int, str]:
        """With which status, and why, this is refused for good; as its type is at Anthropic's."""
        exchange = self.ask(*arguments, **more)
        response = self.flows[-1].response
        if response is None:
            step = settled(exchange)
            assert isinstance(step, Answer), step
            status, headers, body = step.status, dict(step.headers), step.body
        else:
            status, headers, body = response.status_code, dict(response.headers.fields), response.content or b""
        assert headers[b"x-should-retry"] == b"false"
        assert not any(b"ratelimit" in name for name in headers)
        error = json.loads(body)["error"]
        assert error["type"] == {400: "invalid_request_error", 403: "permission_error"}[status]
        return status, error["message"]


def settled(exchange: Exchange) -> Step:
    """The step after all waits for what is looked up in a thread."""
    until = time.monotonic() + 60
    while isinstance(step := exchange.next_step(), Wait) and time.monotonic() < until:
        time.sleep(0.005)
    return step


# --- accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "account"),
    [
        ("r: {accounts: max-b}", "b"),
        ("r: {not_accounts: '*-a'}", "b"),
        ("r: {prefer: [max-c, max-a]}", "c"),
        ("r: {prefer: nobody}", "a"),
        ("r: {accounts: max-?, not_accounts: [max-a, max-b]}", "c"),
    ],
)
def test_an_account_is_chosen_by_the_rule_and_the_reason_names_it(rule: str, account: str) -> None:
    desk = Desk(rule, accounts="abc")

    assert desk.account() == account
    exchange = desk.ask()
    settled(exchange)
    assert exchange.choice_reason.endswith(", by the rule r")


def test_an_account_that_is_preferred_comes_before_a_sessions_own_and_is_left_while_it_rests() -> None:
    desk = Desk("r: {when: {tag: a=b}, prefer: max-b}")
    session, tag = (b"x-claude-code-session-id", b"0f4c1a3e"), (b"x-ccflare-tag", b"a=b")

    assert [desk.account(None, session), desk.account(None, session, tag)] == ["a", "b"]
    exchange = desk.ask(None, session, tag)
    steps = desk.bench.steps(exchange, [limited()])
    assert [next(steps) for _ in range(2)][1] == Send(exchange.lease.account.credential())  # type: ignore[union-attr]
    assert exchange.lease is not None
    assert exchange.lease.account.id == "a"


def test_a_failover_stays_with_the_accounts_that_are_allowed() -> None:
    desk = Desk("r: {not_accounts: max-b}", accounts="abc", hold_seconds=0, passthrough="always")
    exchange = desk.ask()
    seen = []
    for step in desk.bench.steps(exchange, [limited(), limited()]):
        if isinstance(step, Send):
            assert exchange.lease is not None
            seen.append(exchange.lease.account.id)

    assert (seen, exchange.status) == (["a", "c"], 503)
    assert exchange.error is not None
    assert "max-b: not by the rule r" in exchange.error
    assert exchange.ticket is not Ticket.PASS


def test_where_the_rules_leave_no_account_that_is_a_403_which_names_what_they_allow() -> None:
    told = "No account may serve this request: the rule r allows work-* only, but not max-a."
    assert Desk("r: {accounts: work-*, not_accounts: max-a}", passthrough="always").refusal() == (403, told)

    told = "No account may serve this request: the rule a allows max-a only; the rule b allows all but max-a."
    assert Desk("a: {accounts: max-a}", "b: {not_accounts: max-a}").refusal() == (403, told)


def test_whose_key_may_not_look_behind_the_proxy_is_told_no_accounts() -> None:
    desk = Desk("r: {accounts: work-*}", key={})

    assert desk.refusal() == (403, "No account may serve this request: not by the rule r.")


def test_a_keys_own_accounts_count_beside_the_rules() -> None:
    assert Desk("r: {not_accounts: max-a}", key={"accounts": ("max-b",)}).account() == "b"
    assert Desk("r: {not_accounts: max-a}", key={"accounts": ("max-a",)}).refusal()[0] == 403


def test_rules_hold_for_what_names_no_model_too() -> None:
    desk = Desk("r: {accounts: max-b}", "m: {when: {model: '*'}, accounts: max-a}")

    assert desk.account(b"", path="/v1/files", method="GET") == "b"
    assert desk.refusal()[0] == 403


# --- models and efforts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/messages?beta=true", "/v1/messages/count_tokens", "/v1/complete"]
)
def test_a_model_that_is_not_allowed_is_refused(path: str) -> None:
    told = f"The rule cheap allows claude-haiku-* only, and this request asks for {OPUS}."
    desk = Desk(CHEAP)

    assert desk.refusal(path=path) == (403, told)
    assert desk.account(request(HAIKU), path=path) == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"claude-haiku-4-5","model":"claude-opus-4-8","messages":[]}',
        b'{"model":"claude-haiku-4-5","\\u006dodel":"claude-opus-4-8","messages":[]}',
        json.dumps(request(HAIKU, tools=[{"type": "advisor", "model": OPUS}])).encode(),
        json.dumps(request(HAIKU, fallbacks="default")).encode(),
        b'{"messages":[]}',
        b"{",
        b"",
    ],
)
def test_a_model_that_cannot_be_told_is_not_allowed(body: bytes) -> None:
    assert Desk(CHEAP).refusal(body)[0] == 403
    assert Desk(SWAP).refusal(body)[0] == 403


def test_an_effort_above_the_cap_is_refused_and_counting_tokens_takes_none() -> None:
    desk = Desk("low: {effort: medium}")
    high = (
        "The rule low allows the efforts low and medium only, and this request asks for high, which is what none means."
    )

    assert desk.refusal() == (403, high)
    assert desk.refusal(request(output_config={"effort": "max"}))[1].endswith("this request asks for max.")
    assert desk.account(request(output_config={"effort": "medium"})) == "a"
    assert desk.account(path="/v1/messages/count_tokens") == "a"
    assert desk.account(after_a_change_to("low")) == "a"
    assert desk.refusal(after_a_change_to("xhigh"))[1].endswith("this request asks for xhigh.")


def after_a_change_to(effort: str) -> dict[str, Any]:
    """What Claude Code asks for after `/effort`: the request's own effort may stay what it was."""
    change = {"role": "system", "content": [], "output_config": {"effort": effort}}
    return request(messages=[{"role": "user", "content": "Go on."}, change], output_config={"effort": "medium"})


def test_a_model_is_replaced_and_no_other_byte_is() -> None:
    desk = Desk(SWAP)
    body = json.dumps(request(messages=[{"role": "user", "content": f'"model":"{OPUS}"'}])).encode()
    exchange = desk.ask(body)

    assert desk.flows[-1].request.raw_content == body.replace(OPUS.encode(), HAIKU.encode(), 1)
    assert exchange.request_body is desk.flows[-1].request.raw_content
    assert (exchange.original_model, exchange.facts.model) == (OPUS, HAIKU)
    assert desk.flows[-1].request.headers["content-length"] == str(len(body) + len(HAIKU) - len(OPUS))


def test_a_replaced_model_has_to_keep_to_all_rules_and_to_the_keys_list() -> None:
    assert Desk(SWAP, "no: {models: claude-opus-*}").refusal()[1].startswith("The rule no allows claude-opus-* only")
    by_key = Desk(SWAP, key={"models": ("claude-opus-*",)})
    by_key.ask()
    assert by_key.flows[-1].response is not None
    assert by_key.flows[-1].response.status_code == 403


def test_rules_for_the_model_that_stands_in_count_too() -> None:
    desk = Desk(SWAP, "h: {when: {model: claude-haiku-*}, accounts: max-b}")
    exchange = desk.ask()

    assert isinstance(settled(exchange), Send)
    assert exchange.lease is not None
    assert exchange.lease.account.id == "b"
    assert [rule.name for rule in exchange.ruling.rules] == ["swap", "h"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (json.dumps(request(thread={"type": "new"})).encode(), ()),
        (json.dumps(request(thread={"type": "continue", "previous_message_id": "msg_1"})).encode(), ()),
        (gzip.compress(json.dumps(request()).encode()), ((b"content-encoding", b"gzip"),)),
        (json.dumps(request(messages=["x" * PARSE_LIMIT])).encode(), ()),
    ],
    ids=["a thread", "its continuation", "a coding", "long"],
)
def test_a_model_that_cannot_be_replaced_is_refused(body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    desk = Desk(SWAP)

    assert desk.refusal(body, *headers)[1].endswith(f"this request asks for {OPUS}.")
    assert desk.flows[-1].request.raw_content == body


# --- what cannot be read ----------------------------------------------------------------------------------------------

TWO = ("shop: {when: {project: shop}, accounts: max-a}", "cart: {when: {project: cart}, accounts: max-b}")


def test_a_project_decides_and_its_session_remembers_it() -> None:
    desk = Desk(*TWO)
    session = (b"x-claude-code-session-id", b"0f4c1a3e")

    assert desk.account(in_project("shop"), CLAUDE) == "a"
    assert desk.account(in_project("cart"), CLAUDE, session) == "b"
    assert desk.account(request(), CLAUDE, session) == "b"


def test_claude_codes_request_without_a_project_may_be_of_any_and_others_are_of_none() -> None:
    desk = Desk(*TWO)

    assert desk.refusal(request(), CLAUDE)[0] == 403
    assert desk.account(request()) == "a"
    assert Desk(TWO[1]).account(request(), CLAUDE) == "b"


def test_a_thread_that_goes_on_is_of_the_project_that_it_began_in_or_of_any() -> None:
    desk = Desk(*TWO)
    session = (b"x-claude-code-session-id", b"0f4c1a3e")
    goes_on = request(thread={"type": "continue", "previous_message_id": "msg_1"})

    assert desk.refusal(goes_on, CLAUDE, session)[0] == 403
    assert desk.account(in_project("cart"), CLAUDE, session) == "b"
    assert desk.account(goes_on, CLAUDE, session) == "b"


def test_a_rule_that_may_match_gives_no_replacement_and_no_preference() -> None:
    desk = Desk("r: {when: {project: shop}, models: claude-haiku-*, replace: claude-haiku-4-5, prefer: max-b}")

    assert desk.refusal(request(), CLAUDE)[0] == 403
    assert desk.account(request(HAIKU), CLAUDE) == "a"
    assert desk.account(in_project("shop"), CLAUDE) == "b"


# --- batches, files, managed agents -----------------------------------------------------------------------------------

BATCH = "/v1/messages/batches"


def batch(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"requests": [{"custom_id": str(n), "params": each} for n, each in enumerate(requests)]}


@pytest.mark.parametrize("key", [None, {}])
def test_a_batch_is_judged_by_all_its_requests(key: dict[str, Any] | None) -> None:
    desk = Desk(SWAP, "low: {effort: medium}", "h: {when: {model: '*-haiku-*'}, accounts: max-b}", key=key)
    low = {"effort": "low"}

    assert desk.account(batch(request(HAIKU, output_config=low)), path=BATCH) == "b"
    assert answer_of(desk, batch(request(HAIKU, output_config=low), request())).endswith(f"asks for {OPUS}.")
    assert "asks for high" in answer_of(desk, batch(request(HAIKU)))
    assert answer_of(desk, b'{"requests":[{"params":{"model":1,"model":2}}]}').startswith(
        "The models of this batch cannot be compared with the rules, for "
    )


def answer_of(desk: Desk, content: dict[str, Any] | bytes) -> str:
    step = settled(desk.ask(content, path=BATCH))
    assert isinstance(step, Answer), step
    assert step.status in (400, 403)
    return step.reason


def test_a_batch_is_not_read_where_nothing_depends_on_it() -> None:
    desk = Desk("r: {when: {client: ci}, models: x}", "a: {accounts: max-b}")

    assert isinstance(desk.ask(b"no batch", path=BATCH).next_step(), Send)


def test_managed_agents_are_refused_where_their_models_would_count() -> None:
    desk = Desk(CHEAP, stateful_account="max-a")
    told = "The rule cheap would have to see the models of managed agents, and what these run is not seen here."

    assert desk.refusal(b"{}", path="/v1/sessions") == (403, told)
    assert Desk("r: {accounts: max-b}", stateful_account="max-a").refusal(b"{}", path="/v1/sessions")[0] == 403
    assert Desk("r: {accounts: max-a}", stateful_account="max-a").account(b"{}", path="/v1/sessions") == "a"
    by_session = Desk("r: {when: {session: 0f4*}, models: x}", stateful_account="max-a")
    assert by_session.account(b"{}", path="/v1/sessions") == "a"
    assert by_session.refusal(b"{}", (b"x-claude-code-session-id", b"0f4c"), path="/v1/sessions")[0] == 403
