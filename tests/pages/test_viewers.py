"""Those who look on: what waits for one, and when it is closed."""

import asyncio

import pytest

from ccflare_mitm.pages.viewers import MOST, UNTAKEN_BYTES, Viewer, Viewers


def always() -> bool:
    return True


async def test_viewer_gives_what_came_since_it_was_asked_last() -> None:
    viewer = Viewer(always)
    viewer.give(b"one ")
    viewer.give(b"two")
    assert await anext(viewer) == b"one two"

    waiting = asyncio.ensure_future(anext(viewer))
    await asyncio.sleep(0)
    assert not waiting.done()
    viewer.give(b"three")
    assert await waiting == b"three"


async def test_viewer_that_takes_nothing_is_closed_and_keeps_nothing() -> None:
    viewer = Viewer(always)
    viewer.give(b"x" * UNTAKEN_BYTES)
    assert not viewer.is_closed

    viewer.give(b"x")

    assert viewer.is_closed
    viewer.give(b"more")
    assert [piece async for piece in viewer] == []


async def test_viewer_that_is_closed_ends_at_once() -> None:
    viewer = Viewer(always)
    waiting = asyncio.ensure_future(anext(viewer))
    await asyncio.sleep(0)

    viewer.close()

    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_viewers_have_room_for_so_many_until_one_leaves() -> None:
    viewers = Viewers()
    joined = [viewers.join(always) for _ in range(MOST)]
    assert not viewers.has_room
    assert viewers.join(always).is_closed

    joined[3].close()

    assert viewers.has_room
    assert not viewers.join(always).is_closed
    assert not viewers.has_room


async def test_viewers_that_may_not_stay_are_closed_and_the_others_stay() -> None:
    viewers, may_stay = Viewers(), True
    one, other = viewers.join(lambda: may_stay), viewers.join(always)
    one.give(b"what it may see no more")

    may_stay = False
    viewers.review()

    assert (one.is_closed, other.is_closed) == (True, False)
    assert [piece async for piece in one] == []
    assert [*viewers] == [other]


async def test_viewers_are_closed_for_good_at_the_end() -> None:
    viewers = Viewers()
    one = viewers.join(always)

    viewers.close()

    assert one.is_closed
    assert viewers.join(always).is_closed
