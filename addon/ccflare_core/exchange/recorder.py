"""Turns what is known of an exchange into records, and puts them to the writer."""

import logging
from collections.abc import Callable
from typing import Protocol

from ccflare_core.accounts.pool import Report
from ccflare_core.config.record_mode import Mode
from ccflare_core.exchange.batch_records import batch_records, is_about_batches, reserved
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.final_row import final_columns, parts_used, recorded_tags, total_tokens
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
    OrganizationLearned,
    OutcomeCorrected,
    Payload,
    Record,
    RequestTagged,
    SessionServed,
    WindowRead,
)
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.secrets.redact import label
from ccflare_core.text import to_ms

logger = logging.getLogger("ccflare")


class Sink(Protocol):
    """Where records go: the writer, or a list in a test."""

    def put(self, record: Record) -> None: ...


type Listener = Callable[[Story, ExchangeFinished, Mode], object]
"""Who else is told of an exchange whose row is closed: with what that says, and how it is recorded."""


def tell_nobody(story: Story, row: ExchangeFinished, mode: Mode) -> None:
    """Nobody else is."""


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
        tell: Listener = tell_nobody,
    ) -> None:
        self._sink = sink
        self._run_id = run_id
        self._mode = mode
        self._body_limit = body_limit
        self._wall = wall
        self._account_name = account_name
        self._tell = tell
        self._passed = PassedRequests(wall)
        self._left_out: set[str] = set()  # the open exchanges that have no row

    def started(self, exchange: Story) -> None:
        """Open the exchange's row, with its tags."""
        opening = exchange.opening
        if self._mode(opening) is Mode.OFF:
            self._left_out.add(exchange.id)
            return
        self._sink.put(
            ExchangeStarted(
                id=exchange.id,
                timestamp_ms=to_ms(exchange.started_at),
                method=opening.method,
                path=label(opening.path),
                client_ip=opening.client,
                user_agent=label(opening.user_agent),
                session_id=None,
                door=opening.door,
                run_id=self._run_id,
                model=None,
                client_id=opening.client_key,
                client_name=opening.key.name if opening.key else None,
            )
        )
        for name, value in recorded_tags(exchange).items():
            self._sink.put(RequestTagged(exchange.id, to_ms(exchange.started_at), name, value))

    def keeps_bodies(self, opening: Opening) -> bool:
        """Whether the bodies of such an exchange are written down, as things are now."""
        return self._mode(opening).keeps_bodies

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

    def reserved(self, exchange: Story, estimate: Counted) -> None:
        """Note what the batch that may be made now counts until more is known, also if this process dies."""
        self._sink.put(reserved(exchange, estimate))

    def learned(self, account_id: str, report: Report) -> None:
        """Keep what the pool learned, for the next start and for other processes."""
        for window in report.windows:
            self._sink.put(WindowRead(account_id, to_ms(self._wall()), window))
        for account, part in report.cleared:
            self._sink.put(CooldownCleared(account, part))
        for cooldown in report.cooldowns:
            self._sink.put(CooldownSet(cooldown))
            warn_of_cooldown(self._account_name(cooldown.account_id), cooldown, self._wall())
        if report.held:
            self._sink.put(SessionServed(report.held))
        if report.attention:
            self._sink.put(AttentionNeeded(account_id, report.attention))
            warn_of_attention(self._account_name(account_id), report.attention)

    def organization(self, account_id: str, organization_id: str) -> None:
        """Keep which organization an account is of."""
        self._sink.put(OrganizationLearned(account_id, organization_id))

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
        row = final_columns(exchange)
        self._sink.put(row)
        self._put_batches(exchange)
        self._tell(exchange, row, mode)

    def _put_batches(self, exchange: Story) -> None:
        """What is known of batches now is kept in every mode: it is state."""
        if not is_about_batches(exchange):
            return
        for record in batch_records(exchange, to_ms(self._wall()), total_tokens(exchange)):
            self._sink.put(record)

    def corrected(self, exchange_id: str, outcome: Outcome, error: str) -> None:
        """Give an exchange that has ended another outcome, if it has a row."""
        logger.info("%s was %s: %s", exchange_id, outcome, error)
        self._sink.put(OutcomeCorrected(exchange_id, outcome, error))

    def _keep_bodies(self, exchange: Story, *, redact: bool) -> None:
        body, kept = exchange.request_body, exchange.request_body[: self._body_limit()]
        if size := len(body) or exchange.unkept_bytes:
            self._sink.put(
                Payload(
                    request_id=exchange.id,
                    part="request",
                    content_type="application/json" if body else exchange.request_type,
                    content_encoding=exchange.request_encoding,
                    body=kept,
                    size=size,
                    truncated=size > len(kept),
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
