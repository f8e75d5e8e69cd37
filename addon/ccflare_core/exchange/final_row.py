"""What an exchange's rows say at its end: its final columns, what it has used, and what that counts in budgets."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from ccflare_core.anthropic.usage import Message, Usage
from ccflare_core.exchange.batch_records import is_about_batches
from ccflare_core.exchange.records import ExchangeFinished, PartUsed
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story
from ccflare_core.secrets.redact import label
from ccflare_core.text import to_ms

_OF_USAGE = tuple(field.name for field in fields(Usage))
_used_of = attrgetter(*_OF_USAGE)


def final_columns(exchange: Story) -> ExchangeFinished:
    """The row of a finished exchange."""
    return ExchangeFinished(
        id=exchange.id,
        outcome=exchange.outcome or Outcome.CRASHED,
        success=exchange.outcome is Outcome.OK,
        error_message=exchange.error,
        response_time_ms=exchange.duration * 1000,
        **_asked(exchange),
        **_served(exchange),
        **_answered(exchange),
        **_used(exchange),
    )


def _asked(exchange: Story) -> dict[str, Any]:
    """What the client asked for, and for whom."""
    provenance, opening = exchange.provenance, exchange.opening
    return {
        "session_id": exchange.facts.session_id,
        "project": exchange.project,
        "client_run": opening.run.id if opening.run else None,
        "working_directory": _label(provenance.working_directory),
        "request_class": provenance.request_class,
        "agent": exchange.agent,
        "agent_id": provenance.agent_id,
        "parent_agent_id": provenance.parent_agent_id,
        "original_model": _label(exchange.original_model),
        "previous_message_id": exchange.continues,
        "query": opening.query or None,
        "api_version": opening.api_version or None,
        "betas": _label(opening.betas),
        "request_bytes": len(exchange.request_body),
    }


def recorded_tags(exchange: Story) -> dict[str, str]:
    """The values of its tags by their names, as they are written down: without secrets."""
    return {name: label(value) for name, value in exchange.opening.tags.items()}


def _label(text: str | None) -> str | None:
    return label(text) if text else None


def _served(exchange: Story) -> dict[str, Any]:
    """Which account served it, and how it came to that."""
    account = exchange.lease.account if exchange.lease else None
    return {
        "account_used": account.id if account else None,
        "account_name": account.name if account else None,
        "choice_reason": exchange.choice_reason,
        "attempts": len(exchange.attempts),
        "failover_attempts": exchange.failovers,
        "waited_ms": exchange.waited * 1000 if exchange.waited else None,
    }


def _answered(exchange: Story) -> dict[str, Any]:
    """What the client got."""
    reading, status, capture = exchange.reading, exchange.status, exchange.capture
    return {
        "status_code": status,
        "first_byte_ms": None if exchange.first_byte is None else exchange.first_byte * 1000,
        "stream": "text/event-stream" in capture.content_type if status else exchange.facts.stream,
        "response_bytes": capture.size,
        "upstream_request_id": exchange.upstream_request_id,
        "model": _label((reading.model if reading else None) or exchange.facts.model),
        "message_id": reading.message_id if reading else None,
        "stop_reason": _label(reading.stop_reason if reading else None),
        "refusal": reading.refusal if reading else None,
        "input_transformations": reading.input_transformations if reading else None,
        "estimated": True if reading and reading.is_estimated else None,
    }


def _used(exchange: Story) -> dict[str, Any]:
    """Tokens and dollars. The columns of one answer's usage have the names that Usage has."""
    usage = exchange.reading.usage if exchange.reading else Usage()
    cost, counted = exchange.cost, exchange.counted
    return {
        **dict(zip(_OF_USAGE, _used_of(usage), strict=True)),
        "prompt_tokens": prompt_tokens(usage),
        "completion_tokens": usage.output_tokens,
        "total_tokens": total_tokens(exchange),
        "cost_usd": None if cost is None else float(cost),
        "counted_tokens": counted.tokens,
        "counted_usd": None if counted.dollars is None else float(counted.dollars),
    }


def budgeted(exchange: Story) -> tuple[int | None, Decimal | None]:
    """The tokens and the dollars that count in the budget of the exchange's client; None is unknown.

    Batches count by what the database has of them.
    """
    if is_about_batches(exchange):
        return None, None
    tokens, dollars = exchange.counted
    return (total_tokens(exchange) if tokens is None else tokens, exchange.cost if dollars is None else dollars)


def parts_used(exchange: Story) -> Iterator[PartUsed]:
    """What was used beside the answer itself, a row for each kind and model."""
    reading, prices = exchange.reading, exchange.prices
    if reading is None or prices is None:
        return
    groups: defaultdict[tuple[str, str | None], list[Message]] = defaultdict(list)
    for part in reading.extra:
        groups[part.kind, part.model].append(part)
    for number, ((kind, model), found) in enumerate(groups.items(), 1):
        cost = prices.total(found)
        yield PartUsed(
            request_id=exchange.id,
            number=number,
            at_ms=to_ms(exchange.started_at),
            kind=kind,
            model=model,
            calls=len(found),
            input_tokens=sum(part.usage.input_tokens or 0 for part in found),
            output_tokens=sum(part.usage.output_tokens or 0 for part in found),
            cache_read_tokens=sum(part.usage.cache_read_input_tokens or 0 for part in found),
            cache_creation_tokens=sum(part.usage.cache_creation_input_tokens or 0 for part in found),
            cost_usd=None if cost is None else float(cost),
        )


def prompt_tokens(usage: Usage) -> int | None:
    """All that was sent to the model, from the cache or not."""
    return total_of(usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)


def total_tokens(exchange: Story) -> int | None:
    """All that was sent to the models and came from them; None if nothing is known of it."""
    if exchange.reading is None:
        return None
    counts: list[int | None] = []
    for used in (exchange.reading.usage, *(part.usage for part in exchange.reading.extra)):
        counts += prompt_tokens(used), used.output_tokens
    return total_of(*counts)


def total_of(*counts: int | None) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
