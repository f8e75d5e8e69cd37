"""What the record tells of a session, as the real store writes it."""

from pathlib import Path

import pytest

from ccflare_cli.companion.session_state import Limit, SessionState, read
from ccflare_core.accounts.account import Kind
from history import NOON, History


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "100% of #1?.db"
    with History(path) as history:
        for name in ("max-1", "max-2"):
            history.account(name)
        history.account("key-1", kind=Kind.API_KEY, api_key="sk-ant-PLANTED", needs_login=True)
        history.account("off", paused=True)
        history.cooldown("max-1", NOON + 60, "5h window spent")
        history.cooldown("max-2", NOON + 60, "opus spent", family="opus")
        for minute, account in enumerate(("max-1", "max-2", "max-2", "max-1")):
            history.exchange(NOON - 3600 + minute * 60, account, cost_usd=0.5)
        history.exchange(NOON - 60, None, outcome="no_account")
        history.exchange(NOON, "max-2", session="session-2")
        history.window("max-1", "5h", 0.2, NOON + 60, at=NOON - 60)
        history.window("max-1", "5h", 0.5, NOON + 60)
        history.window("max-1", "7d", 0.9, NOON - 1)
    return path


def test_a_session_has_its_account_limits_cost_and_moves(database: Path) -> None:
    assert read(str(database), "session-1", NOON) == SessionState(
        "max-1", {"5h": Limit(0.5, NOON + 60), "7d": Limit(0.0, None)}, 1, 4, 2.0, 2, ()
    )


def test_an_account_without_readings_has_no_limits(database: Path) -> None:
    state = read(str(database), "session-2", NOON)

    assert state is not None
    assert (state.account, state.limits, state.moved, state.cost) == ("max-2", {}, 0, None)


def test_a_session_that_is_not_known_tells_of_the_pool(database: Path) -> None:
    for session in ("session-3", None):
        assert read(str(database), session, NOON) == SessionState(None, {}, 1, 4, None, 0, ())


def test_what_is_no_database_of_ours_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)

    assert read(str(tmp_path / "none.db"), None, NOON) is None
    assert not (tmp_path / "none.db").exists()
    assert read(str(tmp_path / "text"), None, NOON) is None
    assert read(str(tmp_path), None, NOON) is None


def test_reading_writes_nothing(database: Path) -> None:
    before = database.read_bytes()

    read(str(database), "session-1", NOON)

    assert database.read_bytes() == before
