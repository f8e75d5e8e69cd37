"""`scripts/dashboard.py`: a link that logs the owner in to the running proxy's dashboard, once."""

import argparse
import socket
from collections.abc import Sequence

from ccflare_cli.console import OK, Console, open_made_store, proxy_address, read_settings
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.errors import StoreError
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import choose
from ccflare_core.secrets.start_links import GOOD_SECONDS, link, new_token

_EXAMPLES = f"""\
examples:
  scripts/dashboard.py
  scripts/dashboard.py --address 127.0.0.1:9090
  scripts/dashboard.py --address https://proxy.example

The link is good once and for {GOOD_SECONDS // 60} minutes, for all proxies and workers on the database.
Who has a client key with the role viewer, operator or admin can log in with it.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print the link and give the exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console, _link)


def _parser() -> Parser:
    parser = script_parser("dashboard.py", "Print a link that logs you in to the dashboard.", _EXAMPLES)
    parser.add_argument("--address", metavar="ADDRESS", help="where to reach it, if not as configured")
    return parser


def _link(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    source = choose(settings, console.environ)
    with open_made_store(console, settings, source, "There is no proxy to log in to", read_only=True) as store:
        if store.runs.newest(socket.gethostname()) is None or store.vault is None:
            raise StoreError(f"No proxy runs on this machine with this database: start one by `{typed('proxy')}`.")
        token = new_token(store.vault, console.now())
    scheme, _, place = (arguments.address or proxy_address(console)).rpartition("://")
    console.say(link(scheme or settings.own_scheme, place, token))
    return OK
