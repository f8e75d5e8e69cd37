"""What mitmweb shows of a flow, and that its list stays short."""

from collections.abc import Iterator

import pytest
from mitmproxy import ctx, http
from mitmproxy.addons.view import View
from mitmproxy.test import taddons, tflow

from ccflare_core.clients.authentication import OWNER, Identity
from ccflare_core.config.settings import Settings
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.inspector.comment import comment
from ccflare_mitm.inspector.inspector import FAILED, FAILED_OVER, LIMITED, Inspector, marker
from ccflare_mitm.inspector.loading import Head, Recorded
from ccflare_mitm.pages.visit import WEB, Visit
from exchange_kit import JSON, OK, OVERLOADED, STREAM, Bench, Reply, limited, refusal
from held_kit import held


def finished_with(outcome: Outcome) -> Exchange:
    exchange = Bench("a").begin()
    exchange.finish(outcome)
    return exchange


def streamed() -> http.HTTPFlow:
    """A flow whose answer was streamed, so that mitmproxy has kept no body."""
    flow: http.HTTPFlow = tflow.tflow(resp=True)
    assert flow.response is not None
    flow.response.raw_content = None
    return flow


def body(flow: http.HTTPFlow) -> bytes | None:
    assert flow.response is not None
    return flow.response.raw_content


# --- the marker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "mark"),
    [
        ([OK], ""),
        ([refusal(500), OK], ""),
        ([limited(), OK], FAILED_OVER),
        ([limited(), refusal(400)], FAILED),
        ([refusal(404)], FAILED),
        ([limited(), limited()], LIMITED),
        ([OVERLOADED] * 9, LIMITED),
        ([Reply(0)] * 9, FAILED),
        ([Reply(200, STREAM, b"event: x\n\n")], FAILED),
    ],
)
def test_the_marker_tells_at_a_glance(replies: list[Reply], mark: str) -> None:
    assert marker(Bench("ab", hold_seconds=0).serve(*replies)) == mark


@pytest.mark.parametrize(
    ("outcome", "mark"), [(Outcome.CLIENT_ABORT, ""), (Outcome.SHUTDOWN, FAILED), (Outcome.REFUSED, FAILED)]
)
def test_a_client_that_left_needs_no_marker(outcome: Outcome, mark: str) -> None:
    assert marker(finished_with(outcome)) == mark


def test_the_markers_are_emoji_that_mitmproxy_knows() -> None:
    from mitmproxy.utils import emoji

    assert {FAILED_OVER, LIMITED, FAILED} <= set(emoji.emoji)


# --- the flow ---------------------------------------------------------------------------------------------------------


def test_a_flow_gets_its_story_and_the_body_that_streamed_by() -> None:
    flow, exchange = streamed(), Bench().serve(limited(), OK)

    Inspector(lambda flow: None, held()).show(flow, exchange)

    assert (flow.comment, flow.marked) == (comment(exchange), FAILED_OVER)
    assert body(flow) == OK.body


def test_a_body_that_mitmproxy_has_is_left_alone() -> None:
    flow = tflow.tflow(resp=True)

    Inspector(lambda flow: None, held()).show(flow, Bench().serve(OK))

    assert body(flow) == b"message"


def test_what_was_shown_while_it_ran_gives_way_to_the_whole_body() -> None:
    flow, bench = streamed(), Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    inspector = Inspector(lambda _: exchange, held())
    with taddons.context() as context:
        context.master.addons.add(View())
        inspector.follow(flow)
        exchange.judge(OK.status, OK.headers, None)
        exchange.delivering(OK.status, OK.headers)
        exchange.capture.add(OK.body[:10])
        inspector.live.look()
    assert body(flow) == OK.body[:10]

    exchange.capture.add(OK.body[10:])
    exchange.finish()
    inspector.show(flow, exchange)

    assert body(flow) == OK.body


def test_without_a_list_no_flow_is_followed() -> None:
    flow, exchange = streamed(), Bench("a").begin()
    exchange.next_step()
    inspector = Inspector(lambda _: exchange, held())
    with taddons.context():
        inspector.follow(flow)
        inspector.live.look()
    assert (flow.comment, body(flow)) == ("", None)


def test_the_exchange_leaves_its_bodies_to_the_flow() -> None:
    flow, exchange = streamed(), Bench().serve(Reply(200, JSON, b"{}"))
    assert (exchange.request_body, exchange.capture.body) != (b"", b"")

    Inspector(lambda flow: None, held()).show(flow, exchange)

    assert (exchange.request_body, exchange.capture.body, exchange.capture.size) == (b"", b"", 2)
    assert body(flow) == b"{}"


def test_a_flow_without_an_answer_gets_its_story_too() -> None:
    flow = tflow.tflow(err=True)

    Inspector(lambda flow: None, held()).show(flow, finished_with(Outcome.CLIENT_ABORT))

    assert flow.comment.startswith("✗ the client left ▸ opus-4-8\n")
    assert flow.response is None


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def view() -> Iterator[View]:
    view = View()
    with taddons.context(view):
        yield view


def listed(view: View, count: int) -> list[http.HTTPFlow]:
    flows = [tflow.tflow(resp=True) for _ in range(count)]
    view.add(flows)
    return flows


def test_the_oldest_finished_flows_leave_the_list(view: View) -> None:
    inspector, flows = Inspector(lambda flow: None, held()), listed(view, 5)

    for flow in (flows[3], flows[0], flows[1]):
        inspector.bound(flow, most=2)

    assert set(view) == {flows[0], flows[1], flows[2], flows[4]}


