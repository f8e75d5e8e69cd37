"""Addons that come and go are noticed once, and so is a script that is loaded again."""

from collections.abc import Iterator

import pytest
from mitmproxy.test import taddons

from ccflare_mitm.host.addon_changes import AddonChanges


class Addon:
    def __init__(self, name: str) -> None:
        self.name = name


class Script(Addon):
    """What the script loader has for each script; `ns` changes when it is loaded again."""

    ns = object()
    addons = ()


class ScriptLoader:
    def __init__(self, script: Script) -> None:
        self.addons = [script]


@pytest.fixture
def context() -> Iterator[taddons.context]:
    with taddons.context(loadcore=False) as context:
        yield context


def test_what_was_there_at_first_is_new(context: taddons.context) -> None:
    changes = AddonChanges()

    assert changes.are_there(context.master.addons)
    assert not changes.are_there(context.master.addons)


def test_an_addon_that_comes_and_one_that_goes_are_noticed(context: taddons.context) -> None:
    changes, manager, one, other = AddonChanges(), context.master.addons, Addon("one"), Addon("other")
    manager.add(one)
    assert changes.are_there(manager)

    manager.add(other)
    assert changes.are_there(manager)
    manager.remove(one)
    assert changes.are_there(manager)
    manager.remove(other)
    manager.add(one)
    assert changes.are_there(manager)
    assert not changes.are_there(manager)


def test_a_script_that_is_loaded_again_is_noticed(context: taddons.context) -> None:
    changes, manager, script = AddonChanges(), context.master.addons, Script("script")
    manager.add(ScriptLoader(script))
    assert changes.are_there(manager)

    script.ns = object()

    assert changes.are_there(manager)
    assert not changes.are_there(manager)
