"""One recorded exchange, read as a whole: its row, its attempts, and its bodies as a conversation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ccflare_core.anthropic.conversation import Request, Turn, read_answer, read_request
from ccflare_core.errors import NotFound
from ccflare_core.reports.queries import PROXY
from ccflare_core.reports.tags import tags_of
from ccflare_core.reports.tally import Query
from ccflare_core.reports.threads import earlier_parts
from ccflare_core.reports.within import Counts, PartUse, Subagent, counts_of, parts_of, subagents_of
from ccflare_core.transcripts.read import Body

Bodies = Callable[[str, str], Body | None]
"""Gives a request's recorded body by its id and the part: "request" or "response"."""

PARTS = ("request", "response")
FACTS = (
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
    *("parent_agent_id", "waited_ms", "query", "api_version", "betas", "client_name", "client_ip", "user_agent"),
    "proxy",
)
"""The columns of the request that are read, and the name of the proxy that took it."""
_SELECTED = ", ".join(PROXY if name == "proxy" else name for name in FACTS)


class Recorded(NamedTuple):
    """A recorded request: its row, its attempts, and its bodies read as a conversation."""

    row: dict[str, Any]
    attempts: list[dict[str, Any]]
    request: Request
    answer: tuple[Turn, ...]
    missing: str
    """Why there is nothing to read, or not all, as a sentence; "" if it is all there."""
    agents: list[Subagent]
    """Of the session, as a tree; none if it had no subagents."""
    parts: list[PartUse]
    """What other models and compaction took for the answer."""
    counts: Counts | None
    """What it counts in its client's budget, if that is not what is shown as used."""
    thread: tuple[str, ...] = ()
    """The ids of the requests before it in its message thread; their turns stand in front of its own."""
    tags: Mapping[str, str] = {}
    """The values of its tags by their names."""


def facts_of(query: Query, id_: str) -> dict[str, Any]:
    """The request's row. Raises NotFound."""
    found = [*query(f"SELECT {_SELECTED} FROM requests WHERE id = ?", (id_,))]  # noqa: S608
    if not found:
        raise NotFound(f"There is no request {id_}: it was never recorded, or is deleted by now.")
    return dict(zip(FACTS, found[0], strict=True))


def read_recorded(query: Query, body: Bodies, row: dict[str, Any]) -> Recorded:
    """The exchange of which `facts_of` gave the row, with its conversation."""
    names = ("number", "account_name", "status_code", "verdict", "reason", "started_at", "duration_ms")
    sql = f"SELECT {', '.join(names)} FROM attempts WHERE request_id = ? ORDER BY number"  # noqa: S608
    attempts = [dict(zip(names, each, strict=True)) for each in query(sql, (row["id"],))]
    asked, answered = (body(row["id"], part) for part in PARTS)
    earlier = earlier_parts(query, row["previous_message_id"])
    missing = "" if asked or answered else why_no_body(attempts)
    if any(each and each.truncated for each in (asked, answered)):
        missing = "Only the beginning is kept of what is longer than ccflare_capture_limit_bytes."
    request = read_request(asked.content, asked.content_encoding) if asked else Request(None, (), ())
    answer = read_answer(answered.content, answered.content_type, answered.content_encoding) if answered else ()
    agents = subagents_of(query, row["session_id"]) if row["session_id"] else []
    request = _joined([_part_of_thread(body, link.request_id) for link in earlier], request)
    parts, counts = parts_of(query, row["id"]), counts_of(query, row["id"])
    tags = tags_of(query, [row["id"]]).get(row["id"], {})
    thread = tuple(link.request_id for link in earlier)
    return Recorded(row, attempts, request, answer, missing, agents, parts, counts, thread, tags)


def why_no_body(attempts: Sequence[dict[str, Any]]) -> str:
    """Why there is nothing to read of an exchange with these attempts, as a sentence."""
    if not any(attempt["status_code"] for attempt in attempts):
        return "No body is kept of what no account has answered."
    return "No body is kept of it: its recording was off, or they were deleted by now."


def _part_of_thread(body: Bodies, request_id: str) -> Request:
    """What was sent in an earlier part of the thread, and what came back."""
    asked, answered = (body(request_id, part) for part in PARTS)
    request = read_request(asked.content, asked.content_encoding) if asked else Request(None, (), ())
    answer = read_answer(answered.content, answered.content_type, answered.content_encoding) if answered else ()
    return replace(request, turns=(*request.turns, *answer))


def _joined(earlier: Sequence[Request], last: Request) -> Request:
    """The whole conversation. What later parts leave out is as in the first one that has it."""
    tools = last.tools or next((request.tools for request in earlier if request.tools), ())
    return replace(last, turns=tuple(turn for request in (*earlier, last) for turn in request.turns), tools=tools)
