"""What each kind of upstream answer leads to: what the client gets, who is asked next, who rests."""

import contextlib
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import NamedTuple

import pytest

from ccflare_core.accounts.account import Kind
from fake_upstream import (
    Answer,
    Cut,
    FakeUpstream,
    Gate,
    Wait,
    allowed_headers,
    bad_request,
    bare_429,
    close_before_head,
    cut_midway,
    encoded,
    error,
    event,
    failure,
    garbage,
    limited_5h,
    limited_for,
    limited_only_windows,
    message_json,
    model_bucket,
    out_of_credits,
    overloaded,
    permission_denied,
    rejected_headers,
    reset_before_head,
    short_throttle,
    sse,
    sse_answer,
    sse_error_first,
    sse_error_midway,
    unauthorized,
    unified,
)
from fake_upstream.messages import whole_answer
from harness import Http2Client, Port, Truncated, claude_request, eventually
from rig import Rig, texts, visible

HOUR = 3600.0


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


class Case(NamedTuple):
    """What account a answers, and what follows: how often a is asked, and how it rests."""

    answer: Callable[[], Answer]
    kind: str
    asked: str = "ab"
    seconds: float | None = None
    reason: str = ""
    family: str = ""
    """What of it rests: a family or a path class; "" is all."""


def html(status: int) -> Answer:
    """A page of somebody's between the API and us."""
    return Answer(status, ((b"content-type", b"text/html"),), (b"<html>Blocked</html>",))


def redirect(status: int) -> Answer:
    """Elsewhere, with a secret in the address."""
    return Answer(status, ((b"Location", b"https://a.example/v1?token=x"), (b"Content-Length", b"0")))


def after_a_block(kind: str) -> Answer:
    """An error behind a block that has only begun."""
    whole = sse_error_first(kind)
    return replace(whole, chunks=(*sse(0).chunks[:2], Wait(0.2), *whole.chunks))


def in_an_hour() -> float:
    return time.time() + HOUR


def hard(word: str) -> Answer:
    return error(403, "permission_error", "No.", unified(status=word, _5h_status=word, _5h_reset=int(in_an_hour())))


def throttled(name: bytes, value: str) -> Answer:
    """A 429 with just one header that says when to come back."""
    return error(429, "rate_limit_error", "Slow down.", ((name, value.encode()),))


