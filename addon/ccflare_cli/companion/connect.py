"""`ccflare connect`: leads a client through the proxy by its own settings, and takes that back again."""

import argparse
import difflib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ccflare_cli.companion import claude_code, env
from ccflare_cli.companion.clients import CLIENTS, OPTIONAL, Client
from ccflare_cli.companion.edits import Change, Steps, apply, conflicts
from ccflare_cli.companion.environment import PLACEHOLDER, client_variables
from ccflare_cli.companion.here import Here, add_proxy_options, data_folder, find_proxy
from ccflare_cli.companion.managers import has_service
from ccflare_cli.companion.program import own_command
from ccflare_cli.companion.settings_file import Connection, SettingsFile
from ccflare_cli.companion.shells import SHELLS
from ccflare_cli.console import OK, Console, Refused, read_settings
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.program import typed
from ccflare_core.secrets import redact

_BY_VARIABLES = ("python", "node")
_OWN_LINE = "To have ours beside it, let your command print what this one does with the same input: {command}"
_NO_SERVICE = "It works only while the proxy runs, and no service starts that: `{command}` installs one."
_NOT_STARTED = "The proxy was never started here: start it before {client}, which trusts the certificate it then makes."
_EXAMPLES = """\
examples:
  scripts/connect.py claude-code           ~/.claude/settings.json
  scripts/connect.py vscode                Claude Code's settings in VS Code
  scripts/connect.py claude-code --undo
  scripts/connect.py python                the environment for a shell

The difference is shown first. Comments, order and your own values stay, and --undo makes
the file what it was. A project's settings are left alone.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Connect a client, or undo that, and give the exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("connect.py", "Lead a client through the proxy by its own settings.", _EXAMPLES)
    parser.add_argument("client", choices=(*CLIENTS, *_BY_VARIABLES), help="which one")
    parser.add_argument("--undo", action="store_true", help="take out again what was put in")
    parser.add_argument("--replace", action="store_true", help="put ours in the place of values that you have set")
    parser.add_argument("--yes", action="store_true", help="do it without a question")
    parser.add_argument("--shell", choices=tuple(SHELLS), help="of python and node: for this shell")
    add_proxy_options(parser)
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    if arguments.client in _BY_VARIABLES:
        if arguments.undo:
            raise Refused(f"{arguments.client} has no settings that were changed: it goes by its shell's environment.")
        return env.show(console, arguments)
    client = CLIENTS[arguments.client]
    data = data_folder(read_settings(console, arguments.database))
    work = _Work(console, arguments, client, client.memory(data))
    return work.undo() if arguments.undo else work.connect()


class _Work:
    """One client's file, and what is remembered of it."""

    def __init__(self, console: Console, arguments: argparse.Namespace, client: Client, memory: Path) -> None:
        self._console = console
        self._arguments = arguments
        self._client = client
        self._memory = memory
        self._known = Connection.read(memory)
        path = Path(self._known.file) if self._known else client.find(console.environ)
        self._file = SettingsFile(path)
        self._found = self._file.read()
        self._has_folder = path.parent.exists()

    def connect(self) -> int:
        """Put our entries in, in place of those of an earlier time."""
        if not (self._client.makes_folder or self._file.path.parent.is_dir()):
            raise Refused(f"There is no folder {self._file.path.parent}: is {self._client.title} installed?")
        before = self._without_ours()
        wanted, here = self._wanted(before)
        after, change = self._edited(before, wanted)
        if after == self._found.content:
            self._console.say(f"{self._client.title} goes through the proxy already; {self._file.path} stays as it is.")
            return OK
        if not self._agreed(after):
            return OK
        if here.address.key:
            self._file.check_private()
        mode = 0o600 if here.address.key else self._mode
        self._write(after, mode, change, here.address.place)
        self._console.say(
            f"{self._client.title} goes through the proxy at {here.address.place} from its next start on. "
            f"`{self._client.undo_command}` takes that back."
        )
        if not has_service(self._console.environ):
            self._console.complain(_NO_SERVICE.format(command=typed("service install")))
        if not here.authority.is_file():
            self._console.complain(_NOT_STARTED.format(client=self._client.title))
        return OK

    def undo(self) -> int:
        """Take our entries out; with a question only where the file is not as we have left it."""
        known = self._known
        if known is None:
            raise Refused(f"{self._client.title} was not connected by this command, so there is nothing to undo.")
        before = self._without_ours()
        if not known.change.left_it_so(self._found.content) and self._differs(before) and not self._agreed(before):
            return OK
        if not known.was_there and not before.strip(b"{} \r\n"):
            self._file.remove(with_folder=known.made_folder)
        elif self._found.mode is not None:
            self._file.write(before, self._mode, self._found)
        self._memory.unlink()
        self._console.say(f"{self._client.title} does not go through the proxy any more, from its next start on.")
        return OK

    @property
    def _mode(self) -> int:
        """The mode without a key in the file: the one that it had before us."""
        mode = self._known.mode if self._known else self._found.mode
        return 0o600 if mode is None else mode

    def _differs(self, content: bytes) -> bool:
        return self._found.mode is not None and content != self._found.content

    def _without_ours(self) -> bytes:
        if self._known is None or self._found.mode is None:
            return self._found.content
        try:
            return self._known.change.undone(self._found.content)
        except ValueError as error:
            raise self._unreadable(error) from None

    def _wanted(self, before: bytes) -> tuple[dict[Steps, object], Here]:
        try:
            theirs = self._client.environment(before.decode("utf-8-sig"))
            ours = self._client.environment(self._found.content.decode("utf-8-sig"))
        except ValueError as error:
            raise self._unreadable(error) from None
        here = find_proxy(self._console, self._arguments, ours, may_come=True)
        hosts = {name: value for name, value in self._console.environ.items() if name.lower() == "no_proxy"}
        has_login = claude_code.has_login(self._console.environ)
        variables = client_variables(here.address, here.authority, None, hosts | theirs, has_login=has_login)
        unset = tuple(name for name in variables.unset if name in theirs)
        return self._client.entries(variables._replace(unset=unset), self._status_line()), here

    def _status_line(self) -> list[str]:
        """The command, which is told where the database is unless that is on a server: it knows none of our options."""
        database = read_settings(self._console, self._arguments.database).database
        named = ["--database", str(database)] if isinstance(database, Path) else []
        return [*own_command("statusline.py", "statusline"), *named]

    def _edited(self, before: bytes, wanted: dict[Steps, object]) -> tuple[bytes, Change]:
        try:
            differing = list(conflicts(before, wanted))
            required = [path for path in differing if path[-1] not in OPTIONAL]
            if required and not self._arguments.replace:
                names = ", ".join(".".join(path) for path in required)
                raise Refused(
                    f"{self._file.path} has values of yours that lead elsewhere: {names}. --replace puts ours in their "
                    "place, and --undo brings yours back."
                )
            for path in differing:
                if path not in required:
                    del wanted[path]
                    self._console.complain(f"Your own {'.'.join(path)} stays as it is.")
                    if path[-1] == "statusLine":
                        self._console.complain(_OWN_LINE.format(command=shlex.join(self._status_line())))
            return apply(before, wanted)
        except ValueError as error:
            raise self._unreadable(error) from None

    def _write(self, after: bytes, mode: int, change: Change, place: str) -> None:
        """Write the file. What undoes it is remembered first, so that it can be undone in any case."""
        known, found = self._known, self._found
        if known and found.mode is not None:
            connection = replace(known, change=change, place=place)
        else:
            connection = Connection(
                str(self._file.path), found.mode is not None, not self._has_folder, found.mode, change, place
            )
        connection.keep(self._memory)
        try:
            self._file.write(after, mode, found)
        except Refused:
            if known:
                known.keep(self._memory)
            else:
                self._memory.unlink()
            raise

    def _agreed(self, after: bytes) -> bool:
        """Show the difference and have it agreed to. A key is no part of what is shown."""
        old, new = (text.decode("utf-8", "replace").splitlines() for text in (self._found.content, after))
        name = str(self._file.path)
        lines = difflib.unified_diff(old, new, name, name, lineterm="", n=2)
        self._console.say("\n".join(_shown(line) for line in lines))
        if self._arguments.yes:
            return True
        if self._console.stdin.isatty():
            if self._console.ask("Write this? [y/N]").strip().lower() in ("y", "yes"):
                return True
            self._console.complain("Nothing was changed.")
        else:
            self._console.complain("Nothing was changed: --yes writes this.")
        return False

    def _unreadable(self, error: ValueError) -> Refused:
        why = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        return Refused(f"{self._file.path} cannot be edited: {why}. Correct it, and try again.")


def _shown(line: str) -> str:
    """A line without a secret, which our placeholder is not."""
    placeholder = f'"ANTHROPIC_AUTH_TOKEN": "{PLACEHOLDER}"'
    return placeholder.join(map(redact.text, line.split(placeholder)))
