"""How the server is started: with the package, with a key from a variable, and without a word on standard output."""

import sys
from pathlib import Path

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.mcp import main
from ccflare_core.errors import VaultError
from desk import Desk, Terminal

KEY = "ccf_" + "k" * 32


def test_without_its_package_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ccflare_cli.mcp.server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    desk = Desk(environ={"ccflare_MCP_KEY": KEY})

    assert main.main([], desk.console()) == 1

    assert (desk.said, desk.prompts) == ("", [])
    assert "".join(desk.complained.split()) == (
        "This takes the package mcp, which is not here in a version that does: `scripts/run --with mcp` installs it."
    ).replace(" ", "")


def test_the_key_is_that_of_the_variable_or_where_that_says(tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.touch(0o600)
    place.write_text(f"{KEY}\n")

    for held in (KEY, f"file:{place}"):
        desk = Desk(environ={"ccflare_MCP_KEY": held})
        assert (main._key(desk.console()), desk.complained) == (KEY, "")


def test_a_key_that_is_none_is_not_repeated() -> None:
    desk = Desk(environ={"ccflare_MCP_KEY": "sk-ant-api03-wrong"})

    with pytest.raises(Refused, match="This is no client key") as caught:
        main._key(desk.console())

    assert "wrong" not in str(caught.value)


def test_a_variable_with_nothing_behind_it_is_a_mistake() -> None:
    with pytest.raises(VaultError, match="ccflare_MCP_KEY is set but there is no secret in it"):
        main._key(Desk(environ={"ccflare_MCP_KEY": " "}).console())


def test_without_a_key_and_a_terminal_nobody_is_asked_and_standard_input_is_left_alone() -> None:
    desk = Desk(stdin=Terminal("the client's\n"))

    assert main._key(desk.console()) == ""

    assert desk.prompts == []
    assert desk.stdin.read() == "the client's\n"
    assert "There is no client key here (ccflare_MCP_KEY)" in " ".join(desk.complained.split())


def test_somebody_at_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_has_reader", lambda stderr: True)
    desk = Desk(typed=f" {KEY}\n")

    assert main._key(desk.console()) == KEY
    assert desk.prompts == ["Client key (Enter: none): "]


def test_the_address_can_be_said_on_the_command_line_and_a_key_cannot() -> None:
    assert main._parser().parse_args(["--address", "proxy.example:8080"]).address == "proxy.example:8080"
    with pytest.raises(SystemExit):
        main._parser().parse_args(["--key", "-"])
