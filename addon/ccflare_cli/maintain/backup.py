"""`scripts/maintain.py backup` and `restore`."""

import argparse
import time
from pathlib import Path

from ccflare_cli.console import OK, Console, Refused, open_store, operator, read_settings
from ccflare_cli.output import local, size
from ccflare_cli.parsing import Parser, add_command
from ccflare_cli.progress import progress
from ccflare_core.audit.file import AuditFile
from ccflare_core.config.location import Server
from ccflare_core.config.settings import Settings
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store import backup
from ccflare_core.store.restore import Restore


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Both commands."""
    make = add_command(
        commands, "backup", _backup, "write the whole database into one sealed file; the proxy may go on running"
    )
    make.add_argument("file", metavar="FILE", type=Path, help="the file to write; the key is not in it")
    restore = add_command(
        commands, "restore", _restore, "replace the database by a backup; the old one is kept under another name"
    )
    restore.add_argument("file", metavar="FILE", type=Path, help="a backup")


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
        action = ("backup.make", str(target))
        with store.failures(*action):
            head = backup.make(database, store.keys, target, console.now(), show, store.audited(*action))
    seconds = time.monotonic() - began
    console.say(f"{arguments.file}: {size(head.size)} in {seconds:.1f} s. Keep the key ({head.key.source}) elsewhere.")
    return OK


def _restore(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    database, source = _file_of(settings), choose(settings, console.environ)
    word = f"before-restore-{local(console.now()):%Y%m%dT%H%M%S}"
    file = AuditFile(settings.audit_path) if settings.audit_path else None
    with progress(console) as show:
        restore = Restore(database, source, word=word, by=operator(), file=file, wall=console.now, progress=show)
        head, aside = restore.run(arguments.file)
    console.say(f"{database} is as it was at {head.made_at}.")
    if aside is not None:
        console.say(
            f"The database from before is {aside}, with the rows of the audit log that the backup does not have."
        )
    if file is not None and file.trouble:
        console.complain(file.trouble)
    return OK


def _file_of(settings: Settings) -> Path:
    if isinstance(settings.database, Server):
        raise Refused("The database is on a server: make its backups with pg_dump and keep the key apart from them.")
    return settings.database
