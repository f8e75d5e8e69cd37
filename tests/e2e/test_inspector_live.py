"""mitmweb as a user sees it: each flow's story, its body, and the commands; never more flows than asked for."""

import contextlib
import io
import json
import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader

from ccflare_mitm.inspector.replay import PAUSE
from ccflare_mitm.pages.table import PAGES
from corpus import COUNTS, end_events, event, start_event
from fake_upstream import FakeUpstream, Gate, limited_5h, overloaded, sse, sse_answer
from harness import CLIENT_CREDENTIAL, Proxy, RawClient, accepts, claude_request, eventually, via_base_url

ONE, TWO = "sk-ant-api03-one", "sk-ant-api03-two"
KEPT = 4
PROCESS = Path(__file__).parents[1] / "support" / "process_addon.py"
START = start_event(COUNTS[0], "claude-opus-4-8") + event(
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
)
END = (event({"type": "content_block_stop", "index": 0}), *end_events(COUNTS[0], "end_turn"))


class Web:
    """mitmweb's own interface."""

    def __init__(self, proxy: Proxy) -> None:
        self._port = proxy.web_port
        self._address = f"http://127.0.0.1:{self._port}"
        self._token = proxy.web_token
        self._cookie = self._ask_for_cookie()

    def _ask_for_cookie(self) -> str:
        """The token against forged requests: newer versions of Tornado refuse one that they have not made.

        A browser gets it when its page asks for updates, by WebSocket.
        """
        upgrade = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", b"13"))
        key = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
        with RawClient("127.0.0.1", self._port) as client:
            client.send_request(
                "GET", "/updates", (*upgrade, key, (b"Authorization", f"Bearer {self._token}".encode()))
            )
            cookie = SimpleCookie(client.read_head().header("set-cookie"))
        return cookie["_mitmproxy_xsrf"].value

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(self._address + path, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def text(
        self, flow: dict[str, Any], part: str = "response", view: str = "auto", lines: int = 500
    ) -> dict[str, Any]:
        """What is shown of it."""
        return dict(json.loads(self.get(f"/flows/{flow['id']}/{part}/content/{view}.json?lines={lines}")))

    def replay(self, flow: dict[str, Any]) -> None:
        """Press the button."""
        self._post(f"/flows/{flow['id']}/replay", b"")

    def replay_for_certain(self, flow: dict[str, Any]) -> None:
        """Press it twice, as who has read the question."""
        self.replay(flow)
        time.sleep(PAUSE)
        self.replay(flow)

    def post(self, path: str, *, is_forged: bool = False) -> int:
        """The status of a change, with the token against forged requests or without it."""
        token = ((b"X-XSRFToken", self._cookie.encode()), (b"Cookie", f"_mitmproxy_xsrf={self._cookie}".encode()))
        with RawClient("127.0.0.1", self._port) as client:
            fields = ((b"Authorization", f"Bearer {self._token}".encode()), (b"Content-Length", b"0"))
            return client.request("POST", path, fields if is_forged else (*fields, *token)).status

    def _post(self, path: str, body: bytes) -> bytes:
        request = urllib.request.Request(
            self._address + path,
            data=body,
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "X-XSRFToken": self._cookie,
                "Cookie": f"_mitmproxy_xsrf={self._cookie}",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def flows(self) -> list[dict[str, Any]]:
        return list(json.loads(self.get("/flows")))

    def command(self, name: str, *arguments: str) -> Any:
        """The result of one of mitmproxy's commands."""
        return json.loads(self._post(f"/commands/{name}", json.dumps({"arguments": arguments}).encode()))

    def set(self, option: str, value: object) -> None:
        """Change one of our options, and wait until the change counts."""
        self.command("set", option, str(value))
        eventually(lambda: self.command("test.setting", option)["value"], lambda found: found == str(value))


@contextlib.contextmanager
def inspecting(folder: Path) -> Iterator[tuple[FakeUpstream, Proxy, Web]]:
    with FakeUpstream() as upstream:
        proxy = Proxy(
            upstream,
            folder=folder,
            program="mitmweb",
            arguments=("-s", str(PROCESS)),
            ccflare_inspector_flows=KEPT,
            ccflare_hold_seconds=0,
            ccflare_retry_delay_ms=1,
        )
        proxy.add_api_key("one", ONE, priority=1)
        proxy.add_api_key("two", TWO, priority=2)
        with proxy:
            yield upstream, proxy, Web(proxy)


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeUpstream, Proxy, Web]]:
    with inspecting(tmp_path_factory.mktemp("proxy")) as all_:
        yield all_


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[FakeUpstream, Proxy, Web]]:
    """The same for a test that leaves accounts at rest, which no other is to meet, in whatever order they run."""
    with inspecting(tmp_path) as all_:
        yield all_


