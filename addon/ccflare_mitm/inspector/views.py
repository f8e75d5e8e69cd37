"""The two views that show a flow of the Messages API: its conversation, chosen by itself, and its events.

mitmproxy shows what they give as plain text. They are asked on the event loop by the console, and in a thread by
mitmweb, see web.py.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from mitmproxy import http
from mitmproxy.contentviews import Contentview, Metadata, SyntaxHighlight
from mitmproxy.flow import Flow

from ccflare_core.anthropic.conversation import Request, read_answer, read_request
from ccflare_core.anthropic.routes import COUNT_TOKENS, MESSAGES
from ccflare_core.anthropic.usage import Reading
from ccflare_core.anthropic.usage_reader import UsageReader
from ccflare_core.exchange.story import Story
from ccflare_core.exchange.summary import summary, usage_lines
from ccflare_core.program import typed
from ccflare_core.text import size
from ccflare_core.transcripts.event_lines import event_lines
from ccflare_core.transcripts.passages import lines, sections_of, within
from ccflare_core.transcripts.visible import visible
from ccflare_mitm.inspector.stand_ins import StandIn, whole

logger = logging.getLogger("ccflare")

LIMIT = 24 * 1024 * 1024
"""Bytes of a body that is read: reading a longer one would hold up the event loop, and so every stream."""

EVENT_STREAM = "text/event-stream"
CHOSEN, NOT_CHOSEN = 3.0, -1.0
"""More than mitmproxy's own views give, and what a view gives that is not for this."""


class Sources:
    """What the views ask: `find` knows a flow's exchange, `asked` is told of each flow that is looked at.

    `note` tells what is to be known of a body, `told` what the list tells of a flow whose exchange was but recorded.
    """

    def __init__(
        self,
        find: Callable[[http.HTTPFlow], Story | None],
        asked: Callable[[http.HTTPFlow], object],
        wall: Callable[[], float] = time.time,  # noqa: TID251
        note: Callable[[http.HTTPFlow, str], str] = lambda flow, part: "",
        told: Callable[[http.HTTPFlow], Sequence[str]] = lambda flow: (),
    ) -> None:
        self.find = find
        self.asked = asked
        self.note = note
        self.told = told
        self.wall = wall


class _View(Contentview):
    """A view of ours; what it shows are the lines of `_lines`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    @property
    def syntax_highlight(self) -> SyntaxHighlight:
        """The console's; mitmweb has none."""
        return "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """The text. `data` is not looked at: mitmproxy cannot decode a part of a body."""
        flow, message = metadata.flow, metadata.http_message
        if not isinstance(flow, http.HTTPFlow) or message is None:
            return "This shows requests and answers of HTTP."
        try:
            self._sources.asked(flow)
            return "\n".join(self._lines(flow, message))
        except Exception:
            logger.exception("The view %s of flow %s could not be made", self.name, flow.id)
            return "ccflare could not show this, and its log says why. The view “Raw” shows all."

    def _lines(self, flow: http.HTTPFlow, message: http.Message) -> Iterator[str]:
        raise NotImplementedError

    def _noted(self, flow: http.HTTPFlow, message: http.Message) -> list[str]:
        """What is to be known of a body that has been looked at."""
        part = "request" if isinstance(message, http.Request) else "response"
        note = self._sources.note(flow, part)
        return [f"# the {part}: {note}"] if note else []


class ConversationView(_View):
    """The question, the answer, and who has served it."""

    @property
    def name(self) -> str:
        """As it stands in the menu and over the text."""
        return "Claude"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """It is chosen for each request and answer of the Messages API."""
        return CHOSEN if has_conversation(metadata.flow, metadata.http_message) else NOT_CHOSEN

    def _lines(self, flow: http.HTTPFlow, message: http.Message) -> Iterator[str]:
        story = self._sources.find(flow)
        request, told = _read_question(flow.request)
        told = [*self._noted(flow, flow.request), *told]
        if isinstance(message, http.Request):
            if story is not None and flow.response is None:
                yield from [*map(visible, summary(story, None, self._sources.wall())), ""]
            yield from told
            yield from lines(within(sections_of(request)))
            return
        body, kind, coding = _body(message)
        told += self._noted(flow, message)
        reading = (story.reading if story else None) or _reading(body, kind, coding)
        about = (
            summary(story, reading, self._sources.wall())
            if story
            else (*self._sources.told(flow), *usage_lines(reading))
        )
        if shown := [*map(visible, about), *told]:
            yield from [*shown, ""]
        answer = read_answer(body, kind, coding)
        yield from lines(within(sections_of(request, answer, since=2, before=0)))
        if not answer and body.strip() and not kind.startswith(EVENT_STREAM):
            yield from ("", f"# the answer, {size(len(body))}, is no message: the view “Raw” shows it")


class EventsView(_View):
    """The events of a streamed answer, with when they came."""

    @property
    def name(self) -> str:
        """As it stands in the menu and over the text."""
        return "Claude events"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """It is never chosen by itself."""
        return NOT_CHOSEN

    def _lines(self, flow: http.HTTPFlow, message: http.Message) -> Iterator[str]:
        body, kind, coding = _body(message)
        yield from self._noted(flow, message)
        if not kind.startswith(EVENT_STREAM):
            yield "This is no event stream: the view “Claude” shows what it says."
            return
        story = self._sources.find(flow)
        yield from event_lines(body, coding, story.capture.arrivals if story else ())


def has_conversation(flow: Flow | None, message: http.Message | None) -> bool:
    """Whether this is a request or an answer of the Messages API. How many tokens one has is a request of it too."""
    if not isinstance(flow, http.HTTPFlow) or message is None or flow.request.method != "POST":
        return False
    path = flow.request.path.partition("?")[0]
    return path == MESSAGES or (path == COUNT_TOKENS and isinstance(message, http.Request))


def _body(message: http.Message) -> tuple[bytes, str, str]:
    """What there is of the body, its type and its coding."""
    headers, body = message.headers, whole(message)
    here = b"" if body is None or isinstance(body, StandIn) else body
    return here, headers.get("content-type", ""), headers.get("content-encoding", "")


def _read_question(message: http.Request) -> tuple[Request, Sequence[str]]:
    """What was asked; or that it is too long to be read here."""
    body, _, coding = _body(message)
    if len(body) > LIMIT:
        told = f"# the request has {size(len(body))}, too many to be read here: `{typed('show')}` shows it"
        return Request(None, (), ()), [told]
    return read_request(body, coding), []


def _reading(body: bytes, kind: str, coding: str) -> Reading:
    reader = UsageReader(kind, coding)
    reader.feed(body)
    return reader.close(cut=True)
