"""A replay takes two presses, the exact body, and an entry in the audit log."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from ccflare_core.errors import StoreError, Unusable
from ccflare_core.exchange.exchange import Exchange
from ccflare_mitm.host.replays import Replay
from ccflare_mitm.inspector.comment import Comments, comment
from ccflare_mitm.inspector.replay import PATIENCE, PAUSE, Replayer, Way
from ccflare_mitm.inspector.stand_ins import AWAY, GONE, StandIn
from exchange_kit import OK, OPUS, STREAM, Bench, Reply, refusal

BODY = b'{"model":"claude-opus-4-8"}'
ASKS = "replay? once more within 60 s sends it; it costs about $0.0141 (the first time $0.0129)"


class Desk:
    """A replayer with one finished flow in its list."""

    def __init__(self, *replies: Reply, accounts: str = "a", path: str = "/v1/messages") -> None:
        self.bench = Bench(accounts)
        request = tutils.treq(method=b"POST", path=path.encode(), content=BODY)
        self.flow: http.HTTPFlow = tflow.tflow(req=request, resp=True)
        self.story: Exchange = self.bench.serve(*(replies or (OK,)))
        self.sent: list[tuple[bytes | None, Replay]] = []
        self.audited: list[Replay] = []
        self.problems: list[Exception] = []
        self.objection = ""
        self.is_loaded = False
        self.kept: bytes | None = None
        """What the database has of the body."""
        self.comments = Comments()
        self._work: list[Coroutine[Any, Any, None]] = []
        way = Way(
            find=lambda flow: self.story if flow is self.flow else None,
            is_loaded=lambda flow: self.is_loaded,
            bring_back=self._bring_back,
            describe=lambda flow, account: Replay(self.story.id, None, account),
            objection=lambda: self.objection,
            audit=self._audit,
            send=self._send,
            say=self.comments.say,
            start=lambda name, work: self._work.append(work),
        )
        self.replayer = Replayer(way, lambda: self.bench.clock.mono)
        self.comments.write(self.flow, self.story)
        self.replayer.remember(self.flow, self.story)

    async def _bring_back(self, flow: http.HTTPFlow) -> None:
        if self.kept is not None:
            flow.request.raw_content = self.kept

    async def _audit(self, replay: Replay) -> None:
        self.audited.append(replay)
        if self.problems:
            raise self.problems.pop()

    async def _send(self, request: http.Request, replay: Replay) -> None:
        self.sent.append((request.raw_content, replay))

    def press(self, account: str = "") -> str:
        """What a person is told who presses, some time after the last press."""
        self.bench.clock.pass_(PAUSE)
        return self.replayer.replay(self.flow, account)

    def run(self) -> None:
        """What was begun comes to its end."""
        while self._work:
            asyncio.run(self._work.pop())

    @property
    def said(self) -> str:
        return self.flow.comment.splitlines()[0]


def refused(desk: Desk) -> str:
    with pytest.raises(StoreError) as caught:
        desk.press()
    desk.run()
    assert (desk.sent, desk.audited) == ([], [])
    assert desk.said == str(caught.value)
    return str(caught.value)


def test_the_first_press_asks_and_the_second_sends() -> None:
    desk = Desk()
    assert desk.press() == ASKS
    desk.run()
    assert (desk.said, desk.sent) == (ASKS, [])

    assert desk.press() == "the request is sent again"
    desk.run()

    assert desk.sent == [(BODY, Replay(desk.story.id, None, ""))]
    assert desk.audited == [Replay(desk.story.id, None, "")]
    assert desk.flow.comment == comment(desk.story)


def test_what_was_loaded_from_the_record_says_why_it_cannot_be_sent() -> None:
    desk = Desk()
    desk.is_loaded = True
    assert refused(desk) == "not replayed: it was loaded from the record, which keeps no headers to send it with"


def test_a_third_press_asks_again() -> None:
    desk = Desk()
    for _ in range(3):
        desk.press()
    desk.run()
    assert len(desk.sent) == 1
    assert desk.said == ASKS


def test_a_second_press_that_is_late_or_for_another_account_asks_again() -> None:
    desk = Desk()
    desk.press()
    desk.bench.clock.pass_(PATIENCE + 1)
    assert desk.press() == ASKS
    assert desk.press("max-a") == ASKS
    desk.press("max-a")
    desk.run()
    assert desk.sent == [(BODY, Replay(desk.story.id, None, "max-a"))]


def test_a_held_key_or_a_double_click_sends_nothing() -> None:
    desk = Desk()
    for _ in range(40):
        assert desk.replayer.replay(desk.flow) == ASKS
        desk.bench.clock.pass_(PAUSE / 4)
    assert desk.press() == "the request is sent again"
    desk.run()
    assert len(desk.sent) == 1


def test_the_button_never_raises_and_says_why_not(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    other = tflow.tflow()
    desk.replayer.press([other, tflow.ttcpflow(), desk.flow])
    assert [record.message for record in caplog.records if record.levelname == "ALERT"] == [
        "not replayed: only requests to the Messages API whose exact body is still here can be",
        ASKS,
    ]
    assert other.comment == "not replayed: only requests to the Messages API whose exact body is still here can be"


@pytest.mark.parametrize("body", [None, b"", b'{"model":"claude-opus-4-9"}', BODY + b" "])
def test_a_body_that_is_not_the_one_that_came_is_not_sent(body: bytes | None) -> None:
    desk = Desk()
    desk.flow.request.raw_content = body
    assert refused(desk).startswith("not replayed: it")


def test_a_body_that_was_let_go_comes_back_and_is_sent() -> None:
    desk = Desk()
    desk.flow.request.raw_content = StandIn(AWAY, len(BODY), "1", lambda: None)
    desk.kept = BODY
    desk.press()
    desk.press()
    desk.run()
    assert [body for body, _ in desk.sent] == [BODY]


@pytest.mark.parametrize("recorded", [BODY.replace(b"8", b"9"), b"[redacted]"])
def test_a_body_that_comes_back_as_another_one_is_not_sent(recorded: bytes) -> None:
    desk = Desk()
    desk.flow.request.raw_content = StandIn(AWAY, len(BODY), "1", lambda: None)
    desk.kept = recorded
    desk.press()
    desk.press()
    desk.run()
    assert (desk.sent, desk.audited) == ([], [])
    assert desk.said.startswith("not replayed: it")


def test_a_body_that_was_not_recorded_is_not_asked_about() -> None:
    desk = Desk()
    desk.flow.request.raw_content = StandIn(GONE, len(BODY), "1")
    assert refused(desk) == "not replayed: its exact body is not here any more"


@pytest.mark.parametrize("edit", ["path", "header"])
def test_a_head_that_was_edited_is_not_sent(edit: str) -> None:
    desk = Desk()
    if edit == "path":
        desk.flow.request.path = "/v1/messages?beta=true"
    else:
        desk.flow.request.headers["anthropic-beta"] = "x"
    assert refused(desk) == "not replayed: it was edited here, and only what a client has sent is sent again"


def test_what_passed_is_not_sent_for_its_credential_is_gone() -> None:
    assert "own credential" in refused(Desk(Reply(200, STREAM, OK.body), accounts=""))


def test_what_still_runs_is_not_sent() -> None:
    desk = Desk()
    desk.story = desk.bench.begin()
    assert refused(desk) == "not replayed: it still runs"


@pytest.mark.parametrize("path", ["/v1/files", "/v1/messages/batches"])
def test_what_is_no_message_is_not_sent(path: str) -> None:
    assert "only requests to the Messages API" in refused(Desk(path=path))


def test_where_nothing_can_be_replayed_is_said() -> None:
    desk = Desk()
    desk.objection = "not replayed: here"
    assert refused(desk) == "not replayed: here"


def test_nothing_is_sent_that_could_not_be_audited(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.problems = [Unusable("the disk is full")]
    desk.press()
    desk.press()
    desk.run()
    assert (desk.sent, desk.said) == ([], "not replayed: the disk is full")
    assert "the disk is full" in caplog.text


def test_a_request_without_an_answer_can_be_sent_with_what_is_known_of_its_cost() -> None:
    desk = Desk(refusal(400))
    assert desk.press().endswith("; what it costs is not known, its prompt has about 9 tokens")


def test_what_an_account_is_wanted_for_goes_to_no_other() -> None:
    bench = Bench("ab")
    opening = replace(bench.begin().opening, only_account="max-b", replay_of="req_1")
    for _ in range(2):
        exchange = bench.exchanges.begin(opening)
        exchange.admit(OPUS, BODY, "")
        exchange.next_step()
        assert exchange.lease is not None
        assert exchange.lease.account.name == "max-b"
        assert exchange.choice_reason == "it was asked for"
        assert comment(exchange).endswith(f"request={exchange.id} replay=req_1")


def test_an_account_that_cannot_serve_is_told_and_no_other_one_asked() -> None:
    bench = Bench("ab", hold_seconds=0)
    exchange = bench.exchanges.begin(replace(bench.begin().opening, only_account="gone"))
    exchange.admit(OPUS, BODY, "")
    step: Any = exchange.next_step()
    assert exchange.lease is None
    assert b"This request is to be served by account gone" in step.body
