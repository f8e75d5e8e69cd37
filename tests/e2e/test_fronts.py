"""nginx and HAProxy in front of two proxies, by the files that the README hands out."""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from ccflare_core.clients.keys import Role
from ccflare_core.store.client_keys import new_key
from fake_upstream import FakeUpstream, Gate, Header, sse
from front_kit import MAKERS, Front, proxy_options
from harness import Proxy, RawClient, claude_request, eventually, via_base_url
from rig import Rig, texts

ELSEWHERE, STRANGER = "127.0.0.3", "127.0.0.5"
CLAIMED: Sequence[Header] = ((b"X-Forwarded-For", b"203.0.113.9"), (b"Forwarded", b"for=203.0.113.9"))
"""What a client says of itself that is not so."""
EACH = 5
"""How many requests a client has answered in each part of a restart."""


class Pair(NamedTuple):
    """Two proxies on one database, whose upstream is simulated; the key of one who looks on, and that of a client."""

    upstream: FakeUpstream
    proxies: tuple[Proxy, Proxy]
    watching: Header
    credential: Header
    fronts: dict[str, Front]

    def open_in(self, proxy: Proxy) -> int:
        """How many requests are open in it."""
        with via_base_url(proxy) as client:
            count: int = client.request("GET", "/ccflare/health", (self.watching,)).json()["open_exchanges"]
            return count

    def client_of(self, session: str) -> str:
        """Whom the record names as this session's client."""
        (row,) = self.proxies[0].rows("SELECT client_ip FROM requests WHERE session_id = ?", (session,), until=bool)
        address: str = row["client_ip"]
        return address


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as running:
        upstream = running.enter_context(FakeUpstream())
        rig = running.enter_context(Rig.running(upstream, **proxy_options()))
        rig.fresh("one")
        with rig.stored() as store:
            watching = store.clients.add(new_key("haproxy", time.time(), role=Role.VIEWER))
            asking = store.clients.add(new_key("laptop", time.time()))
        second = running.enter_context(Proxy(upstream, database=rig.proxy.location, **proxy_options()))
        ports = rig.proxy.port, second.port
        fronts = {
            name: running.enter_context(Front(make, tmp_path_factory.mktemp(name), ports, watching))
            for name, make in MAKERS.items()
        }
        yield Pair(upstream, (rig.proxy, second), bearer(watching), bearer(asking), fronts)


def bearer(key: str) -> Header:
    return b"Authorization", f"Bearer {key}".encode()


@pytest.fixture(params=MAKERS)
def front(pair: Pair, request: pytest.FixtureRequest) -> Front:
    name: str = request.param
    return pair.fronts[name]


def test_events_arrive_one_by_one_through_a_front(pair: Pair, front: Front) -> None:
    answer = sse(3)
    gates = [Gate() for _ in answer.chunks]
    gated = tuple(step for pair in zip(answer.chunks, gates, strict=True) for step in pair)
    gates[0].open()  # the head goes out with the first content, which is the second chunk
    pair.upstream.answer(replace(answer, chunks=gated))
    with front.client() as client:
        client.send_request(*claude_request(credential=pair.credential))
        assert client.read_head().status == 200
        kinds = [read_type(client)]
        for gate in gates[1:]:
            kinds.append(read_type(client))
            assert not gate.is_open
            gate.open()
        assert client.read_event() is None
    assert kinds[-1] == "message_stop"


def read_type(client: RawClient) -> str:
    """The type of the next event."""
    event = client.read_event()
    assert event is not None
    kind: str = event["type"]
    return kind


def test_a_client_behind_a_front_is_recorded_as_who_it_is(pair: Pair, front: Front) -> None:
    session = str(uuid.uuid4())
    with front.client(source=ELSEWHERE) as client:
        asked = claude_request(size=3000, session=session, credential=pair.credential, extra=CLAIMED)
        assert client.request(*asked).status == 200
    assert pair.client_of(session) == ELSEWHERE


