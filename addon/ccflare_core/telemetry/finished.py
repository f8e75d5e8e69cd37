"""One exchange that has ended, as a value for another thread: what its record says, and little besides."""

from dataclasses import dataclass, field
from typing import Final, Self

from ccflare_core.anthropic.routes import COMPLETE, MESSAGES, OTHER_METHODS
from ccflare_core.exchange.log_line import path_class_of
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.exchange.steps import Attempt, Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.reports.metrics import OTHER
from ccflare_core.secrets.redact import label

OPERATIONS: Final = {MESSAGES: "chat", COMPLETE: "text_completion"}
"""What OpenTelemetry calls the paths that have a model answer."""
OTHER_METHOD: Final = "_OTHER"
"""What it calls a method that is none of HTTP's."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """What was said, as it was on the wire."""

    request: bytes = field(repr=False)
    request_encoding: str
    answer: bytes = field(repr=False)
    answer_type: str
    answer_encoding: str

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory."""
        return len(self.request) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Finished:
    """See the module. `started_at` is in epoch seconds; `row` is what was written down at the end."""

    started_at: float
    method: str
    path: str
    client: str | None
    """The name of the client key."""
    user_agent: str
    traceparent: str
    """As the client sent it, whatever that is."""
    asked_model: str | None
    known_model: str
    """Its name in the price table: there are few of these, and any number of names that clients can send."""
    row: ExchangeFinished
    attempts: tuple[Attempt, ...]
    bodies: Bodies | None = None

    @classmethod
    def of(cls, story: Story, row: ExchangeFinished, *, with_bodies: bool) -> Self:
        """What is known of an exchange that has ended with this row."""
        opening = story.opening
        return cls(
            started_at=story.started_at,
            method=opening.method if opening.method in OTHER_METHODS else OTHER_METHOD,
            path=label(opening.path),
            client=opening.key.name if opening.key else None,
            user_agent=label(opening.user_agent),
            traceparent=opening.traceparent,
            asked_model=label(story.facts.model) if story.facts.model else None,
            known_model=(row.model and story.prices and story.prices.name_of(row.model)) or OTHER,
            row=row,
            attempts=story.attempts,
            bodies=bodies_of(story) if with_bodies else None,
        )

    @property
    def size(self) -> int:
        """Bytes of bodies that it keeps in memory."""
        return self.bodies.size if self.bodies else 0

    @property
    def ended_at(self) -> float:
        """In epoch seconds."""
        return self.started_at + (self.row.response_time_ms or 0.0) / 1000

    @property
    def operation(self) -> str | None:
        """What was asked of a model; None if nothing was."""
        return OPERATIONS.get(self.path)

    @property
    def name(self) -> str:
        """What was asked, without ids: `POST /v1/messages`."""
        return f"{self.method} {path_class_of(self.path)}"

    @property
    def answering(self) -> Attempt | None:
        """The attempt whose answer the client got; None if it got another answer than a good one of an account."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.verdict.ok else None

    def end_of(self, attempt: Attempt) -> float:
        """When it ended, in epoch seconds: an answer that was delivered goes on until the exchange ends."""
        ended = self.ended_at if attempt is self.answering else attempt.started_at + attempt.duration
        return max(attempt.started_at, ended)


def bodies_of(story: Story) -> Bodies | None:
    """Both bodies, of an exchange whose bodies are recorded; None of any other one."""
    if story.ticket is not Ticket.LEASE or story.is_stateful or story.opening.path not in OPERATIONS:
        return None
    capture = story.capture
    return Bodies(
        story.request_body, story.request_encoding, capture.body, capture.content_type, capture.content_encoding
    )
