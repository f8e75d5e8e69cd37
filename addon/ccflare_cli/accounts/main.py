"""`scripts/accounts.py`: the accounts of the pool. A running proxy sees every change within a second."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ccflare_cli.accounts.add import add, add_secret_options, checked_name, has_secret
from ccflare_cli.accounts.import_command import add_import_options, bring
from ccflare_cli.accounts.login import add_login_options, log_in
from ccflare_cli.accounts.proxies import proxy_argument, read_proxy
from ccflare_cli.console import OK, Console, Refused, open_store, read_settings
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser, whole_number
from ccflare_cli.tables import account_table
from ccflare_core.accounts.account import Account
from ccflare_core.accounts.priority import DEFAULT, FIRST, LAST
from ccflare_core.accounts.status import StoredStatus
from ccflare_core.db.engine_choice import is_made
from ccflare_core.reports.queries import Use
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.statuses import statuses_and_use
from ccflare_core.store.store import Store
from ccflare_core.text import composed

_ORDER = f"from {FIRST}, used first, to {LAST}, used last"
_EXAMPLES = """\
examples:
  scripts/accounts.py login max-1
  scripts/accounts.py add key-1 --api-key - --priority 90
  scripts/accounts.py import --from claude-code ~/.claude/.credentials.json
  scripts/accounts.py list

Keys and tokens are never arguments: type them when you are asked, or give them
on standard input.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused or not found, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser(
        "accounts.py", "Add, list, pause and remove the Claude accounts that the proxy uses.", _EXAMPLES
    )
    commands = add_group(parser)
    priority = whole_number(FIRST, LAST)

    login = _command(commands, "login", log_in, "log in to an account in the browser, for the first time or again")
    new = _command(
        commands, "add", _add, "add an account: by a login in the browser, or with a secret on standard input"
    )
    add_secret_options(new)
    for command in (login, new):
        add_login_options(command)
        command.add_argument("--priority", type=priority, metavar="N", help=f"{_ORDER} (default: {DEFAULT})")
    other = _command(commands, "import", bring, "import the accounts of another program", named=False)
    add_import_options(other)
    _command(commands, "list", _list, "list all accounts, with their limits and tokens", named=False)
    _command(commands, "pause", partial(_set_paused, True), "send no requests to an account until it is resumed")
    _command(commands, "resume", partial(_set_paused, False), "use a paused account again, or one that needs attention")
    rename = _command(commands, "rename", _rename, "rename an account")
    rename.add_argument("new", metavar="NEW", type=composed, help="its new name")
    remove = _command(commands, "remove", _remove, "delete an account and its tokens; its recorded requests are kept")
    remove.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    change = _command(commands, "priority", _set_priority, "set an account's priority: which one is used first")
    change.add_argument("priority", type=priority, metavar="N", help=_ORDER)
    setting = _command(commands, "set", _set, "set which proxy an account goes by")
    setting.add_argument(
        "--proxy",
        type=proxy_argument,
        required=True,
        metavar="URL",
        help="for an organization that demands it; -: on standard input, with USER:PASSWORD@; none: as all others go",
    )
    return parser


def _command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    function: Callable[[Console, argparse.Namespace], int],
    text: str,
    *,
    named: bool = True,
) -> Parser:
    command = add_command(commands, name, function, text)
    if named:
        command.add_argument("name", metavar="NAME", type=composed, help="the account's name")
    return command


def _add(console: Console, arguments: argparse.Namespace) -> int:
    if has_secret(arguments):
        if arguments.mode or arguments.no_browser or arguments.replace:
            raise Refused(
                "--mode, --no-browser and --replace are for a login in the browser: leave them or the secret out."
            )
        return add(console, arguments)
    return log_in(console, arguments, may_renew=False)


def _set_paused(paused: bool, console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        if account.paused == paused and (paused or account.attention is None):
            console.say(f"{account.name} is {'already paused' if paused else 'not paused'}.")
            return OK
        store.accounts.update(account.id, paused=paused)
        console.say(f"{'Paused' if paused else 'Resumed'} {account.name}.")
    return OK


def _rename(console: Console, arguments: argparse.Namespace) -> int:
    new = checked_name(arguments.new)
    with _found(console, arguments) as (store, account):
        store.accounts.update(account.id, name=new)
        console.say(f"{account.name} is now called {new}.")
    return OK


def _remove(console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        question = f"This deletes {account.name} and its tokens. Type its name to go on:"
        if not arguments.yes and console.ask(question) != account.name:
            raise Refused("That is not its name; nothing was removed.")
        store.accounts.remove(account.id)
        console.say(f"Removed {account.name}.")
    return OK


def _set_priority(console: Console, arguments: argparse.Namespace) -> int:
    with _found(console, arguments) as (store, account):
        store.accounts.update(account.id, priority=arguments.priority)
        console.say(f"{account.name} has priority {arguments.priority} now.")
    return OK


def _set(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    proxy = read_proxy(console, arguments.proxy)
    if proxy is not None and settings.upstream.scheme == "http":
        raise Refused("The proxy could read the credential: ccflare_upstream has to be an https:// address.")
    with _found(console, arguments) as (store, account):
        store.accounts.update(account.id, proxy=proxy)
        way = f"by {proxy}" if proxy else "as all other accounts do"
        console.say(f"Everything of {account.name} goes {way} now.")
    return OK


@contextmanager
def _found(console: Console, arguments: argparse.Namespace) -> Iterator[tuple[Store, Account]]:
    """The open store and the named account, without its secrets: the key is needed for the audit log only."""
    settings = read_settings(console, arguments.database)
    if not is_made(settings.database):
        raise Refused(f"There are no accounts: {settings.database} does not exist yet.")
    with open_store(console, settings, choose(settings, console.environ)) as store:
        yield store, store.accounts.by_name(arguments.name, secrets=False)


def _list(console: Console, arguments: argparse.Namespace) -> int:
    database, now = read_settings(console, arguments.database).database, console.now()
    rows: list[tuple[StoredStatus, Use]] = []
    if is_made(database):
        store = Store.open(database, None, read_only=True)
        try:
            rows = statuses_and_use(store, now)
        finally:
            store.close()
    console.show(arguments, account_table(rows, now))
    return OK