def in_http(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def cut_while_held() -> Answer:
    """A stream that breaks off after its start, which is no content yet."""
    return sse_answer(sse(0).chunks[0], Wait(0.05), Cut(reset=True))


def api_key_spent() -> Answer:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    headers = ((b"remaining", b"0"), (b"limit", b"4000"), (b"reset", soon.encode()))
    prefix = b"anthropic-ratelimit-requests-"
    return error(429, "rate_limit_error", "Slow down.", tuple((prefix + name, value) for name, value in headers))


# fmt: off
NO_SCOPE = "OAuth token does not meet scope requirement user:inference"
MOVED = {
    "the 5h window is spent":     Case(lambda: limited_5h(in_an_hour()), "window_spent", "ab", HOUR, "5h window spent"),
    "only its window says so":    Case(lambda: limited_only_windows(in_an_hour()), "window_spent", "ab", HOUR, "5h window"),  # noqa: E501
    "a legacy hard status":       Case(lambda: hard("blocked"), "window_spent", "ab", HOUR, "5h window spent"),
    "an API key's requests":      Case(api_key_spent, "window_spent", "ab", 120, "requests window spent", "opus"),
    "a model's bucket":           Case(lambda: model_bucket(in_an_hour()), "model_bucket_spent", "ab", HOUR, "7d_opus", "opus"),  # noqa: E501
    "the 7d_oi bucket":           Case(lambda: model_bucket(in_an_hour(), "seven_day_overage_included"),
                                       "model_bucket_spent", "ab", HOUR, "7d_oi", "opus"),
    "out of credits":             Case(out_of_credits, "out_of_credits", "ab", 300, "out of credits", "opus"),
    "a bare 429":                 Case(bare_429, "bare_429", "ab"),
    "a short throttle":           Case(lambda: short_throttle(20), "short_throttle", "ab", 20, "short throttle"),
    "retry-after as a date":      Case(lambda: throttled(b"retry-after", in_http(30)), "short_throttle", "ab", 30, "short throttle"),  # noqa: E501
    "a throttle of minutes":      Case(lambda: short_throttle(240), "window_spent", "ab", 240, ""),
    "x-ratelimit-reset":          Case(lambda: throttled(b"x-ratelimit-reset", f"{in_an_hour():.0f}"), "window_spent", "ab", HOUR, ""),  # noqa: E501
    "401":                        Case(unauthorized, "credential_rejected", "ab", 300, "credential rejected", "messages"),  # noqa: E501
    "403 about a scope":          Case(lambda: error(403, "permission_error", NO_SCOPE), "permission_denied", "ab", 300, "lacks a scope", "messages"),  # noqa: E501
    "403 about nothing named":    Case(lambda: error(403, "permission_error", "No."), "permission_denied", "ab"),
    "403 about the login":        Case(lambda: error(403, "authentication_error", "Revoked."), "credential_rejected", "ab", 300, "", "messages"),  # noqa: E501
    "500 again and again":        Case(failure, "upstream_failure", "aab", 5, "500 from upstream"),
    "a 502 page in HTML":         Case(lambda: failure(502, html=True), "upstream_failure", "aab", 5, "502"),
    "503":                        Case(lambda: failure(503), "upstream_failure", "aab", 5, "503"),
    "a reset before the head":    Case(reset_before_head, "upstream_failure", "aab", 5, ""),
    "the end before the head":    Case(close_before_head, "upstream_failure", "aab", 5, ""),
    "a cut before any content":   Case(cut_while_held, "upstream_failure", "aab", 5, ""),
    "garbage":                    Case(garbage, "upstream_failure", "aab", 5, ""),
    "SSE: rate limit at first":   Case(lambda: sse_error_first("rate_limit_error"), "window_spent", "ab", 60, "in the stream"),  # noqa: E501
    "SSE: api error at first":    Case(lambda: sse_error_first("api_error", started=True), "upstream_failure", "aab", 5, ""),  # noqa: E501
    "SSE: no byte":               Case(lambda: sse_answer(), "upstream_failure", "aab", 5, "without content"),
    "SSE: only comments":         Case(lambda: sse_answer(b": hold on\n\n"), "upstream_failure", "aab", 5, "without content"),  # noqa: E501
    "SSE: only a start":          Case(lambda: sse_answer(sse(0).chunks[0]), "upstream_failure", "aab", 5, "without content"),  # noqa: E501
    "SSE: an empty block":        Case(lambda: sse_answer(*sse(0).chunks[:2]), "upstream_failure", "aab", 5, "without content"),  # noqa: E501
    "SSE: error after a block":   Case(lambda: after_a_block("api_error"), "upstream_failure", "aab", 5, "in the stream"),  # noqa: E501
    "an empty 200":               Case(lambda: whole_answer(b"", b"application/json", 200, ()), "upstream_failure", "aab", 5, "is empty"),  # noqa: E501
    "a page with 200":            Case(lambda: html(200), "upstream_failure", "aab", 5, "not JSON"),
    "a JSON error with 200":      Case(lambda: error(200, "rate_limit_error", "No."), "window_spent", "ab", 60, ""),
    "a redirect":                 Case(lambda: redirect(307), "redirected", "ab"),
    "SSE in gzip: the same":      Case(lambda: encoded(sse_error_first("api_error"), "gzip"), "upstream_failure", "aab", 5, ""),  # noqa: E501
}
OVERLOADED = {
    "529":                        Case(overloaded, "overloaded", "aaab", 10, "overloaded"),
    "SSE: overloaded at first":   Case(sse_error_first, "overloaded", "aaab", 10, "overloaded_error in the stream"),
}
DELIVERED = {
    "400": bad_request,
    "400 about extra usage": lambda: bad_request("Third-party apps now draw from your extra usage."),
    "404": lambda: error(404, "not_found_error", "Not found"),
    "403 of a firewall": lambda: html(403),
    "413": lambda: error(413, "request_too_large", "Request too large"),
    "422": lambda: error(422, "invalid_request_error", "No."),
    "500, should not be retried": lambda: failure(should_retry=False),
    "529, should not be retried": lambda: error(529, "overloaded_error", "No.", ((b"x-should-retry", b"false"),)),
    "a warning": lambda: message_json(headers=allowed_headers(0.9, status="allowed_warning", status_5h="allowed_warning")),  # noqa: E501
    "a soft queue": lambda: message_json(headers=allowed_headers(status="queueing_soft")),
    "overage serves it": lambda: message_json(headers=rejected_headers(in_an_hour(), overage="allowed")),
}
# fmt: on


@pytest.mark.parametrize("case", (MOVED | OVERLOADED).values(), ids=(MOVED | OVERLOADED).keys())
def test_the_next_account_serves_and_the_first_rests(rig: Rig, case: Case) -> None:
    rig.script("a", always=lambda _: case.answer())  # whose time is that of the moment when it is given

    reply = rig.ask()

    assert reply.status == 200
    assert texts(reply.events()) == [f"word {n} " for n in range(5)]
    assert "".join(rig.asked) == case.asked
    row = rig.row()
    assert (row["outcome"], row["account"], row["failover_attempts"]) == ("ok", "b", 1)
    assert rig.kinds() == [case.kind] * case.asked.count("a") + ["ok"]
    expected = [] if case.seconds is None else [(case.family, case.kind, True, True)]
    near = case.seconds or 0
    assert [(r.family, r.source, case.reason in r.reason, near - 3 < r.left <= near + 1) for r in rig.rests("a")] == (
        expected
    )
    assert rig.rests("b") == []


@pytest.mark.parametrize("make", DELIVERED.values(), ids=DELIVERED.keys())
def test_what_is_the_clients_is_delivered_unchanged_and_cools_nothing(rig: Rig, make: Callable[[], Answer]) -> None:
    answer = make()
    rig.script("a", answer)

    reply = rig.ask(stream=False)

    assert (reply.status, reply.body) == (answer.status, b"".join(c for c in answer.chunks if isinstance(c, bytes)))
    assert set(visible(answer)) <= {*reply.head.headers}
    assert rig.ask(stream=False).status == 200
    first, _ = rig.rows(2)
    assert (first["outcome"] == "ok") == (answer.status < 400)
    if answer.status < 500:  # then the account is not held to be at fault
        assert rig.asked == ["a", "a"]
        assert rig.rests("a") == []


def test_a_200_that_says_rejected_is_delivered_once_and_counts_from_the_next_request_on(rig: Rig) -> None:
    rig.script("a", sse(2, headers=rejected_headers(in_an_hour())))

    assert texts(rig.ask().events()) == ["word 0 ", "word 1 "]
    assert rig.asked == ["a"]
    assert rig.ask().status == 200
    assert rig.asked == ["a", "b"]
    rig.rows(2)
    assert [(rest.source, rest.left > HOUR - 60) for rest in rig.rests("a")] == [("window_spent", True)]


def test_a_spent_bucket_holds_its_own_model_only(rig: Rig) -> None:
    rig.script("a", model_bucket(in_an_hour()))

    rig.ask()
    rig.ask(model="claude-sonnet-4-5")
    rig.ask(model="claude-opus-4-8")

    assert rig.asked == ["a", "b", "a", "b"]


@pytest.mark.parametrize("answer", [bare_429(), short_throttle()], ids=["bare 429", "short throttle"])
def test_one_hop_and_no_more(bench: Rig, answer: Answer) -> None:
    bench.fresh("a", "b", "c")
    for name in "abc":
        bench.script(name, always=answer)

    reply = bench.ask()

    assert (reply.status, reply.json()["error"]["type"]) == (429, "rate_limit_error")
    assert bench.asked == ["a", "b"]
    assert bench.row()["outcome"] == "upstream_error"


def test_overload_of_all_takes_one_hop_and_is_delivered(bench: Rig) -> None:
    bench.fresh("a", "b", "c")
    for name in "abc":
        bench.script(name, always=overloaded())

    reply = bench.ask()

    assert (reply.status, reply.json()["error"]["type"]) == (529, "overloaded_error")
    assert "".join(bench.asked) == "aaabbb"


def test_a_failure_of_all_ends_with_the_upstreams_own_answer(rig: Rig) -> None:
    for name in "ab":
        rig.script(name, always=failure(500))

    reply = rig.ask()

    assert (reply.status, reply.json()["error"]["message"]) == (500, "Internal server error")
    assert "".join(rig.asked) == "aabb"


def test_a_loss_of_every_connection_ends_with_our_502(rig: Rig) -> None:
    for name in "ab":
        rig.script(name, always=reset_before_head())

    reply = rig.ask()

    assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
    assert "".join(rig.asked) == "aabb"
    row = rig.row()
    assert (row["outcome"], reply.header("request-id")) == ("upstream_error", row["id"])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_all_is_a_502_that_names_the_host(bench: Rig, status: int) -> None:
    bench.fresh("a", "b", "c")
    for name in "abc":
        bench.script(name, always=redirect(status))

    reply = bench.ask()

    assert (reply.status, reply.header("location"), bench.asked) == (502, None, ["a", "b"])
    assert reply.json()["error"]["message"] == "The upstream could not be used: a redirect to a.example."
    assert [bench.rests(name) for name in "abc"] == [[], [], []]


def test_a_redirect_of_what_passes_is_the_clients(rig: Rig) -> None:
    rig.upstream.answer(redirect(307), path="/api/claude_code/settings")
    with rig.client() as client:
        reply = client.request("GET", "/api/claude_code/settings", [(b"Authorization", b"Bearer the-clients-own")])

    assert (reply.status, reply.header("location")) == (307, "https://a.example/v1?token=x")


def test_a_stream_that_is_empty_with_all_is_our_502(rig: Rig) -> None:
    for name in "ab":
        rig.script(name, always=sse_answer(sse(0).chunks[0]))

    reply = rig.ask()

    assert (reply.status, "".join(rig.asked), rig.row()["outcome"]) == (502, "aabb", "upstream_error")
    assert "the stream ended without content" in reply.json()["error"]["message"]


@pytest.mark.parametrize("reason", ["refusal", "end_turn", "max_tokens", "pause_turn"])
def test_a_stream_that_says_why_it_stopped_is_an_answer_without_content(rig: Rig, reason: str) -> None:
    start, why = sse(0).chunks[0], {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}}
    rig.script("a", sse_answer(start, event(why), event({"type": "message_stop"})))

    assert rig.ask().events()[-1] == {"type": "message_stop"}
    assert (rig.asked, rig.row()["outcome"]) == (["a"], "ok")


