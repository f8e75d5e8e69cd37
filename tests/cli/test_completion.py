"""What a shell is told that may come next; left out where argcomplete is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccflare_cli import ROOT, completion

_START = "import sys; sys.argv = ['ccflare']; from ccflare_cli.{module} import main; sys.exit(main())"


def completed(module: str, line: str, folder: Path) -> set[str]:
    """What argcomplete answers a shell in whose line this stands."""
    answer = folder / "answer"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("COMP_", "_ARGCOMPLETE"))},
        "PYTHONPATH": str(ROOT / "addon"),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
    }
    subprocess.run([sys.executable, "-c", _START.format(module=module)], env=environ, timeout=60, check=False)
    return {word.strip() for word in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ccflare acc", {"accounts", "access"}),
        ("ccflare accounts pa", {"pause"}),
        ("ccflare stats --by d", {"day"}),
        ("ccflare keys client rev", {"revoke"}),
    ],
)
def test_a_shell_completes_commands_and_their_words(tmp_path: Path, line: str, expected: set[str]) -> None:
    assert completed("command", line, tmp_path) == expected


def test_a_script_completes_its_own_words(tmp_path: Path) -> None:
    assert completed("access", "scripts/access.py unb", tmp_path) == {"unblock"}


@pytest.mark.parametrize(
    ("line", "word"),
    [("ccflare", ""), ("ccflare acc", ""), ("ccflare accounts ", "accounts"), ("ccflare accounts l", "accounts")],
)
def test_the_first_word_counts_once_it_is_whole(monkeypatch: pytest.MonkeyPatch, line: str, word: str) -> None:
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))

    assert completion.first_word() == word
