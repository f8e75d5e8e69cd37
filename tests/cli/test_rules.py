"""`ccflare rules`: what a file of rules does, or all of its mistakes."""

import json
from pathlib import Path

import pytest

from ccflare_cli import rules
from desk import Desk
from history import History


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(environ={"XDG_DATA_HOME": str(tmp_path)})


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return str(path)


def test_check_tells_what_each_rule_does(desk: Desk, tmp_path: Path) -> None:
    path = write(
        tmp_path, "night: {when: {client: ci, hours: 22:00-06:00}, accounts: spare-*, effort: low}\nall: {prefer: a}"
    )

    assert rules.main(["check", path, "--format", "json"], desk.console()) == 0

    assert json.loads(desk.said) == [
        {
            "rule": "night",
            "when": ["client: ci", "hours: 22:00-06:00"],
            "effects": ["accounts: spare-* only", "effort: at most low"],
            "unmatched": None,
        },
        {"rule": "all", "when": [], "effects": ["first: a"], "unmatched": None},
    ]


def test_check_tells_a_person_that_there_is_no_mistake(desk: Desk, tmp_path: Path) -> None:
    assert rules.main(["check", write(tmp_path, "all: {prefer: a}")], desk.console()) == 0

    assert "always" in desk.said
    assert "1 rule, without a mistake." in desk.said


def test_check_tells_every_mistake(desk: Desk, tmp_path: Path) -> None:
    path = write(tmp_path, "a: {effort: max}\nb: {}\n")

    assert rules.main(["check", path], desk.console()) == 1

    assert "line 1: effort of rule a must be low, medium, high or xhigh." in desk.complained
    assert "line 2: rule b does nothing" in desk.complained


def test_check_tells_of_accounts_that_are_not_there(desk: Desk, tmp_path: Path) -> None:
    path = write(tmp_path, "night: {not_accounts: [wrok, w*]}\nall: {prefer: work}")
    database = tmp_path / "ccflare.db"
    with History(database) as history:
        history.account("work")

    assert rules.main(["check", path, "--database", str(database)], desk.console()) == 0
    assert "Rule night: no account is called wrok." in desk.said
    assert desk.said.count("no account is called") == 1


def test_check_takes_the_file_that_the_option_names(desk: Desk, tmp_path: Path) -> None:
    assert rules.main(["check"], desk.console()) == 1
    assert "Name the file with the rules, or set ccflare_rules to it." in desk.complained

    config = tmp_path / "mitm-config.yaml"
    config.write_text(f"ccflare_rules: {write(tmp_path, 'all: {prefer: a}')}\n")
    desk.environ = {**desk.environ, "ccflare_CONFIG_PATH": str(config)}
    assert rules.main(["check"], desk.console()) == 0
