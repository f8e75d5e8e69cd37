"""A command answers with a table in the console and a sentence in mitmweb; its errors are ours."""

from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.command import CommandManager
from mitmproxy.exceptions import CommandError
from mitmproxy.test import taddons

from ccflare_core.errors import NotFound
from ccflare_mitm.inspector.answers import Table, Words, install


class Colour(str):
    __slots__ = ()


COLOURS = ["red", "green"]
TABLE = Table("two rows", ("name", "value"), [("a", "1"), ("b", "2")])


def table() -> Table:
    """Two rows."""
    return TABLE


def paint(colour: Colour) -> str:
    """A sentence."""
    return f"painted {colour}"


def fail() -> str:
    """An error."""
    raise NotFound("there is nothing of that name")


@pytest.fixture(params=[False, True], ids=["console", "mitmweb"])
def manager(request: pytest.FixtureRequest) -> Iterator[CommandManager]:
    with taddons.context() as context:
        commands: dict[str, Any] = {"x.table": table, "x.paint": paint, "x.fail": fail}
        words = [Words(Colour, "colour", lambda: COLOURS)]
        install(context.master.commands, commands, words, in_words=request.param)
        yield context.master.commands


def is_web(manager: CommandManager) -> bool:
    return manager.commands["x.paint"].return_type is str


def test_a_table_is_rows_under_a_head_or_a_sentence(manager: CommandManager) -> None:
    found = manager.call_strings("x.table", [])
    assert found == ("two rows" if is_web(manager) else [["name", "value"], ["a", "1"], ["b", "2"]])
    assert manager.commands["x.table"].help == "Two rows."


def test_a_sentence_opens_no_window_in_the_console(manager: CommandManager, caplog: pytest.LogCaptureFixture) -> None:
    found = manager.call_strings("x.paint", ["red"])
    if is_web(manager):
        assert found == "painted red"
    else:
        assert found is None
        assert [(record.levelname, record.message) for record in caplog.records] == [("ALERT", "painted red")]


def test_what_is_wrong_is_said_in_our_words(manager: CommandManager) -> None:
    with pytest.raises(CommandError, match=r"^there is nothing of that name$"):
        manager.call_strings("x.fail", [])
    with pytest.raises(CommandError, match=r"^no colour 'blue'; there is red, green$"):
        manager.execute("x.paint blue")


def test_words_are_completed(manager: CommandManager) -> None:
    from mitmproxy.types import CommandTypes

    kind = CommandTypes.get(manager.commands["x.paint"].parameters[0].type)
    assert kind is not None
    assert kind.completion(manager, Colour, "r") == COLOURS
    assert manager.commands["x.paint"].parameters[0].name == "colour"
    assert kind.is_valid(manager, Colour, "red")
    assert not kind.is_valid(manager, Colour, "blue")
