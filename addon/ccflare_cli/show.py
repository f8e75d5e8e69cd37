"""`scripts/show.py`: one recorded request as a conversation, as the exact bytes, or as a command that repeats it."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

from ccflare_cli.console import OK, Console, Refused, open_store, read_settings
from ccflare_cli.output import DASH, Column, Table, clip, count, duration, moment, money, printable, render
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_cli.stats.within_tables import part_table, subagent_table
from ccflare_core.anthropic.blocks import Part
from ccflare_core.anthropic.conversation import Request, Turn, decoded, read_answer, read_request
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.reports.threads import earlier_parts
from ccflare_core.reports.within import Counts, PartUse, Subagent, counts_of, parts_of, subagents_of
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.store import Store

_TURNS, _LINES, _WIDTH = 12, 30, 300
"""How many of the last turns are shown, and how many lines and characters of each part, without --full."""

_VERSION = "2023-06-01"
"""Of the API, for requests that were recorded without theirs."""

_ID = re.compile(r"[\w-]{4,100}", re.ASCII)
_PARTS = ("request", "response")
_FACTS = (
    *("id", "timestamp", "method", "path", "outcome", "status_code", "error_message", "account_name", "model"),
    *("session_id", "project", "agent", "request_class", "response_time_ms", "first_byte_ms", "input_tokens"),
    *("output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cost_usd", "choice_reason"),
    *("estimated", "thinking_tokens", "web_search_requests", "web_fetch_requests", "service_tier", "speed"),
    *(
        "inference_geo",
        "message_id",
        "previous_message_id",
        "stop_reason",
        "refusal",
        "input_transformations",
        "agent_id",
    ),
    *("parent_agent_id", "waited_ms", "query", "api_version", "betas"),
)
_SETTLED = {
    None: "estimated",
    "ended": "estimated, of what has succeeded",
    "results": "by the batch's results",
    "late": "estimated, the results came too late",
}
_EXAMPLES = """\
examples:
  scripts/show.py last
  scripts/show.py last --session 4f1c --full
  scripts/show.py req_0199c1 --raw request > body.json
  scripts/show.py req_0199c1 --curl
"""


class Recorded(NamedTuple):
    """A recorded request: its row, its attempts, and its bodies read as a conversation."""

    row: dict[str, Any]
    attempts: list[dict[str, Any]]
    request: Request
    answer: tuple[Turn, ...]
    missing: str
    """Why there is nothing to read, as a sentence; "" if there is."""
    agents: list[Subagent]
    """Of the session, as a tree; none if it had no subagents."""
    parts: list[PartUse]
    """What other models and compaction took for the answer."""
    counts: Counts | None
    """What it counts in its client's budget, if that is not what is shown as used."""
    thread: tuple[str, ...] = ()
    """The ids of the requests before it in its message thread; their turns stand in front of its own."""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Show it and give the exit code: 0 shown, 1 not there or not readable, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("show.py", "Show a recorded request and its answer.", _EXAMPLES)
    parser.add_argument("request", metavar="REQUEST_ID|last", help="the id of the request, or its beginning, or `last`")
    parser.add_argument(
        "--session", metavar="ID", help="with `last`: the last request of this session (its id, or the beginning)"
    )
    parser.add_argument("--full", action="store_true", help="show all turns, in full")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", choices=_PARTS, help="print the bytes of this body as they were sent")
    how.add_argument("--curl", action="store_true", help="print a curl command that sends the same request")
    parser.add_argument("--decoded", action="store_true", help="with --raw: decompressed")
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    if not is_made(settings.database):
        raise Refused("There is no database yet: start the proxy and send a request first.")
    with open_store(console, settings, choose(settings, console.environ)) as store:
        row = _find(store, arguments.request, arguments.session)
        if arguments.curl:
            console.say(curl(row, settings, _content_coding(store, row["id"])))
            return OK
        store.note("data.read", row["id"], part=arguments.raw or "conversation")  # or it is not shown
        if arguments.raw:
            _write_raw(console, store, row["id"], arguments.raw, undo=arguments.decoded)
        else:
            _show(console, _read(store, row), arguments)
    return OK


def _find(store: Store, name: str, session: str | None) -> dict[str, Any]:
    """The row of the request that is meant. Raises Refused if there is none, or more than one."""
    columns = ", ".join(_FACTS)
    if name == "last":
        condition, values = ("substr(session_id, 1, ?) = ?", (len(session), session)) if session else ("1 = 1", ())
        found = store.query(
            f"SELECT {columns} FROM requests WHERE {condition} ORDER BY timestamp DESC, id DESC LIMIT 1",  # noqa: S608
            values,
        )
    elif _ID.fullmatch(name):
        sql = f"SELECT {columns} FROM requests WHERE substr(id, 1, ?) = ? LIMIT 2"  # noqa: S608
        found = store.query(sql, (len(name), name))
    else:
        raise Refused("This is no request's id: `scripts/stats.py requests` shows some.")
    if not found:
        raise Refused("There is no such request: `scripts/stats.py requests` shows the last ones.")
    if len(found) > 1:
        raise Refused("More than one request's id begins like this: give more of it.")
    return dict(zip(_FACTS, found[0], strict=True))


