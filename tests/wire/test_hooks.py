"""Hooks run on the spot: the same handlers, order and troubles as in mitmproxy's own manager."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy import exceptions, hooks
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import taddons, tflow

from ccflare_mitm.wire.hooks import HookRunner, ResumeHook

Calls = list[tuple[Any, ...]]


class Listener:
    """Notes what it hears; `trouble` is raised at each request."""

    def __init__(self, name: str, calls: Calls, *inner: Any, trouble: Exception | None = None) -> None:
        self.name = name
        self.addons = inner
        self._calls = calls
        self._trouble = trouble

    def request(self, flow: Any) -> None:
        self._calls.append((self.name, "request", flow))
        if self._trouble:
            raise self._trouble

    def update(self, flows: list[Any]) -> None:
        self._calls.append((self.name, "update", flows))

    def client_connected(self, client: Any) -> None:
        self._calls.append((self.name, "client_connected", client))


class Slow:
    async def request(self, flow: Any) -> None: ...


class SlowUpdate:
    async def update(self, flows: list[Any]) -> None: ...


class Script:
    """What the script loader has for each script; `ns` changes when it is loaded again."""

    def __init__(self, *addons: Any) -> None:
        self.ns = object()
        self.addons = addons


class ScriptLoader:
    def __init__(self, *addons: Any) -> None:
        self.addons = addons


@pytest.fixture
def context() -> Iterator[taddons.context]:
    with taddons.context(loadcore=False) as context:
        yield context


@pytest.fixture
def calls() -> Calls:
    return []


def ran(context: taddons.context, hook: hooks.Hook) -> bool:
    return HookRunner(context.master.addons).run(hook)


@pytest.mark.parametrize(("trouble", "heard"), [(None, 8), (ValueError("broken"), 8), (exceptions.AddonHalt(), 7)])
async def test_the_calls_are_those_of_mitmproxy(
    caplog: pytest.LogCaptureFixture, calls: Calls, trouble: Exception | None, heard: int
) -> None:
    flow = tflow.tflow()
    with taddons.context(loadcore=False) as context:
        inner = Listener("inner", calls)
        context.master.addons.add(Listener("outer", calls, inner), Listener("bad", calls, trouble=trouble))
        context.master.addons.add(Listener("last", calls))
        await context.master.addons.handle_lifecycle(HttpRequestHook(flow))
        expected, told = list(calls), caplog.messages
        calls.clear()
        caplog.clear()

        assert ran(context, HttpRequestHook(flow))

    assert calls == expected
    assert [message.split(":")[0] for message in caplog.messages] == [message.split(":")[0] for message in told]
    assert len(calls) == heard


@pytest.mark.parametrize("trouble", [ValueError("broken"), exceptions.OptionsError("broken")])
def test_one_that_raises_is_logged_and_the_next_one_called(
    context: taddons.context, calls: Calls, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    context.master.addons.add(Listener("bad", calls, trouble=trouble), Listener("last", calls))

    ran(context, HttpRequestHook(tflow.tflow()))

    assert [call[:2] for call in calls[:2]] == [("bad", "request"), ("last", "request")]
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.ERROR, "Addon error: broken")]


@pytest.mark.parametrize("slow", [Slow(), SlowUpdate()])
def test_where_one_awaits_nothing_is_done(context: taddons.context, calls: Calls, slow: object) -> None:
    context.master.addons.add(Listener("first", calls), slow)

    assert not ran(context, HttpRequestHook(tflow.tflow()))
    assert calls == []


def test_what_is_about_no_flow_has_no_update(context: taddons.context, calls: Calls) -> None:
    client = tflow.tclient_conn()
    context.master.addons.add(Listener("first", calls))

    assert ran(context, ClientConnectedHook(client))
    assert calls == [("first", "client_connected", client)]


def test_a_hook_without_handlers_is_done_at_once(context: taddons.context) -> None:
    assert ran(context, ResumeHook(tflow.tflow()))


def test_addons_that_come_and_go_are_noticed(context: taddons.context, calls: Calls) -> None:
    runner, hook = HookRunner(context.master.addons), HttpRequestHook(tflow.tflow())
    first, late = Listener("first", calls), Listener("late", calls)
    context.master.addons.add(first)
    runner.run(hook)
    context.master.addons.add(late)
    context.master.addons.remove(first)
    calls.clear()

    runner.run(hook)

    assert [name for name, *_ in calls] == ["late", "late"]


def test_a_script_that_is_loaded_again_is_noticed(context: taddons.context, calls: Calls) -> None:
    script = Script(Listener("old", calls))
    context.master.addons.add(ScriptLoader(script))
    runner, hook = HookRunner(context.master.addons), HttpRequestHook(tflow.tflow())
    runner.run(hook)
    script.ns, script.addons = object(), (Listener("new", calls),)
    calls.clear()

    runner.run(hook)

    assert [name for name, *_ in calls] == ["new", "new"]


def test_handlers_are_looked_up_once(context: taddons.context, calls: Calls) -> None:
    listener = Listener("first", calls)
    context.master.addons.add(listener)
    runner, hook = HookRunner(context.master.addons), HttpRequestHook(tflow.tflow())
    runner.run(hook)
    listener.request = None  # type: ignore[assignment, method-assign]

    runner.run(hook)

    assert [call[1] for call in calls] == ["request", "update"] * 2