@pytest.mark.parametrize("answer", [unauthorized(), permission_denied()], ids=["401", "403"])
def test_a_refused_credential_is_never_shown_to_the_client(rig: Rig, answer: Answer) -> None:
    for name in "ab":
        rig.script(name, always=answer)

    reply = rig.ask()

    assert reply.status == 503
    assert rig.asked == ["a", "b"]


def test_a_429_that_no_other_account_can_take_becomes_our_503(rig: Rig) -> None:
    """And at once, however soon one is back: nothing is held here."""
    rig.script("a", always=limited_5h(in_an_hour()))
    rig.script("b", always=limited_5h(time.time() + 30))

    reply = rig.ask()

    assert reply.status == 503
    assert 1 <= int(reply.header("retry-after") or 0) <= 30
    assert rig.row()["response_time_ms"] < 20_000
    assert not [name for name, _ in reply.head.headers if name.lower().startswith(b"anthropic-ratelimit")]
    assert rig.asked == ["a", "b"]


@pytest.mark.parametrize(
    "answer",
    [limited_5h(in_an_hour()), sse_error_first("rate_limit_error"), reset_before_head(), failure(502, html=True)],
    ids=["a limit", "an error in a stream", "a reset", "a page"],
)
def test_a_failed_over_stream_is_passed_on_chunk_by_chunk(rig: Rig, answer: Answer) -> None:
    gates = [Gate(), Gate()]
    whole = sse(["one", "two"], gate=gates[0])
    rig.script("a", always=answer)
    rig.script("b", Answer(200, whole.headers, (*whole.chunks[:-1], gates[1], whole.chunks[-1])))
    with rig.client() as client:
        rig.send(client)

        assert client.read_head().status == 200
        first = [client.read_event() for _ in range(4)]
        assert not gates[0].is_open  # so what was read had been sent on before the rest existed
        gates[0].open()
        rest = [client.read_event() for _ in range(3)]
        assert not gates[1].is_open
        gates[1].open()
        rest += client.events()

    assert texts(first) == ["one"]
    assert texts(rest) == ["two"]
    assert rest[-1] == {"type": "message_stop"}
    assert (rig.asked[0], rig.asked[-1], rig.row()["outcome"]) == ("a", "b", "ok")


