"""The reaper's arithmetic; what it does to real connections is in e2e/test_deadlines.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from ccflare_core.config.settings import Settings
from ccflare_mitm.wire.deadlines import Deadlines
from ccflare_mitm.wire.reaper import NEVER, Reaper, Standstill
from ccflare_mitm.wire.sockets import affordable_clients, unread_bytes


class Peer:
    """A client."""

    transport_protocol = "tcp"

    @property
    def id(self) -> int:
        return id(self)


class Handler:
    """As much of a ConnectionHandler as the reaper looks at before there is a layer."""

    def __init__(self, waiting: int = 0) -> None:
        self.client = Peer()
        self.timeout_watchdog = SimpleNamespace(timeout=600)
        transport = SimpleNamespace(get_write_buffer_size=lambda: waiting)
        writer = SimpleNamespace(transport=transport, get_extra_info=lambda _: None)
        self.transports: Any = {self.client: SimpleNamespace(writer=writer)}
        self.closed = False

    def close_connection(self, _: object) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("values", "seconds"),
    [([0, 0, 0], 0), ([5, 5, 5], 2), ([5, 6, 7], 2), ([5, 4, 4], 1), ([5, 0, 5], 0), ([0, 5, 5], 1), ([9, 5, 3], 0)],
)
def test_a_standstill_lasts_while_nothing_goes_down(values: list[int], seconds: float) -> None:
    standstill = Standstill()

    assert [standstill.seconds(value, now) for now, value in enumerate(values)][-1] == seconds


def test_deadlines_begin_anew_with_every_sign_of_life_but_for_the_end() -> None:
    now = 0.0
    deadlines = Deadlines(lambda: now)
    deadlines.wait_for(10)
    deadlines.end_after(15)

    assert (deadlines.is_over(9.9), deadlines.is_over(10)) == (False, True)
    deadlines.heard_at = 9.0
    assert (deadlines.is_over(14.9), deadlines.is_at_end(15), deadlines.is_over(15)) == (False, True, True)
    deadlines.cancel()
    assert not deadlines.is_over(NEVER)
    deadlines.end_after(0)
    assert not deadlines.is_at_end(NEVER)


async def test_a_connection_that_says_nothing_is_closed_and_one_that_fails_harms_no_other() -> None:
    now = 0.0
    silent, failing, foreign = Handler(), Handler(), Handler()
    failing.transports = None
    handlers = {handler.client.id: handler for handler in (failing, silent, foreign)}
    reaper = Reaper(handlers, lambda: Settings.build({}), lambda: now)
    await reaper.sweep()
    assert {handler.timeout_watchdog.timeout for handler in handlers.values()} == {NEVER}
    reaper.let_go(foreign.client)  # type: ignore[arg-type]

    now = 10.0
    await reaper.sweep()

    assert [handler.closed for handler in (silent, failing, foreign)] == [True, False, False]
    assert foreign.timeout_watchdog.timeout == 600


async def test_connections_are_unserved_while_they_are_new_and_while_an_answer_waits() -> None:
    now = 0.0
    silent, reading, foreign = Handler(), Handler(waiting=7), Handler(waiting=7)
    handlers = {handler.client.id: handler for handler in (silent, reading, foreign)}
    reaper = Reaper(handlers, lambda: Settings.build({}), lambda: now)
    reaper.let_go(foreign.client)  # type: ignore[arg-type]

    assert reaper.unserved() == 2
    now = 1.0
    assert reaper.unserved() == 1
    del handlers[reading.client.id]
    assert reaper.unserved() == 0


def test_what_waits_is_counted_only_if_something_waits_here() -> None:
    assert unread_bytes(Handler(0)) == 0
    assert unread_bytes(Handler(7)) == 7


def test_some_clients_are_always_affordable() -> None:
    assert affordable_clients() > 0
