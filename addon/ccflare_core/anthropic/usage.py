"""What an answer says about itself, as values: the tokens used, the model, how it ended. Pure, and never raises.

usage_reader.py reads them out of bodies. Numbers and words come from the upstream: counts out of bounds are left out,
words are cut to what a column and a log line take.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ccflare_core.anthropic import ids
from ccflare_core.anthropic.ids import IDS_LIMIT, Id
from ccflare_core.http.failure_words import known

COUNT_LIMIT = 10**9
TEXT_LIMIT = 100
MODEL_LIMIT = 200
ITERATION_LIMIT = 1000
"""Parts of one answer; the API makes some ten."""

COUNTS: Final = {
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_input_tokens": ("cache_read_input_tokens",),
    "cache_creation_input_tokens": ("cache_creation_input_tokens",),
    "cache_creation_5m_input_tokens": ("cache_creation", "ephemeral_5m_input_tokens"),
    "cache_creation_1h_input_tokens": ("cache_creation", "ephemeral_1h_input_tokens"),
    "thinking_tokens": ("output_tokens_details", "thinking_tokens"),
    "web_search_requests": ("server_tool_use", "web_search_requests"),
    "web_fetch_requests": ("server_tool_use", "web_fetch_requests"),
}
"""Our names, and where the numbers stand in the API's `usage` object."""

WORDS: Final = ("service_tier", "speed", "inference_geo")

_ENDS: Final = ("succeeded", "errored", "canceled", "expired")
"""How a request of a batch can end; the first has an answer that is paid for."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

ADVISOR, COMPACTION = "advisor_message", "compaction"
"""The iterations whose tokens are not in the counts of the answer that they belong to. `message` and
`fallback_message` are in them."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used, in tokens and requests. None: the upstream did not say, which is not the same as 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_5m_input_tokens: int | None = None
    cache_creation_1h_input_tokens: int | None = None
    thinking_tokens: int | None = None
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None


class Message(NamedTuple):
    """What one model was used for: an answer, one message of a batch, or a part of an answer that counts by itself.

    `kind` is ADVISOR or COMPACTION for such a part. The tokens of a message `in_batch` have half the price.
    """

    model: str | None
    usage: Usage
    kind: str = ""
    in_batch: bool = False


class BatchState(NamedTuple):
    """What an answer says of a batch: its id, and once it has ended, how many of its requests succeeded."""

    id: str
    is_ended: bool = False
    succeeded: int = 0
    requests: int = 0


class Ending(StrEnum):
    """How an answer ended: whole, cut short, or with an error that the upstream told."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was learned from one answer.

    `parts` are the messages of a batch's results, whose sum `usage` is: each has a price of its own. `extra` is what
    other models did for the answer and what compaction took: it comes on top of `usage`.
    `error` is which of the API's errors the upstream told ("error" if it is none of them), or else why the body could
    not be read to its end: words of ours. Its message stands in the body alone.
    """

    usage: Usage
    model: str | None
    ending: Ending
    error: str | None
    stop_reason: str | None
    parts: tuple[Message, ...] = ()
    extra: tuple[Message, ...] = ()
    message_id: str | None = None
    refusal: str | None = None
    """The category of a refusal."""
    input_transformations: str | None = None
    """What the API did to the request's input, as `thinking_dropped 2`; "" is nothing, None that it did not say."""
    is_estimated: bool = False
    """Whether the output is an estimate: the stream broke off before the upstream had counted it."""
    presumed_output: int | None = None
    """What a budget takes for the output then, which is more: see deltas.py. None but for such a stream."""
    is_readable: bool = True
    """Whether the body's coding could be undone."""
    batches: tuple[BatchState, ...] = ()
    """The batches that it is about."""
    handed_out: tuple[Id, ...] = ()
    """The ids in it of what belongs to the account."""

    def messages(self, asked: str | None) -> tuple[Message, ...]:
        """All that has a price; `asked` is the model of an answer that names none."""
        return (*(self.parts or (Message(self.model or asked, self.usage),)), *self.extra)


