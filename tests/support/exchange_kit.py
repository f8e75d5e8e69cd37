"""Exchanges without a socket: the real pool on a clock of ours, lists for the recorder, a scripted upstream."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.pool import AccountPool, Report
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.config.settings import Settings
from ccflare_core.exchange.collaborators import Recorder
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, Send, Step, Wait
from ccflare_core.exchange.story import Story
from ccflare_core.http.headers import Header

EPOCH = 1_800_000_000.0
"""Friday, 15 January 2027, 08:00:00 UTC."""

ASKED = Opening("POST", "/v1/messages", "127.0.0.1", "base-url", "claude-cli/2.1")
OPUS = Facts("claude-opus-4-8", "session-1", "127.0.0.1", stream=True)
JSON: tuple[Header, ...] = ((b"Content-Type", b"application/json"), (b"request-id", b"req_upstream"))
STREAM: tuple[Header, ...] = ((b"content-type", b"text/event-stream"), (b"content-encoding", b"identity"))

MESSAGE = json.dumps(
    {
        "type": "message",
        "model": "claude-opus-4-8",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1000, "output_tokens": 312, "cache_read_input_tokens": 204},
    }
).encode()
"""$0.012902: 1,000 tokens in at $5 a million, 204 from the cache at $0.50 and 312 out at $25."""

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude-opus-4-8",'
    b'"usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
)
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":15}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
BROKEN_STREAM = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'


class Clock:
    """Both clocks, in seconds; only `pass_` moves them."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.wall = EPOCH

    def pass_(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


@dataclass
class Notes:
    """A recorder that keeps what it is told."""

    started_ones: list[Story] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    reports: list[tuple[str, Report]] = field(default_factory=list)
    organizations: list[tuple[str, str]] = field(default_factory=list)
    batches: list[tuple[str, Counted]] = field(default_factory=list)
    finished_ones: list[Story] = field(default_factory=list)
    corrections: list[tuple[str, Outcome, str]] = field(default_factory=list)

    def started(self, exchange: Story) -> None:
        self.started_ones.append(exchange)

    def keeps_bodies(self, opening: Opening) -> bool:
        return True

    def attempted(self, exchange: Story, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def reserved(self, exchange: Story, estimate: Counted) -> None:
        self.batches.append((exchange.id, estimate))

    def learned(self, account_id: str, report: Report) -> None:
        self.reports.append((account_id, report))

    def organization(self, account_id: str, organization_id: str) -> None:
        self.organizations.append((account_id, organization_id))

    def finished(self, exchange: Story) -> None:
        self.finished_ones.append(exchange)

    def corrected(self, exchange_id: str, outcome: Outcome, error: str) -> None:
        self.corrections.append((exchange_id, outcome, error))


class Reply(NamedTuple):
    """What the upstream does with one attempt: an answer, or (status 0) no head at all."""

    status: int = 200
    headers: tuple[Header, ...] = JSON
    body: bytes = MESSAGE
    event: dict[str, Any] | None = None
    """The first event of the stream, or the error's body, if it tells something."""


def limited(seconds: float = 3600.0, window: str = "5h") -> Reply:
    """A 429 of an account whose window is spent for so long."""
    head = b"anthropic-ratelimit-unified"
    fields = ((b"status", b"rejected"), (f"{window}-status".encode(), b"rejected"))
    reset = (f"{window}-reset".encode(), b"%d" % (EPOCH + seconds))
    return refusal(429, "rate_limit_error", tuple((b"-".join((head, name)), value) for name, value in (*fields, reset)))


def refusal(status: int, kind: str = "api_error", headers: tuple[Header, ...] = (), message: str = "Sorry.") -> Reply:
    """An error in Anthropic's shape."""
    content = {"type": "error", "error": {"type": kind, "message": message}}
    return Reply(status, (*JSON, *headers), json.dumps(content).encode(), content)


OK = Reply()
GONE = Reply(0)
OVERLOADED = refusal(529, "overloaded_error")
FAILED = refusal(500)
REJECTED = refusal(401, "authentication_error")
LACKS_SCOPE = refusal(403, "permission_error", message="OAuth token does not meet scope requirement user:inference")
NO_MODEL = refusal(404, "not_found_error", message="model: claude-opus-9")
BARE = refusal(429, "rate_limit_error")
THROTTLED = refusal(
    429, "rate_limit_error", ((b"anthropic-ratelimit-unified-5h-status", b"allowed"), (b"retry-after", b"2"))
)
EVENT_ERROR = Reply(200, STREAM, BROKEN_STREAM, {"type": "error", "error": {"type": "overloaded_error"}})


class Bench:
    """A pool with accounts of one letter each, and exchanges on it. `options` are ours without their prefix."""

    def __init__(self, ids: Iterable[str] = "ab", *, recorder: Recorder | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.notes = Notes()
        self.pool = AccountPool(clock=lambda: self.clock.mono, wall=lambda: self.clock.wall)
        self.pool.replace_accounts([account(id) for id in ids])
        self.exchanges = Exchanges(
            Settings.build({f"ccflare_{name}": value for name, value in options.items()}, {"XDG_DATA_HOME": "/x"}),
            self.pool,
            recorder or self.notes,
            PriceList(),
            clock=lambda: self.clock.mono,
            wall=lambda: self.clock.wall,
            random=lambda: 0.5,
        )

    def begin(self, facts: Facts = OPUS, body: bytes = b'{"model":"claude-opus-4-8"}') -> Exchange:
        """An exchange that the gate has admitted."""
        exchange = self.exchanges.begin(ASKED)
        exchange.admit(facts, body, "")
        return exchange

    def serve(self, *replies: Reply, facts: Facts = OPUS) -> Exchange:
        """An exchange from its start to its end; after the last of `replies` the upstream answers with 200."""
        exchange = self.begin(facts)
        for step in self.steps(exchange, replies):
            if isinstance(step, Wait):
                self.clock.pass_(step.seconds)
        return exchange

    def steps(self, exchange: Exchange, replies: Sequence[Reply]) -> Iterator[Step]:
        """The steps as the wire would carry them out; it is the caller's to let time pass."""
        left = list(replies)
        reply = OK
        step = exchange.next_step()
        while True:
            yield step
            match step:
                case Wait():
                    step = exchange.next_step()
                case Send():
                    reply = left.pop(0) if left else OK
                    step = judged(exchange, reply)
                case Answer():
                    exchange.answered(step)
                    return
                case Deliver():
                    deliver(exchange, reply)
                    return


def account(id: str, **fields: Any) -> Account:
    """The account `max-<id>`, whose token is `token-<id>`."""
    return Account(id, f"max-{id}", Kind.OAUTH, **({"access_token": f"token-{id}"} | fields))


def judged(exchange: Exchange, reply: Reply) -> Step:
    """What follows when this comes back."""
    if reply.status == 0:
        return exchange.unreachable("connection refused")
    return exchange.judge(reply.status, reply.headers, reply.event)


def deliver(exchange: Exchange, reply: Reply, finish: Callable[[Exchange], None] = Exchange.finish) -> None:
    """The answer goes to the client, in two pieces."""
    exchange.delivering(reply.status, reply.headers)
    middle = len(reply.body) // 2
    for chunk in (reply.body[:middle], reply.body[middle:]):
        exchange.capture.add(chunk)
    finish(exchange)


def names(exchange: Exchange) -> list[str]:
    """The accounts of its attempts, in their order."""
    return [attempt.account_name for attempt in exchange.attempts]


def cut(outcome: Outcome, error: str) -> Callable[[Exchange], None]:
    """An end that is not the answer's own."""
    return lambda exchange: exchange.finish(outcome, error)
