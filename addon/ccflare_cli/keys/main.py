"""`scripts/keys.py`: data keys, client keys and the second factor; also while the proxy runs."""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from ccflare_cli.console import OK, REFUSED, Console, Refused, open_made_store, read_settings
from ccflare_cli.keys import mfa, rotate_all
from ccflare_cli.keys.clients import add_commands
from ccflare_cli.output import Column, Table, count, iso, moment, named, some
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_cli.pasting import unwrapped
from ccflare_core.config.settings import Settings
from ccflare_core.errors import VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import SOURCES, choose, make
from ccflare_core.store.data_keys import DataKey, DataKeys
from ccflare_core.store.resealing import CLEAR, drain
from ccflare_core.store.store import Store

_PAUSE_SECONDS = 0.02
"""Between two batches, so that the proxy's writer gets its turn."""

_GIVEN = {"environment": "ccflare_ENCRYPTION_KEY", "passphrase": "ccflare_PASSPHRASE"}
"""The sources whose new secret comes on stdin, and the variable that has to hold it afterwards."""

_NOTHING = "There are no keys"
_EXAMPLES = """\
examples:
  scripts/keys.py status
  scripts/keys.py rotate
  scripts/keys.py retire 3f9c2b7a10d4e586
  scripts/keys.py change-source passphrase
  scripts/keys.py client add laptop --expires 90d --dollars-per-day 5

A data key seals each secret and body. The data keys are in the database, each
wrapped (encrypted) by a key from the key source. rotate, rewrap and retire work
on data keys; change-source replaces the key that wraps them. Client keys are
what clients authenticate with. Keys and passphrases are never arguments.
"""


class KeyUse(NamedTuple):
    """A row of `status`: a key and what needs it."""

    id: str
    state: str
    source: str | None
    created_at: float | None
    values: int
    sealed: int | None


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused or not all done, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser(
        "keys.py",
        "Manage the data keys that seal (encrypt) what is stored, client keys, and the second factor.",
        _EXAMPLES,
    )
    commands = add_group(parser)
    command = partial(add_command, commands)
    command("status", _status, "list the data keys, and how many values each has sealed")
    rotate = command("rotate", _rotate, "make a new data key, and seal everything that is stored with it")
    rotate.add_argument("--later", action="store_true", help="only make the key; run `rewrap` later")
    everything = command(
        "rotate-all", _rotate_all, "after a theft: make a new data key, and new secrets for all client keys"
    )
    everything.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")
    command(
        "rewrap", _rewrap, "seal with the newest data key what older ones have sealed; can be stopped and run again"
    )
    retire = command("retire", _retire, "delete a data key that no value needs any more")
    retire.add_argument("key", metavar="KEY", help="its id, as `status` shows it")
    change = command(
        "change-source", _change_source, "wrap the data keys by another key source, or by a new key of the same source"
    )
    change.add_argument("source", choices=SOURCES, help="the key source to use from now on")
    add_commands(commands)
    command("migrate-plaintext", _migrate, "seal what an import has stored in clear, and wipe the clear copies")
    mfa.add_commands(commands)
    return parser


