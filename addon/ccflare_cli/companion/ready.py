"""`ccflare ready`: whether the proxy is up, for scripts and for what looks after containers."""

import argparse
from collections.abc import Sequence
from functools import partial

from ccflare_cli.companion import readiness
from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.here import wants_key
from ccflare_cli.console import OK, REFUSED, Console, proxy_address, read_settings
from ccflare_cli.output import Column, Table
from ccflare_cli.parsing import Parser, dispatch, script_parser, whole_number

_EXAMPLES = """\
examples:
  scripts/ready.py              exit code 0 if it is up, else 1
  scripts/ready.py --wait 60    the same, once it is up or the time is over

It asks /ccflare/ready of the proxy as it is configured here, without a credential; where
there are client keys /ccflare/health, which says that it is up, but not of its accounts.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Ask, and give the exit code: 0 it is up, 1 it is not, 2 misused."""
    return dispatch(_parser(), argv, console, _ready)


def _parser() -> Parser:
    parser = script_parser("ready.py", "Ask whether the proxy is up.", _EXAMPLES)
    parser.add_argument(
        "--wait", type=whole_number(0, 3600), default=0, metavar="SECONDS", help="how long to wait for it (default: 0)"
    )
    return parser


def _ready(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    address = ProxyAddress(proxy_address(console), settings.requires_client_tls)
    ask = partial(readiness.ask, address, is_closed=wants_key(console, settings))
    answer = readiness.wait(ask, lambda: False, float(arguments.wait))
    table = Table(
        key="proxy",
        title="",
        rows=[answer],
        fields=(("proxy", lambda row: row.name.lower()), ("address", lambda row: address.place)),
        columns=(Column("Proxy", lambda row: row.value), Column("Address", lambda row: address.place)),
        upright=True,
    )
    console.show(arguments, table)
    return OK if answer.is_up else REFUSED
