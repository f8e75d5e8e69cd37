"""Full-text search in what was recorded, by opening and reading it. No index is needed, so no plain text on the disk.

That is quick because a conversation is stored once, however often it was sent (see blocks.py): of 1 GB that went over
the wire some 20 MB are left to read. Each unique block is looked through as bytes first. Only where the text may be is
a whole request put together and read, and then the earliest one that has it. For an index nevertheless:
search_index.py.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple, Protocol

from ccflare_core.anthropic.blocks import Part
from ccflare_core.anthropic.conversation import Turn, decoded, read_answer, read_request
from ccflare_core.http.json_members import IN_STRING
from ccflare_core.transcripts.read import Body

ROLES = ("user", "assistant", "tool", "system")
_PLAIN = re.compile(r"[0-9A-Za-z _.,:;!?()=+*#@$%&-]+")
"""Characters that every JSON text writes as they are, or as their other case."""
_DELTA = re.compile(rb'"(?:text|thinking|partial_json|content)"\s*:\s*"(' + IN_STRING + rb')"')
_AROUND = 60


class Query:
    """A text to be found wherever it stands, in capitals or not; or a pattern."""

    def __init__(self, text: str, *, is_pattern: bool = False) -> None:
        """Raises ValueError if it is no pattern."""
        try:
            self._pattern = re.compile(text if is_pattern else re.escape(text), re.IGNORECASE)
        except re.error as error:
            raise ValueError(str(error)) from None
        runs = [] if is_pattern else _PLAIN.findall(text)
        # Two characters of other alphabets have an ASCII letter as their other case: the Kelvin sign, the long s.
        pieces = (piece for run in runs for piece in re.split("[ks]", run.lower()))
        self.literal = max(pieces, key=len, default="")
        """What JSON text of it holds in any case, in small letters or capitals; maybe nothing."""
        self._bytes = self.literal.encode()

    def may_be_in(self, data: bytes) -> bool:
        """Whether JSON text of these bytes has to be read."""
        return self._bytes in data.lower()

    def find(self, text: str) -> tuple[int, int] | None:
        """Where it stands first."""
        found = self._pattern.search(text)
        return found.span() if found else None


class Hit(NamedTuple):
    """A place where it was found. `at` is in epoch seconds; the match is `text[start:end]`."""

    at: float
    request_id: str
    session: str | None
    role: str
    kind: str
    text: str
    start: int
    end: int

    @property
    def snippet(self) -> tuple[str, str, str]:
        """What stands before it, the match, and what follows."""
        before, after = self.text[: self.start], self.text[self.end :]
        return before[-_AROUND:], self.text[self.start : self.end], after[:_AROUND]


class Source(Protocol):
    """What is to be looked through: all the Transcripts, or what an index has chosen of them."""

    def blocks(self, session: str | None = None) -> Iterator[tuple[int, bytes]]:
        """Id and content of each block, the oldest first."""

    def wholes(self, session: str | None = None) -> Iterator[tuple[str, str, Body]]:
        """Request id, part and body of what is not in blocks."""

    def requests_of(self, block: int) -> list[str]:
        """The ids of the requests that have the block, the oldest first."""

    def body(self, request_id: str, part: str) -> Body | None:
        """A body."""


class Search:
    """Finds hits, the latest first. `moment` gives a request's time (epoch seconds) and session.

    `progress` is called with how much is looked through, again and again until the end: it may raise to end it.
    """

    def __init__(
        self,
        source: Source,
        moment: Callable[[str], tuple[float, str | None]],
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._source = source
        self._moment = moment
        self._progress = progress
        self._done = 0

    def run(
        self,
        query: Query,
        *,
        limit: int,
        session: str | None = None,
        role: str | None = None,
        ids: Container[str] | None = None,
    ) -> list[Hit]:
        """At most `limit` hits, in requests of these `ids` alone if they are given.

        What was said is found once, in the request or answer that had it first.
        """
        blocks = self._looked_through(self._source.blocks(session), query)
        wholes = self._wholes(query, session, ids)
        found: dict[tuple[str | None, str, str, str], Hit] = {}
        for hits in (self._in_blocks(query, blocks, session, ids), self._in_wholes(query, wholes)):
            number = 0
            for hit in hits:
                if role not in (None, hit.role):
                    continue
                key = (hit.session, hit.role, hit.kind, hit.text)
                if key not in found:
                    number += 1
                if key not in found or hit.at < found[key].at:
                    found[key] = hit
                if number >= limit:
                    break
        return sorted(found.values(), key=lambda hit: (hit.at, hit.request_id), reverse=True)[:limit]

    def _looked_through(self, blocks: Iterable[tuple[int, bytes]], query: Query) -> list[tuple[int, bytes]]:
        kept = []
        for number, content in blocks:
            if query.may_be_in(content):
                kept.append((number, content))
            self._step()
        return kept

    def _wholes(self, query: Query, session: str | None, ids: Container[str] | None) -> list[tuple[str, str]]:
        kept = []
        for request_id, part, body in self._source.wholes(session):
            if (ids is None or request_id in ids) and query.may_be_in(readable(body)):
                kept.append((request_id, part))
            self._step()
        return sorted(kept, reverse=True)  # the ids of requests begin with their time

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done)

    def _in_blocks(
        self, query: Query, blocks: list[tuple[int, bytes]], session: str | None, ids: Container[str] | None
    ) -> Iterator[Hit]:
        turns_of: dict[str, tuple[Turn, ...]] = {}
        for number, content in reversed(blocks):
            self._progress(self._done)
            # Sessions share blocks.
            having = [each for each in self._source.requests_of(number) if ids is None or each in ids]
            first = next((each for each in having if session in (None, self._moment(each)[1])), None)
            if first is None:
                continue
            if first not in turns_of:
                turns_of = {first: self._turns(first, "request")}  # neighbours are mostly of one request
            text = content.decode("utf-8", "replace")
            yield from (hit for hit in self._hits(query, first, turns_of[first]) if _stands_in(hit, text))

    def _in_wholes(self, query: Query, wholes: list[tuple[str, str]]) -> Iterator[Hit]:
        for request_id, part in wholes:
            self._progress(self._done)
            yield from self._hits(query, request_id, self._turns(request_id, part))

    def _turns(self, request_id: str, part: str) -> tuple[Turn, ...]:
        body = self._source.body(request_id, part)
        if body is None:
            return ()
        if part == "request":
            return read_request(body.content, body.content_encoding).turns
        return read_answer(body.content, body.content_type, body.content_encoding)

    def _hits(self, query: Query, request_id: str, turns: Iterable[Turn]) -> Iterator[Hit]:
        for turn in turns:
            for part in turn.parts:
                if span := query.find(part.text):
                    at, session = self._moment(request_id)
                    yield Hit(at, request_id, session, role_of(turn, part), part.kind, part.text, *span)


def role_of(turn: Turn, part: Part) -> str:
    """Who speaks: calls of tools and what they gave are the tool's."""
    return "tool" if part.kind.endswith(("tool_use", "_result")) else turn.role


def readable(body: Body) -> bytes:
    """What a body says, as JSON text; of a stream first the pieces of its text put together."""
    content = decoded(body.content, body.content_encoding)
    if body.content_type.startswith("text/event-stream"):
        return b"\n".join((b"".join(_DELTA.findall(content)), content))
    return content


def _stands_in(hit: Hit, block: str) -> bool:
    """Whether the hit's text is a part of the block, or the block of it, as far as both are plain."""
    runs = _PLAIN.findall(hit.text)
    longest = max(runs, key=len, default="")
    return longest[:200] in block or block[:200].strip() in hit.text