def _status(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    with open_made_store(console, settings, None, _NOTHING, read_only=True) as store:
        rows = _uses(store)
    table = Table(
        key="keys",
        title="",
        rows=rows,
        fields=(
            *named("id", "state", "source"),
            ("created_at", lambda use: iso(use.created_at)),
            ("values", lambda use: use.values),
            *named("sealed"),
        ),
        columns=(
            Column("Key", lambda use: use.id),
            Column("State", lambda use: use.state),
            Column("Wrapped by", lambda use: use.source or "–"),
            Column("Made", lambda use: moment(use.created_at, now)),
            Column("Values", lambda use: count(use.values), right=True),
            Column("Ever sealed", lambda use: "–" if use.sealed is None else count(use.sealed), right=True),
        ),
        empty="There is no key yet: the first start of the proxy makes one.",
    )
    console.show(arguments, table)
    with open_made_store(console, settings, choose(settings, console.environ), _NOTHING, read_only=True):
        return OK  # or the sentence that says why the keys cannot be used


def _uses(store: Store) -> list[KeyUse]:
    values = store.value_counts()
    rows = [
        KeyUse(key.id, "opens" if older else "seals", key.source, key.created_at, values.pop(key.id, 0), key.sealed)
        for older, key in enumerate(store.data_keys())
    ]
    strays = [
        KeyUse(id_, "clear" if id_ == CLEAR else "missing", None, None, number, None) for id_, number in values.items()
    ]
    return rows + strays


def _rotate(console: Console, arguments: argparse.Namespace) -> int:
    with _changing(console, arguments) as (store, keys):
        console.say(f"The key {keys.rotate()} seals from now on.")
        return OK if arguments.later else _rewrap_all(console, store, keys)


def _rotate_all(console: Console, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        raise Refused("This ends the secrets of all client keys at once; --yes does it and shows the new ones.")
    with _changing(console, arguments) as (store, keys):
        keys.rotate()
        renewed = rotate_all.renew_clients(store)
        console.show(arguments, rotate_all.secret_table(renewed))
        done = _drained(store.resealing().rewrap())
        old = rotate_all.retire_old(keys)
        store.note("key.rotate_all", "", clients=len(renewed), values=done, retired=old)
        _scrub(console, store)
        console.complain(f"Sealed {some(done, 'value')} with a new data key; the older ones ({len(old)}) are deleted.")
        rotate_all.say_what_is_left(console, store)
    return OK


def _rewrap(console: Console, arguments: argparse.Namespace) -> int:
    with _changing(console, arguments) as (store, keys):
        return _rewrap_all(console, store, keys)


def _rewrap_all(console: Console, store: Store, keys: DataKeys) -> int:
    work = store.resealing()
    store.note("key.rewrap", "", stage="begin")
    with store.failures("key.rewrap", "", stage="end"):
        done = _drained(work.rewrap())
    store.note("key.rewrap", "", "failed" if work.left else "ok", stage="end", values=done, left=len(work.left))
    console.say(f"Sealed {some(done, 'value')} with the newest key.")
    _scrub(console, store)
    if work.left:
        shown = "\n".join(work.left[:10])
        console.complain(f"{some(len(work.left), 'value')} cannot be opened and stayed as before:\n{shown}")
        return REFUSED
    if old := keys.all()[1:]:
        console.say(f"No value needs {_names(old)} any more: `{typed('keys retire KEY')}` deletes a key.")
    return OK


def _retire(console: Console, arguments: argparse.Namespace) -> int:
    with _changing(console, arguments) as (store, keys):
        keys.retire(arguments.key)
        console.say(f"Deleted the key {arguments.key}. Backups that need it have it in them.")
        _scrub(console, store)
    return OK


def _change_source(console: Console, arguments: argparse.Namespace) -> int:
    settings, name = read_settings(console, arguments.database), arguments.source
    with _changing(console, arguments) as (store, keys):
        is_same = keys.all()[0].source == name
        secret = None
        if name in _GIVEN and (is_same or not console.environ.get(_GIVEN[name])):
            secret = _ask_for(console, name)
            if not secret:
                raise Refused("Nothing was given; nothing was changed.")
        source = make(name, settings, console.environ, secret)
        if is_same and name not in _GIVEN:
            source.renew()
        keys.change_source(source, is_known=is_same and name not in _GIVEN)
        console.say(f"The data keys are wrapped by {'a new key of ' * is_same}the key source {name} now.")
        _scrub(console, store)
    _say_what_is_left(console, settings, name, is_given=secret is not None)
    return OK


def _ask_for(console: Console, name: str) -> str:
    """The new passphrase, or the new key, which has a form of its own and is pasted."""
    if name == "passphrase":
        return console.new_secret("New passphrase: ", "The same again: ")
    return unwrapped(console.secret("New key: "))


def _say_what_is_left(console: Console, settings: Settings, name: str, *, is_given: bool) -> None:
    if is_given:
        console.complain(f"Before the next start, put the new secret into {_GIVEN[name]}.")
    try:
        is_chosen = choose(settings, console.environ).name == name
    except VaultError:
        is_chosen = False
    if not is_chosen:
        console.complain(f"Before the next start, set ccflare_key_source to {name}.")
    console.complain("Backups from before need the old key: keep it for as long as you keep them.")


def _migrate(console: Console, arguments: argparse.Namespace) -> int:
    with _changing(console, arguments) as (store, _):
        with store.stages("key.migrate") as results:
            results["values"] = done = _drained(store.resealing().seal_clear())
        console.say(f"Sealed {some(done, 'value')} that were stored in clear.")
        _scrub(console, store, whole=True)
    return OK


def _drained(work: Iterable[int]) -> int:
    return drain(work, lambda: time.sleep(_PAUSE_SECONDS))


def _scrub(console: Console, store: Store, *, whole: bool = False) -> None:
    """Leave no trace of what was there before."""
    if not store.scrub(whole=whole):
        console.complain("A program is reading the database, so traces of deleted rows stay on the disk until it ends.")


def _names(keys: Sequence[DataKey]) -> str:
    return " and ".join(key.id for key in keys)


@contextmanager
def _changing(console: Console, arguments: argparse.Namespace) -> Iterator[tuple[Store, DataKeys]]:
    settings = read_settings(console, arguments.database)
    with open_made_store(console, settings, choose(settings, console.environ), _NOTHING) as store:
        if store.keys is None:
            raise Refused("The database has no keys.")
        yield store, store.keys