@pytest.mark.parametrize("encoding", ["", "gzip", "br"])
def test_a_failed_over_answer_has_its_own_head_and_bytes(rig: Rig, encoding: str) -> None:
    answer = encoded(sse(3), encoding) if encoding else sse(3)
    rig.script("a", limited_5h(in_an_hour()))
    rig.script("b", answer)

    reply = rig.ask()

    assert reply.body == b"".join(chunk for chunk in answer.chunks if isinstance(chunk, bytes))
    assert set(visible(answer)) <= {*reply.head.headers}
    assert reply.header("request-id") == rig.requests[1].id


def test_the_head_comes_before_any_content_of_a_slow_answer_is_there(rig: Rig) -> None:
    """The first content event lets the head go; what follows it is not waited for."""
    gate = Gate()
    whole = sse(1)
    rig.script("a", Answer(200, whole.headers, (*whole.chunks[:2], gate, *whole.chunks[2:])))
    with rig.client() as client:
        rig.send(client)
        head = client.read_head()
        events = [client.read_event() for _ in range(2)]
        assert not gate.is_open
        gate.open()
        assert len([*events, *client.events()]) == 7

    assert head.status == 200


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error", "rate_limit_error"])
def test_an_error_after_content_is_delivered_and_not_retried(rig: Rig, kind: str) -> None:
    rig.script("a", sse_error_midway(kind))

    events = rig.ask().events()

    assert texts(events) == ["word 0 ", "word 1 "]
    assert (events[-1]["type"], events[-1]["error"]["type"]) == ("error", kind)
    assert rig.asked == ["a"]
    row = rig.row()
    assert (row["outcome"], row["success"]) == ("upstream_error", 0)
    assert kind in row["error_message"]


