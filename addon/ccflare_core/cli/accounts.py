"""`scripts/accounts.py`: the accounts of the pool. A running proxy sees every change within a second."""

import argparse
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ccflare_core.accounts import Account, Kind, valid_name
from ccflare_core.cli.console import (
    OK,
    Console,
    Parser,
    Refused,
    add_common,
    guarded,
    read_settings,
    whole_number,
)
from ccflare_core.cli.credentials import Tokens, parse_api_key, parse_tokens
from ccflare_core.cli.output import render
from ccflare_core.cli.tables import account_table, kind, token
from ccflare_core.reports import Reports, Use
from ccflare_core.standing import Standing, standing
from ccflare_core.store import Store
from ccflare_core.traffic import Period
from ccflare_core.vault import load_vault

_DAY = 86_400
_EXAMPLES = """\
examples:
  scripts/accounts.py add max-1 --tokens - < ~/.claude/.credentials.json
  scripts/accounts.py add key-1 --api-key - --priority 10
  scripts/accounts.py list

A key or token is never an argument: it is typed when asked for, or comes on stdin.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused or not found, 2 misused."""
    arguments = _parser().parse_args(argv)
    console = console or Console.real()
    return guarded(console, partial(arguments.command, console, arguments))


def _from_stdin(text: str) -> str:
    if text != "-":
        raise argparse.ArgumentTypeError(
            "a secret is not taken from the command line, where every user of this machine can read it; "
            "write - and give it on stdin"
        )
    return text


def _parser() -> Parser:
    parser = Parser(
        prog="accounts.py",
        description="Manage the accounts that the proxy serves from.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    priority = whole_number(-1000, 1000)

    add = _command(commands, "add", _add, "add an account")
    secret = add.add_mutually_exclusive_group(required=True)
    secret.add_argument("--api-key", type=_from_stdin, metavar="-", help="an API key, on stdin")
    secret.add_argument("--tokens", type=_from_stdin, metavar="-", help="OAuth tokens as JSON, on stdin")
    add.add_argument("--priority", type=priority, default=0, metavar="N", help="lower ones serve first (default: 0)")
    _command(commands, "list", _list, "show all accounts", named=False)
    _command(commands, "pause", partial(_set_paused, True), "send no requests to an account")
    _command(commands, "resume", partial(_set_paused, False), "end a pause")
    rename = _command(commands, "rename", _rename, "give an account another name")
    rename.add_argument("new", metavar="NEW", help="its new name")
    remove = _command(commands, "remove", _remove, "delete an account and its tokens; its requests stay")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    change = _command(commands, "priority", _set_priority, "set an account's priority")
    change.add_argument("priority", type=priority, metavar="N", help="lower ones serve first")
    return parser


def _command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    function: Callable[[Console, argparse.Namespace], int],
    text: str,
    *,
    named: bool = True,
) -> Parser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(command=function)
    add_common(command, again=True)
    if named:
        command.add_argument("name", metavar="NAME", help="the account's name")
    return command


def _add(console: Console, arguments: argparse.Namespace) -> int:
    name = _checked_name(arguments.name)
    settings = read_settings(console, arguments.database)
    if arguments.api_key:
        key = parse_api_key(console.secret(f"API key of {name}: "))
        account = _new_account(name, arguments.priority, console.now(), key)
    else:
        text = console.secret(f"Tokens of {name}, as JSON in one line: ")
        account = _new_account(name, arguments.priority, console.now(), parse_tokens(text, console.now()))
    store = Store.open(settings.database_path, load_vault(console.environ, settings.key_path))
    try:
        store.accounts()  # a key that does not open what is there must not seal what is new
        store.add_account(account)
    finally:
        store.close()
    validity = "" if account.kind is Kind.API_KEY else f", {token(account, console.now())}"
    console.say(f"Added {name} ({kind(account)}{validity}).")
    return OK


def _new_account(name: str, priority: int, now: float, secret: str | Tokens) -> Account:
    account_id = str(uuid.uuid4())
    if isinstance(secret, str):
        return Account(account_id, name, Kind.API_KEY, priority, api_key=secret, created_at=now)
    return Account(
        account_id,
        name,
        Kind.OAUTH,
        priority,
        access_token=secret.access_token,
        refresh_token=secret.refresh_token,
        expires_at=secret.expires_at,
        created_at=now,
        login_at=now,
    )


def _checked_name(name: str) -> str:
    if not valid_name(name):
        raise Refused("A name has 1 to 100 letters, digits, spaces or -_@.+ and no space at its ends; choose another.")
    return name


def _set_paused(paused: bool, console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        if account.paused == paused:
            console.say(f"{account.name} is {'already paused' if paused else 'not paused'}.")
            return OK
        store.update_account(account.id, paused=paused)
        console.say(f"{'Paused' if paused else 'Resumed'} {account.name}.")
    return OK


def _rename(console: Console, arguments: argparse.Namespace) -> int:
    new = _checked_name(arguments.new)
    with _found(console, arguments) as (store, account):
        store.update_account(account.id, name=new)
        console.say(f"{account.name} is now called {new}.")
    return OK


def _remove(console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        question = f"This deletes {account.name} and its tokens. Type its name to go on:"
        if not arguments.yes and console.ask(question) != account.name:
            raise Refused("That is not its name; nothing was removed.")
        store.remove_account(account.id)
        console.say(f"Removed {account.name}.")
    return OK


def _set_priority(console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        store.update_account(account.id, priority=arguments.priority)
        console.say(f"{account.name} has priority {arguments.priority} now.")
    return OK


@contextmanager
def _found(console: Console, arguments: argparse.Namespace) -> Iterator[tuple[Store, Account]]:
    """The open store and the named account, without its secrets: nothing here needs the key."""
    path = read_settings(console, arguments.database).database_path
    if not path.exists():
        raise Refused(f"There are no accounts: {path} does not exist yet.")
    store = Store.open(path, None)
    try:
        yield store, store.account_by_name(arguments.name)
    finally:
        store.close()


def _list(console: Console, arguments: argparse.Namespace) -> int:
    path, now = read_settings(console, arguments.database).database_path, console.now()
    rows: list[tuple[Standing, Use]] = []
    if path.exists():
        store = Store.open(path, None, read_only=True)
        try:
            rows = _rows(store, now)
        finally:
            store.close()
    console.say(render([account_table(rows, now)], arguments.format))
    return OK


def _rows(store: Store, now: float) -> list[tuple[Standing, Use]]:
    reports, cooldowns, windows = Reports(store.query), store.cooldowns(), store.latest_windows()
    last_day = Period(now - _DAY, now)
    return [
        (
            standing(account, cooldowns, windows.get(account.id, ()), now),
            reports.use(account.id, last_day),
        )
        for account in store.accounts()
    ]