def test_a_smaller_bound_holds_at_once(view: View) -> None:
    inspector, flows = Inspector(lambda flow: None, held()), listed(view, 6)
    for flow in flows[:5]:
        inspector.bound(flow, most=10)

    inspector.bound(flows[5], most=2)

    assert list(view) == flows[4:]


def test_polls_do_not_push_others_out_of_the_list(view: View) -> None:
    inspector, (first, *_) = Inspector(lambda flow: None, held()), listed(view, 1)
    inspector.bound(first, most=2)
    polls = listed(view, 5)
    for poll in polls:
        poll.request.path = "/ccflare/health"
        inspector.arrives(poll)
        inspector.bound(poll, most=2)

    assert list(view) == [first, *polls[-2:]]


def test_what_somebody_has_deleted_from_the_list_does_no_harm(view: View) -> None:
    inspector, flows = Inspector(lambda flow: None, held()), listed(view, 2)
    inspector.bound(flows[0], most=1)
    view.clear()

    inspector.bound(flows[1], most=1)

    assert len(view) == 0


def test_without_a_list_nothing_is_kept() -> None:
    inspector = Inspector(lambda flow: None, held())
    with taddons.context():
        inspector.bound(tflow.tflow(), most=1)

    assert not any(inspector._finished)


# --- what was recorded ------------------------------------------------------------------------------------------------


def recorded(number: int, **how: object) -> Recorded:
    row = dict.fromkeys(("status_code", "error_message", "account_name", "model", "output_tokens", "response_time_ms"))
    row |= dict.fromkeys(("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cost_usd"))
    row |= dict.fromkeys(("session_id", "project", "client_name"))
    told = {"id": f"r{number}", "timestamp": number, "method": "POST", "path": "/v1/messages", "client_ip": "127.0.0.1"}
    ended = {"outcome": "ok", "failover_attempts": 0, **how}
    return Recorded(row | told | ended, [], {"request": Head("application/json", "", 9000)})


def test_what_was_recorded_is_adopted_once_and_with_the_bound_of_the_list(view: View) -> None:
    inspector = Inspector(lambda flow: None, held())
    settings = Settings.build({"ccflare_inspector_flows": 3}, {"XDG_DATA_HOME": "/x"})

    assert inspector.adopt([recorded(1), recorded(2)], settings) == 2
    assert inspector.adopt([recorded(2), recorded(3), recorded(4)], settings) == 2

    assert [flow.comment.rpartition("request=")[2] for flow in view] == ["r2", "r3", "r4"]
    assert [len(flow.request.raw_content) for flow in view] == [9000] * 3
    assert all(inspector.is_loaded(flow) for flow in view)


@pytest.mark.parametrize(
    ("how", "marked"),
    [
        ({"status_code": 200}, ""),
        ({"status_code": 200, "failover_attempts": 1}, FAILED_OVER),
        ({"status_code": 429, "outcome": "upstream_error"}, LIMITED),
        ({"outcome": "refused"}, FAILED),
    ],
)
def test_what_was_recorded_is_marked_as_what_has_run_here(view: View, how: dict[str, object], marked: str) -> None:
    Inspector(lambda flow: None, held()).adopt([recorded(1, **how)], SETTINGS)
    assert [flow.marked for flow in view] == [marked]


def test_what_is_said_of_a_recorded_request_stands_where_the_list_shows_it(view: View) -> None:
    inspector = Inspector(lambda flow: None, held())
    inspector.adopt([recorded(1)], SETTINGS)
    (flow,) = view
    before = flow.comment

    inspector.say(flow, "not replayed")
    assert flow.comment == f"not replayed\n{before}"

    inspector.say(flow, "")
    assert flow.comment == before


def test_what_runs_in_the_list_is_not_adopted(view: View) -> None:
    exchange = Bench("a").begin()
    inspector = Inspector(lambda flow: exchange, held())
    listed(view, 1)
    row = recorded(1)
    assert inspector.adopt([row._replace(row=dict(row.row) | {"id": exchange.id})], SETTINGS) == 0


WEB_VISIT, NEAR, FAR = (
    Visit(Identity(OWNER), address, "/", by=by)
    for address, by in (("10.0.0.9", WEB), ("127.0.0.1", ""), ("10.0.0.9", ""))
)


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:8081"), ("0.0.0.0", "http://127.0.0.1:8081"), ("::", "http://[::1]:8081")],
)
def test_a_request_in_the_list_is_linked_for_who_can_go_there(view: View, host: str, address: str) -> None:
    exchange = Bench("a").begin()
    inspector, (flow,) = Inspector(lambda flow: exchange, held()), listed(view, 1)
    assert inspector.link(WEB_VISIT, exchange.id) == ""  # the console has a list, and no page
    for name, value in (("web_host", host), ("web_port", 8081)):
        ctx.options.add_option(name, type(value), value, "")

    path = f"/#/flows/{flow.id}/request"
    links = [inspector.link(visit, exchange.id) for visit in (WEB_VISIT, NEAR, FAR)]
    assert links == [path, address + path, ""]
    assert inspector.link(NEAR, "another") == ""
    view.remove([flow])
    assert inspector.link(NEAR, exchange.id) == ""


def test_without_a_list_nothing_is_adopted() -> None:
    with taddons.context():
        assert Inspector(lambda flow: None, held()).adopt([recorded(1)], SETTINGS) == 0


SETTINGS = Settings.build({}, {"XDG_DATA_HOME": "/x"})
