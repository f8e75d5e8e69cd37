# PYTHON_ARGCOMPLETE_OK
"""The one command that an installation brings: `ccflare accounts list` is `scripts/accounts.py list`, and so on."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ccflare_cli import MODULES
from ccflare_cli.completion import complete, first_word
from ccflare_cli.parsing import Parser, near
from ccflare_cli.workers import rules
from ccflare_core import __version__
from ccflare_core.errors import ConfigError

ENTRY = Path(__file__).resolve().parents[1] / "ccflare.py"
"""The addon, beside the packages in a clone as in an installation."""

COMMANDS = {
    "proxy": "start the proxy; `proxy web` and `proxy console` with mitmproxy's inspector",
    "run": "start a client that goes through the proxy, by one account or within a budget",
    "connect": "lead Claude Code or VS Code through the proxy, and undo that",
    "service": "have the system start the proxy: install, uninstall, status, logs",
    "ready": "whether the proxy is up, and wait for it",
    "statusline": "one line on a session: for Claude Code, tmux, a prompt",
    "mcp": "let a model search and read your record, as an MCP server",
    "env": "print the environment that leads a client through the proxy",
    "dashboard": "print a link that logs you in to the dashboard",
    "accounts": "add, list, pause and remove the accounts that the proxy uses",
    "stats": "tokens, costs, limits, failures: see `stats --help` for its views",
    "simulate": "the recorded traffic once more, with other accounts, rules or settings",
    "top": "accounts and requests live, in the terminal; pause, resume, read",
    "show": "a recorded request with its answer",
    "search": "search recorded conversations",
    "keys": "data keys, client keys, the second factor",
    "access": "block client addresses",
    "audit": "show and verify the audit log",
    "doctor": "check the security and health of this installation",
    "maintain": "retention, backups, exports",
    "prices": "what tokens cost",
    "rules": "check the rules for clients, accounts and models",
    "config": "where the options are read from, and a file of your own for them",
    "completion": "print what has a shell complete the words of this command",
}
_PROGRAMS = {"web": "mitmweb", "console": "mitmproxy"}
_MITMDUMPS = ("-", "~", "!", "(")
"""What mitmdump's options and filters begin with. It would take any other word for a filter too, and start."""
_TAKEN = "`proxy` takes web, console or mitmdump's options."


def main() -> int:
    """Run what the first word names and give its exit code: 2 if it names nothing."""
    if (word := first_word()) in COMMANDS and word != "proxy":
        complete(_module(word)._parser(), skip=1)
    parser = _parser()
    complete(parser)
    words = sys.argv[1:]
    if not words or words[0].startswith("-"):
        parser.parse_args(words)
        parser.print_help()
        return 2
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        hint = near(name, COMMANDS) or "`ccflare --help` has all."
        sys.stderr.write(f"ccflare: there is no such command: {hint}\n")
        return 2
    if name == "proxy":
        _start_proxy(rest)
    return _run(name, rest)


def _parser() -> Parser:
    parser = Parser(prog="ccflare", description="Pool your own Claude accounts behind one local proxy.")
    parser.add_argument("--version", action="version", version=f"ccflare {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _run(name: str, words: Sequence[str]) -> int:
    sys.argv[0] = f"ccflare {name}"  # what its usage begins with
    try:
        return int(_module(name).main(words))
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def _module(name: str) -> ModuleType:
    return importlib.import_module(MODULES.get(name, f"ccflare_cli.{name}"))


def _start_proxy(words: Sequence[str]) -> NoReturn:
    """Become mitmproxy with the addon, as `scripts/run` does, or what starts several of it."""
    program, count = "mitmdump", 1
    if rules.is_asked(words):
        try:
            count, words = rules.read(words, [*_PROGRAMS], sys.platform)
        except ConfigError as error:
            sys.stderr.write(f"ccflare: {error}.\n")
            sys.exit(2)
    if words and words[0] in _PROGRAMS:
        program, words = _PROGRAMS[words[0]], words[1:]
    elif words and words[0][:1] not in _MITMDUMPS:
        sys.stderr.write(f"ccflare: {_TAKEN} {near(words[0], _PROGRAMS)}".rstrip() + "\n")
        sys.exit(2)
    if find_spec("mitmproxy") is None:
        sys.exit(f"ccflare: there is no {program}: install mitmproxy where ccflare is.")
    os.environ.setdefault("PYTHONOPTIMIZE", "1")  # see scripts/run
    if sys.stdout is not None:  # as where the shell has closed it
        sys.stdout.flush()
    command = [*_of_this_python(program), "-s", str(ENTRY), *words]
    if count > 1:
        sys.exit(_supervise([*command, "--no-server"], count))  # each listens once it can share the port
    os.execv(command[0], command)  # noqa: S606


def _supervise(command: Sequence[str], count: int) -> int:
    import asyncio

    from ccflare_cli.workers.supervisor import Supervisor

    async def run() -> int:
        return await Supervisor(command, count, os.environ).run()

    return asyncio.run(run())


def _of_this_python(program: str) -> list[str]:
    """What starts mitmproxy where our packages are: one elsewhere on PATH would not find them."""
    beside = Path(sys.executable).with_name(program)
    if beside.exists():
        return [str(beside)]
    return [sys.executable, "-P", "-c", f"import sys, mitmproxy.tools.main as tools; sys.exit(tools.{program}())"]
