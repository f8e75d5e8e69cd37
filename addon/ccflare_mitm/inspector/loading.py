"""Recorded requests of earlier as flows of the list: made of their rows, with bodies that come when they are opened."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from mitmproxy import http
from mitmproxy.connection import Client, Server

from ccflare_core.config.settings import Settings
from ccflare_core.errors import StoreError
from ccflare_core.reports.tags import tags_of
from ccflare_core.reports.tally import marks
from ccflare_core.store.store import Store
from ccflare_core.text import local_time, to_ms
from ccflare_core.transcripts.visible import visible
from ccflare_mitm.inspector.comment import ASKS, MOVED, WRONG, searchable, short, short_money

MOST: Final = 200
"""Requests that are loaded at once, the newest ones."""
_SPAN = re.compile(r"(\d{1,4})([mhd])", re.ASCII)
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
_COLUMNS = (
    *("id", "timestamp", "method", "path", "status_code", "outcome", "error_message", "account_name", "model"),
    *("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens", "cost_usd"),
    *("session_id", "project", "client_name", "client_ip", "response_time_ms", "failover_attempts"),
)
_ROWS = f"""SELECT {", ".join(_COLUMNS)} FROM requests
    WHERE timestamp >= ? AND outcome IS NOT NULL ORDER BY timestamp DESC LIMIT ?"""  # noqa: S608 - columns of ours


class Head(NamedTuple):
    """What is known of a recorded body without reading it."""

    content_type: str
    coding: str
    size: int


class Recorded(NamedTuple):
    """A recorded request: its row, and of each body its head."""

    row: Mapping[str, Any]
    attempts: Sequence[tuple[int, str, str, float]]
    """Each with its number, its account, what came of it and how long it took."""
    bodies: Mapping[str, Head]
    tags: Mapping[str, str] = {}
    """The values of its tags by their names."""


def seconds_of(span: str) -> float:
    """`30m`, `6h` or `2d` in seconds. Raises StoreError."""
    if (found := _SPAN.fullmatch(span.strip())) is None:
        raise StoreError(f"{span[:20]!r} is no time to go back: 30m, 6h and 2d are")
    return int(found[1]) * _UNITS[found[2]]


def read(store: Store, since: float, most: int) -> list[Recorded]:
    """What was recorded since then (epoch seconds), the oldest first, and no more of it than the newest `most`."""
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in store.query(_ROWS, (to_ms(since), most))][::-1]
    ids = [row["id"] for row in rows]
    places = marks(ids)
    attempts, bodies = defaultdict[str, list[Any]](list), defaultdict[str, dict[str, Head]](dict)
    if ids:
        made = f"""SELECT request_id, number, account_name, reason, duration_ms FROM attempts
            WHERE request_id IN ({places}) ORDER BY request_id, number"""  # noqa: S608 - nothing but question marks
        for id, number, account, reason, took in store.query(made, ids):
            attempts[id].append((number, account, reason, took / 1000))
        kept = f"""SELECT request_id, part, content_type, content_encoding, size FROM payloads
            WHERE request_id IN ({places}) AND NOT withheld"""  # noqa: S608
        for id, part, *head in store.query(kept, ids):
            bodies[id][part] = Head(*head)
    tags = tags_of(store.query, ids)
    return [Recorded(row, attempts[row["id"]], bodies[row["id"]], tags.get(row["id"], {})) for row in rows]


def flow_of(recorded: Recorded, settings: Settings) -> http.HTTPFlow:
    """The request as a flow, without its bodies."""
    row, bodies, upstream = recorded.row, recorded.bodies, settings.upstream
    began = row["timestamp"] / 1000
    ended = began + (row["response_time_ms"] or 0.0) / 1000
    client = Client(peername=(row["client_ip"], 0), sockname=("", 0), timestamp_start=began)
    flow = http.HTTPFlow(client, Server(address=(upstream.host, upstream.port)))
    request = http.Request.make(row["method"], "http://x/")
    request.scheme, request.host, request.port = upstream
    request.path, request.raw_content, request.headers = row["path"], None, _headers(bodies.get("request"))
    request.timestamp_start, request.timestamp_end = began, began
    flow.request = request
    if row["status_code"] is not None:
        flow.response = http.Response.make(row["status_code"])
        flow.response.headers = _headers(bodies.get("response"))
        flow.response.raw_content = None
        flow.response.timestamp_start, flow.response.timestamp_end = ended, ended
    flow.comment = comment_of(recorded)
    return flow


def _headers(head: Head | None) -> http.Headers:
    told = (("content-type", head.content_type), ("content-encoding", head.coding)) if head else ()
    return http.Headers([(name.encode(), value.encode("latin-1", "replace")) for name, value in told if value])


def comment_of(recorded: Recorded) -> str:
    """Its comment, as the list shows those of the flows that ran here."""
    lines = [_headline(recorded), *(_attempt(*each) for each in recorded.attempts), _to_search_by(recorded)]
    return "\n".join(visible(" ".join(line.split())) for line in lines)


def _headline(recorded: Recorded) -> str:
    row = recorded.row
    accounts = list(dict.fromkeys([account for _, account, *_ in recorded.attempts])) or [row["account_name"] or ""]
    failed = row["outcome"] not in ("ok", "client_abort")
    told = [MOVED.join(accounts), f"{WRONG} {row['error_message'] or row['outcome']}" if failed else ""]
    told.append(f"{ASKS} {row['model'].removeprefix('claude-')}" if row["model"] else "")
    used = [row[name] or 0 for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    parts = [" ".join(each for each in told if each)]
    if row["output_tokens"] is not None:
        cost = None if row["cost_usd"] is None else Decimal(str(row["cost_usd"]))
        parts += [f"{short(sum(used))}{MOVED}{short(row['output_tokens'])}", short_money(cost)]
    began = row["timestamp"] / 1000
    return " · ".join([*parts, f"recorded {local_time(began, began - 3600)}"])


def _attempt(number: int, account: str, reason: str, seconds: float) -> str:
    return f"attempt {number}: {account}, {reason}, {seconds:.1f} s"


def _to_search_by(recorded: Recorded) -> str:
    row = recorded.row
    names = {"account_name": "account", "session_id": "session", "project": "project", "client_name": "key"}
    known = {name: row[column] for column, name in names.items()} | {"outcome": row["outcome"], "request": row["id"]}
    return searchable(known, recorded.tags)
