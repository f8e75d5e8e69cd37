"""`scripts/maintain.py`: retention, checks, backups and exports. All but `restore` works while the proxy runs."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, REFUSED, Console, Refused, open_made_store, read_settings
from ccflare_cli.ids import find_session
from ccflare_cli.maintain import backup, export
from ccflare_cli.output import DASH, Column, Table, count, iso, moment
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_cli.periods import Since, span
from ccflare_cli.progress import progress
from ccflare_core.audit.entries import stamp
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_frozen
from ccflare_core.errors import VaultError
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.history import Extent, Selection
from ccflare_core.store.store import Store
from ccflare_core.text import size, to_ms
from ccflare_core.writer.retention import DAY

_PAUSE_SECONDS = 0.02
"""Between two batches, so that the proxy's writer gets its turn."""

_KINDS = ("requests", "payloads", "windows", "audit")
_SHRUNK_PAGES = 1000
_SAMPLE = 200
_EXAMPLES = """\
examples:
  scripts/maintain.py cleanup --older-than 30d
  scripts/maintain.py cleanup --type payloads --force
  scripts/maintain.py purge --client 192.0.2.7 --force
  scripts/maintain.py backup ccflare-2026-11-01.backup
  scripts/maintain.py export --format har --since 24h --output today.har
"""


class Doomed(NamedTuple):
    """What a clean-up deletes of one kind: how many rows from before when; of requests, how much that is."""

    kind: str
    before: float
    rows: int
    extent: Extent | None = None


class CheckResult(NamedTuple):
    """What was looked at, and what is wrong with it."""

    what: str
    looked: str
    problems: list[str]


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused or something is wrong, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser(
        "maintain.py", "Delete old records, check the database, and make backups and exports.", _EXAMPLES
    )
    commands = add_group(parser)
    cleanup = add_command(
        commands, "cleanup", _cleanup, "delete old records; without --force only show what would be deleted"
    )
    cleanup.add_argument("--type", choices=_KINDS, help="only this kind (default: all but audit)")
    cleanup.add_argument(
        "--older-than",
        type=_age,
        metavar="WHEN",
        help="30d, or a date such as 2026-11-01 (default: as the options say)",
    )
    purge = add_command(
        commands, "purge", _purge, "delete all records of a session or a client; without --force only count them"
    )
    whose = purge.add_mutually_exclusive_group(required=True)
    whose.add_argument("--session", metavar="ID", help="everything of this session: its id, or the beginning")
    whose.add_argument("--client", metavar="CLIENT", help="everything of this client")
    for command in (cleanup, purge):
        command.add_argument("--force", action="store_true", help="delete, and do not only show what would be deleted")
    add_command(
        commands, "compact", _compact, "rewrite the database: gives free space back, and wipes what was deleted"
    )
    add_command(commands, "check", _check, "look for damage in the database, in recorded bodies and in sealed values")
    backup.add_commands(commands)
    export.add_commands(commands)
    return parser


def _age(text: str) -> Since:
    if text == "all":
        raise argparse.ArgumentTypeError("give a span such as 30d, or a date such as 2026-11-01")
    return span(text)


# Deleting