@pytest.mark.parametrize(
    ("kind", "source", "seconds"),
    [
        ("overloaded_error", "overloaded", 10),
        ("api_error", "upstream_failure", 5),
        ("rate_limit_error", "window_spent", 60),
        ("invalid_request_error", "", 0),
    ],
)
def test_the_clients_own_repeat_after_a_late_error_lands_elsewhere(
    rig: Rig, kind: str, source: str, seconds: float
) -> None:
    rig.script("a", sse_error_midway(kind))

    rig.ask()
    rig.rows()
    rests = rig.rests("a")
    assert texts(rig.ask().events()) == [f"word {n} " for n in range(5)]

    assert [(r.source, seconds - 3 < r.left <= seconds + 1) for r in rests] == ([(source, True)] if source else [])
    assert rig.asked == (["a", "b"] if source else ["a", "a"])
    assert [row["outcome"] for row in rig.rows(2)] == ["upstream_error", "ok"]


def ask_and_be_cut_off(rig: Rig) -> None:
    with rig.client() as client:
        rig.send(client)
        client.read_head()
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_body()


def test_the_clients_own_repeat_after_a_cut_lands_elsewhere(rig: Rig) -> None:
    rig.script("a", cut_midway())

    ask_and_be_cut_off(rig)
    rig.rows()
    rests = rig.rests("a")
    assert rig.ask().status == 200

    assert [(r.source, 2 < r.left <= 6) for r in rests] == [("broken_off", True)]
    assert rig.asked == ["a", "b"]


