"""What the board is given by a database, and what is refused."""

from pathlib import Path

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.top import main as top
from ccflare_cli.top.main import Database
from ccflare_core.config.settings import Settings
from desk import Desk, Terminal
from history import NOON, History

HEX_KEY = bytes(range(32)).hex()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two accounts, an answered request, and one that is under way."""
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        history.account("max-2", paused=True)
        history.exchange(NOON - 30, outcome=None)
        history.exchange(NOON - 20)
    return tmp_path / "ccflare.db"


@pytest.fixture
def source(database: Path) -> Database:
    desk = Desk(environ={"ccflare_ENCRYPTION_KEY": HEX_KEY})
    arguments = top._parser().parse_args(["--database", str(database)])
    return Database(desk.console(), arguments, Settings.build({"ccflare_database": str(database)}, {}))


def test_what_is_under_way_comes_first(source: Database) -> None:
    glance = source.look()

    assert [(each.outcome, each.at) for each in glance.requests] == [(None, NOON - 30), ("ok", NOON - 20)]
    assert [status.account.name for status in glance.accounts] == ["max-1", "max-2"]
    assert (glance.at, glance.is_running) == (NOON, False)


def test_resuming_is_that_of_accounts_and_audited(source: Database, database: Path) -> None:
    source.set_paused("max-2", paused=False)

    with History(database) as history:
        assert not history.store.accounts.by_name("max-2", secrets=False).paused
        (entry,) = history.store.query("SELECT actor FROM audit_log WHERE action = 'account.resume'", ())
    assert entry[0].startswith("cli:")


def test_conversation_is_as_show_tells_it_and_audited(source: Database, database: Path) -> None:
    request = source.look().requests[1].id

    said = source.conversation(request)

    assert said.startswith("Request  ")
    assert request in said
    with History(database) as history:
        assert len([*history.store.query("SELECT 1 FROM audit_log WHERE action = 'data.read'", ())]) == 1
    with pytest.raises(Refused, match="There is no such request"):
        source.conversation("nothing-like-it")


def test_without_a_terminal_or_a_database_there_is_a_sentence(database: Path, tmp_path: Path) -> None:
    desk = Desk()
    assert top.main(["--database", str(database)], desk.console()) == 1
    assert desk.complained.startswith("This needs a terminal: ")

    desk = Desk(stdin=Terminal(), stdout=Terminal())
    assert top.main(["--database", str(tmp_path / "none.db")], desk.console()) == 1
    assert desk.complained.startswith("There is nothing to show: ")
