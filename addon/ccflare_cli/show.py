"""`scripts/show.py`: one recorded request as a conversation, as the exact bytes, or as a command that repeats it."""

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from ccflare_cli.console import OK, Console, Refused, check_made, note_reading, open_sealed, read_settings
from ccflare_cli.ids import find_request, find_session
from ccflare_cli.output import Table
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_cli.recorded import attempt_table, conversation_lines, head_table, json_table
from ccflare_cli.stats.within_tables import part_table, subagent_table
from ccflare_cli.streams import writing
from ccflare_core.anthropic.conversation import decoded
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.config.settings import Settings
from ccflare_core.program import typed
from ccflare_core.reports.tally import marks
from ccflare_core.store.store import Store
from ccflare_core.transcripts.fields import Whole, read_whole
from ccflare_core.transcripts.recorded import facts_of

_VERSION = "2023-06-01"
"""Of the API, for requests that were recorded without theirs."""

_CHORES = ("quota", "title", "classifier", "auxiliary", "compaction")
"""What Claude Code asks a model for itself: whether there is room, what to call a session, whether a tool may run."""

_PARTS = ("request", "response")
_EXAMPLES = """\
examples:
  scripts/show.py last
  scripts/show.py last --session 4f1c --full
  scripts/show.py last --all
  scripts/show.py req_0199c1 --raw request > body.json
  scripts/show.py req_0199c1 --curl
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Show it and give the exit code: 0 shown, 1 not there or not readable, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("show.py", "Show a recorded request and its answer.", _EXAMPLES)
    parser.add_argument(
        "request",
        metavar="REQUEST_ID|last",
        help="the id of the request or the upstream's, or its beginning; `last`: that of the last conversation",
    )
    parser.add_argument(
        "--session", metavar="ID", help="with `last`: the last conversation of this session (its id, or the beginning)"
    )
    parser.add_argument("--full", action="store_true", help="show all turns in their order, and nothing cut")
    parser.add_argument(
        "--all", action="store_true", help="the same, and show what is a line else: system text, reminders, results"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", choices=_PARTS, help="print the bytes of this body as they were sent")
    how.add_argument("--curl", action="store_true", help="print a curl command that sends the same request")
    parser.add_argument("--decoded", action="store_true", help="with --raw: decompressed")
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    check_made(settings)
    with open_sealed(console, settings) as store:
        row = _find(store, arguments.request, arguments.session)
        if arguments.curl:
            console.write(curl(row, settings, _content_coding(store, row["id"])))
            return OK
        note_reading(console, store, row["id"], arguments.raw or "conversation")
        if arguments.raw:
            _write_raw(console, store, row["id"], arguments.raw, undo=arguments.decoded)
        else:
            _show(console, read_whole(store.query, store.body, row["id"]), arguments)
    return OK


def _find(store: Store, name: str, session: str | None) -> dict[str, Any]:
    """The row of the request that is meant. Raises Refused if there is none, or more than one."""
    if name == "last":
        id_ = _last(store, find_session(store, session) if session else None)
    else:
        id_ = find_request(store, name)
    return facts_of(store.query, id_)


def _last(store: Store, session: str | None) -> str:
    """The id of the newest request that somebody asked a model, and that no client made for itself."""
    condition = f"method = 'POST' AND path = ? AND (request_class IS NULL OR request_class NOT IN ({marks(_CHORES)}))"
    values: list[object] = [MESSAGES, *_CHORES]
    if session:
        condition += " AND session_id = ?"
        values.append(session)
    sql = f"SELECT id FROM requests WHERE {condition} ORDER BY timestamp DESC, id DESC LIMIT 1"  # noqa: S608
    if not (found := store.query(sql, values)):
        raise Refused(f"There is no conversation yet: `{typed('stats requests')}` shows what there is.")
    return str(found[0][0])


def _content_coding(store: Store, request_id: str) -> str:
    body = store.body(request_id, "request")
    if body is None:
        raise Refused("The request's body is not kept, so nothing can be sent again.")
    if body.truncated:
        raise Refused("Only the beginning of the request's body is kept, so it cannot be sent again.")
    return body.content_encoding


def curl(row: dict[str, Any], settings: Settings, content_encoding: str) -> str:
    """Shell commands that send the body again, with the credential in a variable that the shell fills in."""
    query = f"?{row['query']}" if row["query"] else ""
    url = f"{str(settings.upstream).removesuffix(':443')}{settings.upstream_path}{row['path']}{query}"
    headers = ["content-type: application/json", f"anthropic-version: {row['api_version'] or _VERSION}"]
    if row["betas"]:
        headers.append(f"anthropic-beta: {row['betas']}")
    if content_encoding:
        headers.append(f"content-encoding: {content_encoding}")
    words = ["curl", "--silent", "--show-error", "--request", row["method"], url]
    for header in headers:
        words += ["--header", header]
    send = f'{shlex.join(words)} --header "x-api-key: $ANTHROPIC_API_KEY" --data-binary @-'
    return f"{typed('show')} {shlex.quote(row['id'])} --raw request |\n  {send}"


def _write_raw(console: Console, store: Store, request_id: str, part: str, *, undo: bool) -> None:
    body = store.body(request_id, part)
    if body is None:
        raise Refused(f"The {part}'s body is not kept.")
    content = decoded(body.content, body.content_encoding) if undo else body.content
    out = getattr(console.stdout, "buffer", None)
    if out is None:
        raise Refused("Raw bytes cannot be written here.")
    console.stdout.flush()
    with writing():
        out.write(content)
        out.flush()
    if body.truncated:
        console.complain("Only the beginning of this body is kept.")


def _show(console: Console, whole: Whole, arguments: argparse.Namespace) -> None:
    if arguments.format == "json":
        console.show(arguments, json_table(whole))
        return
    exchange = whole.recorded
    now = console.now()
    tables: list[Table[Any]] = [head_table(exchange, now)]
    if exchange.parts:
        tables.append(part_table(exchange.parts, "Within this answer"))
    if exchange.attempts:
        tables.append(attempt_table(exchange.attempts, now))
    if exchange.agents:
        tables.append(subagent_table(exchange.agents, "Agents of the session", now))
    console.show(arguments, *tables)
    said = [*conversation_lines(exchange, full=arguments.full or arguments.all, unfolded=arguments.all)]
    for line in ["", *said] if said else ():
        console.write(line)
    if said and not arguments.all:
        turns = "" if arguments.full else "--full shows all turns, "
        console.say(f"\n… {turns}--all {'also' if turns else 'shows'} what is a line here.")
    if exchange.missing:
        console.complain(exchange.missing)
