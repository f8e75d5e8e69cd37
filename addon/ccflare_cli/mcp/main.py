"""`ccflare mcp`: starts the server for a client that asks on standard input, and finds the proxy and a key for it."""

import argparse
import asyncio
import importlib
import os
import signal
from collections.abc import Sequence
from typing import TextIO

from ccflare_cli.companion.authorities import own_authority
from ccflare_cli.companion.here import add_address_option, checked_key
from ccflare_cli.console import OK, Console, Refused, proxy_address, read_settings
from ccflare_cli.doctor.host_checks import confdir
from ccflare_cli.mcp.record import SECONDS, Record
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.config import settings
from ccflare_core.config.options import MCP_KEY
from ccflare_core.http.client import Fetcher
from ccflare_core.program import with_extra
from ccflare_core.secrets.references import read_secret

_EXAMPLES = """\
examples:
  claude mcp add ccflare --env {key}=file:/home/you/.ccflare-key -- ccflare mcp
  scripts/mcp.py --address 127.0.0.1:8081

A client such as Claude Code starts it, and has four tools then: search_conversations,
show_conversation, usage and limits. All of them only read, by the proxy's API.

It takes the extra `mcp`, and a client key with the permission logs.view (`--role viewer`). The
variable {key} has the key, or says where it is: file:PATH, cmd:PROGRAM ARGUMENTS. Without
the variable somebody at a terminal is asked for it. Where there are no client keys, figures come
without one, and conversations do not.
"""
_NO_PACKAGE = "This takes the package mcp, which is not here in a version that does: {}."
_NO_KEY = "There is no client key here ({variable}): conversations are told to one alone."
_BY_HAND = "This waits for a client on standard input: have one start it, such as Claude Code by `claude mcp add`."


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Serve, and give the exit code: 0 the client has gone, 1 not begun, 2 misused."""
    return dispatch(_parser(), argv, console, _serve)


def _parser() -> Parser:
    parser = script_parser(
        "mcp.py", "Answer a model that asks for your record, as an MCP server.", _EXAMPLES.format(key=MCP_KEY)
    )
    add_address_option(parser)
    return parser


def _serve(console: Console, arguments: argparse.Namespace) -> int:
    try:
        server = importlib.import_module("ccflare_cli.mcp.server")
    except ImportError:
        raise Refused(_NO_PACKAGE.format(with_extra("mcp"))) from None
    record = _record(console, arguments)
    if console.stdin.isatty():
        console.complain(_BY_HAND)
    # It ends at once, with nothing to put away: what reads standard input would wait for its next line first.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(server.serve(record))
    return OK


def _record(console: Console, arguments: argparse.Namespace) -> Record:
    found = read_settings(console, arguments.database)
    key = _key(console)
    has_tls = found.requires_client_tls
    authority = own_authority(confdir(settings.defaults(console.environ))) if has_tls else None
    place = f"{'https' if has_tls else 'http'}://{arguments.address or proxy_address(console)}"
    return Record(place, key, Fetcher(ca_file=authority, total_seconds=SECONDS).send)


def _key(console: Console) -> str:
    """The client key; "" if there is none. Standard input is the client's, so no key comes by it."""
    key = read_secret(console.environ, MCP_KEY)
    if key is None and _has_reader(console.stderr):
        key = console.ask_secret("Client key (Enter: none): ").strip()
    if key:
        return checked_key(key)
    console.complain(_NO_KEY.format(variable=MCP_KEY))
    return ""


def _has_reader(stderr: TextIO) -> bool:
    """Whether somebody at a terminal would see a prompt, and nobody else reads what they type.

    A client that starts us keeps its terminal to itself, and takes our standard error.
    """
    if not stderr.isatty():
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
