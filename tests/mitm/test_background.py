"""The tasks beside the traffic."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from ccflare_core.errors import StoreError
from ccflare_core.reports.anomalies import Cause, Notice
from ccflare_core.writer.lookout import Look
from ccflare_mitm.background import follow_anomalies, watch_loop

NOTICE = Notice(Cause.ADDRESS, "ck_1", "office", 1.0, "requests from a new address")


class Script:
    """Stands for the writer and the lookout: answers as it is told, and ends the task after that."""

    def __init__(self, *answers: Look | Exception) -> None:
        self._answers = list(answers)
        self.step: Any = None

    async def __call__(self, function: object) -> Any:
        if not self._answers:
            raise asyncio.CancelledError
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def follow(script: Script, wanted: list[bool]) -> list[Notice]:
    """What is told."""
    call: Any = script
    told: list[Notice] = []
    with contextlib.suppress(asyncio.CancelledError):
        await follow_anomalies(call, call, lambda: wanted.pop(0) if wanted else True, told.append, seconds=0)
    return told


async def test_notices_are_told_after_the_past_is_read_and_again_and_again() -> None:
    script = Script(Look([], goes_on=True), Look([NOTICE], goes_on=False), Look([NOTICE], goes_on=False))

    assert await follow(script, []) == [NOTICE, NOTICE]


async def test_nobody_looks_while_the_option_is_off() -> None:
    script = Script(Look([NOTICE], goes_on=False))
    wanted = [False, False, False, True]

    assert await follow(script, wanted) == [NOTICE]
    assert wanted == []


async def test_looking_goes_on_after_the_database_was_away(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(StoreError("the disk is full"), Look([NOTICE], goes_on=False))

    assert await follow(script, []) == [NOTICE]
    assert "whether anything is unusual is not known: the disk is full" in caplog.text


async def test_an_event_loop_that_is_kept_busy_is_late_by_as_much() -> None:
    late = list[float]()
    watching = asyncio.ensure_future(watch_loop(late.append, seconds=0.01))
    await asyncio.sleep(0)  # it has begun to wait

    time.sleep(0.3)
    while not late:
        await asyncio.sleep(0.001)
    watching.cancel()

    assert late[0] >= 0.25