def _read(store: Store, row: dict[str, Any]) -> Recorded:
    names = ("number", "account_name", "status_code", "verdict", "reason", "started_at", "duration_ms")
    sql = f"SELECT {', '.join(names)} FROM attempts WHERE request_id = ? ORDER BY number"  # noqa: S608
    attempts = [dict(zip(names, each, strict=True)) for each in store.query(sql, (row["id"],))]
    asked, answered = (store.body(row["id"], part) for part in _PARTS)
    earlier = earlier_parts(store.query, row["previous_message_id"])
    missing = "" if asked or answered else "No body is kept of it: its recording was off, or they were deleted by now."
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
    url = f"{str(settings.upstream).removesuffix(':443')}{row['path']}{query}"
    headers = ["content-type: application/json", f"anthropic-version: {row['api_version'] or _VERSION}"]
    if row["betas"]:
        headers.append(f"anthropic-beta: {row['betas']}")
    if content_encoding:
        headers.append(f"content-encoding: {content_encoding}")
    words = ["curl", "--silent", "--show-error", "--request", row["method"], url]
    for header in headers:
        words += ["--header", header]
    send = f'{shlex.join(words)} --header "x-api-key: $ANTHROPIC_API_KEY" --data-binary @-'
    return f"scripts/show.py {shlex.quote(row['id'])} --raw request |\n  {send}"


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
        console.say(render([_json_table(exchange)], "json"))
        return
    now = console.now()
    console.say(render([_head_table(exchange, now)], arguments.format))
    if exchange.parts:
        console.say("\n" + render([part_table(exchange.parts, "Within this answer")], arguments.format))
    if len(exchange.attempts) > 1:
        console.say("\n" + render([_attempt_table(exchange.attempts, now)], arguments.format))
    if exchange.agents:
        title = "Agents of the session"
        console.say("\n" + render([subagent_table(exchange.agents, title, now)], arguments.format))
    for line in _conversation(exchange, full=arguments.full):
        console.say(line)
    if exchange.missing:
        console.complain(exchange.missing)


def _json_table(exchange: Recorded) -> Table[Recorded]:
    return Table(
        key="request",
        title="",
        rows=[exchange],
        fields=(
            *((name, _getter(name)) for name in _FACTS),
            ("attempts_made", lambda each: each.attempts),
            ("within_request", lambda each: [part._asdict() for part in each.parts]),
            ("counts_in_budget", lambda each: each.counts and each.counts._asdict()),
            ("thread", lambda each: list(each.thread)),
            ("tools", lambda each: each.request.tools),
            ("turns", lambda each: [_told(turn) for turn in each.request.turns]),
            ("answer", lambda each: [_told(turn) for turn in each.answer]),
        ),
        columns=(),
        upright=True,
    )


def _told(turn: Turn) -> dict[str, object]:
    return {"role": turn.role, "parts": [part._asdict() for part in turn.parts]}


def _getter(name: str) -> Callable[[Recorded], object]:
    return lambda exchange: exchange.row[name]


def _head_table(exchange: Recorded, now: float) -> Table[dict[str, Any]]:
    row, counts = exchange.row, exchange.counts
    return Table(
        key="request",
        title="",
        rows=[row],
        fields=tuple((name, itemgetter(name)) for name in _FACTS),
        columns=(
            Column("Request", lambda each: f"{each['id']}, {moment(each['timestamp'] / 1000, now, seconds=True)}"),
            Column("Outcome", _outcome),
            Column("Account", lambda each: _with(each["account_name"], each["choice_reason"])),
            Column("Model", lambda each: each["model"] or DASH),
            Column("Session", lambda each: each["session_id"] or DASH),
            Column("Project", lambda each: _with(each["project"], each["agent"])),
            *_shown(row, "Class", lambda each: each["request_class"]),
            *_shown(row, "Agent", lambda each: _with(each["agent_id"], _started_by(each["parent_agent_id"]))),
            Column("Took", _time),
            Column("Tokens", _tokens),
            Column("Cost", _cost),
            *_shown(row, "Budget", lambda each: counts and _counted(counts)),
            *_shown(row, "Stopped", lambda each: _with(each["stop_reason"], each["refusal"])),
            *_shown(row, "Served", _how),
            *_shown(row, "Message", _message),
            *_shown(row, "Input", lambda each: each["input_transformations"]),
        ),
        upright=True,
    )