def test_an_only_account_is_waited_for_after_a_cut() -> None:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_hold_seconds=20) as rig:
        rig.fresh("a")
        rig.script("a", cut_midway())
        ask_and_be_cut_off(rig)
        rig.rows()

        assert rig.ask().status == 200
        assert rig.asked == ["a", "a"]
        assert [row["outcome"] for row in rig.rows(2)] == ["truncated", "ok"]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_an_error_that_was_read_is_the_outcome_when_the_client_hangs_up_at_it(rig: Rig, encoding: str) -> None:
    gate, whole = Gate(), sse_error_midway("overloaded_error")
    answer = encoded(whole, encoding) if encoding else whole
    rig.script("a", replace(answer, chunks=(*answer.chunks[: len(whole.chunks)], gate)))
    sent = b"".join(chunk for chunk in answer.chunks[: len(whole.chunks)] if isinstance(chunk, bytes))
    with rig.client() as client:
        rig.send(client)
        client.read_head()
        read = b""
        while len(read) < len(sent):
            read += client.read_chunk()

    row = rig.row()
    gate.open()
    assert (row["outcome"], row["error_message"], row["success"]) == ("upstream_error", "overloaded_error", 0)
    assert [rest.source for rest in rig.rests("a")] == ["overloaded"]


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
def test_every_attempt_sends_the_same_bytes(rig: Rig, encoding: str) -> None:
    rig.script("a", failure(), limited_5h(in_an_hour()))
    method, target, headers, body = claude_request(40_000, session=rig.session)
    if encoding:
        # Under the name of zstd it cannot be read here, which is no reason to touch it.
        body, headers = gzip.compress(body), (*headers, (b"Content-Encoding", encoding.encode()))
    with rig.client() as client:
        assert client.request(method, target, headers, body).status == 200

    assert rig.asked == ["a", "a", "b"]
    assert [request.body == body for request in rig.requests] == [True] * 3
    assert {request.header("content-encoding") or "" for request in rig.requests} == {encoding}
    assert {request.target for request in rig.requests} == {target}


def test_a_chunked_request_is_repeated_whole(rig: Rig) -> None:
    rig.script("a", failure(), unauthorized())
    method, target, headers, body = claude_request(5000, session=rig.session)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    with rig.client() as client:
        client.send_request(method, target, (*headers, (b"Transfer-Encoding", b"chunked")), chunks + b"0\r\n\r\n")
        assert client.read_head().status == 200

    assert rig.asked == ["a", "a", "b"]
    assert {request.body for request in rig.requests} == {body}


def test_each_attempt_has_the_credential_of_its_account_and_no_other(bench: Rig) -> None:
    bench.fresh("a", "b", kind=Kind.API_KEY)
    bench.script("a", failure(), limited_5h(in_an_hour()))

    bench.ask(extra=[(b"Authorization", b"Bearer the-clients-own"), (b"Proxy-Authorization", b"Basic eDp5")])

    seen = [(r.header_values("x-api-key"), r.header_values("authorization")) for r in bench.requests]
    assert seen == [([bench.secret(name)], []) for name in "aab"]
    assert not any(r.header("proxy-authorization") for r in bench.requests)


@pytest.mark.parametrize("lost", [close_before_head(), reset_before_head()], ids=["FIN", "RST"])
def test_a_kept_connection_that_upstream_closed_is_replaced_unseen(rig: Rig, lost: Answer) -> None:
    """The close meets the request on its way: that is no failure of the account."""
    rig.script("a", message_json(), lost, message_json("Again."))
    with rig.client() as client:
        assert client.request(*claude_request(3000, session=rig.session, stream=False)).status == 200
        reply = client.request(*claude_request(3000, session=rig.session, stream=False))

    assert reply.json()["content"][0]["text"] == "Again."
    first, second, third = rig.requests
    assert first.connection == second.connection != third.connection
    assert [row["attempts"] for row in rig.rows(2)] == [1, 1]
    assert rig.rests("a") == []


def test_a_second_loss_is_a_failure(rig: Rig) -> None:
    rig.script("a", message_json(), *[close_before_head()] * 3)
    with rig.client() as client:
        for _ in range(2):
            assert client.request(*claude_request(3000, session=rig.session, stream=False)).status == 200

    assert "".join(rig.asked) == "aaaab"
    assert [row["attempts"] for row in rig.rows(2)] == [1, 3]
    assert [rest.source for rest in rig.rests("a")] == ["upstream_failure"]


