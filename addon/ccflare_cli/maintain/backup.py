"""`scripts/maintain.py backup` and `restore`."""

import argparse
import time
from functools import partial
from pathlib import Path

from ccflare_cli.console import OK, Console, Parser, Refused, add_command, open_store, operator, read_settings
from ccflare_cli.output import local, size
from ccflare_cli.progress import progress
from ccflare_core.config.location import Server
from ccflare_core.config.settings import Settings
from ccflare_core.errors import StoreError
from ccflare_core.secrets.key_sources import KeySource, choose
from ccflare_core.store import backup
from ccflare_core.store.store import Store

_SAMPLE = 100


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Both commands."""
    make = add_command(commands, "backup", _backup, "write the whole database into one sealed file, while all goes on")
    make.add_argument("file", metavar="FILE", type=Path, help="the new file; the key is not in it")
    restore = add_command(
        commands, "restore", _restore, "put a backup in the place of the database; the old one stays under another name"
    )
    restore.add_argument("file", metavar="FILE", type=Path, help="a file that `backup` has made")


def _backup(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    database = _file_of(settings)
    if not database.exists():
        raise Refused(f"There is nothing to back up: {database} does not exist yet.")
    began = time.monotonic()
    with open_store(console, settings, choose(settings, console.environ)) as store, progress(console) as show:
        if store.keys is None:
            raise Refused("The database has no keys.")
        target = arguments.file.absolute()
        store.note("backup.make", str(target))  # or there is no backup
        head = backup.make(database, store.keys, target, console.now(), show)
    seconds = time.monotonic() - began
    console.say(f"{arguments.file}: {size(head.size)} in {seconds:.1f} s. Keep the key ({head.key.source}) elsewhere.")
    return OK


def _restore(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    database, source = _file_of(settings), choose(settings, console.environ)
    word = f"before-restore-{local(console.now()):%Y%m%dT%H%M%S}"
    check = partial(_check, console, settings, source, arguments.file.absolute())
    with progress(console) as show:
        head, aside = backup.put_in_place(arguments.file, source, database, word, check, show)
    console.say(f"{database} is as it was at {head.made_at}.")
    if aside is not None:
        console.say(f"What was there before lies in {aside}.")
        console.complain("`scripts/audit.py verify` will say that rows are missing: those that came after the backup.")
    return OK


def _check(console: Console, settings: Settings, source: KeySource, backup: Path, new: Path) -> None:
    """Whether what came out of the backup is a sound database whose secrets open; the entry about it goes in there."""
    store = Store.open(new, source, by=operator(), audit_file=settings.audit_path, wall=console.now)
    try:
        if problems := store.problems():
            raise StoreError(f"what is in the backup is damaged ({problems[0]}): use another backup")
        store.accounts.all()
        for request_id, part in store.history.bodies(_SAMPLE):
            store.body(request_id, part)
        store.note("backup.restore", str(backup))
    finally:
        store.close()


def _file_of(settings: Settings) -> Path:
    if isinstance(settings.database, Server):
        raise Refused("The database is on a server: make its backups with pg_dump and keep the key apart from them.")
    return settings.database
