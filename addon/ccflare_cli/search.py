"""`scripts/search.py`: searches recorded conversations for a text."""

import argparse
from collections.abc import Mapping, Sequence

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, Console, Refused, check_made, note_reading, open_sealed, read_settings
from ccflare_cli.ids import find_session
from ccflare_cli.output import DASH, Column, Table, iso, moment, named, short_id
from ccflare_cli.parsing import Parser, dispatch, script_parser, tag, whole_number
from ccflare_cli.progress import progress
from ccflare_core.reports.tags import ids_of
from ccflare_core.store.searching import search, threads_of
from ccflare_core.transcripts.search import ROLES, Hit, Query

_LIMIT = 20
_EXAMPLES = """\
examples:
  scripts/search.py "connection pool"
  scripts/search.py "TODO" --role tool --limit 5
  scripts/search.py --regex "E[0-9]{4}" --session 4f1c0a3e
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Search and give the exit code: 0 found, 1 nothing found or nothing to search, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser(
        "search.py",
        "Search recorded conversations for a text, whatever its case. The newest hits come first.",
        _EXAMPLES,
    )
    parser.add_argument("text", metavar="TEXT", help="the text to search for")
    parser.add_argument("--session", metavar="ID", help="only in this session: its id, or the beginning")
    parser.add_argument("--tag", type=tag, metavar="NAME=VALUE", help="only in requests with this tag")
    parser.add_argument(
        "--role", choices=ROLES, help="only what this role said; calls and results of tools belong to `tool`"
    )
    parser.add_argument("--regex", action="store_true", help="TEXT is a regular expression as in Python")
    parser.add_argument(
        "--limit", type=whole_number(1, 10_000), default=_LIMIT, metavar="N", help=f"at most N hits (default: {_LIMIT})"
    )
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    try:
        query = Query(arguments.text, is_pattern=arguments.regex)
    except ValueError as error:
        raise Refused(
            f"This is no regular expression ({error}); leave out --regex to look for it as it stands."
        ) from None
    settings = read_settings(console, arguments.database)
    check_made(settings)
    with open_sealed(console, settings) as store:
        session = find_session(store, arguments.session) if arguments.session else None
        note_reading(console, store, session or "", "search")
        with progress(console) as show:
            ids = ids_of(store.query, arguments.tag) if arguments.tag else None
            hits = search(store, query, show, limit=arguments.limit, session=session, role=arguments.role, ids=ids)
            threads = threads_of(store, hits)
    console.show(arguments, _table(hits, threads, arguments.limit, console.now()))
    return OK if hits else 1


def _table(hits: Sequence[Hit], threads: Mapping[str, str], limit: int, now: float) -> Table[Hit]:
    return Table(
        key="hits",
        title="",
        rows=hits,
        fields=(
            ("at", lambda hit: iso(hit.at)),
            ("id", lambda hit: hit.request_id),
            ("session", lambda hit: hit.session),
            ("request_id", lambda hit: hit.request_id),
            ("thread", lambda hit: threads.get(hit.request_id)),
            ("session_id", lambda hit: hit.session),
            *named("role", "kind", "start", "end", "text"),
        ),
        columns=(
            Column("At", lambda hit: moment(hit.at, now), way=wrapped(10)),
            Column(
                "Session", lambda hit: hit.session or DASH, under="Request", brief=lambda hit: short_id(hit.session)
            ),
            Column("Role", lambda hit: hit.role),
            Column("Request", lambda hit: hit.request_id, brief=lambda hit: short_id(hit.request_id)),
            *_thread_column(threads),
            Column("Text", _snippet, way=wrapped(24)),
        ),
        empty="Nothing was found.",
        note=f"The latest {limit}; --limit N shows more." if len(hits) == limit else "",
    )


def _thread_column(threads: Mapping[str, str]) -> tuple[Column[Hit], ...]:
    """The beginning of the conversation, if a hit is in a later part of one."""
    return (Column("Thread", lambda hit: short_id(threads.get(hit.request_id)), rank=1),) if threads else ()


def _snippet(hit: Hit) -> str:
    """The match between »…«, on one line."""
    before, match, after = (" ".join(part.split()) for part in hit.snippet)
    return f"{before} »{match}« {after}".strip()
