"""`ccflare service`: has the system start the proxy, and keep it running."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.companion import readiness
from ccflare_cli.companion.clients import CLIENTS
from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.here import data_folder
from ccflare_cli.companion.managers import Manager, State, find_manager
from ccflare_cli.companion.program import carried, own_command
from ccflare_cli.companion.readiness import Answer
from ccflare_cli.companion.units import MARK, Service
from ccflare_cli.console import OK, REFUSED, Console, Refused, proxy_address, read_settings
from ccflare_cli.output import Column, Table
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser, whole_number
from ccflare_cli.workers.rules import OPTION, read
from ccflare_core.config.environment import of_others
from ccflare_core.config.settings import Settings
from ccflare_core.files import write_whole
from ccflare_core.program import typed
from ccflare_core.workers import MOST

_EXAMPLES = """\
examples:
  scripts/service.py install        start the proxy now, and whenever you log in
  scripts/service.py install --workers 2
  scripts/service.py status
  scripts/service.py logs --follow
  scripts/service.py uninstall      the data stay

With systemd it is a unit of your own, on macOS an agent of your own; neither needs root.
The proxy has the options of mitm-config.yaml, and of the variables that are set when it is
installed.
"""
_SPARE_SECONDS = 60
"""What a stop may take beyond ccflare_drain_seconds."""
_LEAST_SECONDS = 180


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done (status: it runs), 1 refused or not running, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser("service.py", "Have the system start the proxy, and keep it running.", _EXAMPLES)
    commands = add_group(parser)
    install = add_command(commands, "install", _install, "install it, start it, and wait until it is ready")
    install.add_argument("--replace", action="store_true", help="put ours in the place of a file of your own")
    install.add_argument(
        "--wait", type=whole_number(0, 3600), default=180, metavar="SECONDS", help="how long to wait (default: 180)"
    )
    install.add_argument(
        OPTION,
        type=whole_number(1, MOST),
        metavar="N",
        help="serve by so many processes, on Linux (default: as installed, else one)",
    )
    add_command(commands, "uninstall", _uninstall, "stop it and take it out; the data stay")
    add_command(commands, "status", _status, "show whether it runs and is ready; the exit code says so too")
    logs = add_command(commands, "logs", _logs, "show the end of its log")
    logs.add_argument("--follow", action="store_true", help="go on with what comes")
    logs.add_argument(
        "--lines", type=whole_number(1, 100_000), default=100, metavar="N", help="how many lines (default: 100)"
    )
    return parser


def _address(console: Console, settings: Settings) -> ProxyAddress:
    return ProxyAddress(proxy_address(console), settings.requires_client_tls)


def _install(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    manager = find_manager(console.environ)
    address = _address(console, settings)
    environ = dict(console.environ) | ({"ccflare_DB_PATH": arguments.database} if arguments.database else {})
    variables, secrets = carried(environ, settings, ("PATH",) if os.uname().sysname == "Darwin" else ())
    stop = max(_LEAST_SECONDS, settings.drain_seconds + _SPARE_SECONDS)
    words = worker_words(arguments.workers or workers_of(manager.path))
    content = manager.file(Service([*own_command("run", "proxy"), *words], variables, stop))
    _check_place(manager, address, replace=arguments.replace)
    _write(manager, content)
    manager.start()
    for name in secrets:
        console.complain(
            f"{name} is a secret, so it was not written down: the service reads it as file:PATH or cmd:PROGRAM."
        )
    answer = readiness.wait(
        partial(readiness.ask, address), lambda: manager.state() is State.FAILED, float(arguments.wait)
    )
    if not answer.is_up:
        raise Refused(f"The service was installed, but {answer} ({address.place}): see `{typed('service logs')}`.")
    console.say(f"The service runs at {address.place}: {answer}.")
    if advice := manager.advice():
        console.say(advice)
    return OK


def worker_words(number: int) -> tuple[str, ...]:
    """What asks for so many workers. Raises ConfigError where there can be none."""
    if number == 1:
        return ()
    read([f"{OPTION}={number}"], (), sys.platform)
    return OPTION, str(number)


def workers_of(file: Path) -> int:
    """How many workers an installed service has: an update keeps them."""
    try:
        found = re.search(rf"^ExecStart=.* {OPTION} ([0-9]+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return 1
    return int(found[1]) if found else 1


def _check_place(manager: Manager, address: ProxyAddress, *, replace: bool) -> None:
    """Raises Refused if the service's file is the user's own, or something else is where it would listen."""
    if manager.path.exists() and MARK.encode() not in manager.path.read_bytes() and not replace:
        raise Refused(f"{manager.path} is a file of your own: --replace puts ours in its place.")
    if manager.state() is not State.RUNNING and (answer := readiness.ask(address)) is not Answer.NOTHING:
        what = "a proxy" if answer is not Answer.FOREIGN else "another program"
        raise Refused(f"There is {what} at {address.place} already: stop it first, or set listen_port.")


def _write(manager: Manager, content: bytes) -> None:
    try:
        manager.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(manager.path, content)
    except OSError as error:
        raise Refused(f"{manager.path} cannot be written ({error.strerror}): check the rights of its folder.") from None


def _uninstall(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    manager = find_manager(console.environ)
    if manager.state() is State.ABSENT:
        raise Refused(f"There is no {manager.path}, so there is nothing to take out.")
    manager.stop()
    manager.path.unlink(missing_ok=True)
    manager.forget()
    console.say(f"The service is gone. The data stay: {settings.database}.")
    for client in CLIENTS.values():
        if client.memory(data_folder(settings)).exists():
            console.complain(
                f"{client.title} still goes through the proxy, and works only while that runs: "
                f"`{client.undo_command}` takes that back."
            )
    return OK


class _Status(NamedTuple):
    state: State
    address: str
    answer: Answer
    file: str


def _status(console: Console, arguments: argparse.Namespace) -> int:
    manager = find_manager(console.environ)
    address = _address(console, read_settings(console, arguments.database))
    found = _Status(manager.state(), address.place, readiness.ask(address), str(manager.path))
    table = Table(
        key="service",
        title="",
        rows=[found],
        fields=(
            ("state", lambda row: row.state.name.lower()),
            ("address", lambda row: row.address),
            ("proxy", lambda row: row.answer.name.lower()),
            ("file", lambda row: row.file),
        ),
        columns=(
            Column("Service", lambda row: row.state.value),
            Column("Address", lambda row: row.address),
            Column("Proxy", lambda row: row.answer.value),
            Column("File", lambda row: row.file),
        ),
        upright=True,
    )
    console.show(arguments, table)
    return OK if found.state is State.RUNNING and found.answer.is_up else REFUSED


def _logs(console: Console, arguments: argparse.Namespace) -> int:
    manager = find_manager(console.environ)
    if manager.state() is State.ABSENT:
        raise Refused("The service is not installed: a proxy that you have started yourself logs to its terminal.")
    words = manager.log_command(arguments.lines, follow=arguments.follow)
    console.stdout.flush()
    try:
        return subprocess.run(words, env=of_others(os.environ), check=False).returncode  # noqa: S603
    except FileNotFoundError:
        raise Refused(f"There is no {words[0]} on this system: see what keeps its logs.") from None
