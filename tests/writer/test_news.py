"""From the writer's thread to the event loop, and back."""

import asyncio
import threading

from ccflare_core.writer.news import Signal


async def test_signal_of_another_thread_is_heard_on_the_event_loop_by_all_in_order() -> None:
    signal, heard = Signal[int](asyncio.get_running_loop()), list[tuple[str, int, str]]()
    arrived = asyncio.Event()
    signal.listen(lambda value: heard.append(("first", value, threading.current_thread().name)))
    signal.listen(lambda value: heard.append(("second", value, threading.current_thread().name)))
    signal.listen(lambda _: arrived.set())

    await asyncio.to_thread(signal.send, 7)
    await asyncio.wait_for(arrived.wait(), 60)

    here = threading.current_thread().name
    assert heard == [("first", 7, here), ("second", 7, here)]


async def test_signal_that_is_told_is_heard_at_once() -> None:
    signal, heard = Signal[str](asyncio.get_running_loop()), list[str]()
    signal.listen(heard.append)

    signal.tell("now")

    assert heard == ["now"]
