"""What an exchange is called in OpenTelemetry: one table of attributes, one of metrics. Pure.

The names of `gen_ai.*` are those of one version of the conventions for generative AI, which are still in development:
they change from version to version, so they stand here and nowhere else. What the conventions have no word for is
`anthropic.*`, where Anthropic's own SDK has one, or else `ccflare.*`. None of it is anything that was said.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from ccflare_core.exchange.steps import Attempt, Outcome
from ccflare_core.http.origins import Origin
from ccflare_core.secrets.redact import label
from ccflare_core.telemetry.finished import Finished

SCHEMA: Final = "semantic-conventions-genai v0.1.0"
"""The version that the names are of (github.com/open-telemetry/semantic-conventions-genai)."""
PROVIDER: Final = "anthropic"

type Value = str | bool | int | float | tuple[str, ...]
type Attributes = dict[str, Value]
type _Read = Callable[[Finished], Value | None]

EXCHANGE: Final[Mapping[str, _Read]] = {
    "http.request.method": lambda of: of.method,
    "url.path": lambda of: of.path,
    "http.response.status_code": lambda of: of.row.status_code,
    "user_agent.original": lambda of: of.user_agent,
    "error.type": lambda of: error_type(of),
    "gen_ai.conversation.id": lambda of: of.row.session_id,
    "session.id": lambda of: of.row.session_id,
    "ccflare.request.id": lambda of: of.row.id,
    "ccflare.outcome": lambda of: str(of.row.outcome),
    "ccflare.account": lambda of: of.row.account_name,
    "ccflare.choice_reason": lambda of: of.row.choice_reason,
    "ccflare.attempts": lambda of: of.row.attempts,
    "ccflare.failovers": lambda of: of.row.failover_attempts,
    "ccflare.waited_seconds": lambda of: seconds(of.row.waited_ms),
    "ccflare.client": lambda of: of.client,
    "ccflare.project": lambda of: of.row.project,
    "ccflare.run": lambda of: of.row.client_run,
    "ccflare.agent": lambda of: of.row.agent,
    "ccflare.request.class": lambda of: of.row.request_class,
    "ccflare.original_model": lambda of: of.row.original_model,
}
"""What the span of a whole exchange says."""

ASKED: Final[Mapping[str, _Read]] = {
    "gen_ai.operation.name": lambda of: of.operation,
    "gen_ai.provider.name": lambda of: PROVIDER,
    "gen_ai.request.model": lambda of: of.asked_model,
    "gen_ai.request.stream": lambda of: of.row.stream,
    "gen_ai.conversation.id": lambda of: of.row.session_id,
    "session.id": lambda of: of.row.session_id,
}
"""What each span of a request to a model says."""

ANSWERED: Final[Mapping[str, _Read]] = {
    "gen_ai.response.id": lambda of: of.row.message_id,
    "gen_ai.response.model": lambda of: of.row.model,
    "gen_ai.response.finish_reasons": lambda of: (of.row.stop_reason,) if of.row.stop_reason else None,
    "gen_ai.response.time_to_first_chunk": lambda of: first_chunk(of),
    "gen_ai.usage.input_tokens": lambda of: of.row.prompt_tokens,
    "gen_ai.usage.output_tokens": lambda of: of.row.completion_tokens,
    "gen_ai.usage.cache_read.input_tokens": lambda of: of.row.cache_read_input_tokens,
    "gen_ai.usage.cache_write.input_tokens": lambda of: of.row.cache_creation_input_tokens,
    "gen_ai.usage.reasoning.output_tokens": lambda of: of.row.thinking_tokens,
    "anthropic.request.id": lambda of: of.row.upstream_request_id,
    "anthropic.response.service_tier": lambda of: of.row.service_tier,
    "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": lambda of: of.row.cache_creation_5m_input_tokens,
    "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": lambda of: of.row.cache_creation_1h_input_tokens,
    "ccflare.cost_usd": lambda of: of.row.cost_usd,
}
"""What the span of the attempt that the client was answered with says: no other one, so that sums count it once."""

ATTEMPT: Final[Mapping[str, Callable[[Finished, Attempt], Value | None]]] = {
    "http.request.method": lambda of, attempt: of.method,
    "http.response.status_code": lambda of, attempt: attempt.verdict.status or None,
    "error.type": lambda of, attempt: error_of(of, attempt),
    "ccflare.account": lambda of, attempt: attempt.account_name,
    "ccflare.verdict": lambda of, attempt: attempt.verdict.kind.value,
    "ccflare.attempt": lambda of, attempt: attempt.number,
    "ccflare.waited_seconds": lambda of, attempt: attempt.waited or None,
}
"""What the span of an attempt says besides."""

LABELS: Final[Mapping[str, _Read]] = {
    "gen_ai.operation.name": lambda of: of.operation,
    "gen_ai.provider.name": lambda of: PROVIDER,
    "gen_ai.request.model": lambda of: of.known_model,
    "error.type": lambda of: error_type(of),
    "ccflare.account": lambda of: of.row.account_name,
}
"""What metrics are told apart by. None of these is anything that a client can make as many of as it likes."""


class Metric(NamedTuple):
    """One instrument: a histogram if it has bounds, else a counter. What `read` gives for an exchange is added."""

    name: str
    unit: str
    help: str
    read: Callable[[Finished], float | None]
    bounds: tuple[float, ...] = ()


_DURATIONS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(4.0**power for power in range(14))

METRICS: Final = (
    Metric(
        "gen_ai.client.inference.duration",
        "s",
        "How long a request took, with all of its attempts.",
        lambda of: seconds(of.row.response_time_ms),
        _DURATIONS,
    ),
    Metric(
        "gen_ai.client.inference.time_to_first_chunk",
        "s",
        "How long it took until a stream began.",
        lambda of: first_chunk(of),
        _DURATIONS,
    ),
    Metric(
        "gen_ai.client.inference.operation.input_tokens",
        "{token}",
        "Tokens of a request's prompt, from the cache or not.",
        lambda of: of.row.prompt_tokens,
        _TOKENS,
    ),
    Metric(
        "gen_ai.client.inference.operation.output_tokens",
        "{token}",
        "Tokens of an answer.",
        lambda of: of.row.completion_tokens,
        _TOKENS,
    ),
    Metric(
        "gen_ai.client.inference.usage.input_tokens",
        "{token}",
        "Tokens of all prompts, from the cache or not.",
        lambda of: of.row.prompt_tokens,
    ),
    Metric(
        "gen_ai.client.inference.usage.output_tokens",
        "{token}",
        "Tokens of all answers.",
        lambda of: of.row.completion_tokens,
    ),
    Metric(
        "gen_ai.client.inference.usage.cache_read.input_tokens",
        "{token}",
        "Of the prompts' tokens: those from the cache.",
        lambda of: of.row.cache_read_input_tokens,
    ),
    Metric(
        "gen_ai.client.inference.usage.cache_write.input_tokens",
        "{token}",
        "Of the prompts' tokens: those written to the cache.",
        lambda of: of.row.cache_creation_input_tokens,
    ),
    Metric(
        "gen_ai.client.inference.usage.reasoning.output_tokens",
        "{token}",
        "Of the answers' tokens: those that were thought.",
        lambda of: of.row.thinking_tokens,
    ),
    Metric("ccflare.cost", "{USD}", "What the requests cost, as far as that is known.", lambda of: of.row.cost_usd),
    Metric(
        "ccflare.failovers",
        "{failover}",
        "How often another account took over.",
        lambda of: of.row.failover_attempts or None,
    ),
)


def of_exchange(finished: Finished) -> Attributes:
    """The attributes of the span of an exchange. Where there was no attempt, it says what the answer said, too."""
    return {**known(EXCHANGE, finished), **({} if finished.attempts else of_answer(finished))}


def of_attempt(finished: Finished, attempt: Attempt, upstream: Origin) -> Attributes:
    """The attributes of the span of one attempt, which was sent there."""
    server: Attributes = {"server.address": upstream.host, "server.port": upstream.port}
    own = {name: _blanked(read(finished, attempt)) for name, read in ATTEMPT.items()}
    asked = known(ASKED, finished) if finished.operation else {}
    answered = known(ANSWERED, finished) if attempt is finished.answering else {}
    return {**server, **asked, **{name: value for name, value in own.items() if value is not None}, **answered}


def of_answer(finished: Finished) -> Attributes:
    """What was asked of a model, and what its answer says."""
    return {**known(ASKED, finished), **known(ANSWERED, finished)} if finished.operation else {}


def labels(finished: Finished) -> Attributes:
    """What the metrics of an exchange are told apart by."""
    return known(LABELS, finished)


def measured(finished: Finished) -> Iterator[tuple[Metric, float]]:
    """What an exchange adds to which metrics; nothing if no model was asked."""
    for metric in METRICS if finished.operation else ():
        if (value := metric.read(finished)) is not None:
            yield metric, value


def known(table: Mapping[str, _Read], finished: Finished) -> Attributes:
    """What a table says of an exchange, without what is not known."""
    read = ((name, _blanked(read(finished))) for name, read in table.items())
    return {name: value for name, value in read if value not in (None, "")}


def _blanked(value: Value | None) -> Value | None:
    """Without secrets, which a client may have put anywhere, into the id of a session for example."""
    match value:
        case str():
            return label(value)
        case tuple():
            return tuple(label(each) for each in value)
        case _:
            return value


def span_name(finished: Finished) -> str:
    """What the span of an attempt is called: `chat claude-opus-4-8`."""
    if finished.operation is None:
        return finished.name
    return f"{finished.operation} {finished.asked_model}" if finished.asked_model else finished.operation


def error_type(finished: Finished) -> str | None:
    """What went wrong with an exchange, in one word; None: nothing."""
    return None if finished.row.outcome == Outcome.OK else str(finished.row.outcome)


def error_of(finished: Finished, attempt: Attempt) -> str | None:
    """What went wrong with an attempt; None: nothing."""
    return error_type(finished) if attempt is finished.answering else attempt.verdict.kind.value


def first_chunk(finished: Finished) -> float | None:
    """Seconds from the attempt that was answered to the head of its stream; None if it was none."""
    answering, first_byte = finished.answering, finished.row.first_byte_ms
    if not finished.row.stream or first_byte is None or answering is None:
        return None
    return max(0.0, finished.started_at + first_byte / 1000 - answering.started_at)


def seconds(milliseconds: float | None) -> float | None:
    """The same in seconds."""
    return None if milliseconds is None else milliseconds / 1000
