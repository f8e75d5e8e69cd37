"""What programs get of a recorded request: what a list tells of it, its row, and its conversation."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ccflare_core.anthropic.conversation import Turn
from ccflare_core.errors import NotFound
from ccflare_core.reports.fields import EXCHANGE, Fields, items
from ccflare_core.reports.queries import Exchange, Reports
from ccflare_core.reports.tally import Query
from ccflare_core.transcripts.recorded import FACTS, Bodies, Recorded, facts_of, read_recorded


class Whole(NamedTuple):
    """A recorded request as a list has it, and as it is shown alone."""

    exchange: Exchange
    recorded: Recorded


def read_whole(query: Query, body: Bodies, request_id: str) -> Whole:
    """The request with this id, with its conversation. Raises NotFound."""
    row, exchange = facts_of(query, request_id), Reports(query).exchange(request_id)
    if exchange is None:
        raise NotFound(f"The request {request_id} was deleted just now.")
    return Whole(exchange, read_recorded(query, body, row))


def _told(turn: Turn) -> dict[str, object]:
    return {"role": turn.role, "parts": [part._asdict() for part in turn.parts]}


def _of_exchange(get: Callable[[Exchange], object]) -> Callable[[Whole], object]:
    return lambda whole: get(whole.exchange)


def _of_row(get: Callable[[dict[str, Any]], object]) -> Callable[[Whole], object]:
    return lambda whole: get(whole.recorded.row)


def _of_recorded(get: Callable[[Recorded], object]) -> Callable[[Whole], object]:
    return lambda whole: get(whole.recorded)


_CONVERSATION: Fields[Recorded] = (
    ("attempts_made", lambda each: each.attempts),
    ("within_request", lambda each: [part._asdict() for part in each.parts]),
    ("counts_in_budget", lambda each: each.counts and each.counts._asdict()),
    ("thread", lambda each: list(each.thread)),
    ("tools", lambda each: each.request.tools),
    ("turns", lambda each: [_told(turn) for turn in each.request.turns]),
    ("answer", lambda each: [_told(turn) for turn in each.answer]),
    ("missing", lambda each: each.missing or None),
)
RECORDED: Fields[Whole] = (
    *((name, _of_exchange(get)) for name, get in EXCHANGE),
    *((name, _of_row(get)) for name, get in items(*FACTS) if name not in Exchange._fields),
    *((name, _of_recorded(get)) for name, get in _CONVERSATION),
)
"""All of it."""
