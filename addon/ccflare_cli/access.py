"""`scripts/access.py`: the addresses that are blocked. A running proxy takes up each change within a second."""

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, Console, open_made_store, open_store, read_settings
from ccflare_cli.output import DASH, Column, Table, iso, moment
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_core.http.addresses import Network
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.store import Store

_EXAMPLES = """\
examples:
  scripts/access.py block 203.0.113.7 --reason "guesses keys"
  scripts/access.py block 2001:db8:7::/48
  scripts/access.py unblock 203.0.113.7

A blocked address cannot connect. On a connection that is open already, the next
request gets a 403. The options ccflare_allow_ips and ccflare_block_ips say which
addresses may connect at all.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser("access.py", "Block client addresses.", _EXAMPLES)
    commands = add_group(parser)
    add_command(commands, "list", _list, "list the blocked addresses, with the reasons")
    block = add_command(commands, "block", _block, "block an address or a network")
    block.add_argument("--reason", default="", help="why, shown in the list")
    unblock = add_command(commands, "unblock", _unblock, "unblock an address or a network")
    for command in (block, unblock):
        command.add_argument(
            "network", type=_network, metavar="NETWORK", help="an address, or a network such as 10.0.0.0/8"
        )
    return parser


def _network(text: str) -> Network:
    try:
        return Network.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _list(console: Console, arguments: argparse.Namespace) -> int:
    now = console.now()
    with _opened(console, arguments, read_only=True) as store:
        blocked = store.blocklist.all()
    table = Table(
        key="blocked",
        title="",
        rows=blocked,
        fields=(
            ("network", lambda block: str(block.network)),
            ("blocked_at", lambda block: iso(block.created_at)),
            ("reason", lambda block: block.reason),
        ),
        columns=(
            Column("Network", lambda block: str(block.network), way=wrapped(20)),
            Column("Since", lambda block: moment(block.created_at, now), way=wrapped(10)),
            Column("Reason", lambda block: block.reason or DASH, way=wrapped(20)),
        ),
        empty="Nothing is blocked.",
    )
    console.show(arguments, table)
    return OK


def _block(console: Console, arguments: argparse.Namespace) -> int:
    with _opened(console, arguments) as store:
        is_new = store.blocklist.block(arguments.network, arguments.reason)
    console.say(f"Blocked {arguments.network}." if is_new else f"{arguments.network} is blocked already.")
    return OK


def _unblock(console: Console, arguments: argparse.Namespace) -> int:
    with _opened(console, arguments) as store:
        store.blocklist.unblock(arguments.network)
    console.say(f"{arguments.network} may come again.")
    return OK


def _opened(
    console: Console, arguments: argparse.Namespace, *, read_only: bool = False
) -> AbstractContextManager[Store]:
    settings = read_settings(console, arguments.database)
    if read_only:
        return open_made_store(console, settings, None, "Nothing is blocked", read_only=True)
    return open_store(console, settings, choose(settings, console.environ))
