"""Turns what is known of an exchange into records, and puts them to the writer."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Protocol

from ccflare_core.accounts.pool import Report
from ccflare_core.anthropic.usage import Message, Usage
from ccflare_core.config.record_mode import Mode
from ccflare_core.exchange.batch_records import batch_records, is_about_batches
from ccflare_core.exchange.log_line import (
    PassedRequests,
    log_exchange,
    waited,
    warn_of_attention,
    warn_of_cooldown,
)
from ccflare_core.exchange.records import (
    AttemptMade,
    AttentionNeeded,
    CooldownCleared,
    CooldownSet,
    ExchangeFinished,
    ExchangeStarted,
    OutcomeCorrected,
    PartUsed,
    Payload,
    Record,
    WindowRead,
)
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.text import to_ms

logger = logging.getLogger("ccflare")


class Sink(Protocol):
    """Where records go: the writer, or a list in a test."""

    def put(self, record: Record) -> None: ...


class Recorder:
    """Writes down every exchange; never raises, never waits.

    `mode` is asked each time, since it can change while running. What the pool learned is kept in every mode: it is
    state, not history.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        run_id: str,
        mode: Callable[[Opening], Mode],
        body_limit: Callable[[], int],
        wall: Callable[[], float],
        account_name: Callable[[str], str],
    ) -> None:
        self._sink = sink
        self._run_id = run_id
        self._mode = mode
        self._body_limit = body_limit
        self._wall = wall
        self._account_name = account_name
        self._passed = PassedRequests(wall)
        self._left_out: set[str] = set()  # the open exchanges that have no row

    def started(self, exchange: Story) -> None:
        """Open the exchange's row."""
        opening = exchange.opening
        if self._mode(opening) is Mode.OFF:
            self._left_out.add(exchange.id)
            return
        self._sink.put(
            ExchangeStarted(
                id=exchange.id,
                timestamp_ms=to_ms(exchange.started_at),
                method=opening.method,
                path=opening.path,
                client_ip=opening.client,
                user_agent=opening.user_agent,
                session_id=None,
                door=opening.door,
                run_id=self._run_id,
                model=None,
                client_id=opening.client_key,
                client_name=opening.key.name if opening.key else None,
            )
        )

    def attempted(self, exchange: Story, attempt: Attempt) -> None:
        """Note one attempt."""
        if self._mode(exchange.opening) is Mode.OFF or exchange.id in self._left_out:
            return
        verdict = attempt.verdict
        self._sink.put(
            AttemptMade(
                request_id=exchange.id,
                number=attempt.number,
                account_id=attempt.account_id,
                account_name=attempt.account_name,
                status_code=verdict.status or None,
                verdict=verdict.kind,
                reason=f"{verdict.reason}{waited(attempt.waited, ' after ')}",
                windows=verdict.windows,
                started_at_ms=to_ms(attempt.started_at),
                duration_ms=attempt.duration * 1000,
            )
        )

    def learned(self, account_id: str, report: Report) -> None:
        """Keep what the pool learned, for the next start and for other processes."""
        for window in report.windows:
            self._sink.put(WindowRead(account_id, to_ms(self._wall()), window))
        for account, part in report.cleared:
            self._sink.put(CooldownCleared(account, part))
        for cooldown in report.cooldowns:
            self._sink.put(CooldownSet(cooldown))
            warn_of_cooldown(self._account_name(account_id), cooldown, self._wall())
        if report.attention:
            self._sink.put(AttentionNeeded(account_id, report.attention))
            warn_of_attention(self._account_name(account_id), report.attention)

    def finished(self, exchange: Story) -> None:
        """Close the exchange's row, keep its bodies if asked to, and say so in the log."""
        log_exchange(exchange, self._passed)
        mode = self._mode(exchange.opening)
        if exchange.id in self._left_out:
            self._left_out.remove(exchange.id)
            self._put_batches(exchange)
            return
        if mode.keeps_bodies and exchange.ticket is Ticket.LEASE and not exchange.is_stateful:
            self._keep_bodies(exchange, redact=mode is Mode.REDACTED)
        for part in parts_used(exchange):
            self._sink.put(part)
        self._sink.put(final_columns(exchange))
        self._put_batches(exchange)

    def _put_batches(self, exchange: Story) -> None:
        """What is known of batches now is kept in every mode: it is state."""
        for record in batch_records(exchange, to_ms(self._wall()), total_tokens(exchange)):
            self._sink.put(record)

    def corrected(self, exchange_id: str, outcome: Outcome, error: str) -> None:
        """Give an exchange that has ended another outcome, if it has a row."""
        logger.info("%s was %s: %s", exchange_id, outcome, error)
        self._sink.put(OutcomeCorrected(exchange_id, outcome, error))

    def _keep_bodies(self, exchange: Story, *, redact: bool) -> None:
        body, limit = exchange.request_body, self._body_limit()
        if body:
            self._sink.put(
                Payload(
                    request_id=exchange.id,
                    part="request",
                    content_type="application/json",
                    content_encoding=exchange.request_encoding,
                    body=body[:limit],
                    size=len(body),
                    truncated=len(body) > limit,
                    session_id=exchange.facts.session_id,
                    redact=redact,
                )
            )
        capture = exchange.capture
        if capture.size:
            self._sink.put(
                Payload(
                    request_id=exchange.id,
                    part="response",
                    content_type=capture.content_type,
                    content_encoding=capture.content_encoding,
                    body=capture.body,
                    size=capture.size,
                    truncated=capture.truncated,
                    redact=redact,
                )
            )


