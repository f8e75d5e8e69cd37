"""One recorded request as it is shown: its facts, its attempts, and what was said."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, count, duration, moment, money
from ccflare_core.exchange.summary import tokens_in_words
from ccflare_core.reports.within import Counts
from ccflare_core.text import some, worded
from ccflare_core.transcripts.fields import RECORDED, Whole
from ccflare_core.transcripts.passages import lines, sections_of, whole_of, within
from ccflare_core.transcripts.recorded import FACTS, Recorded

_ROOM = 40_000
"""Characters of a conversation that are shown without --full."""
_HEADING = "── "

_SETTLED = {
    None: "estimated",
    "ended": "estimated, of what has succeeded",
    "results": "by the batch's results",
    "late": "estimated, the results came too late",
}


def json_table(whole: Whole) -> Table[Whole]:
    return Table(key="request", title="", rows=[whole], fields=RECORDED, columns=(), upright=True)


def head_table(exchange: Recorded, now: float) -> Table[dict[str, Any]]:
    row, counts = exchange.row, exchange.counts
    return Table(
        key="request",
        title="",
        rows=[row],
        fields=tuple((name, itemgetter(name)) for name in FACTS),
        columns=(
            Column("Request", lambda each: f"{each['id']}, {moment(each['timestamp'] / 1000, now, seconds=True)}"),
            Column("Asked", _asked),
            Column("Outcome", _outcome),
            Column("Account", lambda each: _with(each["account_name"], each["choice_reason"])),
            Column("Model", lambda each: each["model"] or DASH),
            Column("Session", lambda each: each["session_id"] or DASH),
            Column("Project", lambda each: _with(each["project"], each["agent"])),
            *_shown(row, "Tags", lambda _: ", ".join(f"{name}={value}" for name, value in exchange.tags.items())),
            *_shown(row, "Class", lambda each: each["request_class"]),
            *_shown(row, "Agent", lambda each: _with(each["agent_id"], _started_by(each["parent_agent_id"]))),
            Column("Took", _time),
            Column("Tokens", _tokens),
            Column("Cost", _cost),
            *_shown(row, "Budget", lambda each: counts and _counted(counts)),
            *_shown(row, "Stopped", lambda each: _with(each["stop_reason"], each["refusal"])),
            *_shown(row, "Served", _how),
            *_shown(row, "Message", _message),
            *_shown(row, "Proxy", lambda each: each["proxy"]),
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
        told += [some(number, f"web {what}")] if number else []
    return ", ".join(filter(None, told))


def _with(one: str | None, other: str | None) -> str:
    return f"{one} ({other})" if one and other else one or other or DASH


def _asked(row: dict[str, Any]) -> str:
    """`POST /v1/messages by laptop (claude-cli/2.1.330)`."""
    program = row["user_agent"].partition(" ")[0]
    return f"{row['method']} {row['path']} by {_with(row['client_name'] or row['client_ip'], program)}"


def _outcome(row: dict[str, Any]) -> str:
    status = "" if row["status_code"] is None else f" ({row['status_code']})"
    error = f": {row['error_message']}" if row["error_message"] else ""
    return f"{worded(row['outcome'] or 'open')}{status}{error}"


def _time(row: dict[str, Any]) -> str:
    took, first = row["response_time_ms"], row["first_byte_ms"]
    text = duration(None if took is None else took / 1000)
    text = text if first is None else f"{text}, the first byte after {duration(first / 1000)}"
    waited = row["waited_ms"]
    return f"{text}; {duration(waited / 1000)} of it a wait for an account" if waited else text


def _tokens(row: dict[str, Any]) -> str:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    new, read, written, out = (row[name] for name in names)
    return tokens_in_words(new, read, written, out, "~" if row["estimated"] else "", count) or DASH


def attempt_table(attempts: Sequence[dict[str, Any]], now: float) -> Table[dict[str, Any]]:
    return Table(
        key="attempts",
        title="Attempts",
        rows=attempts,
        fields=tuple((name, itemgetter(name)) for name in attempts[0]),
        columns=(
            Column("No.", lambda each: str(each["number"]), right=True),
            Column("At", lambda each: moment(each["started_at"] / 1000, now, seconds=True), way=wrapped(10)),
            Column("Account", lambda each: each["account_name"], way=shortened(14)),
            Column("Status", lambda each: str(each["status_code"] or DASH), right=True),
            Column("Meaning", _meaning, way=wrapped(20)),
            Column("Took", lambda each: duration(each["duration_ms"] / 1000), right=True, rank=1),
        ),
    )


def _meaning(attempt: dict[str, Any]) -> str:
    """What the verdict was, and why, if that says more."""
    verdict, reason = attempt["verdict"], attempt["reason"]
    return verdict if reason in ("", verdict) else f"{verdict}: {reason}"


def conversation_lines(exchange: Recorded, *, full: bool, unfolded: bool) -> Iterator[str]:
    """The question, the answer and what belongs to them; `full`: all turns in their order, and nothing cut."""
    bodies = exchange.request, exchange.answer
    sections = whole_of(*bodies) if full else within(sections_of(*bodies, before=0), _ROOM)
    yield from lines(sections, _HEADING, unfolded=unfolded)
