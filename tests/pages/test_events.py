"""What goes on, as it is told: each change once, nothing while nobody looks, and no more than there is room for."""

import asyncio
import json
from typing import Any

import pytest

from ccflare_core.anthropic.answers import Answer, Pieces
from ccflare_core.clients.authentication import LOCAL, Identity
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.sessions import Sessions
from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.pages.api.document import DOCUMENT
from ccflare_mitm.pages.events import BEGINNING, FOLLOWED, QUIET_SECONDS, SIGN_OF_LIFE
from ccflare_mitm.pages.viewers import MOST
from ccflare_mitm.pages.visit import Visit
from exchange_kit import OK, Bench, account
from guard_kit import a_key, an_authenticator, ring_of, some_events
from schema_check import mistakes

SCHEMAS = DOCUMENT["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]["x-events"]


class House:
    """A bench, and what it tells. `look` is what the proxy does twice a second."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.authenticator = an_authenticator()
        self.events = some_events(self.bench, self.authenticator, Sessions())

    def answer(self) -> Answer:
        return self.events.answer(Visit(Identity(LOCAL), "127.0.0.1", "/ccflare/test"), Permission.DASHBOARD_VIEW)

    def join(self) -> Pieces:
        answer = self.answer()
        assert answer.pieces is not None
        return answer.pieces()

    async def look(self, pieces: Pieces) -> list[tuple[str, Any]]:
        """What is told by the next look, an event each; each is as the document says."""
        self.events.look()
        return read(await self.take(pieces))

    async def take(self, pieces: Pieces) -> bytes:
        try:
            async with asyncio.timeout(0):
                return await anext(aiter(pieces))
        except TimeoutError:
            return b""


def read(text: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in text.removeprefix(BEGINNING).removeprefix(SIGN_OF_LIFE).decode().split("\n\n")[:-1]:
        name, data = (line.partition(": ")[2] for line in block.splitlines())
        assert [*mistakes(json.loads(data), SCHEMAS[name])] == []
        found.append((name, json.loads(data)))
    return found


def names(told: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in told]


async def test_events_begin_with_the_accounts_and_what_is_open() -> None:
    house = House()
    exchange = house.bench.begin()

    told = await house.look(house.join())

    assert names(told) == ["accounts", "open"]
    assert [each["name"] for each in told[0][1]["accounts"]] == ["max-a", "max-b"]
    assert (told[1][1]["id"], told[1][1]["outcome"]) == (exchange.id, None)


async def test_events_tell_each_change_once() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)

    exchange = house.bench.begin()
    assert names(await house.look(pieces)) == ["open"]
    house.bench.clock.pass_(3)
    assert await house.look(pieces) == []  # that time goes by is no news
    exchange.next_step()
    (told,) = await house.look(pieces)
    assert (told[0], told[1]["account"], told[1]["seconds"]) == ("progress", "max-a", 3.0)
    exchange.finish(Outcome.CLIENT_ABORT, "the client left")
    (told,) = await house.look(pieces)
    assert (told[0], told[1]["outcome"], told[1]["error"]) == ("closed", "client_abort", "the client left")
    assert await house.look(pieces) == []


async def test_events_tell_of_a_request_that_has_come_and_gone_between_two_looks() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)

    house.bench.serve(OK)

    assert names(await house.look(pieces)) == ["closed"]


async def test_events_tell_all_accounts_when_one_has_changed() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)

    house.bench.pool.replace_accounts([account("a", paused=True)])

    ((name, content),) = await house.look(pieces)
    assert (name, [(each["name"], each["available"]) for each in content["accounts"]]) == (
        "accounts",
        [("max-a", False)],
    )


async def test_events_tell_who_comes_later_how_it_is_and_nobody_else() -> None:
    house = House()
    one = house.join()
    house.bench.begin()
    await house.look(one)

    other = house.join()

    assert await house.look(one) == []
    assert names(read(await house.take(other))) == ["accounts", "open"]


async def test_events_give_a_sign_of_life_when_nothing_happens() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)

    house.bench.clock.pass_(QUIET_SECONDS)
    house.events.look()

    assert await house.take(pieces) == SIGN_OF_LIFE
    house.events.look()
    assert await house.take(pieces) == b""


async def test_events_cost_nothing_while_nobody_looks() -> None:
    house = House()
    assert house.bench.exchanges.ended == []
    pieces = house.join()
    await house.look(pieces)
    assert len(house.bench.exchanges.ended) == 1

    pieces.close()
    house.events.look()

    assert house.bench.exchanges.ended == []
    house.bench.serve(OK)
    assert names(await house.look(house.join())) == ["accounts"]


async def test_events_follow_so_many_requests_and_tell_of_each_that_they_told_of_when_it_ends() -> None:
    house = House()
    pieces = house.join()
    exchanges = [house.bench.begin() for _ in range(FOLLOWED + 5)]
    assert names(await house.look(pieces)).count("open") == FOLLOWED

    for exchange in exchanges[5:]:
        exchange.finish(Outcome.CLIENT_ABORT)

    told = await house.look(pieces)
    closed = {content["id"] for name, content in told if name == "closed"}
    assert closed >= {exchange.id for exchange in exchanges[5:FOLLOWED]}


async def test_events_have_room_for_so_many_and_say_so_to_the_next_one() -> None:
    house = House()
    joined = [house.join() for _ in range(MOST)]

    refused = house.answer()

    assert (refused.status, refused.pieces) == (503, None)
    assert dict(refused.headers)[b"retry-after"] == b"30"
    assert b"16 viewers look on already" in refused.body
    joined[0].close()
    assert house.answer().status == 200


async def test_events_end_for_who_may_not_see_them_any_more() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)
    house.bench.begin()

    house.authenticator.replace(ring_of(a_key()))  # from now on nobody is let in without one
    house.events.look()

    assert [piece async for piece in pieces] == []


async def test_events_end_with_the_proxy() -> None:
    house = House()
    pieces = house.join()
    await house.look(pieces)

    house.events.close()

    assert [piece async for piece in pieces] == []
    assert house.answer().status == 503


async def test_events_that_cannot_be_told_end_and_begin_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = House()
    pieces = house.join()
    with monkeypatch.context() as patch:
        patch.setattr(house.bench.pool, "status", lambda: 1 / 0)
        running = asyncio.ensure_future(house.events.run())
        assert [piece async for piece in pieces] == []
    assert "What goes on could not be told" in caplog.text
    running.cancel()

    assert names(await house.look(house.join())) == ["accounts"]
