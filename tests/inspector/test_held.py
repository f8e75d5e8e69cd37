"""Bodies of finished flows stay in bounds, go once they are recorded, and come back as they were or say why not."""

import gzip
import io
from typing import Any

import pytest
from mitmproxy import flowfilter, http
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader, FlowWriter

from ccflare_core.exchange.exchange import Exchange
from ccflare_mitm.inspector.held import PATIENCE
from ccflare_mitm.inspector.stand_ins import AWAY, GONE, StandIn, keep_searches_short, whole
from exchange_kit import Bench
from held_kit import Desk, body, finished

REQUEST, RESPONSE = b"q" * 3000, b"a" * 2000


def recorded(desk: Desk, flow: HTTPFlow, **bodies: Any) -> Exchange:
    """Its exchange, which has ended and is in the record."""
    exchange = Bench("a").serve()
    desk.record[exchange.id] = {"request": body(flow.request.raw_content or b"")}
    if flow.response is not None:
        desk.record[exchange.id]["response"] = body(flow.response.raw_content or b"")
    desk.record[exchange.id].update(bodies)
    desk.held.hold(flow, exchange)
    return exchange


def let_go(desk: Desk, flow: HTTPFlow, **bodies: Any) -> HTTPFlow:
    recorded(desk, flow, **bodies)
    desk.write()
    assert is_away(flow)
    return flow


def answer(flow: HTTPFlow) -> http.Response:
    assert flow.response is not None
    return flow.response


def is_away(flow: HTTPFlow) -> bool:
    return isinstance(flow.request.raw_content, StandIn)


# --- what goes --------------------------------------------------------------------------------------------------------


def test_the_oldest_go_as_soon_as_there_are_too_many_bytes() -> None:
    desk, flows = Desk(limit=10_000), [finished() for _ in range(4)]
    for flow in flows:
        recorded(desk, flow)
        desk.write()
    assert [is_away(flow) for flow in flows] == [True, True, False, False]
    assert desk.held.size == 10_000


def test_a_smaller_bound_holds_without_another_flow() -> None:
    desk, flow = Desk(limit=10_000), finished()
    recorded(desk, flow)
    desk.limit = 0

    desk.held.make_room()
    desk.write()

    assert is_away(flow)


def test_a_body_stays_until_it_is_in_the_database() -> None:
    desk, flow, later = Desk(), finished(), finished()
    recorded(desk, flow)
    recorded(desk, later)  # after the database was asked
    assert not is_away(flow)

    desk.write(1)
    assert (is_away(flow), is_away(later)) == (True, False)

    desk.write()
    assert is_away(later)


def test_what_cannot_go_yet_is_no_reason_to_ask_again_and_again() -> None:
    desk, flow = Desk(), finished()
    flow.intercepted = True
    recorded(desk, flow)
    desk.write()
    assert not is_away(flow)
    assert desk.is_idle


async def test_who_saves_many_flows_has_few_in_memory() -> None:
    desk, flows = Desk(), [finished() for _ in range(10)]
    for flow in flows:
        let_go(desk, flow)
    file = io.BytesIO()
    for flow in flows:
        FlowWriter(file).add(flow)  # in one turn of the event loop
        assert desk.held.size == 5000
    saved = list(FlowReader(io.BytesIO(file.getvalue())).stream())
    assert [flow.request.raw_content for flow in saved if isinstance(flow, HTTPFlow)] == [REQUEST] * 10


def test_a_body_waits_for_a_database_only_so_long() -> None:
    desk, flow = Desk(), finished()
    recorded(desk, flow)
    desk.now = PATIENCE + 1

    desk.held.hold(finished(b"", None))

    assert is_away(flow)


def test_what_is_not_over_yet_stays() -> None:
    desk, running, intercepted = Desk(), finished(), finished()
    running.live, intercepted.intercepted = True, True
    for flow in (running, intercepted):
        recorded(desk, flow)
    desk.write()
    assert not is_away(running)
    assert not is_away(intercepted)


def test_what_somebody_has_changed_stays_with_what_it_was() -> None:
    desk, flow = Desk(), finished()
    recorded(desk, flow)
    flow.backup()
    answer(flow).content = b"mine" * 1000
    desk.write()
    assert not is_away(flow)
    assert flow.modified()
    assert desk.held.size == 0


def test_a_short_body_stays() -> None:
    desk, flow = Desk(), finished(b"short")
    recorded(desk, flow)
    desk.write()
    assert flow.request.raw_content == b"short"
    assert isinstance(answer(flow).raw_content, StandIn)


def test_what_is_shown_no_more_counts_no_more() -> None:
    desk, flow = Desk(limit=10_000), finished()
    recorded(desk, flow)
    desk.held.forget(flow.id)
    assert desk.held.size == 0


# --- what stands in its place -----------------------------------------------------------------------------------------


def test_a_stand_in_has_the_bodys_length_and_says_what_it_is() -> None:
    flow = let_go(Desk(), finished())
    away = flow.request.raw_content
    assert isinstance(away, StandIn)
    assert (len(away), bool(away), away.sentence, bytes(away)) == (3000, True, AWAY, AWAY.encode())


def test_a_body_comes_back_when_it_is_opened() -> None:
    flow = let_go(Desk(limit=3000), finished())
    assert flow.request.content == REQUEST
    assert flow.request.raw_content == REQUEST
    assert answer(flow).raw_content == RESPONSE  # both at once: who opens one will open the other


