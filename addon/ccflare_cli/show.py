"""`scripts/show.py`: one recorded request as a conversation, as the exact bytes, or as a command that repeats it."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ccflare_cli.console import OK, Console, Refused, note_reading, open_sealed, read_settings
from ccflare_cli.ids import find_request, find_session
from ccflare_cli.output import Table
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_cli.recorded import FACTS, Recorded, attempt_table, conversation_lines, head_table, json_table
from ccflare_cli.stats.within_tables import part_table, subagent_table
from ccflare_core.anthropic.conversation import Request, decoded, read_answer, read_request
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.program import typed
from ccflare_core.reports.threads import earlier_parts
from ccflare_core.reports.within import counts_of, parts_of, subagents_of
from ccflare_core.store.store import Store

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
    if not is_made(settings.database):
        raise Refused("There is no database yet: start the proxy and send a request first.")
    with open_sealed(console, settings) as store:
        row = _find(store, arguments.request, arguments.session)
        if arguments.curl:
            console.write(curl(row, settings, _content_coding(store, row["id"])))
            return OK
        note_reading(console, store, row["id"], arguments.raw or "conversation")
        if arguments.raw:
            _write_raw(console, store, row["id"], arguments.raw, undo=arguments.decoded)
        else:
            _show(console, _read(store, row), arguments)
    return OK


def _find(store: Store, name: str, session: str | None) -> dict[str, Any]:
    """The row of the request that is meant. Raises Refused if there is none, or more than one."""
    if name == "last":
        id_ = _last(store, find_session(store, session) if session else None)
    else:
        id_ = find_request(store, name)
    (found,) = store.query(f"SELECT {', '.join(FACTS)} FROM requests WHERE id = ?", (id_,))  # noqa: S608
    return dict(zip(FACTS, found, strict=True))


def _last(store: Store, session: str | None) -> str:
    """The id of the newest request that somebody asked a model, and that no client made for itself."""
    marks = ", ".join("?" for _ in _CHORES)
    condition = f"path = ? AND (request_class IS NULL OR request_class NOT IN ({marks}))"
    values: list[object] = [MESSAGES, *_CHORES]
    if session:
        condition += " AND session_id = ?"
        values.append(session)
    sql = f"SELECT id FROM requests WHERE {condition} ORDER BY timestamp DESC, id DESC LIMIT 1"  # noqa: S608
    if not (found := store.query(sql, values)):
        raise Refused(f"There is no conversation yet: `{typed('stats requests')}` shows what there is.")
    return str(found[0][0])


def _read(store: Store, row: dict[str, Any]) -> Recorded:
    names = ("number", "account_name", "status_code", "verdict", "reason", "started_at", "duration_ms")
    sql = f"SELECT {', '.join(names)} FROM attempts WHERE request_id = ? ORDER BY number"  # noqa: S608
    attempts = [dict(zip(names, each, strict=True)) for each in store.query(sql, (row["id"],))]
    asked, answered = (store.body(row["id"], part) for part in _PARTS)
    earlier = earlier_parts(store.query, row["previous_message_id"])
    missing = "" if asked or answered else "No body is kept of it: its recording was off, or they were deleted by now."
    if any(body and body.truncated for body in (asked, answered)):
        missing = "Only the beginning is kept of what is longer than ccflare_capture_limit_bytes."
    request = read_request(asked.content, asked.content_encoding) if asked else Request(None, (), ())
    answer = read_answer(answered.content, answered.content_type, answered.content_encoding) if answered else ()
    agents = subagents_of(store.query, row["session_id"]) if row["session_id"] else []
    request = _joined([_part_of_thread(store, link.request_id) for link in earlier], request)
    parts, counts = parts_of(store.query, row["id"]), counts_of(store.query, row["id"])
    return Recorded(
        row, attempts, request, answer, missing, agents, parts, counts, tuple(link.request_id for link in earlier)
    )


def _part_of_thread(store: Store, request_id: str) -> Request:
    """What was sent in an earlier part of the thread, and what came back."""
    asked, answered = (store.body(request_id, part) for part in _PARTS)
    request = read_request(asked.content, asked.content_encoding) if asked else Request(None, (), ())
    answer = read_answer(answered.content, answered.content_type, answered.content_encoding) if answered else ()
    return replace(request, turns=(*request.turns, *answer))


def _joined(earlier: Sequence[Request], last: Request) -> Request:
    """The whole conversation. What later parts leave out is as in the first one that has it."""
    tools = last.tools or next((request.tools for request in earlier if request.tools), ())
    return replace(last, turns=tuple(turn for request in (*earlier, last) for turn in request.turns), tools=tools)


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
    out.write(content)
    out.flush()
    if body.truncated:
        console.complain("Only the beginning of this body is kept.")


def _show(console: Console, exchange: Recorded, arguments: argparse.Namespace) -> None:
    if arguments.format == "json":
        console.show(arguments, json_table(exchange))
        return
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
