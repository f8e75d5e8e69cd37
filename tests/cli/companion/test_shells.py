"""Variables in the words of each shell."""

import subprocess

import pytest

from ccflare_cli.companion.environment import Variables
from ccflare_cli.companion.shells import SHELLS, own_shell, spoken

ODD = "a b'c\"d$HOME`id`\\e;f’g\n*"
"""What a shell would take for more than a value."""
VARIABLES = Variables({"CCFLARE_ODD": ODD, "CCFLARE_PLAIN": "1"}, ("CCFLARE_GONE",))


def test_bash_takes_every_value_as_it_is() -> None:
    script = spoken(VARIABLES, "bash") + '\nprintf "%s|%s|%s" "$CCFLARE_ODD" "$CCFLARE_PLAIN" "${CCFLARE_GONE-none}"'

    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env={"CCFLARE_GONE": "x"}, check=True)

    assert done.stdout == f"{ODD}|1|none"


def test_zsh_is_told_as_bash_is() -> None:
    assert spoken(VARIABLES, "zsh") == spoken(VARIABLES, "bash")


def test_fish_quotes_backslashes_and_quotation_marks_alone() -> None:
    lines = spoken(Variables({"A": "it's \\ $HOME"}, ("B",)), "fish").splitlines()

    assert lines == ["set -e B", r"set -gx A 'it\'s \\ $HOME'"]


def test_powershell_doubles_quotation_marks_typographic_ones_too() -> None:
    lines = spoken(Variables({"A": "it's ’ $HOME"}, ("B",)), "powershell").splitlines()

    assert lines == ["Remove-Item Env:B -ErrorAction SilentlyContinue", "$env:A = 'it''s ’’ $HOME'"]


@pytest.mark.parametrize(
    ("value", "shell"), [("/usr/bin/fish", "fish"), ("/bin/zsh", "zsh"), ("/bin/dash", "bash"), ("", "bash")]
)
def test_the_users_shell_is_known_by_its_variable(value: str, shell: str) -> None:
    assert own_shell({"SHELL": value}) == shell


def test_each_shell_is_told_how_to_take_it() -> None:
    assert all("{command}" in shell.use for shell in SHELLS.values())
