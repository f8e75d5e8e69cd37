"""The task that looks, logs and delivers."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from ccflare_core.clients.budgets import Budgets, Use
from ccflare_core.config.record_mode import Mode
from ccflare_core.errors import StoreError
from ccflare_core.reports.alerts import Alert, Condition, State
from ccflare_core.reports.anomalies import Cause, Notice
from ccflare_core.store.client_keys import new_key
from ccflare_core.writer.alarms import Alarms
from ccflare_core.writer.delivery import Undelivered
from ccflare_mitm.alerting import MOST_WAITING, Alerting, LocalConditions

DISK = Condition("disk", "host", "host", "there is too little room")
NOTICE = Notice(Cause.ADDRESS, "ck_1", "office", 1.0, "requests from a new address")


def alert(number: int = 1, cause: str = "window") -> Alert:
    return Alert(State.BEGINS, cause, f"max-{number}", 1.0, "its limits are nearly used up")


class Script:
    """Stands for the store's alerts: each look tells the next of these; then looking ends."""

    def __init__(self, *looks: list[Alert] | Exception) -> None:
        self._looks = list(looks)
        self.held: list[list[Condition]] = []

    def take(self, store: object, local: list[Condition]) -> list[Alert]:
        self.held.append(list(local))
        if not self._looks:
            raise asyncio.CancelledError
        look = self._looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look


class Sink:
    """Keeps what it is given; the first is refused if it `fails`."""

    def __init__(self, *, fails: bool = False) -> None:
        self.taken: list[Alert] = []
        self._fails = fails

    async def __call__(self, alert: Alert) -> None:
        if self._fails:
            self._fails = False
            raise Undelivered("ccflare_alert_command: it ended with 3")
        self.taken.append(alert)


def alerting(script: Script, *sinks: Any) -> Alerting:
    alarms = Alarms(lambda: 1e9, lambda: 0.0)
    alarms.step = script.take  # type: ignore[assignment,method-assign]

    async def call(function: Any) -> Any:
        return function(None)

    found: Any = call
    return Alerting(found, alarms, lambda: [DISK], sinks, seconds=0)


async def looked(made: Alerting) -> None:
    with pytest.raises(asyncio.CancelledError):
        await made.look()


async def delivered(made: Alerting) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.deliver(), 0.2)


async def test_alerts_are_logged_and_handed_to_every_sink(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Sink(fails=True), Sink()
    made = alerting(Script([alert(1)], [alert(2)]), first, second)

    await looked(made)
    await delivered(made)

    assert [each.name for each in second.taken] == ["max-1", "max-2"]
    assert [each.name for each in first.taken] == ["max-2"]
    assert "alert window: max-1: its limits are nearly used up" in caplog.text
    assert "an alert was not delivered: ccflare_alert_command: it ended with 3" in caplog.text


async def test_what_is_unusual_is_logged_once_and_told_with_the_next_look(caplog: pytest.LogCaptureFixture) -> None:
    script, sink = Script([alert(cause="anomaly.address")], []), Sink()
    made = alerting(script, sink)
    made.notice(NOTICE)

    await looked(made)
    await delivered(made)

    assert [[each.cause for each in held] for held in script.held] == [["disk", "anomaly.address"], ["disk"], ["disk"]]
    assert [each.cause for each in sink.taken] == ["anomaly.address"]
    assert [record.getMessage() for record in caplog.records] == [f"unusual: {NOTICE.text}"]


async def test_alerts_are_told_by_this_process_alone_while_the_database_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    made = alerting(Script(StoreError("the disk is full"), StoreError("the disk is full")), sink)

    await looked(made)
    await delivered(made)

    assert [each.cause for each in sink.taken] == ["disk"]
    assert "not all alerts can be told: the disk is full" in caplog.text


def test_local_conditions_are_spent_budgets_lack_of_room_and_a_silent_audit_log() -> None:
    now = 1_800_000_000.0
    budgets, key = Budgets(lambda _: None), new_key("ci", now, tokens_per_day=10)
    budgets.restore([Use(key.id, datetime.fromtimestamp(now, UTC).date(), 20, Decimal(), 0)])
    retention: Any = SimpleNamespace(allowed=lambda wanted: Mode.METADATA)
    auditor: Any = SimpleNamespace(is_failing=True)
    ring: Any = SimpleNamespace(keys={key.id: key, "ck_2": new_key("other", now)})
    local = LocalConditions(budgets, retention, auditor, lambda: now)
    before = [each.cause for each in local()]

    local.take_keys(ring)

    assert before == ["disk", "audit"]
    assert [(each.cause, each.name, each.what) for each in local()][2:] == [
        ("budget", "ci", "has used its 10 tokens of today")
    ]
    assert "no bodies are kept" in next(iter(local())).what


async def test_a_slow_sink_delays_no_look_and_keeps_a_hundred_alerts(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    made = alerting(Script([alert(number) for number in range(MOST_WAITING + 3)]), sink)

    await looked(made)  # nobody delivers
    await delivered(made)

    assert len(sink.taken) == MOST_WAITING
    assert caplog.text.count("an alert is left out") == 3