def has(part: str) -> Callable[[str], bool]:
    return lambda text: part in text


def words(said: str) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}})


def last_flow(proxy: Proxy, web: Web, **what: Any) -> dict[str, Any]:
    """Send a request and return its flow, once its story is told."""
    known = {flow["id"] for flow in web.flows()}
    with via_base_url(proxy) as client:
        client.request(*claude_request(**what))
    return eventually(lambda: [f for f in web.flows() if f["id"] not in known and f["comment"]])[0]


def test_a_flow_tells_who_served_it_and_what_it_cost(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web)
    assert flow["comment"].startswith("one ▸ opus-4-8 · 12→10 · $0.0003\nattempt 1: one, ok, ")
    assert flow["marked"] == ""


@pytest.mark.parametrize("stream", [True, False])
def test_the_body_of_an_answer_can_be_read(inspected: tuple[FakeUpstream, Proxy, Web], stream: bool) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web, stream=stream)
    body = web.get(f"/flows/{flow['id']}/response/content.data")
    assert (b"message_stop" in body) is stream
    assert b"output_tokens" in body


def test_an_answer_is_shown_as_a_conversation_with_who_served_it(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    upstream, proxy, web = inspected
    upstream.answer(sse(["Hello from here."]))

    shown = web.text(last_flow(proxy, web))

    assert shown["view_name"] == "Claude"
    assert shown["text"].startswith("account: one (")
    assert "\nattempt 1: one, ok, " in shown["text"]
    assert "\n# user (the question)\nSay hello.\n" in shown["text"]
    assert "\n# assistant (the answer)\nHello from here." in shown["text"]


def test_a_request_is_shown_with_its_question_first(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    shown = web.text(last_flow(proxy, web), "request")
    assert shown["text"].startswith("# user (the question)\nSay hello.\n")
    assert "\n# tools\n[8 tools, " in shown["text"]


def test_events_are_shown_one_a_line(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    shown = web.text(last_flow(proxy, web), view="claude%20events", lines=2)
    assert shown["view_name"] == "Claude events"
    assert re.fullmatch(r" +\d\.\d{3} s  +\+\d\.\d{3} s  message_start msg_\S+ .*\n.*\n", shown["text"])


def test_other_views_and_other_flows_are_mitmwebs_own(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web)
    assert web.text(flow, view="raw")["text"].startswith("event: message_start\n")
    with via_base_url(proxy) as client:
        client.request("GET", "/v1/models", (CLIENT_CREDENTIAL,))
    other = eventually(lambda: [f for f in web.flows() if f["request"]["method"] == "GET" and f["comment"]])[0]
    assert web.text(other)["view_name"] == "JSON"


def test_the_page_has_our_stylesheet_and_nothing_of_ours_is_there_without_a_login(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web)["id"]
    page = web.get("/")
    assert b'<link rel="stylesheet" href="/ccflare/inspector.css"></head>' in page
    assert b"Dashboard</a> \xc2\xb7 Health polls, preconnects and the doctor" in page
    assert b"pre-wrap" in web.get("/ccflare/inspector.css")

    ours = (
        "/",
        "/ccflare/inspector.css",
        f"/flows/{flow}/response/content/auto",
        f"/flows/{flow}/request/content/claude",
    )
    with RawClient("127.0.0.1", proxy.web_port) as client:
        found = {path: client.request("GET", path) for path in ours}
    assert {path: reply.status for path, reply in found.items()} == dict.fromkeys(ours, 403)
    assert not [path for path, reply in found.items() if b"pre-wrap" in reply.body or b"hello" in reply.body.lower()]


def test_an_answer_grows_while_it_is_looked_at_and_ends_whole(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    upstream, proxy, web = inspected
    first, second, end = Gate(), Gate(), Gate()
    upstream.answer(sse_answer(START, words("One. "), first, words("Two. "), second, words("Three. "), end, *END))
    known = {flow["id"] for flow in web.flows()}

    def running() -> dict[str, Any]:
        return next((flow for flow in web.flows() if flow["id"] not in known), {})

    with via_base_url(proxy) as client:
        client.send_request(*claude_request())
        flow = eventually(
            running, lambda found: found.get("comment") and found.get("response", {}).get("contentLength")
        )
        assert flow["comment"].startswith("one ▸ opus-4-8\n")
        for gate, said in ((first, "One. "), (second, "One. Two. "), (end, "One. Two. Three. ")):
            text = eventually(lambda: str(web.text(flow)["text"]), has(f"\n{said}\n"))
            assert "and it still comes" in text
            gate.open()
        client.read_head()
        body = client.read_body()

    eventually(lambda: "outcome: ok" in web.text(flow)["text"])
    assert web.get(f"/flows/{flow['id']}/response/content.data") == body


def test_a_failover_is_told_and_marked(apart: tuple[FakeUpstream, Proxy, Web]) -> None:
    upstream, proxy, web = apart
    upstream.answer(overloaded(), overloaded(), overloaded(), credential=ONE)
    flow = last_flow(proxy, web)
    lines = flow["comment"].splitlines()
    assert lines[0].startswith("one→two ↻2 ▸ opus-4-8 · 12→10 · $0.0003 · 529 overloaded")
    assert [",".join(line.split(",")[:2]) for line in lines[1:-1]] == [
        *(f"attempt {number}: one, 529 overloaded" for number in (1, 2, 3)),
        "attempt 4: two, ok",
    ]
    assert lines[-1].startswith("account=two session=")
    assert flow["marked"] == "🔀"


def test_polls_are_left_out_of_the_list_and_are_no_news_to_its_readers(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    _, proxy, web = inspected
    known = {flow["id"] for flow in web.flows()}
    with via_base_url(proxy) as client:
        assert client.request("GET", "/ccflare/health").status == 200
        assert client.request("HEAD", "/").status == 200
    last = last_flow(proxy, web)["id"]
    assert {flow["id"] for flow in web.flows()} - known == {last}


def test_a_replay_asks_first_and_is_a_new_row_that_went_through_the_pool(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    upstream, proxy, web = inspected
    flow = last_flow(proxy, web)
    first = flow["comment"].rpartition("request=")[2]
    asked = len(upstream.requests)

    web.replay(flow)
    told = next(each["comment"] for each in web.flows() if each["id"] == flow["id"])
    assert told.startswith("replay? once more within 60 s sends it; it costs about $0.0003 (the first time $0.0003)")
    assert len(upstream.requests) == asked

    known = {each["id"] for each in web.flows()}
    time.sleep(PAUSE)
    web.replay(flow)
    row = eventually(lambda: [f for f in web.flows() if f["id"] not in known and "outcome=ok" in f["comment"]])[0]

    assert row["is_replay"] == "request"
    assert row["comment"].endswith(f" replay={first}")
    once, again = upstream.requests[-2:]
    assert again.body == once.body
    assert [field for field in again.headers if field[0] != b"x-api-key"] == [
        field for field in once.headers if field[0] != b"x-api-key"
    ]
    sql = "SELECT actor, target, outcome FROM audit_log WHERE action = 'request.replay' AND target = ?"
    (entry,) = proxy.rows(sql, (first,))
    assert dict(entry) == {"actor": "console", "target": first, "outcome": "ok"}


def test_a_replay_goes_to_the_account_that_is_named(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web)
    known = {each["id"] for each in web.flows()}
    assert web.command("ccflare.replay", f"@{flow['id']}", "two")["value"].startswith("replay? ")
    time.sleep(PAUSE)
    assert web.command("ccflare.replay", f"@{flow['id']}", "two")["value"] == "the request is sent again"
    row = eventually(lambda: [f for f in web.flows() if f["id"] not in known and "outcome=ok" in f["comment"]])[0]
    assert row["comment"].startswith("two ▸ ")


def test_no_more_flows_are_kept_than_asked_for(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flows = [last_flow(proxy, web)["id"] for _ in range(KEPT + 2)]
    assert {flow["id"] for flow in eventually(web.flows, lambda f: len(f) <= KEPT)} == set(flows[-KEPT:])


def test_a_body_that_was_let_go_is_shown_downloaded_and_saved_from_the_database(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    upstream, proxy, web = inspected
    upstream.answer(sse(["Hello from the database. " * 100]))
    flow = last_flow(proxy, web)
    request, response = (web.get(f"/flows/{flow['id']}/{part}/content.data") for part in ("request", "response"))

    web.set("ccflare_inspector_bytes", 0)
    assert flow["id"] in {each["id"] for each in web.flows()}
    last_flow(proxy, web)  # each that finishes is an occasion to look

    shown = eventually(lambda: [each for each in web.flows() if each["id"] == flow["id"]])[0]
    assert shown["request"]["contentLength"] == len(request)
    assert "Hello from the database." in web.text(flow)["text"]
    assert web.text(flow, "request")["text"].startswith("# user (the question)\nSay hello.\n")
    assert web.get(f"/flows/{flow['id']}/request/content.data") == request
    assert web.get(f"/flows/{flow['id']}/response/content.data") == response
    assert web.text(flow, view="raw")["text"].startswith("event: message_start\n")
    file = io.BytesIO(web.get("/flows/dump"))
    (saved,) = [each for each in FlowReader(file).stream() if each.id == flow["id"]]
    assert isinstance(saved, http.HTTPFlow)
    assert (saved.request.raw_content, saved.response and saved.response.raw_content) == (request, response)
    web.set("ccflare_inspector_bytes", 2**27)


def test_a_har_file_that_is_written_at_the_end_has_the_bodies(upstream: FakeUpstream, tmp_path: Path) -> None:
    file = tmp_path / "all.har"
    with Proxy(upstream, folder=tmp_path, program="mitmweb", ccflare_inspector_bytes=0, hardump=file) as proxy:
        proxy.add_api_key("one", ONE)
        web = Web(proxy)
        flows = [last_flow(proxy, web) for _ in range(2)]
    entries = json.loads(file.read_text())["log"]["entries"]
    assert len(entries) == len(flows)
    assert all("Say hello." in entry["request"]["postData"]["text"] for entry in entries)


def test_large_bodies_are_in_memory_once_and_only_up_to_the_bound(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    """The flow is not the only one that had them: the exchange, the recorder and the wire let them go too.

    The writer remembers the last one of a session.
    """
    _, proxy, web = inspected
    size, bound = 2_000_000, 10_000_000
    web.set("ccflare_inspector_flows", 100)
    web.set("ccflare_inspector_bytes", bound)

    session = str(uuid.uuid4())
    flows = [last_flow(proxy, web, size=size, session=session)["id"] for _ in range(12)]

    large = eventually(lambda: int(web.command("test.large")["value"]), lambda total: total <= bound + 2 * size)
    assert large >= bound - size
    assert {
        flow["id"]: flow["request"]["contentLength"] for flow in web.flows() if flow["id"] in flows
    } == dict.fromkeys(flows, size)
    web.set("ccflare_inspector_bytes", 2**27)
    web.set("ccflare_inspector_flows", KEPT)


def test_a_body_that_was_let_go_and_not_recorded_says_so(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    web.set("ccflare_record", "metadata")
    web.set("ccflare_inspector_bytes", 0)

    flow = last_flow(proxy, web)
    last_flow(proxy, web)  # each that finishes is an occasion to look

    eventually(lambda: web.text(flow, "request")["text"], has("# the request: This body is not in memory any more"))
    raw = web.text(flow, "request", view="raw")
    assert raw["text"].startswith("This body is not in memory any more (ccflare_inspector_bytes)")
    assert raw["description"].startswith("This body is not in memory")
    web.set("ccflare_record", "redacted")
    web.set("ccflare_inspector_bytes", 2**27)


def test_commands_list_pause_and_resume(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    assert web.command("ccflare.accounts")["value"].startswith("one: ")
    web.command("ccflare.pause", "two")
    eventually(lambda: "two: paused" in web.command("ccflare.accounts")["value"])
    web.command("ccflare.resume", "two")
    eventually(lambda: "two: paused" not in web.command("ccflare.accounts")["value"])
    web.command("ccflare.priority", "two", "3")
    eventually(lambda: "two has the priority 3" in proxy.log())
    web.command("ccflare.priority", "two", "2")


def test_commands_tell_of_requests_in_a_sentence(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flow = last_flow(proxy, web)
    assert " in the list: " in web.command("ccflare.requests")["value"]
    assert web.command("ccflare.why", f"@{flow['id']}")["value"].startswith("account: ")
    assert "matched 0" in web.command("ccflare.why", "@none")["error"]


def test_what_left_the_list_is_loaded_from_the_record_with_its_bodies(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    upstream, proxy, web = inspected
    web.set("ccflare_record", "redacted")  # whatever a test before has left
    upstream.answer(sse(["Hello from the record."]))
    story = last_flow(proxy, web)["comment"]
    request = story.rpartition("request=")[2]
    eventually(lambda: proxy.rows("SELECT 1 FROM requests WHERE id = ? AND outcome IS NOT NULL", (request,)))
    web.command("view.clear")
    assert web.flows() == []

    assert web.command("ccflare.load", "1h")["value"].endswith("is being loaded")

    (flow,) = eventually(lambda: [each for each in web.flows() if each["comment"].endswith(request)])
    assert flow["comment"].partition(" · recorded ")[0] == story.partition("\n")[0]
    assert "\n# assistant (the answer)\nHello from the record." in web.text(flow)["text"]
    assert web.text(flow, "request")["text"].startswith("# user (the question)\nSay hello.\n")


def test_an_export_leads_to_the_proxy(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    flow = f"@{last_flow(proxy, web)['id']}"
    for command in (("ccflare.export", flow, "curl"), ("export", "curl", flow)):
        told = web.command(*command)["value"]
        assert told.startswith("curl ")
        assert f" http://127.0.0.1:{proxy.port}/v1/messages" in told.replace("'", "")
        assert "redacted" not in told
    assert "# user (the question)" in web.command("ccflare.export", flow, "conversation")["value"]


def test_a_command_for_nobody_says_so(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, _, web = inspected
    assert web.command("ccflare.pause", "nobody") == {"error": "no account 'nobody'; there is one, two"}


def test_an_exhausted_pool_is_told_and_marked(apart: tuple[FakeUpstream, Proxy, Web]) -> None:
    upstream, proxy, web = apart
    upstream.always(limited_5h(time.time() + 3600))
    flow = last_flow(proxy, web)
    assert flow["marked"] == "⌛"
    assert "two ✗ No account can serve this request" in flow["comment"].splitlines()[0]


def test_change_that_takes_a_restart_is_logged_and_one_that_does_not_is_not(
    inspected: tuple[FakeUpstream, Proxy, Web],
) -> None:
    _, proxy, web = inspected
    web.command("set", "ccflare_hold_seconds", "1")
    web.command("set", "ccflare_strategy", "round-robin")
    eventually(lambda: "ccflare_strategy: the change applies after a restart" in proxy.log())

    web.command("set", "ccflare_strategy", "session")
    web.command("set", "ccflare_hold_seconds", "0")
    web.command("set", "ccflare_session_seconds", "60")
    eventually(lambda: "ccflare_session_seconds: the change applies after a restart" in proxy.log())

    assert proxy.log().count("applies after a restart") == 2


def test_our_own_pages_are_behind_mitmwebs_login(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    assert json.loads(web.get("/ccflare/health"))["accounts"][0]["name"] == "one"
    with RawClient("127.0.0.1", proxy.web_port) as client:
        for page in PAGES:
            for method in page.methods:
                reply = client.request(method, page.path.replace("{name}", "one"))
                assert reply.status == 403, page.path
                assert b"one" not in reply.body
        assert (
            client.request("GET", "/ccflare/none", ((b"Authorization", f"Bearer {proxy.web_token}".encode()),)).status
            == 404
        )


def test_a_page_changes_something_in_mitmweb_only_with_its_token(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    _, proxy, web = inspected
    assert web.post("/ccflare/accounts/two/pause", is_forged=True) == 403
    assert not json.loads(web.get("/ccflare/health"))["accounts"][1]["reason"].startswith("paused")
    assert web.post("/ccflare/accounts/two/pause") == 200
    assert json.loads(web.get("/ccflare/health"))["accounts"][1]["reason"].startswith("paused")
    assert web.post("/ccflare/accounts/two/resume") == 200
    assert {"actor": "mitmweb", "action": "account.pause"} in proxy.rows("SELECT actor, action FROM audit_log")


def comment_of(web: Web, flow: dict[str, Any]) -> str:
    return str(next(each["comment"] for each in web.flows() if each["id"] == flow["id"]))


def test_a_replay_goes_nowhere_while_the_proxy_does_not_listen(inspected: tuple[FakeUpstream, Proxy, Web]) -> None:
    """Where it has listened, or would by default, another program can listen by then."""
    _, proxy, web = inspected
    flow = last_flow(proxy, web)
    web.command("set", "server", "false")
    try:
        eventually(lambda: accepts(proxy.port), lambda found: not found)
        web.replay_for_certain(flow)
        told = eventually(lambda: comment_of(web, flow), has("not replayed: "))
    finally:
        web.command("set", "server", "true")
        eventually(lambda: accepts(proxy.port))
    assert told.startswith("not replayed: the proxy does not listen at the moment")
