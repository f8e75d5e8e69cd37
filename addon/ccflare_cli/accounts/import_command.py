"""`accounts.py import`: imports the accounts of another program. Without `--yes` it only lists them."""

import argparse
from pathlib import Path

from ccflare_cli.accounts.add import described, opened, tell_of_end
from ccflare_cli.accounts.credentials import parse_tokens
from ccflare_cli.accounts.importers import FoundAccount, from_login_file, read_database, without_known
from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.console import OK, SECRET_LIMIT, Console, Refused, read_settings
from ccflare_cli.output import DASH, Column, Table
from ccflare_core.accounts.account import Account
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.store import Store

_CLAUDE_CODE = "claude-code"
_SOURCES = (_CLAUDE_CODE, "ccflare", "better-ccflare")
_ONE_OWNER = (
    "A refresh token has one owner: used by two programs, it ends the login for both. "
    "From now on {other} must not refresh these accounts: {remedy}."
)
_REMEDY = {
    _CLAUDE_CODE: "log in there anew, which gives it a login of its own, or let it use this proxy only",
    "ccflare": "stop it, or remove them there",
    "better-ccflare": "stop it, or remove them there",
}


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """What an import can be told."""
    parser.add_argument("--from", dest="source", choices=_SOURCES, required=True, help="the program that they are of")
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="its database, or Claude Code's ~/.claude/.credentials.json"
    )
    parser.add_argument("--yes", action="store_true", help="import them; without this they are only listed")


def bring(console: Console, arguments: argparse.Namespace) -> int:
    """Show the accounts of another program, or add them here. Its files stay as they are."""
    settings, path = read_settings(console, arguments.database), arguments.path.expanduser()
    read = _read_login if arguments.source == _CLAUDE_CODE else read_database
    found = read(path, console.now())
    if not arguments.yes:
        found = without_known(found, _known(console, settings))
        _show(console, arguments, found, "would be added")
        if any(each.account for each in found):
            console.complain(f"{_warning(arguments.source)}\nNothing was changed: --yes adds them.")
        return OK
    with opened(console, settings) as store:
        found = without_known(found, store.accounts.all())
        added = [each.account for each in found if each.account]
        for account in added:
            store.accounts.add(account, imported_from=arguments.source)
    _show(console, arguments, found, "added")
    for account in added:
        tell_of_end(console, account)
    if added:
        console.complain(_warning(arguments.source))
    return OK


def _read_login(path: Path, now: float) -> list[FoundAccount]:
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_LIMIT + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); name Claude Code's .credentials.json.") from None
    if len(text) > SECRET_LIMIT:
        raise Refused(f"{path} is too long for a login file; name Claude Code's .credentials.json.")
    tokens = parse_tokens(text.decode("utf-8", "replace"), now)
    return [from_login_file(_CLAUDE_CODE, *tokens, now)]


def _known(console: Console, settings: Settings) -> list[Account]:
    """The accounts that are here, with their secrets if their key is. Makes neither a database nor a key."""
    if not is_made(settings.database):
        return []
    source = choose(settings, console.environ)
    has_key = source.name != "file" or settings.key_path.exists()
    store = Store.open(settings.database, source if has_key else None, read_only=True)
    try:
        return store.accounts.all()
    finally:
        store.close()


def _warning(source: str) -> str:
    other = "Claude Code" if source == _CLAUDE_CODE else source
    return _ONE_OWNER.format(other=other, remedy=_REMEDY[source])


def _show(console: Console, arguments: argparse.Namespace, found: list[FoundAccount], done: str) -> None:
    now = console.now()

    def what(each: FoundAccount) -> str:
        return done if each.account else f"left out: {each.problem}"

    table = Table(
        key="accounts",
        title="",
        rows=found,
        fields=(
            ("name", lambda each: each.name),
            ("kind", lambda each: each.account.kind.value if each.account else None),
            ("priority", lambda each: each.account.priority if each.account else None),
            ("paused", lambda each: each.account.paused if each.account else None),
            ("result", lambda each: done.replace(" ", "_") if each.account else "left_out"),
            ("reason", lambda each: each.problem or None),
        ),
        columns=(
            Column("Name", lambda each: each.name, way=shortened(14)),
            Column("Kind", lambda each: described(each.account, now) if each.account else DASH, way=wrapped(14)),
            Column("Priority", lambda each: str(each.account.priority) if each.account else DASH, right=True, rank=2),
            Column("Paused", lambda each: "paused" if each.account and each.account.paused else DASH, rank=1),
            Column("Result", what, way=wrapped(20)),
        ),
        empty="There are no accounts in it.",
    )
    console.show(arguments, table)