def test_a_stranger_past_the_front_is_not_believed(pair: Pair) -> None:
    session = str(uuid.uuid4())
    with RawClient("127.0.0.1", pair.proxies[0].port, source=STRANGER) as client:
        asked = claude_request(size=3000, session=session, credential=pair.credential, extra=CLAIMED)
        assert client.request(*asked).status == 200
    assert pair.client_of(session) == STRANGER


def test_pages_of_the_proxies_are_not_to_be_had_through_a_front(front: Front) -> None:
    with front.client() as client:
        assert client.request("GET", "/ccflare/health").status == 403


def test_nginx_ends_each_connection_and_leaves_it_to_the_proxies_what_is_too_large(tmp_path: Path) -> None:
    """From 1.29.7 on it keeps connections unless the recipe says otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(60)
        ports = proxy.getsockname()[1], proxy.getsockname()[1]
        with Front(MAKERS["nginx"], tmp_path, ports, "") as front, front.client() as client:
            large = (b"Content-Length", b"%d" % (400 * 1024 * 1024))
            client.send_request("POST", "/v1/files", (large,), b"-")
            came, _ = proxy.accept()
            with came, came.makefile("rb") as reader:
                head = [line.rstrip().lower() for line in iter(reader.readline, b"\r\n")]
    assert {b"connection: close", b"content-length: 419430400"} <= {*head}


class Load(threading.Thread):
    """A client that asks again and again, each time on a connection and in a session of its own."""

    def __init__(self, front: Front, credential: Header) -> None:
        super().__init__(daemon=True)
        self._front = front
        self._credential = credential
        self._is_over = threading.Event()
        self.answers: list[int | str] = []

    def run(self) -> None:
        while not self._is_over.is_set():
            try:
                with self._front.client() as client:
                    asked = claude_request(size=3000, stream=False, credential=self._credential)
                    self.answers.append(client.request(*asked).status)
            except Exception as problem:
                self.answers.append(repr(problem))
            self._is_over.wait(0.05)

    def wait_for_more(self) -> None:
        """Return when it has had EACH further answers."""
        so_far = len(self.answers)
        eventually(lambda: len(self.answers) >= so_far + EACH)

    def end(self) -> None:
        self._is_over.set()
        self.join(60)


def test_proxies_restart_one_after_the_other_without_a_failed_request(pair: Pair) -> None:
    first, second = pair.proxies
    held = Gate()
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(client) for client in streams_on(pair, first, held)]
        loads = [Load(front, pair.credential) for front in pair.fronts.values()]
        for load in loads:
            load.start()
            open_ones.callback(load.end)
        for proxy in (first, second):
            for load in loads:
                load.wait_for_more()
            os.kill(proxy.pid, signal.SIGTERM)
            for load in loads:
                load.wait_for_more()
            held.open()
            assert ended(proxy) == 0
            proxy.start()
            for front in pair.fronts.values():
                eventually(front.trusts_both)
        for load in loads:
            load.wait_for_more()
            load.end()
        whole = [texts(list(client.events())) for client in streams]

    assert {answer for load in loads for answer in load.answers} == {200}
    assert whole == [["word 0 ", "word 1 ", "word 2 "]] * len(streams)


def ended(proxy: Proxy) -> int | None:
    """The exit code, as soon as there is one."""
    return eventually(lambda: proxy.returncode, until=lambda code: code is not None)


def streams_on(pair: Pair, proxy: Proxy, held: Gate) -> list[RawClient]:
    """Streams that are held in their midst, by each front at least one that this proxy serves."""
    clients: list[RawClient] = []
    for front in pair.fronts.values():
        before = pair.open_in(proxy)
        while pair.open_in(proxy) == before:
            assert len(clients) < 100, "the front asks the other proxy only"
            pair.upstream.answer(sse(3, gate=held, gate_at=1))
            clients.append(front.client())
            clients[-1].send_request(*claude_request(size=3000, credential=pair.credential))
            assert clients[-1].read_head().status == 200
    return clients