def final_columns(exchange: Story) -> ExchangeFinished:
    """The row of a finished exchange."""
    reading = exchange.reading
    usage = reading.usage if reading else Usage()
    lease, status = exchange.lease, exchange.status
    prompt = prompt_tokens(usage)
    return ExchangeFinished(
        id=exchange.id,
        outcome=exchange.outcome or Outcome.CRASHED,
        success=exchange.outcome is Outcome.OK,
        status_code=status,
        error_message=exchange.error,
        account_used=lease.account.id if lease else None,
        account_name=lease.account.name if lease else None,
        response_time_ms=exchange.duration * 1000,
        first_byte_ms=None if exchange.first_byte is None else exchange.first_byte * 1000,
        failover_attempts=exchange.failovers,
        attempts=len(exchange.attempts),
        model=(reading.model if reading else None) or exchange.facts.model,
        session_id=exchange.facts.session_id,
        stream="text/event-stream" in exchange.capture.content_type if status else exchange.facts.stream,
        choice_reason=exchange.choice_reason,
        upstream_request_id=exchange.upstream_request_id,
        prompt_tokens=prompt,
        completion_tokens=usage.output_tokens,
        total_tokens=total_tokens(exchange),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        cache_creation_5m_input_tokens=usage.cache_creation_5m_input_tokens,
        cache_creation_1h_input_tokens=usage.cache_creation_1h_input_tokens,
        thinking_tokens=usage.thinking_tokens,
        web_search_requests=usage.web_search_requests,
        service_tier=usage.service_tier,
        cost_usd=None if exchange.cost is None else float(exchange.cost),
        request_bytes=len(exchange.request_body),
        response_bytes=exchange.capture.size,
        project=exchange.provenance.project,
        working_directory=exchange.provenance.working_directory,
        agent=exchange.agent,
        request_class=exchange.provenance.request_class,
        original_model=exchange.original_model,
        message_id=reading.message_id if reading else None,
        stop_reason=reading.stop_reason if reading else None,
        refusal=reading.refusal if reading else None,
        speed=usage.speed,
        inference_geo=usage.inference_geo,
        web_fetch_requests=usage.web_fetch_requests,
        input_transformations=reading.input_transformations if reading else None,
        estimated=True if reading and reading.is_estimated else None,
        agent_id=exchange.provenance.agent_id,
        parent_agent_id=exchange.provenance.parent_agent_id,
        waited_ms=exchange.waited * 1000 if exchange.waited else None,
        query=exchange.opening.query or None,
        api_version=exchange.opening.api_version or None,
        betas=exchange.opening.betas or None,
        counted_tokens=exchange.counted.tokens,
        counted_usd=None if exchange.counted.dollars is None else float(exchange.counted.dollars),
    )


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
    used = [exchange.reading.usage, *(part.usage for part in exchange.reading.extra)]
    return total_of(*(count for each in used for count in (prompt_tokens(each), each.output_tokens)))


def total_of(*counts: int | None) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