async def test_a_body_can_be_awaited() -> None:
    desk = Desk()
    flow = let_go(desk, finished())
    desk.limit = 10_000
    await desk.held.bring_back(flow)
    assert (flow.request.raw_content, answer(flow).raw_content) == (REQUEST, RESPONSE)
    assert (desk.held.size, desk.held.note(flow, "request")) == (5000, "")
    assert len(desk.asked) == 1


def test_what_has_come_back_goes_again_last() -> None:
    desk, first, second = Desk(limit=5000), finished(), finished()
    for flow in (first, second):
        recorded(desk, flow)
    desk.write()
    assert whole(first.request) == REQUEST
    desk.write()
    assert (is_away(first), is_away(second)) == (False, True)


@pytest.mark.parametrize("copy", ["saved", "copied"])
def test_a_saved_and_a_copied_flow_have_the_real_bodies(copy: str) -> None:
    flow = let_go(Desk(), finished())
    if copy == "copied":
        made = flow.copy()
    else:
        file = io.BytesIO()
        FlowWriter(file).add(flow)
        (made,) = FlowReader(io.BytesIO(file.getvalue())).stream()
    assert (made.request.raw_content, made.response.raw_content) == (REQUEST, RESPONSE)


def test_a_message_is_coded_anew_from_the_real_body() -> None:
    flow = let_go(Desk(), finished())
    answer(flow).encode("gzip")
    assert answer(flow).content == RESPONSE


def test_a_search_finds_in_bodies_that_are_here_and_fetches_none() -> None:
    keep_searches_short()
    desk = Desk()
    away, here = let_go(desk, finished()), finished()
    assert [bool(flowfilter.match("~b qqq", flow)) for flow in (away, here)] == [False, True]
    assert not flowfilter.match("~bs aaa", away)
    assert is_away(away)
    assert desk.asked == []


# --- what is not as it was --------------------------------------------------------------------------------------------


def test_what_was_not_recorded_says_so() -> None:
    desk, flow = Desk(), finished()
    desk.held.hold(flow)
    desk.write()

    assert flow.request.content == GONE.encode()
    assert desk.held.note(flow, "request") == GONE
    assert flow.get_state()["request"]["content"] is None
    assert not desk.held.is_exact(flow)
    with pytest.raises(ValueError, match="was not recorded"):
        answer(flow).encode("gzip")


def test_what_cannot_be_read_says_why_and_is_asked_for_again() -> None:
    desk = Desk(limit=0)
    flow = let_go(desk, finished())
    desk.trouble = "the disk is gone"
    assert flow.request.content == b"This body could not be read from ccflare's database: the disk is gone."


async def test_what_could_not_be_read_comes_when_it_can() -> None:
    desk = Desk()
    flow = let_go(desk, finished())
    desk.trouble = "the disk is gone"
    await desk.held.bring_back(flow)
    assert "the disk is gone" in desk.held.note(flow, "response")

    desk.trouble = ""
    await desk.held.bring_back(flow)

    assert answer(flow).raw_content == RESPONSE


async def test_what_was_cut_or_redacted_says_so_and_is_not_exact() -> None:
    desk = Desk()
    cut = let_go(desk, finished(), request=body(b"q" * 2000, 3000))
    blanked = let_go(desk, finished(), request=body(b"q" * 2900, redactions=2))
    desk.limit = 10_000
    for flow in (cut, blanked):
        await desk.held.bring_back(flow)
        assert not desk.held.is_exact(flow)
    assert desk.held.note(cut, "request") == "This is the beginning of a body of 3.0 kB: no more of it was kept."
    assert desk.held.note(blanked, "request") == "2 secrets in this body are blanked."
    assert desk.held.note(blanked, "response") == ""


async def test_a_body_is_exact_while_it_is_here_and_when_it_has_come_back_as_it_was() -> None:
    desk, flow = Desk(limit=5000), finished()
    recorded(desk, flow)
    assert desk.held.is_exact(flow)
    desk.limit = 0
    recorded(desk, flow)
    desk.write()
    assert not desk.held.is_exact(flow)
    await desk.held.bring_back(flow)
    assert desk.held.is_exact(flow)


def test_a_body_that_never_was_in_memory_is_not_exact() -> None:
    desk, flow, exchange = Desk(), finished(b""), Bench("a").begin()
    exchange.streamed(5_000_000)
    exchange.finish()
    desk.held.hold(flow, exchange)
    assert not desk.held.is_exact(flow)
    assert desk.held.note(flow, "request") == "This body, 5.0 MB, was too large to be kept."


async def test_a_body_that_was_recorded_decoded_gets_the_heads_coding() -> None:
    desk = Desk()
    packed = finished(response=gzip.compress(bytes(range(256)) * 40, 0), content_encoding="gzip")
    let_go(desk, packed, response=body(b"[blanked]", redactions=1))
    await desk.held.bring_back(packed)
    assert answer(packed).content == b"[blanked]"


async def test_a_flow_can_be_made_of_a_record() -> None:
    desk, flow = Desk(limit=10_000), finished(b"", b"")
    desk.record["r1"] = {"request": body(REQUEST), "response": body(RESPONSE)}
    desk.held.promise(flow, "r1", {"request": 3000, "response": 2000})
    assert len(flow.request.raw_content or b"") == 3000
    await desk.held.bring_back(flow)
    assert (flow.request.content, answer(flow).content) == (REQUEST, RESPONSE)
