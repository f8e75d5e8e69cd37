"""`ccflare statusline`, as Claude Code calls it."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from ccflare_cli import ROOT
from ccflare_cli.companion.statusline import main as print_line
from ccflare_cli.entry import main
from history import NOON, History

HEAVY = (
    "mitmproxy",
    "peewee",
    "cryptography",
    "ruamel",
    "tabulate",
    "asyncio",
    "ssl",
    "subprocess",
    "shutil",
    "argparse",
    "ccflare_cli.console",
)
_TELLING = """
import sys
sys.argv = ["ccflare", "statusline", *sys.argv[1:]]
from ccflare_cli.entry import main
code = main()
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ccflare.db"
    with History(path) as history:
        history.account("max-1")
        history.exchange(NOON, "max-1", cost_usd=0.5)
    return path


def asked(*words: str, stdin: str = '{"session_id": "session-1"}', **environ: str) -> subprocess.CompletedProcess[str]:
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLAUDE", "COLUMNS", "NO_COLOR", "ANTHROPIC", "HTTPS", "https"))
    }
    return subprocess.run(
        [sys.executable, "-c", _TELLING, *words],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**mine, "PYTHONPATH": str(ROOT / "addon"), "PYTHONIOENCODING": "utf-8", **environ},
        timeout=60,
        check=False,
    )


def test_line_tells_of_the_session_on_standard_input(database: Path) -> None:
    done = asked("--database", str(database))

    assert (done.returncode, done.stdout) == (0, "max-1 · $0.50\n")


def test_line_takes_little_to_be_printed(database: Path) -> None:
    imported = asked("--database", str(database)).stderr.split()

    assert [name for name in HEAVY if name in imported] == []


@pytest.mark.parametrize("stdin", ["", "{oops", "[]", '{"session_id": 7}', "[" * 100_000])
def test_line_is_printed_whatever_it_is_told(database: Path, stdin: str) -> None:
    done = asked("--database", str(database), "--plain", stdin=stdin)

    assert (done.returncode, done.stdout) == (0, "ccflare\n")


@pytest.mark.parametrize(
    ("words", "environ", "line"),
    [
        (["--format", "[{account}] {cost}"], {}, "[max-1] $0.50"),
        ([], {"COLUMNS": "8"}, "max-1"),
        ([], {"COLUMNS": "9" * 5000}, "max-1 · $0.50"),
        (["--plain", "--format={cost}"], {}, "$0.50"),
        (["--oops"], {}, "ccflare statusline: these options do not belong here, see --help"),
        (["--database", "/nowhere/x.db"], {}, "ccflare: no record of it here"),
    ],
)
def test_line_is_as_it_is_asked_for(database: Path, words: list[str], environ: dict[str, str], line: str) -> None:
    done = asked("--database", str(database), *words, **environ)

    assert (done.returncode, done.stdout) == (0, f"{line}\n")


def test_database_and_session_are_found_in_the_environment(database: Path) -> None:
    named = asked(stdin="", ccflare_DB_PATH=str(database), CLAUDE_CODE_SESSION_ID="session-1")
    (database.parent / "ccflare").mkdir(exist_ok=True)
    (database.parent / "ccflare" / "ccflare.db").write_bytes(database.read_bytes())
    by_default = asked(XDG_DATA_HOME=str(database.parent))

    assert named.stdout == by_default.stdout == "max-1 · $0.50\n"


def test_line_is_printed_where_standard_input_is_closed(database: Path) -> None:
    out = StringIO()

    assert print_line(["--plain", "--database", str(database)], None, out) == 0
    assert out.getvalue() == "ccflare\n"


def test_line_is_printed_where_characters_are_missing(database: Path) -> None:
    done = asked("--database", str(database), PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stdout) == (0, "max-1 ? $0.50\n")


@pytest.mark.parametrize("stream", ["0<&-", "1>&-", "1>/dev/full", "| true"])
def test_line_that_has_no_stream_ends_with_0_all_the_same(database: Path, stream: str) -> None:
    shell = f'"$@" {stream}; exit "${{PIPESTATUS[0]}}"'
    words = [sys.executable, "-c", _TELLING, "--database", str(database), "--plain"]

    done = subprocess.run(
        ["bash", "-c", shell, "bash", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT / "addon")},
        timeout=60,
        check=False,
    )

    assert (done.returncode, "Error" in done.stderr) == (0, False)


def test_help_names_what_a_template_can_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ccflare", "statusline", "--help"])

    assert main() == 0
    assert "five_hour_percent" in capsys.readouterr().out