class SoFar(NamedTuple):
    """What is known of an answer's usage while more of it comes."""

    usage: Usage = Usage()
    is_estimated: bool = False
    """Whether the output is what has come, weighed: the upstream counts it at the end."""


def without(reading: Reading, is_secret: Callable[[str], bool]) -> Reading:
    """The reading without those of the upstream's own words that hold what must not be stored."""

    if not any(map(is_secret, _upstreams_words(reading))):
        return reading

    def left(word: str | None) -> str | None:
        return None if word is not None and is_secret(word) else word

    def used(usage: Usage) -> Usage:
        words: dict[str, Any] = {name: left(getattr(usage, name)) for name in WORDS}
        return replace(usage, **words)

    return replace(
        reading,
        usage=used(reading.usage),
        model=left(reading.model),
        stop_reason=left(reading.stop_reason),
        message_id=left(reading.message_id),
        refusal=left(reading.refusal),
        input_transformations=left(reading.input_transformations),
        extra=tuple(each._replace(model=left(each.model), usage=used(each.usage)) for each in reading.extra),
        handed_out=tuple(each for each in reading.handed_out if not is_secret(each.text)),
        batches=tuple(each for each in reading.batches if not is_secret(each.id)),
    )


def _upstreams_words(reading: Reading) -> list[str]:
    """All that `without` looks at."""
    usages = [reading.usage, *[each.usage for each in reading.extra]]
    models = [reading.model, *[each.model for each in reading.extra]]
    told = [reading.stop_reason, reading.message_id, reading.refusal, reading.input_transformations]
    words = [*models, *told, *[getattr(usage, name) for usage in usages for name in WORDS]]
    ids_told = [*[each.text for each in reading.handed_out], *[each.id for each in reading.batches]]
    return [*filter(None, words), *ids_told]


