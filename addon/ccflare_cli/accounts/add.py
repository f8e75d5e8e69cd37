"""`accounts.py add`: an account whose secret comes on stdin. What `login` and `import` need as well is here too."""

import argparse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ccflare_cli.accounts.credentials import GivenTokens, parse_api_key, parse_setup_token, parse_tokens
from ccflare_cli.console import OK, Console, Refused, open_store, read_settings
from ccflare_cli.tables import kind
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.names import RULE, valid_name
from ccflare_core.accounts.priority import DEFAULT
from ccflare_core.accounts.validity import ending, token_state
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.secrets.key_sources import choose
from ccflare_core.secrets.redact import holds_secret
from ccflare_core.store.store import Store

_SETUP_SECONDS = 365 * 86_400.0
"""How long a setup token lives. It says nothing of its end, and nothing refreshes it."""


def add_secret_options(parser: argparse.ArgumentParser) -> None:
    """The ways to hand a secret over, of which at most one is used."""
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--api-key", type=_from_stdin, metavar="-", help="an API key, on standard input")
    secret.add_argument("--tokens", type=_from_stdin, metavar="-", help="OAuth tokens as JSON, on standard input")
    secret.add_argument(
        "--setup-token",
        type=_from_stdin,
        metavar="-",
        help="a token of `claude setup-token`, on standard input; it lasts a year",
    )


def has_secret(arguments: argparse.Namespace) -> bool:
    """Whether one of these ways was chosen."""
    return bool(arguments.api_key or arguments.tokens or arguments.setup_token)


def _from_stdin(text: str) -> str:
    if text != "-":
        raise argparse.ArgumentTypeError(
            "a secret is not taken from the command line, where every user of this machine can read it; "
            "write - and give it on stdin"
        )
    return text


def add(console: Console, arguments: argparse.Namespace) -> int:
    """Add an account with the secret on stdin."""
    name = checked_name(arguments.name)
    settings = read_settings(console, arguments.database)
    _refuse_taken(console, settings, name)
    account = _read_account(console, arguments, name)
    with opened(console, settings) as store:
        store.accounts.add(account)
    console.say(f"Added {name} ({described(account, console.now())}).")
    tell_of_end(console, account)
    return OK


def tell_of_end(console: Console, account: Account) -> None:
    """Say that the account cannot be renewed, if so."""
    if told := ending(account, console.now()):
        console.complain(f"{account.name}: {told}.")


def _refuse_taken(console: Console, settings: Settings, name: str) -> None:
    """Raise Refused if the name is taken: nobody should have to paste a secret to hear of that."""
    if is_made(settings.database):
        with opened(console, settings) as store:
            if account_called(store, name):
                raise Refused(f"There is an account called {name} already: choose another name.")


def _read_account(console: Console, arguments: argparse.Namespace, name: str) -> Account:
    now, priority = console.now(), arguments.priority or DEFAULT
    if arguments.api_key:
        key = parse_api_key(console.secret(f"API key of {name}: "))
        return Account(new_id(), name, Kind.API_KEY, priority, api_key=key, created_at=now)
    if arguments.setup_token:
        token = parse_setup_token(console.secret(f"Setup token of {name}: "))
        tokens, end = GivenTokens(token, None, now + _SETUP_SECONDS), now + _SETUP_SECONDS
    else:
        tokens, end = parse_tokens(console.secret(f"Tokens of {name}, as JSON in one line: "), now), None
    return Account(
        new_id(),
        name,
        Kind.OAUTH,
        priority,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=tokens.expires_at,
        created_at=now,
        login_at=now,
        login_expires_at=end,
    )


def checked_name(name: str) -> str:
    """The name, if an account may have it; raises Refused."""
    if not valid_name(name):
        raise Refused(f"A name has {RULE}; choose another.")
    if holds_secret(name):
        raise Refused("This name has the form of a key or token, and names are shown everywhere: choose another.")
    return name


def account_called(store: Store, name: str) -> Account | None:
    """The account of that name, if there is one."""
    return next((account for account in store.accounts.all() if account.name == name), None)


def new_id() -> str:
    """The id of a new account."""
    return str(uuid.uuid4())


def described(account: Account, now: float) -> str:
    """`OAuth, valid for 8 h`."""
    return kind(account) if account.kind is Kind.API_KEY else f"{kind(account)}, {token_state(account, now)}"


@contextmanager
def opened(console: Console, settings: Settings) -> Iterator[Store]:
    """The store with its key, which opens everything that is in it: another one must not seal what is new."""
    with open_store(console, settings, choose(settings, console.environ)) as store:
        store.accounts.all()
        yield store
