"""What `ready` tells, by the exit code too."""

import json
from pathlib import Path

import pytest

from ccflare_cli.companion import readiness, ready
from ccflare_cli.companion.readiness import Answer
from desk import Desk


@pytest.mark.parametrize(
    ("answer", "code"), [(Answer.READY, 0), (Answer.NO_ACCOUNT, 0), (Answer.CLOSED, 0), (Answer.NOTHING, 1)]
)
def test_exit_code_says_whether_it_is_up(
    answer: Answer, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ask", lambda address, is_closed: answer)
    desk = Desk(environ={"XDG_DATA_HOME": str(tmp_path), "PORT": "1234"})

    assert ready.main(["--format", "json"], desk.console()) == code

    assert json.loads(desk.said) == {"proxy": answer.name.lower(), "address": "127.0.0.1:1234"}