def test_a_connection_lost_under_an_http2_client_is_a_failure() -> None:
    """Each of its requests has its own, so none was kept too long and is to be replaced; each loss counts."""
    with FakeUpstream(tls=True, http2=True) as upstream, Rig.running(upstream) as rig:
        rig.fresh("a", "b")
        rig.script("a", message_json(), always=Answer(before=(Cut(stream=True),)))
        with Http2Client.via_connect(rig.proxy, "localhost", upstream.port) as client:
            for _ in range(2):
                assert client.request(*claude_request(3000, session=rig.session)).status == 200

        assert "".join(rig.asked) == "aaab"
        assert len({request.connection for request in rig.requests}) == 4
        assert [row["attempts"] for row in rig.rows(2)] == [1, 3]


def test_a_kept_connection_that_was_closed_while_idle_is_replaced(rig: Rig) -> None:
    rig.script("a", Answer(200, message_json().headers, message_json().chunks, close=True))
    with rig.client() as client:
        for _ in range(2):
            assert client.request(*claude_request(3000, session=rig.session, stream=False)).status == 200

    assert rig.asked == ["a", "a"]


def test_an_account_that_serves_again_has_its_rest_taken_away(rig: Rig) -> None:
    rig.script("a", limited_for(1))

    rig.ask()
    rig.row()
    assert [rest.source for rest in rig.rests("a")] == ["window_spent"]
    rig.wait_for_reason("a", "serving")
    rig.ask()

    assert rig.asked == ["a", "b", "a"]
    rig.rows(2)
    eventually(lambda: rig.rests("a"), lambda rests: not rests)


def test_a_paused_account_stays_out_and_a_resumed_one_comes_back(rig: Rig) -> None:
    rig.change("a", paused=True)
    rig.wait_for_reason("a", "paused")
    rig.ask()
    rig.change("a", paused=False)
    rig.wait_for_reason("a", "serving")
    rig.ask()

    assert rig.asked == ["b", "a"]


def test_an_upstream_that_refuses_connections_is_our_502() -> None:
    port = Port()
    with contextlib.ExitStack() as stack, Rig.running(f"http://127.0.0.1:{port.number}") as rig:
        stack.callback(port.release)
        rig.fresh("a", "b")

        reply = rig.ask()

        assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
        assert (rig.row()["outcome"], rig.row()["attempts"]) == ("upstream_error", 4)
        assert rig.kinds() == ["upstream_failure"] * 4
        assert [rest.source for name in "ab" for rest in rig.rests(name)] == ["upstream_failure"] * 2


@pytest.mark.parametrize("answer", [limited_5h(in_an_hour()), failure(), overloaded()], ids=["429", "500", "529"])
def test_a_request_that_only_passes_is_asked_once(rig: Rig, answer: Answer) -> None:
    rig.upstream.answer(answer, path="/api/claude_code/settings")
    with rig.client() as client:
        reply = client.request("GET", "/api/claude_code/settings", [(b"Authorization", b"Bearer the-clients-own")])

    assert (reply.status, reply.body) == (answer.status, answer.chunks[0])
    assert [request.credential for request in rig.requests] == ["the-clients-own"]
    assert {account["reason"] for account in rig.health().values()} == {"serving"}


def test_a_failing_upstream_is_not_asked_twice_by_everybody(rig: Rig) -> None:
    """Of ten that fail at once three are tried again; the others get the failure as it is."""
    gates = [Gate(), Gate()]
    rig.script("a", *[replace(failure(), before=(gates[0],))] * 10, always=replace(failure(), before=(gates[1],)))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(10)]
        for number, client in enumerate(clients):
            rig.send(client, session=f"{rig.session}-{number}")
        rig.wait_for(10)
        gates[0].open()
        rig.wait_for(13)
        eventually(lambda: rig.health()["a"]["in_flight"], lambda left: left == 3)
        assert "".join(rig.asked) == "a" * 13
        gates[1].open()
        statuses = sorted(client.read_head().status for client in clients)

    assert statuses == [200] * 3 + [500] * 7
    assert "".join(rig.asked) == "a" * 13 + "b" * 3
