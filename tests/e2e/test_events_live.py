"""What goes on, as it is told over real sockets: by each door, to whom it may be told, and for no longer than that."""

import json
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from ccflare_mitm.pages.api.document import DOCUMENT
from ccflare_mitm.pages.viewers import MOST
from fake_upstream import FakeUpstream, Gate, sse, sse_answer
from harness import (
    REPOSITORY,
    Http2Client,
    Proxy,
    RawClient,
    StartProxy,
    Truncated,
    claude_request,
    eventually,
    via_base_url,
)
from schema_check import mistakes

EVENTS = "/ccflare/api/v1/events"
SCHEMAS = DOCUMENT["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]["x-events"]


class Event(NamedTuple):
    """One of the events: its name, and its data, which are as the document says."""

    name: str
    data: dict[str, Any]


class Listener:
    """Reads events as they come. `read` gives the next piece of the body, b"" at its end."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._text = b""

    def next(self) -> Event:
        """The next event; EOFError if there are no more."""
        while True:
            while b"\n\n" not in self._text:
                if not (piece := self._read()):
                    raise EOFError("the stream has ended")
                self._text += piece
            block, _, self._text = self._text.partition(b"\n\n")
            lines = dict(line.split(": ", 1) for line in block.decode().splitlines() if ": " in line)
            if "event" in lines:
                event = Event(lines["event"], json.loads(lines["data"]))
                assert [*mistakes(event.data, SCHEMAS[event.name])] == []
                return event

    def until(self, name: str, **fields: object) -> dict[str, Any]:
        """The data of the next event of this name that has these values."""
        while True:
            event = self.next()
            if event.name == name and event.data.items() >= fields.items():
                return event.data

    def ends(self) -> bool:
        """Whether the body comes to its proper end."""
        try:
            while True:
                self.next()
        except EOFError:
            return True


def listen(client: RawClient, *fields: tuple[bytes, bytes]) -> Listener:
    """Ask for the events by HTTP/1.1, and be let in."""
    assert status(client, *fields) == 200
    return Listener(client.read_chunk)


def status(client: RawClient, *fields: tuple[bytes, bytes]) -> int:
    client.send_request("GET", EVENTS, ((b"Accept", b"text/event-stream"), *fields))
    return client.read_head().status


def bearer(secret: str) -> tuple[bytes, bytes]:
    return (b"Authorization", f"Bearer {secret}".encode())


class House(NamedTuple):
    """A proxy of which also mitmweb shows pages, and the keys of its clients by their role."""

    proxy: Proxy
    upstream: FakeUpstream
    keys: dict[str, str]

    def listener(self, running: ExitStack, key: str = "viewer") -> Listener:
        return listen(self.connect(running), bearer(self.keys[key]))

    def connect(self, running: ExitStack) -> RawClient:
        return running.enter_context(via_base_url(self.proxy, timeout=60))

    def requests(self, running: ExitStack, **filters: str) -> list[dict[str, Any]]:
        """What the API tells of those that pass the filters."""
        path = f"/ccflare/api/v1/requests?{urlencode(filters)}"
        found = self.connect(running).request("GET", path, (bearer(self.keys["viewer"]),))
        return list(found.json()["requests"])

    def tunnel(self) -> Http2Client:
        """HTTP/2 inside of a tunnel."""
        proof = (b"Proxy-Authorization", b"Basic " + b64encode(f"x:{self.keys['client']}".encode()))
        return Http2Client.via_connect(self.proxy, "localhost", self.upstream.port, headers=(proof,))

    def request(self) -> tuple[str, str, tuple[tuple[bytes, bytes], ...], bytes]:
        """What a client asks for."""
        return claude_request(5000, credential=(b"x-api-key", self.keys["client"].encode()))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with FakeUpstream(tls=True, http2=True) as upstream:
        folder = tmp_path_factory.mktemp("proxy")
        proxy = Proxy(upstream, folder=folder, program="mitmweb")
        proxy.add_api_key("one", "sk-ant-api03-one")
        keys = {role: proxy.add_client_key(role, "--role", role) for role in ("client", "viewer")}
        keys["gone"] = proxy.add_client_key("gone", "--role", "viewer")
        with proxy:
            yield House(proxy, upstream, keys)


def test_a_request_is_told_as_it_opens_proceeds_and_closes(house: House) -> None:
    begins, ends = Gate(), Gate()
    start, *rest = sse(6, input_tokens=1000, output_tokens=20).chunks
    house.upstream.answer(sse_answer(start, begins, *rest[:6], ends, *rest[6:]))
    with ExitStack() as running:
        listener = house.listener(running)
        assert [account["name"] for account in listener.until("accounts")["accounts"]] == ["one"]
        client = house.connect(running)

        client.send_request(*house.request())

        opened = listener.until("open", path="/v1/messages")
        assert (opened["status"], opened["input_tokens"]) == (None, None)
        begins.open()
        now = listener.until("progress", id=opened["id"], status=200, input_tokens=1000)
        assert (now["account"], now["client_name"], now["outcome"]) == ("one", "client", None)
        assert (now["estimated"], now["cost_usd"], now["output_tokens"] > 0) == (True, None, True)
        (beside,) = house.requests(running, model=now["model"], account="one", outcome="open")
        assert (beside["id"], beside["input_tokens"]) == (opened["id"], 1000)
        ends.open()
        closed = listener.until("closed", id=opened["id"])
        client.read_head()
        assert b"message_stop" in client.read_body()
        assert (closed["outcome"], closed["output_tokens"], closed["estimated"]) == ("ok", 20, False)
        house.proxy.rows("SELECT id FROM requests WHERE id = ? AND outcome = 'ok'", [opened["id"]], until=bool)
        (row,) = (each for each in house.requests(running) if each["id"] == opened["id"])
        assert closed.pop("tags") == row.pop("tags") == {}  # which approx takes for figures
        assert closed == pytest.approx(row)


def test_events_come_over_http2_beside_requests(house: House) -> None:
    with house.tunnel() as client:
        stream = client.send_request("GET", EVENTS, (bearer(house.keys["viewer"]),))
        head = client.read_head(stream)
        assert (head.status, head.header("content-type")) == (200, "text/event-stream; charset=utf-8")
        assert (head.header("transfer-encoding"), head.header("content-length")) == (None, None)
        listener = Listener(lambda: client.read_data(stream))
        listener.until("accounts")

        assert client.request(*house.request()).status == 200

        assert listener.until("closed", path="/v1/messages")["outcome"] == "ok"
        client.reset_stream(stream)
        assert client.request(*house.request()).status == 200


def test_events_come_in_mitmweb_behind_its_own_login(house: House) -> None:
    with ExitStack() as running:
        web, stranger = (running.enter_context(RawClient("127.0.0.1", house.proxy.web_port)) for _ in range(2))
        listener = listen(web, bearer(house.proxy.web_token))
        listener.until("accounts")

        assert house.connect(running).request(*house.request()).status == 200

        assert listener.until("closed", path="/v1/messages")["account"] == "one"
        assert status(stranger) == 403
    assert "Traceback" not in house.proxy.log()


def test_events_are_for_who_may_see_the_dashboard(house: House) -> None:
    with via_base_url(house.proxy) as client:
        assert status(client, bearer(house.keys["client"])) == 403
    with via_base_url(house.proxy) as client:
        assert status(client) == 401
    with via_base_url(house.proxy) as client:
        assert status(client, bearer(house.keys["viewer"]), (b"Sec-Fetch-Site", b"cross-site")) == 403


def test_so_many_listen_and_the_next_one_once_one_has_left(house: House) -> None:
    viewer = bearer(house.keys["viewer"])
    with ExitStack() as running:
        for client in (clients := [house.connect(running) for _ in range(MOST)]):
            listen(client, viewer)

        with via_base_url(house.proxy) as next_one:
            assert status(next_one, viewer) == 503
            assert b"look on already" in next_one.read_body()

        clients[5].close()

        def ask_again() -> int:
            return status(house.connect(running), viewer)

        assert eventually(ask_again, until=lambda status: status == 200)


def test_a_listener_goes_with_its_key(house: House) -> None:
    with ExitStack() as running:
        listener = house.listener(running, "gone")
        listener.until("accounts")

        house.proxy.run_script("keys.py", "client", "revoke", "gone")

        assert listener.ends()
        assert status(house.connect(running), bearer(house.keys["gone"])) == 401


def test_listeners_to_whom_nothing_happens_stay_and_a_stop_does_not_wait_for_them(
    upstream: FakeUpstream, start_proxy: StartProxy
) -> None:
    options = {"ccflare_client_idle_seconds": 2, "ccflare_drain_seconds": 600}
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"}, program="mitmweb", **options)
    with via_base_url(proxy) as client, RawClient("127.0.0.1", proxy.web_port) as web:
        listener, in_mitmweb = listen(client), listen(web, bearer(proxy.web_token))
        listener.until("accounts")
        in_mitmweb.until("accounts")
        time.sleep(3)  # an idle connection would be closed by now
        with via_base_url(proxy) as other:
            assert other.request(*claude_request()).status == 200
        listener.until("closed")
        in_mitmweb.until("closed")

        assert proxy.stop() == 0

        assert (listener.ends(), in_mitmweb.ends()) == (True, True)
    assert "stopping" not in proxy.log()


def test_a_status_line_is_what_the_proxy_tells_of_its_clients_session(house: House) -> None:
    """Where the database is no file that it can read."""
    session = "5e551011-0000-4000-8000-000000000000"
    asked = claude_request(3000, session=session, credential=(b"x-api-key", house.keys["client"].encode()))
    with via_base_url(house.proxy) as client:
        assert client.request(*asked).status == 200

    def line(key: str) -> str:
        base = f"http://127.0.0.1:{house.proxy.port}"
        environ = {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": key, "ccflare_DB_PATH": "/nowhere"}
        words = [sys.executable, str(REPOSITORY / "scripts" / "statusline.py"), "--plain"]
        told = json.dumps({"session_id": session})
        done = subprocess.run(words, input=told, env=environ, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    # It waits for a tenth of a second, which may be too short here for once.
    assert eventually(lambda: line(house.keys["client"]), lambda found: found.startswith("one"))
    assert eventually(lambda: line(house.keys["viewer"]), lambda found: found.startswith("one"))
    assert line("unused") == "ccflare: no record of it here\n"


def test_a_listener_that_reads_nothing_is_cut_off_and_others_go_on(house: House) -> None:
    with house.tunnel() as client, ExitStack() as running:
        client.acknowledges = False
        stream = client.send_request("GET", EVENTS, (bearer(house.keys["viewer"]),))
        neighbour = house.listener(running)
        neighbour.until("accounts")
        asking, path, key = house.connect(running), f"/v1/../{'x' * 280}", bearer(house.keys["client"])
        for _ in range(9):  # fewer at a time than the ends that one look tells of
            for _ in range(50):
                assert asking.request("GET", path, (key,)).status == 400  # nothing goes upstream for it
            for _ in range(50):
                neighbour.until("closed", status=400)

        with pytest.raises(Truncated, match="CANCEL"):
            client.read_body(stream)

        assert house.connect(running).request(*house.request()).status == 200
        neighbour.until("closed", path="/v1/messages", outcome="ok")
