"""A request that is still open, or has just ended, as the record will have it: a row not written yet. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from ccflare_core.exchange.final_row import final_columns, recorded_tags
from ccflare_core.exchange.story import Story
from ccflare_core.reports.queries import EVERYTHING, OPEN, Exchange, Position, Reports, Wanted
from ccflare_core.reports.traffic import Period
from ccflare_core.secrets.redact import label
from ccflare_core.text import to_ms, to_seconds

MOST_FOUND: Final = 200
"""Open requests that a filter finds beside what is recorded, the latest ones."""

_OPEN: Final = Wanted(outcome=OPEN)


def as_they_run(rows: Iterable[Exchange], stories: Mapping[str, Story], now: float) -> list[Exchange]:
    """The rows, with what is known by now of those that are open here: of them the record has their heads alone."""
    return [
        running(stories[row.id], now, row.proxy) if row.outcome is None and row.id in stories else row for row in rows
    ]


def open_as_wanted(
    stories: Mapping[str, Story], wanted: Wanted, now: float, before: Position | None = None
) -> list[str]:
    """The ids of those that are open here and have what is asked for: their rows do not tell before their ends."""
    if wanted._replace(client=None, tag=None, outcome=None, proxy=None) == EVERYTHING:
        return []  # the record finds them by itself
    left = [story for story in stories.values() if before is None or _place(story) < before]
    rows = (running(story, now) for story in sorted(left, key=_place, reverse=True))
    return [row.id for row in islice((row for row in rows if _has(row, wanted)), MOST_FOUND)]


def _place(story: Story) -> Position:
    return Position(to_ms(story.started_at), story.id)


def _has(row: Exchange, wanted: Wanted) -> bool:
    asked = wanted._replace(outcome=None if wanted.outcome == OPEN else wanted.outcome)
    tag = next((tag for tag in map("=".join, row.tags.items()) if tag == wanted.tag), None)
    found = Wanted(row.account, row.model, row.session, row.project, row.client_name, tag, row.outcome, asked.proxy)
    return all(value in (None, known) for value, known in zip(asked, found, strict=True))


def listed(
    reports: Reports,
    period: Period,
    limit: int,
    *,
    open_ids: Sequence[str],
    others: bool = False,
    wanted: Wanted = EVERYTHING,
    before: Position | None = None,
) -> list[Exchange]:
    """The recorded requests that are wanted, and those with the ids of `open_ids`, the latest first.

    One of those that has ended by its row is wanted if its row says so.
    """
    rows = reports.exchanges(period, limit, others=others, wanted=wanted, before=before)
    if not open_ids:
        return rows
    here = _OPEN._replace(proxy=wanted.proxy)
    rows += reports.exchanges(period, limit, others=others, wanted=here, before=before, among=open_ids)
    each = {row.id: row for row in rows}.values()
    return sorted(each, key=attrgetter("place"), reverse=True)[:limit]


def running(story: Story, now: float, proxy: str | None = None) -> Exchange:
    """What is known of it by `now` (epoch seconds): its tokens as far as they have come, its cost once it has ended.

    `proxy` is the name of the proxy that took it.
    """
    row, opening, is_open = final_columns(story), story.opening, story.outcome is None
    so_far = story.capture.so_far()
    used = so_far.usage if is_open else row
    return Exchange(
        id=story.id,
        at=story.started_at,
        account=row.account_name,
        model=row.model,
        method=opening.method,
        path=label(opening.path),
        status=row.status_code,
        outcome=None if story.outcome is None else story.outcome.value,
        error=row.error_message,
        seconds=max(0.0, now - story.started_at) if is_open else story.duration,
        first_byte_seconds=to_seconds(row.first_byte_ms),
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cache_read_tokens=used.cache_read_input_tokens,
        cache_creation_tokens=used.cache_creation_input_tokens,
        cost_usd=row.cost_usd,
        failovers=row.failover_attempts,
        session=row.session_id,
        client=opening.client,
        choice_reason=row.choice_reason,
        estimated=so_far.is_estimated if is_open else bool(row.estimated),
        stop_reason=row.stop_reason,
        refusal=row.refusal,
        request_class=row.request_class,
        agent_id=row.agent_id,
        waited_seconds=to_seconds(row.waited_ms),
        client_name=opening.key.name if opening.key else None,
        project=row.project,
        agent=row.agent,
        tags=recorded_tags(story),
        proxy=proxy,
    )


def as_told(row: object) -> dict[str, Any] | None:
    """What another proxy tells of a request that runs there, with the API's fields alone; None if it is not that.

    Another version may have written it, or somebody else. What an older one does not tell is None, or {} for the tags.
    """
    if not isinstance(row, dict):
        return None
    told = {name: row.get(name, Exchange._field_defaults.get(name)) for name in Exchange._fields}
    is_whole = all(told[name] is not None for name in _NEEDED)
    return told if is_whole and all(_is_value(name, value) for name, value in told.items()) else None


def _is_value(name: str, value: object) -> bool:
    if name == "tags":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    if value is None:
        return True
    if name in _NUMBERS:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, bool if name == "estimated" else str)


_NEEDED: Final = ("id", "path", "seconds")
_NUMBERS: Final = frozenset(
    {"status", "seconds", "first_byte_seconds", "cost_usd", "failovers", "waited_seconds"}
    | {"input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"}
)
