"""Bodies of finished requests stay only where somebody may look at them."""

import asyncio
import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from mitmproxy.addons import dumper, save
from mitmproxy.http import HTTPFlow
from mitmproxy.test import taddons

from ccflare_mitm.inspector.unshown import ENOUGH, LEAST, Readers, Unshown
from flow_kit import asked


class CCFlare:
    """Named as our addon is."""


class Meter:
    """Somebody else's addon, which may keep flows."""

    def response(self, flow: HTTPFlow) -> None:
        """Hear of each."""


class Clock:
    """Somebody else's addon, which hears of no flow."""

    def running(self) -> None:
        """Hear of the start."""


@pytest.fixture
def context() -> Iterator[taddons.context]:
    """A mitmdump that shows and keeps nothing."""
    ours = ModuleType("__mitmproxy_script__.ccflare")
    ours.addons = [CCFlare()]  # type: ignore[attr-defined]
    with taddons.context(ours, save.Save(), dumper.Dumper()) as context:
        context.options.update(flow_detail=1)
        yield context


def unshown(**given: Any) -> Unshown:
    return Unshown(**{"is_busy": lambda: False, "has_readers": lambda: False, **given})


@pytest.mark.parametrize(
    ("size", "is_read", "left"), [(LEAST, False, None), (LEAST, True, LEAST), (LEAST - 1, False, LEAST - 1)]
)
def test_a_large_body_goes_unless_it_is_read(size: int, is_read: bool, left: int | None) -> None:
    flow = asked(body=b"x" * size)
    unshown(has_readers=lambda: is_read).finished(flow)
    assert (None if flow.request.raw_content is None else len(flow.request.raw_content)) == left


def test_bodies_are_read_by_nobody_in_a_plain_mitmdump(context: taddons.context) -> None:
    assert not Readers()()


@pytest.mark.parametrize(
    "option",
    [{"save_stream_file": "flows"}, {"flow_detail": 2}, {"flow_detail": 1, "dumper_filter": "~comment opus"}],
)
def test_bodies_are_read_where_an_option_says_so(
    context: taddons.context, option: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context.options.update(**option)
    assert Readers()()
    context.options.update(save_stream_file=None)


@pytest.mark.parametrize("is_module", [True, False])
def test_bodies_may_be_read_by_any_other_addon(context: taddons.context, is_module: bool) -> None:
    readers, meter = Readers(), Meter()
    assert not readers()
    other: Any = ModuleType("meter") if is_module else meter
    other.name, other.response = "meter", meter.response
    context.master.addons.add(other)
    assert readers()
    context.master.addons.remove(other)
    assert not readers()


@pytest.mark.parametrize("is_inside", [True, False])
def test_an_addon_that_hears_of_no_flow_reads_no_body(context: taddons.context, is_inside: bool) -> None:
    script: Any = ModuleType("clock")
    script.name, script.addons = "clock", [Clock()]
    context.master.addons.add(script if is_inside else Clock())
    assert not Readers()()


async def test_memory_is_given_back_once_enough_has_gone_and_nobody_waits() -> None:
    busy, given = [True, True, False], list[str]()
    gone = unshown(is_busy=lambda: bool(busy) and busy.pop(0), give_back=lambda: given.append("back"))
    gone.finished(asked(body=b"x" * ENOUGH))

    looking = asyncio.create_task(gone.run(seconds=0.001))
    async with asyncio.timeout(60):
        while not given:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking

    assert (busy, given) == ([], ["back"])
