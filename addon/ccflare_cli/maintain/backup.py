"""`scripts/maintain.py backup` and `restore`."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from ccflare_cli.console import OK, Console, Refused, open_store, operator, read_settings
from ccflare_cli.output import local
from ccflare_cli.parsing import Parser, add_command
from ccflare_cli.progress import progress
from ccflare_core.audit.file import AuditFile
from ccflare_core.config.location import Server
from ccflare_core.config.settings import Settings
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store import backup
from ccflare_core.store.carry_over import Carried
from ccflare_core.store.restore import Restore
from ccflare_core.text import sentence, size


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
        head, aside, carried = restore.run(arguments.file)
    console.say(f"{database} is as it was at {head.made_at}.")
    if aside is not None:
        console.say(
            f"The database from before is {aside}, with the rows of the audit log that the backup does not have."
        )
    for told in carried_over(carried):
        console.say(told)
    for told in not_carried_over(carried, head.made_at):
        console.complain(told)
    if file is not None and file.trouble:
        console.complain(sentence(file.trouble))
    return OK


def carried_over(carried: Carried) -> Iterator[str]:
    """What of the database from before still counts, a sentence each."""
    for names, what in (
        (carried.tokens, "Newer credentials were carried over from it for {}."),
        (carried.revoked, "Revoked since the backup, and still so: the client keys {}."),
        (carried.clients, "Made or changed since the backup, and as they were last: the client keys {}."),
        (carried.blocked, "Blocked since the backup, and still so: {}."),
        (["as it was last"] if carried.factor else [], "The second factor is {}."),
        (carried.paused, f"Paused: {{}}. `{typed('accounts resume')}` ends that."),
    ):
        if names:
            yield what.format(", ".join(sorted(names)))


def not_carried_over(carried: Carried, made_at: str) -> Iterator[str]:
    """What the backup has brought back, what is lost, and what nobody can know, a sentence each."""
    if carried.unknown:
        yield (
            f"The database from before cannot be read ({carried.unknown}), so nothing of it was carried over: what was "
            f"revoked, changed or blocked since {made_at} (client keys, addresses, the second factor) is as it was "
            f"then. Look at it with `{typed('keys client list')}`, `{typed('access list')}` and `{typed('keys mfa')} "
            "status`."
        )
    elif not carried.has_old:
        yield (
            f"There was no database to carry anything over from: what was revoked, changed or blocked after {made_at} "
            "is as it was then, and an account whose token was refreshed after that will need a login."
        )
    if carried.ended:
        ended = ", ".join(sorted(carried.ended))
        yield f"Changed outside of ccflare in the database from before, and revoked for it: the client keys {ended}."
    if carried.is_factor_lost:
        yield "The second factor was changed outside of ccflare in the database from before: it is as in the backup."
    for kind, names in carried.back.items():
        yield f"Gone since the backup, and back with it: {kind} ({', '.join(sorted(names))})."
    if carried.missing:
        yield f"Added since the backup, and not in it: the accounts {', '.join(sorted(carried.missing))}."
    if carried.logins:
        accounts = ", ".join(sorted(carried.logins))
        yield f"Need a login, for their tokens may be used up: {accounts}. `{typed('accounts login NAME')}` does it."


def _file_of(settings: Settings) -> Path:
    if isinstance(settings.database, Server):
        raise Refused("The database is on a server: make its backups with pg_dump and keep the key apart from them.")
    return settings.database
