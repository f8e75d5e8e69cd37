"""What `ccflare completion` gives a shell."""

import subprocess
import sys

import pytest

from ccflare_cli.companion import completion
from desk import Desk


def test_bash_takes_what_is_printed_and_completes_the_command() -> None:
    desk = Desk(environ={"SHELL": "/bin/bash"})
    assert completion.main([], desk.console()) == 0

    done = subprocess.run(
        ["bash", "-c", 'eval "$1"; complete -p ccflare', "-", desk.said], capture_output=True, text=True, timeout=30
    )

    assert (done.stderr, done.stdout.endswith(" ccflare\n")) == ("", True)


def test_fish_has_another_language() -> None:
    desk = Desk(environ={"SHELL": "/bin/bash"})

    assert completion.main(["--shell", "fish"], desk.console()) == 0

    assert "complete --command ccflare" in desk.said


def test_without_its_package_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    desk = Desk()

    assert completion.main([], desk.console()) == 1

    assert desk.said == ""
    assert desk.complained.startswith("Completion takes a package that is not there:")
