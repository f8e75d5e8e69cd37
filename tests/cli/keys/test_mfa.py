"""`scripts/keys.py mfa`, as a person uses it."""

import base64
import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_cli.keys.main import main
from ccflare_core.clients.totp import code_at, step_at
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from database_kit import an_account
from desk import Desk
from history import NOON

Run = Callable[..., Desk]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    database = tmp_path / "ccflare.db"
    with contextlib.closing(Store.open(database, KeyFile(database.with_suffix(".key")))) as store:
        store.accounts.add(an_account())

    def run(*argv: str, code: int = 0, stdin: str = "") -> Desk:
        desk = Desk(io.StringIO(stdin))
        assert main(["mfa", *argv, "--database", str(database)], desk.console()) == code, desk.complained
        return desk

    return run


def confirmed(run: Run) -> Desk:
    seed = base64.b32decode(re.findall(r"app: (\w+)", run("enable").said)[0])
    return run("confirm", stdin=code_at(seed, step_at(NOON)))


def state(run: Run) -> object:
    [row] = json.loads(run("status", "--format", "json").said)
    return row["state"], row["recovery_codes"]


def test_from_nothing_to_a_second_factor_and_back(run: Run) -> None:
    assert state(run) == ("off", 0)
    enabled = run("enable")
    assert "otpauth://totp/ccflare:" in enabled.said
    assert state(run) == ("waits for `mfa confirm`", 0)

    said = confirmed(run).said

    assert len(re.findall(r"^  [A-Z2-7]{4}-[A-Z2-7]{4}$", said, re.MULTILINE)) == 10
    assert state(run) == ("on", 10)
    assert "10" in run("status").said
    run("disable")
    assert state(run) == ("off", 0)


def test_a_wrong_code_confirms_nothing(run: Run) -> None:
    run("enable")
    assert "wrong" in run("confirm", code=1, stdin="000000").complained
    assert state(run) == ("waits for `mfa confirm`", 0)


def test_new_recovery_codes_are_shown_once(run: Run) -> None:
    before = confirmed(run).said
    after = run("recovery").said
    assert not set(re.findall(r"^  (\S+)$", before, re.MULTILINE)) & set(re.findall(r"^  (\S+)$", after, re.MULTILINE))


def test_no_code_is_read_where_none_is_waited_for(run: Run) -> None:
    assert run("confirm", code=1, stdin="000000").stdin.tell() == 0
    run("enable")
    assert run("confirm", code=1, stdin="000000").stdin.tell() > 0


@pytest.mark.parametrize("command", ["confirm", "recovery", "disable"])
def test_without_a_factor_there_is_nothing_to_do(run: Run, command: str) -> None:
    assert "mfa enable" in run(command, code=1, stdin="123456").complained
