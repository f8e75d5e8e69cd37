"""Records: one class of values per kind of row, made by any thread, written by the writer's.

Times are integer milliseconds since the epoch, as in the tables. The records of one exchange are put in the
order ExchangeStarted, then AttemptMade, WindowRead, PartUsed and Payload as they come, then ExchangeFinished, then
those of its batches.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from ccflare_core.accounts.affinity import Held
from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window


class ExchangeStarted(NamedTuple):
    """An open row of `requests`, whose columns the fields are."""

    id: str
    timestamp_ms: int
    method: str
    path: str
    client_ip: str
    user_agent: str
    session_id: str | None
    door: str
    run_id: str
    model: str | None
    client_id: str | None = None
    client_name: str | None = None


class ExchangeFinished(NamedTuple):
    """The final columns of that row; None is unknown. For `model` and `session_id` it changes nothing."""

    id: str
    outcome: str
    success: bool
    status_code: int | None = None
    error_message: str | None = None
    account_used: str | None = None
    account_name: str | None = None
    response_time_ms: float | None = None
    first_byte_ms: float | None = None
    failover_attempts: int = 0
    attempts: int = 0
    model: str | None = None
    session_id: str | None = None
    stream: bool | None = None
    choice_reason: str = ""
    upstream_request_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_5m_input_tokens: int | None = None
    cache_creation_1h_input_tokens: int | None = None
    thinking_tokens: int | None = None
    web_search_requests: int | None = None
    service_tier: str | None = None
    cost_usd: float | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    project: str | None = None
    working_directory: str | None = None
    agent: str | None = None
    request_class: str | None = None
    original_model: str | None = None
    message_id: str | None = None
    previous_message_id: str | None = None
    """Of the message that it goes on from, for a part of a thread."""
    stop_reason: str | None = None
    refusal: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    web_fetch_requests: int | None = None
    input_transformations: str | None = None
    estimated: bool | None = None
    agent_id: str | None = None
    parent_agent_id: str | None = None
    waited_ms: float | None = None
    query: str | None = None
    api_version: str | None = None
    betas: str | None = None
    counted_tokens: int | None = None
    counted_usd: float | None = None
    client_run: str | None = None


class RequestTagged(NamedTuple):
    """A row of `request_tags`: a tag of a request that began then."""

    request_id: str
    at_ms: int
    name: str
    value: str


class OutcomeCorrected(NamedTuple):
    """How an exchange ended, in place of what its row says: only what came later has told it."""

    id: str
    outcome: str
    error_message: str


class PartUsed(NamedTuple):
    """A row of `usage_parts`: what one model was used for beside the answer that it helped to make."""

    request_id: str
    number: int
    at_ms: int
    kind: str
    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_creation_tokens: int
    cost_usd: float | None


class BatchMade(NamedTuple):
    """A row of `batches`: a batch, and what it counts in the budget of the client that has made it.

    `id` is that of the exchange until the upstream has told one: it is put down before anything goes there.
    """

    id: str
    request_id: str
    client_id: str | None
    at_ms: int
    tokens: int | None
    usd: float | None


class BatchDropped(NamedTuple):
    """That no batch was made by this exchange after all."""

    request_id: str


class BatchEnded(NamedTuple):
    """That a batch has ended, and how many of its requests succeeded: the others count nothing."""

    id: str
    at_ms: int
    succeeded: int
    requests: int


class BatchRead(NamedTuple):
    """That the results of a batch went to a client whole, and what they say that it took."""

    id: str
    request_id: str
    client_id: str | None
    at_ms: int
    tokens: int | None
    usd: float | None


class TunnelOpened(NamedTuple):
    """An open row of `tunnels`, whose columns the fields are."""

    id: str
    client_id: str
    client_name: str
    client_ip: str
    host: str
    port: int
    address: str | None
    run_id: str
    opened_at: int


class TunnelEnded(NamedTuple):
    """How that ended, and how many bytes went which way."""

    id: str
    ended_at: int
    sent_bytes: int
    received_bytes: int
    ended: str


class AttemptMade(NamedTuple):
    """A row of `attempts`: one try upstream and what came of it."""

    request_id: str
    number: int
    account_id: str | None
    account_name: str
    status_code: int | None
    verdict: str
    reason: str
    windows: tuple[Window, ...]
    started_at_ms: int
    duration_ms: float


class WindowRead(NamedTuple):
    """A row of `windows`: what one answer said about one limit window."""

    account_id: str
    at_ms: int
    window: Window


class CooldownSet(NamedTuple):
    """The cooldown of a part of an account, in place of the one there was."""

    cooldown: Cooldown


class CooldownCleared(NamedTuple):
    """The end of a cooldown before its time."""

    account_id: str
    part: Part


class SessionServed(NamedTuple):
    """Which account has served a session last. Its row is one, see store/affinity.py."""

    held: Held


class InFlightCounted(NamedTuple):
    """How many requests a run has in flight with each account: what other proxies on the database go by."""

    run_id: str
    counts: dict[str, int]


class RunTold(NamedTuple):
    """What a run says of itself for those who look at all proxies: columns of its row by their names."""

    run_id: str
    columns: dict[str, object]


class ProbeEnded(NamedTuple):
    """That a claim on the first request after a rest is over, see accounts/probes.py; not that of another term."""

    account_id: str
    part: Part
    term: str


class AttentionNeeded(NamedTuple):
    """An account that is out until a person acts, and why."""

    account_id: str
    reason: str


class OrganizationLearned(NamedTuple):
    """Which organization an account is of, as an answer said it. One that is known stays."""

    account_id: str
    organization_id: str


class IdMade(NamedTuple):
    """Which account made what this id stands for, and for which client; of several of one id the first one counts."""

    kind: str
    text: str
    account_id: str
    client: str
    at_ms: int


class IdUsed(NamedTuple):
    """That it was used."""

    kind: str
    text: str
    at_ms: int


class IdForgotten(NamedTuple):
    """That it is deleted."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Payload:
    """A row of `payloads`: the body of the `part` "request" or "response", as far as it was captured.

    `size` is the number of bytes that went over the wire. Bodies of one session have most of their content in common.
    A body to `redact` is searched for secrets before it is stored (see redaction.py); `redactions` says how many were
    blanked, None that nobody looked. One that could not be searched is `withheld`.
    """

    request_id: str
    part: str
    content_type: str
    content_encoding: str
    body: bytes = field(repr=False)
    size: int
    truncated: bool
    session_id: str | None = None
    redact: bool = False
    redactions: int | None = None
    withheld: bool = False

    def searched(self, redactions: int, body: bytes, content_encoding: str) -> "Payload":
        """The same with so many secrets blanked in `body`. Not by `replace`, which takes several times as long."""
        told = (self.request_id, self.part, self.content_type, content_encoding, body, self.size, self.truncated)
        return Payload(*told, self.session_id, False, redactions, self.withheld)


Record = (
    ExchangeStarted
    | ExchangeFinished
    | RequestTagged
    | OutcomeCorrected
    | PartUsed
    | BatchMade
    | BatchDropped
    | BatchEnded
    | BatchRead
    | TunnelOpened
    | TunnelEnded
    | AttemptMade
    | WindowRead
    | CooldownSet
    | CooldownCleared
    | SessionServed
    | InFlightCounted
    | RunTold
    | ProbeEnded
    | AttentionNeeded
    | OrganizationLearned
    | IdMade
    | IdUsed
    | IdForgotten
    | Payload
)


def storable(value: Any) -> Any:
    """A record (or a value in one) in a form that every database takes.

    Clients and the upstream choose some of what is recorded, and nothing they send may cost the row: lone
    surrogates and NULs are spelt out, integers beyond 64 bits and floats that are no number become None.
    """
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        case int() if not -(2**63) <= value < 2**63:
            return None
        case float() if not math.isfinite(value):
            return None
        case tuple():
            parts = [storable(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        case Payload() | Cooldown():
            return replace(value, **{part.name: storable(getattr(value, part.name)) for part in fields(value)})
        case _:
            return value
