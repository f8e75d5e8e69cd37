"""The queue and the thread behind it: what is lost is counted and said once, and no receiver holds anybody up."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from ccflare_core.config.record_mode import Mode
from ccflare_core.exchange.final_row import final_columns
from ccflare_core.telemetry import telemetry as module
from ccflare_core.telemetry.measuring import Measuring
from ccflare_core.telemetry.telemetry import METRICS_SECONDS, MOST_WAITING, Telemetry
from ccflare_core.telemetry.tracing import Tracing
from harness import eventually
from telemetry_kit import UPSTREAM, story

BODIES = (b'{"model":"claude-opus-4-8","messages":[{"role":"user","content":"Hello"}]}', b"")


class Desk:
    """A receiver that says `problem` to all that it gets, and the telemetry for it."""

    def __init__(self, *, content: bool = False, metrics: bool = False) -> None:
        self.problem = ""
        self.spans: list[Any] = []
        self.batches: list[int] = []
        self.metrics = 0
        resource = Resource.get_empty()
        measuring = Measuring(resource, "1") if metrics else None
        self.clock = 0.0
        self.telemetry = Telemetry(
            self, Tracing(resource, "1", lambda: UPSTREAM), measuring, lambda: content, lambda: self.clock
        )

    def take_spans(self, spans: Sequence[Any]) -> str:
        self.spans += spans
        self.batches.append(len(spans))
        return self.problem

    def take_metrics(self, metrics: Any) -> str:
        self.metrics += 1
        return self.problem

    def give_up(self) -> None: ...

    def end(self, number: int = 1, mode: Mode = Mode.METADATA) -> None:
        """So many exchanges end."""
        exchange = story(BODIES)
        row = final_columns(exchange)
        for _ in range(number):
            self.telemetry.take(exchange, row, mode)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.INFO]


def test_what_has_no_room_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    desk.end(MOST_WAITING + 3)
    desk.telemetry.tell()

    assert desk.telemetry.lost == 3
    assert len(desk.spans) == 3 * MOST_WAITING
    assert told(caplog) == ["OpenTelemetry does not hear of some exchanges: the receiver is too slow"]


def test_metrics_are_told_in_time_also_while_there_is_always_one_more_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(metrics=True)
    take_spans, told = desk.take_spans, list[int]()

    def take_slowly(spans: Sequence[Any]) -> str:
        desk.clock += METRICS_SECONDS / 2
        told.append(desk.metrics)
        if len(told) < 6:
            desk.end()
        return take_spans(spans)

    monkeypatch.setattr(desk, "take_spans", take_slowly)
    desk.end()
    desk.telemetry.tell()

    assert told == [0, 0, 1, 1, 2, 2]
    assert desk.metrics == 3


def test_bodies_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2 * len(BODIES[0]))
    desk = Desk(content=True)

    desk.end(5, Mode.FULL)
    assert desk.telemetry.lost == 2  # the third goes beyond the bound, the others find it passed
    desk.telemetry.tell()
    desk.end(1, Mode.FULL)

    assert desk.telemetry.lost == 2


def test_receiver_that_takes_nothing_is_told_once_and_once_more_when_it_does(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.problem = "its answer has the status 503"
    for _ in range(3):
        desk.end()
        desk.telemetry.tell()
    assert (desk.telemetry.state, desk.telemetry.problem) == ("failing", desk.problem)

    desk.problem = ""
    desk.end()
    desk.telemetry.tell()

    assert (desk.telemetry.state, desk.telemetry.problem, desk.telemetry.lost) == ("works", None, 3)
    assert told(caplog) == [
        "OpenTelemetry does not arrive, and requests go on without it: its answer has the status 503",
        "OpenTelemetry arrives again; that of 3 exchanges is lost",
    ]


@pytest.mark.parametrize(
    ("content", "mode", "is_told"),
    [
        (True, Mode.FULL, True),
        (False, Mode.FULL, False),
        (True, Mode.REDACTED, False),
        (True, Mode.METADATA, False),
    ],
)
def test_content_is_told_if_it_is_asked_for_and_recorded_in_full(content: bool, mode: Mode, is_told: bool) -> None:
    desk = Desk(content=content)

    desk.end(1, mode)
    desk.telemetry.tell()

    assert len(desk.spans) == 3
    assert any("Hello" in str(span.attributes) for span in desk.spans) is is_told


def test_batch_that_a_receiver_fails_on_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr(desk, "take_spans", lambda _: 1 / 0)
        desk.end(2)
        desk.telemetry.tell()

    assert (desk.telemetry.lost, desk.telemetry.problem) == (2, "an error inside the proxy (ZeroDivisionError)")


@pytest.mark.parametrize("where", ["conventions.of_exchange", "finished.label"])
def test_exchange_that_cannot_be_told_keeps_none_of_the_others_back(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr(f"ccflare_core.telemetry.{where}", lambda _: 1 / 0)
        desk.end(2)
        desk.telemetry.tell()

    desk.end()
    desk.telemetry.tell()

    assert (len(desk.spans), desk.telemetry.lost, desk.telemetry.state) == (3, 2, "works")
    why = "an error inside the proxy (ZeroDivisionError)"
    assert told(caplog) == [f"OpenTelemetry does not hear of some exchanges: {why}"]


def test_thread_survives_an_error_of_the_receiver_s(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Desk):
        def take_spans(self, spans: Sequence[Any]) -> str:
            if not self.problem:
                self.problem = "told"
                raise OSError
            self.spans += spans
            return ""

    desk = Broken()
    desk.telemetry.start()
    desk.end()
    eventually(lambda: desk.telemetry.problem)
    desk.end()
    desk.telemetry.close(60)

    assert len(desk.spans) == 3
    assert desk.telemetry.state == "works"


def test_batch_with_large_bodies_is_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 2 * len(BODIES[0]))
    desk = Desk(content=True)
    desk.end(5, Mode.FULL)

    desk.telemetry.tell()

    assert desk.batches == [6, 6, 3]


def test_metrics_are_told_once_a_minute() -> None:
    desk = Desk(metrics=True)
    desk.end()
    desk.telemetry.tell()
    assert desk.metrics == 0

    desk.clock += module.METRICS_SECONDS
    desk.telemetry.tell()
    desk.telemetry.tell()

    assert desk.metrics == 1


def test_end_tells_what_is_left_and_the_metrics() -> None:
    desk = Desk(metrics=True)
    desk.telemetry.start()
    desk.end()

    desk.telemetry.close(60)

    assert (len(desk.spans), desk.metrics) == (3, 1)


def test_end_does_not_wait_for_a_receiver_that_hangs() -> None:
    class Hanging(Desk):
        gone = threading.Event()
        asked = threading.Event()

        def take_spans(self, spans: Sequence[Any]) -> str:
            self.asked.set()
            self.gone.wait()
            return "given up"

        def give_up(self) -> None:
            self.gone.set()

    desk = Hanging()
    desk.telemetry.start()
    desk.end()
    assert desk.asked.wait(60)

    desk.telemetry.close(0.01)

    eventually(lambda: desk.telemetry.lost == 1)
