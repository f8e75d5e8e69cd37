"""`scripts/access.py`, as a person uses it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_cli.access import main
from desk import Desk

Run = Callable[..., Desk]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*argv: str, code: int = 0) -> Desk:
        desk = Desk()
        assert main([*argv, "--database", str(tmp_path / "ccflare.db")], desk.console()) == code, desk.complained
        return desk

    return run


def blocked(run: Run) -> list[tuple[str, str]]:
    return [(row["network"], row["reason"]) for row in json.loads(run("list", "--format", "json").said)]


def test_block_list_unblock(run: Run) -> None:
    assert run("block", "203.0.113.7", "--reason", "guesses keys").said == "Blocked 203.0.113.7/32.\n"
    assert run("block", "::ffff:203.0.113.7").said == "203.0.113.7/32 is blocked already.\n"
    assert blocked(run) == [("203.0.113.7/32", "guesses keys")]
    assert "guesses keys" in run("list").said

    run("unblock", "203.0.113.7")

    assert blocked(run) == []
    refused = run("unblock", "203.0.113.7", code=1).complained
    assert "is not blocked as such: `scripts/access.py list` shows which networks are" in refused


def test_without_a_database_nothing_is_blocked(run: Run) -> None:
    assert "does not exist yet" in run("list", code=1).complained


@pytest.mark.parametrize("network", ["10.0.0.1/8", "evil.com", ""])
def test_what_is_no_network_is_misuse(run: Run, network: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("block", network)
