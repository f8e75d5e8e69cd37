"""Answers of ours in pieces: what the client gets of one, and that one that nobody takes does not stay."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import DropStream
from mitmproxy.proxy.layers.http._events import ResponseData, ResponseEndOfMessage, ResponseHeaders
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHook

from ccflare_mitm.wire.feeder import UNSENT_BYTES, Feeder
from ccflare_mitm.wire.layer import LayerCommand
from ccflare_mitm.wire.states import Event, State
from stream_kit import StreamKit


class Some:
    """These pieces, and then the end, or an error."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = [*pieces]
        self._error = error
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if self._pieces and not self.is_closed:
            return self._pieces.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def close(self) -> None:
        self.is_closed = True


class Connection:
    """mitmproxy's side of a client's connection, as far as a feeder has to do with it."""

    def __init__(self, kit: StreamKit) -> None:
        self.kit = kit
        self.client = kit.client
        self.unsent = 0
        self.is_aborted = False
        transport = SimpleNamespace(get_write_buffer_size=lambda: self.unsent, abort=self._abort)
        writer = SimpleNamespace(transport=transport, get_extra_info=lambda name: None)
        self.transports = {self.client: SimpleNamespace(writer=writer)}

    def _abort(self) -> None:
        self.is_aborted = True

    async def server_event(self, event: events.Wakeup) -> None:
        """The layer hands each message to its stream. mitmproxy's end of the connection has seen no request here."""
        assert isinstance(event.command, LayerCommand)
        for stream, message in event.command.messages:
            assert stream is self.kit.stream
            self.kit.feed(message)


async def fed(kit: StreamKit, pieces: Some, unsent: int = 0, handlers: dict[str, Any] | None = None) -> Connection:
    """The connection of a page that goes on, once its pieces are over."""
    kit.reach(State.FEEDING)
    connection = Connection(kit)
    connection.unsent = unsent
    feeder = Feeder({kit.client.id: connection} if handlers is None else handlers)
    feeder.start(kit.layer, kit.stream, pieces)
    await asyncio.gather(*feeder._working)
    return connection


def body(kit: StreamKit) -> list[bytes]:
    sent = (getattr(each, "event", None) for each in kit.sent)
    return [each.data for each in sent if isinstance(each, ResponseData)]


def test_page_that_goes_on_sends_its_head_and_waits_for_no_deadline() -> None:
    kit = StreamKit().reach(State.FEEDING)

    head = kit.last(ResponseHeaders)

    assert (head.end_stream, head.response.headers["transfer-encoding"]) == (False, "chunked")
    assert "content-length" not in head.response.headers
    assert kit.fed == [kit.pieces]
    assert not kit.stream.deadlines.is_over(kit.stream.deadlines.clock() + 10**6)


def test_page_that_goes_on_is_let_go_of_when_its_client_leaves_and_that_is_no_error() -> None:
    kit = StreamKit().reach(State.FEEDING)

    kit.feed(kit.event(Event.CLIENT_LEFT))

    assert (kit.stream.state, kit.pieces.is_closed) == (State.OVER, True)
    assert (kit.last(HttpResponseHook) is not None, kit.last(HttpErrorHook)) == (True, None)
    assert kit.stream.flow.error is None
    assert isinstance(kit.last(DropStream), DropStream)
    kit.feed(kit.event(Event.PIECE))
    assert body(kit) == []


@pytest.mark.parametrize("event", [Event.STALLED, Event.TUNNEL_OVER, Event.REQUEST], ids=lambda event: event.name)
def test_page_that_goes_on_is_let_go_of_however_it_ends(event: Event) -> None:
    kit = StreamKit().reach(State.FEEDING)
    kit.feed(kit.event(event))
    assert (kit.stream.state, kit.pieces.is_closed) == (State.OVER, True)


async def test_pieces_go_out_as_they_come_and_the_answer_ends_with_them() -> None:
    kit, pieces = StreamKit(), Some(b"one", b"two", b"")
    await fed(kit, pieces)

    assert body(kit) == [b"one", b"two"]
    assert isinstance(kit.last(ResponseEndOfMessage), ResponseEndOfMessage)
    assert (kit.stream.state, pieces.is_closed) == (State.ANSWERED, True)
    assert kit.last(HttpResponseHook) is not None


async def test_client_that_takes_nothing_is_cut_off() -> None:
    kit, pieces = StreamKit(), Some(b"one", b"two")

    connection = await fed(kit, pieces, unsent=UNSENT_BYTES + 1)

    assert (connection.is_aborted, body(kit)) == (True, [])
    assert (kit.stream.state, kit.pieces.is_closed, pieces.is_closed) == (State.OVER, True, True)


async def test_client_that_has_gone_takes_no_pieces() -> None:
    kit, pieces = StreamKit(), Some(b"one")
    await fed(kit, pieces, handlers={})
    assert (body(kit), pieces.is_closed) == ([], True)


async def test_page_that_fails_is_cut_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    kit, pieces = StreamKit(), Some(b"one", error=KeyError("inside"))

    connection = await fed(kit, pieces)

    assert (body(kit), connection.is_aborted, pieces.is_closed) == ([b"one"], True, True)
    assert "A page that goes on has failed" in caplog.text
