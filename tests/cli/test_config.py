"""Where the options are read from, and the user's own file for them."""

from pathlib import Path

import pytest

from ccflare_cli import config
from ccflare_core.config.settings import FILE_NAME, SHIPPED, file_defaults
from desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(environ={"XDG_DATA_HOME": str(tmp_path)})


def test_init_makes_a_file_of_the_users_own_which_is_read_from_then_on(desk: Desk, tmp_path: Path) -> None:
    own = tmp_path / "ccflare" / FILE_NAME

    assert config.main(["init"], desk.console()) == 0
    assert config.main(["path", "--format", "csv"], desk.console()) == 0

    assert own.stat().st_mode & 0o777 == 0o600
    assert file_defaults(own) == file_defaults(SHIPPED / FILE_NAME)
    rows = desk.said.splitlines()[-2:]
    assert rows == [f"your own,{own},True,True", f"came with the program,{SHIPPED / FILE_NAME},True,False"]


def test_init_leaves_a_file_that_is_there_alone(desk: Desk, tmp_path: Path) -> None:
    own = tmp_path / "ccflare" / FILE_NAME
    own.parent.mkdir()
    own.write_text("listen_port: 1\n")

    assert config.main(["init"], desk.console()) == 1

    assert own.read_text() == "listen_port: 1\n"
    assert desk.complained == f"{own} is there already, and stays as it is.\n"


def test_path_shows_a_file_that_a_variable_names(desk: Desk, tmp_path: Path) -> None:
    named = tmp_path / "mine.yaml"
    named.touch()
    desk.environ = {**desk.environ, "ccflare_CONFIG_PATH": str(named)}

    assert config.main(["path", "--format", "csv"], desk.console()) == 0

    assert desk.said.splitlines()[1] == f"named by ccflare_CONFIG_PATH,{named},True,True"