def _cleanup(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    with _opened(console, settings) as store:
        plan = [_doomed(store, kind, before) for kind, before in _cutoffs(console, arguments, settings)]
        console.show(arguments, _plan_table(plan, console.now(), done=arguments.force))
        if not arguments.force:
            console.complain("Nothing was deleted; --force does it.")
            return OK
        for each in plan:
            entries = store.stages("data.cleanup", each.kind, before=iso(each.before), rows=each.rows)
            with entries as results, progress(console) as show:
                results["rows"] = _drain(_delete_old(store, each), each.rows, show)
        _wipe(console, store)
    console.complain("It was deleted.")
    return OK


def _cutoffs(console: Console, arguments: argparse.Namespace, settings: Settings) -> list[tuple[str, float]]:
    """The kinds that are meant, and from before when."""
    given: Since | None = arguments.older_than
    kinds = [arguments.type] if arguments.type else ["payloads", "requests", "windows"]
    if given is not None:
        return [(kind, given.period(console.now()).since) for kind in kinds]
    if arguments.type == "audit":
        raise Refused("How old is too old for the audit log? Say so with --older-than 365d.")
    days = {"payloads": settings.payload_days}
    ages = {kind: days.get(kind, settings.request_days) for kind in kinds}
    return [(kind, console.now() - age * DAY) for kind, age in ages.items() if age]


def _doomed(store: Store, kind: str, before: float) -> Doomed:
    if kind in ("requests", "payloads"):
        extent = store.history.extent(Selection(until=before))
        return Doomed(kind, before, extent.requests if kind == "requests" else extent.bodies, extent)
    sql, value = {
        "windows": ("SELECT COUNT(*) FROM windows WHERE at < ?", to_ms(before)),
        "audit": ("SELECT COUNT(*) FROM audit_log WHERE ts_utc < ?", stamp(before)),
    }[kind]
    return Doomed(kind, before, int(store.query(sql, (value,))[0][0]))


def _delete_old(store: Store, what: Doomed) -> Iterator[int]:
    if what.kind == "audit":
        yield from store.audit.prune(what.before, store.by)
    elif what.kind == "windows":
        yield from store.history.thin_windows(what.before, what.before)
    else:
        yield from _delete(store, Selection(until=what.before), bodies_only=what.kind == "payloads")


def _purge(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    with _opened(console, settings) as store:
        session = find_session(store, arguments.session) if arguments.session is not None else None
        selection = Selection(session=session, client=arguments.client)
        extent = store.history.extent(selection)
        if not extent.requests:
            raise Refused("Nothing was deleted: no recorded request is of this client.")
        plan = [Doomed("requests", console.now(), extent.requests, extent)]
        console.show(arguments, _plan_table(plan, console.now(), done=arguments.force))
        if not arguments.force:
            console.complain("Nothing was deleted; --force does it.")
            return OK
        whose = "session" if session is not None else "client"
        detail = {"by": whose, "requests": extent.requests, "bodies": extent.bodies}
        with store.stages("data.purge", session or arguments.client, **detail), progress(console) as show:
            _drain(_delete(store, selection), extent.requests, show)
        _wipe(console, store)
    console.complain("It was deleted.")
    return OK


def _delete(store: Store, selection: Selection, *, bodies_only: bool = False) -> Iterator[int]:
    for ids in store.history.ids(selection):
        yield from store.history.delete(ids, bodies_only=bodies_only)


def _drain(work: Iterable[int], total: int, show: Callable[[int, int], None]) -> int:
    done = 0
    for number in work:
        done += number
        show(done, total)
        time.sleep(_PAUSE_SECONDS)
    return done


def _wipe(console: Console, store: Store) -> None:
    """Free what the deleted bodies alone needed, give the room back, and leave no trace."""
    while store.transcripts.collect_garbage():
        time.sleep(_PAUSE_SECONDS)
    while (space := store.space()) and space.spare:
        store.shrink(_SHRUNK_PAGES)
        time.sleep(_PAUSE_SECONDS)
    if not store.scrub():
        console.complain("A program is reading the database, so traces of deleted rows stay on the disk until it ends.")


def _compact(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    with _opened(console, settings) as store:
        before = store.space()
        with store.stages("data.compact"):
            if not store.scrub(whole=True):
                raise Refused("A program is reading the database: try again when it has ended.")
        after = store.space()
    if before is None or after is None:
        console.say("The tables are written anew.")
    else:
        console.say(f"{size(before.used + before.spare)} before, {size(after.used + after.spare)} now.")
    return OK


def _plan_table(plan: Sequence[Doomed], now: float, *, done: bool) -> Table[Doomed]:
    return Table(
        key="deleted" if done else "to_delete",
        title="",
        rows=plan,
        fields=(
            ("type", lambda each: each.kind),
            ("before", lambda each: iso(each.before)),
            ("rows", lambda each: each.rows),
            ("bodies", lambda each: each.extent.bodies if each.extent else None),
            ("body_bytes", lambda each: each.extent.bytes if each.extent else None),
        ),
        columns=(
            Column("Type", lambda each: each.kind),
            Column("From before", lambda each: moment(each.before, now)),
            Column("Rows", lambda each: count(each.rows), right=True),
            Column("Bodies", lambda each: count(each.extent.bodies) if each.extent else DASH, right=True),
            Column("Their bytes", lambda each: size(each.extent.bytes) if each.extent else DASH, right=True),
        ),
        empty="The options keep everything for ever; say what is too old with --older-than.",
    )


# Looking


def _check(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    with _opened(console, settings, read_only=is_frozen(settings.database)) as store:
        findings = list(_findings(store))
    table = Table(
        key="checks",
        title="",
        rows=findings,
        fields=(
            ("check", lambda each: each.what),
            ("looked_at", lambda each: each.looked),
            ("problems", lambda each: each.problems),
        ),
        columns=(
            Column("Check", lambda each: each.what),
            Column("Looked at", lambda each: each.looked, way=wrapped(14)),
            Column("Result", lambda each: "; ".join(each.problems[:3]) or "fine", way=wrapped(20)),
        ),
    )
    console.show(arguments, table)
    return REFUSED if any(each.problems for each in findings) else OK


def _findings(store: Store) -> Iterator[CheckResult]:
    yield CheckResult("file", "pages, indexes, references", store.problems())
    orphans = store.transcripts.orphans()
    yield CheckResult("blocks", "blocks that no body needs", [f"{count(orphans)} of them"] if orphans else [])
    lost = store.transcripts.dangling()
    yield CheckResult(
        "bodies", "all manifests and their blocks", [f"the {part} of {id_} is not whole" for id_, part in lost]
    )
    yield CheckResult("accounts", "all secrets", _trouble(store.accounts.all))
    sample = list(store.history.bodies(_SAMPLE))
    bad = [trouble for id_, part in sample for trouble in _trouble(partial(store.body, id_, part))]
    yield CheckResult("sealed bodies", f"{count(len(sample))} of them", bad)


def _trouble(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except VaultError as error:
        return [str(error)]
    return []


def _opened(console: Console, settings: Settings, *, read_only: bool = False) -> AbstractContextManager[Store]:
    source = choose(settings, console.environ)
    return open_made_store(console, settings, source, "There is nothing to maintain", read_only=read_only)