@dataclass(slots=True)
class Tally:
    """What the events or the document told so far."""

    usage: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    message_id: str | None = None
    stop_reason: str | None = None
    refusal: str | None = None
    error: str | None = None
    input_transformations: str | None = None
    has_output: bool = False
    """Whether the output was counted to its end."""
    iterations: list[object] = field(default_factory=list)
    batches: list[BatchState] = field(default_factory=list)
    parts: list[Message] = field(default_factory=list)
    part_extras: list[Message] = field(default_factory=list)
    handed_out: list[Id] = field(default_factory=list)
    _last: dict[str, int] = field(default_factory=dict)

    def take_message(self, message: object) -> None:
        """A whole message, or its beginning."""
        self.model = clean(value_at(message, "model"), MODEL_LIMIT) or self.model
        self.message_id = clean(value_at(message, "id")) or self.message_id
        self.take_ids(ids.in_message(message))
        usage = value_at(message, "usage")
        self.usage.update(_counts(usage))
        self._take_rest(usage, message, message)

    def take_delta(self, event: Mapping[str, Any]) -> None:
        """A `message_delta`. Its counts are cumulative, so the largest of each counts.

        0 of the prompt's tokens says nothing. Of the output it is a count, for the first one is no more than a promise.
        """
        self.take_ids(ids.in_message(event.get("delta")))
        usage = event.get("usage")
        counts = _counts(usage)
        self.has_output = self.has_output or "output_tokens" in counts
        for name, count in counts.items():
            if count > self._last.get(name, -1 if name == "output_tokens" else 0):
                self._last[name] = self.usage[name] = count
            else:
                self.usage.setdefault(name, count)
        self._take_rest(usage, event.get("delta"), event)

    def _take_rest(self, usage: object, delta: object, event: object) -> None:
        self.usage.update(_words(usage))
        self.stop_reason = clean(value_at(delta, "stop_reason")) or self.stop_reason
        self.refusal = clean(value_at(delta, "stop_details", "category")) or self.refusal
        iterations = value_at(usage, "iterations")
        if isinstance(iterations, list) and len(iterations) >= len(self.iterations):
            self.iterations = iterations[:ITERATION_LIMIT]
        transformations = value_at(event, "input_transformations")
        if isinstance(transformations, list):
            self.input_transformations = _numbered(transformations)

    def take_part(self, message: object) -> None:
        """Add one of several messages: numbers add up, words stay where all messages agree."""
        part = Tally()
        part.take_message(message)
        self.take_ids(part.handed_out)
        if not part.usage:
            return
        if not self.parts:
            self.model, self.usage = part.model, dict(part.usage)
        else:
            self.model = self.model if self.model == part.model else None
            self.usage = _sum(self.usage, part.usage)
        self.parts.append(Message(part.model, Usage(**part.usage), in_batch=True))
        self.part_extras += (each._replace(in_batch=True) for each in part.extra())

    def take_batch(self, batch: object) -> None:
        """A batch as it is now. One without an id of the usual kind is none."""
        batch_id = value_at(batch, "id")
        if value_at(batch, "type") != "message_batch" or not isinstance(batch_id, str) or not _ID.fullmatch(batch_id):
            return
        counts = {name: _count(value_at(batch, "request_counts", name)) for name in _ENDS}
        is_ended = value_at(batch, "processing_status") == "ended" and None not in counts.values()
        known = [count or 0 for count in counts.values()] if is_ended else [0]
        self.batches.append(BatchState(batch_id, is_ended, known[0], sum(known)))

    def take_ids(self, found: Iterable[Id]) -> None:
        """Add ids that were handed out, as far as there is room."""
        self.handed_out += itertools.islice(found, IDS_LIMIT - len(self.handed_out))

    def take_error(self, body: Mapping[str, Any]) -> None:
        """The first error stays: what comes after it is a consequence."""
        if self.error is None:
            self.error = known(value_at(body, "error", "type")) or "error"

    def extra(self) -> tuple[Message, ...]:
        """What counts beside the answer itself. Where it was made is told of the whole answer alone."""
        geo = self.usage.get("inference_geo")
        found = [*self.part_extras]
        for each in self.iterations:
            kind, counts = value_at(each, "type"), _counts(each)
            if kind == ADVISOR and counts:
                model = clean(value_at(each, "model"), MODEL_LIMIT)
                found.append(Message(model, Usage(**counts, inference_geo=geo), ADVISOR))
            elif kind == COMPACTION and counts:
                words = {name: self.usage.get(name) for name in WORDS}
                found.append(Message(self.model, Usage(**counts, **words), COMPACTION))
        return tuple(found)


def _counts(usage: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not isinstance(usage, dict):
        return found
    for name, (first, *rest) in COUNTS.items():
        if first in usage:
            count = _count(value_at(usage[first], *rest) if rest else usage[first])
            if count is not None:
                found[name] = count
    return found


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < COUNT_LIMIT else None


def _words(usage: object) -> dict[str, str]:
    if not isinstance(usage, dict):
        return {}
    return {name: word for name in WORDS if (word := clean(usage.get(name)))}


def _numbered(entries: list[object]) -> str:
    """How many there are of each type."""
    found: dict[str, int] = {}
    for entry in entries:
        kind = clean(value_at(entry, "type"), 40) or "?"
        found[kind] = found.get(kind, 0) + 1
    return clean(", ".join(f"{kind} {number}" for kind, number in found.items())) or ""


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: one.get(name, 0) + other.get(name, 0) for name in COUNTS if name in one or name in other}
    return counts | {name: one[name] for name in WORDS if name in one and one[name] == other.get(name)}


def clean(value: object, limit: int = TEXT_LIMIT) -> str | None:
    """A text of at most `limit` printable characters, on one line; None if there is none."""
    if not isinstance(value, str):
        return None
    line = " ".join(value[: 4 * limit].split())
    if line.isprintable():
        return line[:limit] or None
    return "".join(filter(str.isprintable, line))[:limit] or None


def value_at(value: object, *path: str) -> object:
    """What stands at this path of names in a parsed JSON value; None if there is no such place."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