def _shown(
    row: dict[str, Any], name: str, get: Callable[[dict[str, Any]], str | None]
) -> tuple[Column[dict[str, Any]], ...]:
    """A line, if there is something to tell in it."""
    told = get(row)
    return (Column(name, lambda _: told or DASH),) if told and told != DASH else ()


def _message(row: dict[str, Any]) -> str:
    previous = row["previous_message_id"]
    return _with(row["message_id"], f"goes on from {previous}" if previous else None)


def _started_by(parent: str | None) -> str | None:
    return f"started by {parent}" if parent else None


def _cost(row: dict[str, Any]) -> str:
    if row["cost_usd"] is None and row["output_tokens"] is None:
        return DASH
    return "~" * bool(row["estimated"]) + money(row["cost_usd"])


def _counted(counts: Counts) -> str:
    """What the client's budget takes in place of what is shown as used."""
    about = "" if counts.settled == "results" else "~"
    return f"{about}{count(counts.tokens)} tokens, {about}{money(counts.usd)} ({_SETTLED[counts.settled]})"


def _how(row: dict[str, Any]) -> str:
    names = ("service_tier", "speed", "inference_geo")
    told = [row[name] for name in names]
    for what, number in (("search", row["web_search_requests"]), ("fetch", row["web_fetch_requests"])):
        told += [f"{number} web {what}{'es' * (number != 1)}"] * bool(number)
    return ", ".join(filter(None, told))


def _with(one: str | None, other: str | None) -> str:
    return f"{one} ({other})" if one and other else one or other or DASH


def _outcome(row: dict[str, Any]) -> str:
    status = "" if row["status_code"] is None else f" ({row['status_code']})"
    error = f": {row['error_message']}" if row["error_message"] else ""
    return f"{row['outcome'] or 'open'}{status}{error}"


def _time(row: dict[str, Any]) -> str:
    took, first = row["response_time_ms"], row["first_byte_ms"]
    text = duration(None if took is None else took / 1000)
    text = text if first is None else f"{text}, the first byte after {duration(first / 1000)}"
    waited = row["waited_ms"]
    return f"{text}; {duration(waited / 1000)} of it a wait for an account" if waited else text


def _tokens(row: dict[str, Any]) -> str:
    names = {
        "input_tokens": "in",
        "cache_read_input_tokens": "cache read",
        "cache_creation_input_tokens": "cache write",
        "output_tokens": "out",
    }
    about = "~" if row["estimated"] else ""
    told = [
        f"{about if word == 'out' else ''}{count(row[name])} {word}"
        for name, word in names.items()
        if row[name] is not None
    ]
    return ", ".join(told) or DASH


def _attempt_table(attempts: Sequence[dict[str, Any]], now: float) -> Table[dict[str, Any]]:
    return Table(
        key="attempts",
        title="Attempts",
        rows=attempts,
        fields=tuple((name, itemgetter(name)) for name in attempts[0]),
        columns=(
            Column("No.", lambda each: str(each["number"]), right=True),
            Column("At", lambda each: moment(each["started_at"] / 1000, now, seconds=True)),
            Column("Account", lambda each: each["account_name"]),
            Column("Status", lambda each: str(each["status_code"] or DASH), right=True),
            Column("Meaning", lambda each: f"{each['verdict']}: {each['reason']}"),
            Column("Took", lambda each: duration(each["duration_ms"] / 1000), right=True),
        ),
    )


def _conversation(exchange: Recorded, *, full: bool) -> Iterator[str]:
    turns = [*exchange.request.turns, *exchange.answer]
    if exchange.request.tools:
        yield f"\nTools: {printable(', '.join(exchange.request.tools))}"
    first = 0 if full else max(0, len(turns) - _TURNS)
    if first:
        yield f"\n… {first} earlier turns; --full shows all."
    for number, turn in enumerate(turns[first:], first + 1):
        is_answer = number > len(exchange.request.turns)
        yield f"\n── {printable(turn.role)}{' (the answer)' if is_answer else ''}"
        for part in turn.parts:
            yield from _part(part, full=full)


def _part(part: Part, *, full: bool) -> Iterator[str]:
    """The part's lines, with nothing in them that steers a terminal."""
    if part.kind != "text":
        name = " ".join(filter(None, (part.name, part.id)))
        yield f"[{printable(part.kind)}{f' {printable(name)}' if name else ''}{', an error' if part.is_error else ''}]"
    lines = part.text.splitlines()
    shown = lines if full else [clip(line, _WIDTH) if line else "" for line in lines[:_LINES]]
    yield from (printable(line.replace("\t", "    ")) for line in shown)
    if len(shown) < len(lines):
        yield f"… {len(lines) - len(shown)} more lines; --full shows all."
