"""The views of a flow: which are chosen by themselves, what they show, and that nothing makes them raise."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.contentviews import Metadata
from mitmproxy.contentviews._registry import ContentviewRegistry
from mitmproxy.contentviews._view_json import json_view
from mitmproxy.contentviews._view_raw import raw
from mitmproxy.test import tflow, tutils

from ccflare_core.exchange.story import Story
from ccflare_mitm.inspector.comment import Comments
from ccflare_mitm.inspector.views import LIMIT, ConversationView, EventsView, Sources
from corpus import COUNTS, SSE, stream
from exchange_kit import EPOCH, OK, Bench, Reply, limited

QUESTION = json.dumps({"model": "m", "system": "Be brief.", "messages": [{"role": "user", "content": "How now?"}]})
ANSWER = b"".join(stream(COUNTS[0], "text"))


def flow_of(
    answer: bytes | None = ANSWER,
    kind: str = SSE,
    *,
    question: bytes = QUESTION.encode(),
    path: str = "/v1/messages?beta=true",
    coding: str = "",
) -> http.HTTPFlow:
    request = tutils.treq(method=b"POST", path=path.encode(), content=question)
    response = answer is not None and tutils.tresp(content=b"")
    if response:
        response.headers["content-type"] = kind
        if coding:
            response.headers["content-encoding"] = coding
        response.raw_content = answer
    return tflow.tflow(req=request, resp=response)


class Looker:
    """Shows flows as mitmproxy does."""

    def __init__(self, story: Story | None = None) -> None:
        self.looked_at: list[http.HTTPFlow] = []
        sources = Sources(lambda flow: story, self.looked_at.append, lambda: EPOCH)
        self.registry = ContentviewRegistry()
        for view in (raw, json_view, ConversationView(sources), EventsView(sources)):
            self.registry.register(view)

    def show(self, flow: http.HTTPFlow, view: str = "auto", *, request: bool = False) -> tuple[str, str]:
        """The text and the name of the view that was chosen."""
        message: Any = flow.request if request else flow.response
        kind = message.headers.get("content-type", "").partition(";")[0]
        metadata = Metadata(flow=flow, http_message=message, content_type=kind)
        data = message.get_content(strict=False)
        chosen = self.registry.get_view(data, metadata, view)
        return chosen.prettify(data, metadata), chosen.name


# --- which is chosen --------------------------------------------------------------------------------------------------


def test_requests_and_answers_of_the_messages_api_are_shown_as_a_conversation() -> None:
    flow, looker = flow_of(), Looker()
    assert looker.show(flow, request=True)[1] == "Claude"
    assert looker.show(flow)[1] == "Claude"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages/batches", "/v1/messagesx"])
def test_others_are_shown_as_before(path: str) -> None:
    flow = flow_of(b"{}", "application/json", path=path)
    assert Looker().show(flow)[1] == "JSON"


def test_what_asks_how_many_tokens_it_has_is_a_conversation_and_the_number_is_not() -> None:
    flow, looker = flow_of(b'{"input_tokens":7}', "application/json", path="/v1/messages/count_tokens"), Looker()
    assert looker.show(flow, request=True)[1] == "Claude"
    assert looker.show(flow)[1] == "JSON"


# --- the conversation -------------------------------------------------------------------------------------------------


def test_a_request_shows_the_question_first() -> None:
    text, _ = Looker().show(flow_of(), request=True)
    assert text == "# user (the question)\nHow now?\n\n# system\n[text, 9 bytes: Be brief.]"


def test_an_answer_shows_who_served_it_and_then_the_question_and_what_was_said() -> None:
    story = Bench("ab").serve(limited(), OK)

    text, _ = Looker(story).show(flow_of())

    about, question, answer = text.split("\n\n")[:3]
    assert about.startswith("account: max-b (")
    assert "outcome: ok (200)" in about
    assert about.splitlines()[-2].startswith("attempt 1: max-a, 5h window spent until ")
    assert question == "# user (the question)\nHow now?"
    assert answer == "# assistant (the answer)\nHello, world."


def test_an_answer_that_nothing_is_known_of_tells_what_it_says_itself() -> None:
    text, _ = Looker().show(flow_of())
    assert text.startswith("usage: 12 in, 310 out\nstopped: end_turn\n\n# user (the question)\n")


def test_an_answer_that_was_but_recorded_tells_what_the_list_does() -> None:
    flow, comments = flow_of(), Comments()
    attempts = [f"attempt {n}: max-1, overloaded, 0.1 s" for n in range(1, 6)]
    flow.comment = "\n".join(("max-1 ▸ opus-4-8", *attempts, "account=max-1 outcome=ok"))
    comments.keep(flow)
    comments.say(flow, "not replayed")
    view = ConversationView(Sources(lambda _: None, lambda _: None, told=comments.told))

    text = view.prettify(b"", Metadata(flow=flow, http_message=flow.response))

    assert text.splitlines()[:5] == ["max-1 ▸ opus-4-8", *attempts[-3:], "usage: 12 in, 310 out"]


def test_a_request_without_an_answer_tells_how_far_it_is() -> None:
    exchange = Bench("a").begin()
    exchange.next_step()
    text, _ = Looker(exchange).show(flow_of(None), request=True)
    assert text.startswith("account: max-a (")
    assert "outcome: no answer yet" in text


@pytest.mark.parametrize("end", [5, 6, -1])
def test_a_beginning_of_an_answer_is_shown_compressed_or_not(end: int) -> None:
    whole = b"".join(stream(COUNTS[0], "text")[:end])
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(whole) + packer.flush(zlib.Z_SYNC_FLUSH)

    plain, _ = Looker().show(flow_of(whole))
    decoded, _ = Looker().show(flow_of(packed, coding="gzip"))

    assert "# assistant (the answer)\nHello" in plain
    assert "# assistant (the answer)\nHello" in decoded


def test_an_answer_that_is_no_message_says_so() -> None:
    text, _ = Looker().show(flow_of(b"<html>", "text/html"))
    assert text.endswith("# the answer, 6 bytes, is no message: the view “Raw” shows it")


def test_a_request_that_is_too_long_is_not_read() -> None:
    text, _ = Looker().show(flow_of(question=b"x" * (LIMIT + 1)), request=True)
    assert text == "# the request has 25.2 MB, too many to be read here: `scripts/show.py` shows it"


def test_who_looks_is_told() -> None:
    flow, looker = flow_of(), Looker()
    looker.show(flow)
    assert looker.looked_at == [flow]


# --- the events -------------------------------------------------------------------------------------------------------


def test_events_are_shown_with_when_they_came() -> None:
    story = Bench("a").serve(Reply(200, ((b"content-type", SSE.encode()),), ANSWER))
    text, name = Looker(story).show(flow_of(), "claude events")
    assert name == "Claude events"
    assert text.splitlines()[0].startswith("   0.000 s   +0.000 s  message_start msg_01 ")


def test_events_of_an_answer_that_is_no_stream_are_none() -> None:
    text, _ = Looker().show(flow_of(b"{}", "application/json"), "claude events")
    assert text.startswith("This is no event stream")


# --- anything else ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from([SSE, "application/json", "\x1b", ""]))
def test_any_bytes_are_shown(question: bytes, answer: bytes, kind: str) -> None:
    flow, looker = flow_of(answer, kind, question=question), Looker()
    for view in ("auto", "claude events"):
        for request in (True, False):
            assert "could not show" not in looker.show(flow, view, request=request)[0]


def test_an_error_of_ours_is_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: http.HTTPFlow) -> Story | None:
        raise RuntimeError("oops")

    flow = flow_of()
    view = ConversationView(Sources(broken, lambda _: None))

    text = view.prettify(b"", Metadata(flow=flow, http_message=flow.response))

    assert text.startswith("ccflare could not show this")
    assert "oops" in caplog.text
