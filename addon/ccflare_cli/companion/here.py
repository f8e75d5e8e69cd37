"""The proxy of this machine as a client is to reach it: its address, a key if it wants one, its authority."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.companion.authorities import own_authority
from ccflare_cli.companion.environment import ProxyAddress, key_in
from ccflare_cli.console import Console, Refused, open_store, proxy_address, read_settings
from ccflare_cli.doctor.host_checks import confdir
from ccflare_cli.parsing import Parser
from ccflare_core.clients.keys import PREFIX as KEY_PREFIX
from ccflare_core.config import settings
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.program import typed

_PLACE = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]+")
_WANTS_KEY = (
    "Every request needs a client key here: make one with `{command}`, and give it on standard input with `--key -`."
)
_WANTS_NONE = "The key is left out: this proxy asks programs of this machine for none."


class Here(NamedTuple):
    """What a client has to know."""

    address: ProxyAddress
    authority: Path
    data: Path
    """Where our own files lie."""


def add_proxy_options(parser: Parser) -> None:
    """What can be said of the proxy that a client is to use."""
    add_address_option(parser)
    parser.add_argument("--key", choices=("-",), help="read the client key for it from standard input")


def add_address_option(parser: Parser) -> None:
    """Where that proxy is."""
    parser.add_argument(
        "--address", type=_place, metavar="HOST:PORT", help="where the proxy listens (default: as it is configured)"
    )


def _place(text: str) -> str:
    if _PLACE.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError("give a host and a port, such as 127.0.0.1:8080")


def find_proxy(
    console: Console,
    arguments: argparse.Namespace,
    known: Mapping[str, str] | None = None,
    *,
    may_come: bool = False,
) -> Here:
    """The proxy that a client is to use. Raises Refused, also if it wants a key and there is none.

    With `may_come` it need not have been started yet, so that its certificate may be missing.

    A key that is in use already, in our own environment or in the `known` one of the client, is used again. One that is
    given where none is wanted is left out, which is said.
    """
    found = read_settings(console, arguments.database)
    place = arguments.address or proxy_address(console)
    key = given_key(console) if arguments.key else key_in(console.environ) or key_in(known or {})
    if wants_key(console, found):
        if not key:
            raise Refused(_WANTS_KEY.format(command=typed("keys client add NAME --tunnels")))
    else:
        if arguments.key:
            console.complain(_WANTS_NONE)
        key = ""
    authority = own_authority(confdir(settings.defaults(console.environ)), may_come=may_come)
    return Here(ProxyAddress(place, found.requires_client_tls, key=key), authority, data_folder(found))


def given_key(console: Console) -> str:
    """The client key on standard input. Raises Refused if it is none."""
    return checked_key(console.secret("Client key: "))


def checked_key(key: str) -> str:
    """The key, if it has the form of one. Raises Refused."""
    if not _KEY.fullmatch(key):
        raise Refused(
            f"This is no client key: it begins with {KEY_PREFIX}, and `{typed('keys client add')}` shows it once."
        )
    return key


def wants_key(console: Console, found: Settings) -> bool:
    """Whether a client of this machine is served with a key alone: from the first key on that was ever made."""
    if found.open_loopback or not is_made(found.database):
        return False
    with open_store(console, found, None, read_only=True) as store:
        return store.clients.exist()


def data_folder(found: Settings) -> Path:
    """Where our own files lie: beside the database, or the key if that is on a server."""
    return found.database.parent if isinstance(found.database, Path) else found.key_path.parent
