"""An exchange told in one line, for the log."""

import logging
from collections.abc import Callable
from decimal import Decimal

from ccflare_core.accounts.pool import Cooldown
from ccflare_core.exchange.steps import Outcome, Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.program import typed
from ccflare_core.secrets.redact import label
from ccflare_core.text import local_time

logger = logging.getLogger("ccflare")

_LOUD = {Outcome.OK: logging.INFO, Outcome.CLIENT_ABORT: logging.INFO, Outcome.REFUSED: logging.WARNING}

KINDS = 1000
"""How many kinds of passed requests are told in an hour at most."""


class PassedRequests:
    """Tells the first request of each hour, path class and client that passes with the client's own credential.

    Claude Code sends telemetry and account queries all day; the first of a kind is news, the others are noise. So is
    the first one that fails.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._hour = 0
        self._told: set[tuple[str, str, bool]] = set()

    def is_first(self, path_class: str, client: str, *, failed: bool = False) -> bool:
        """Whether this is the hour's first such request. Beyond `KINDS` of them in an hour, none is."""
        hour = int(self._wall() // 3600)
        if hour != self._hour:
            self._hour = hour
            self._told.clear()
        kind = (path_class, client, failed)
        if kind in self._told or len(self._told) >= KINDS:
            return False
        self._told.add(kind)
        return True


def log_exchange(exchange: Story, passed: PassedRequests) -> None:
    """One line for a finished exchange: who served it, what came of it, what it took and cost."""
    if exchange.ticket is Ticket.PASS and not exchange.metered:
        _log_passed(exchange, passed)
        return
    level = _LOUD.get(exchange.outcome or Outcome.CRASHED, logging.WARNING)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", line(exchange))


def _log_passed(exchange: Story, passed: PassedRequests) -> None:
    opening = exchange.opening
    client = opening.key.name if opening.key else opening.client
    path_class = path_class_of(opening.path)
    level = _LOUD.get(exchange.outcome or Outcome.CRASHED, logging.WARNING)
    failed = level is logging.WARNING
    if passed.is_first(path_class, client, failed=failed):
        what = "failure" if failed else "request"
        logger.log(level, "%s · first %s of %s from %s this hour", line(exchange), what, path_class, client)
    else:
        logger.debug("%s", line(exchange))


def path_class_of(path: str) -> str:
    """`/v1/sessions/…` for every path that begins so: its first two segments, without ids."""
    _, *segments = path.split("/")
    return path if len(segments) < 3 else f"/{segments[0]}/{segments[1]}/…"


def warn_of_cooldown(account: str, cooldown: Cooldown, now: float) -> None:
    """Log an account's cooldown: why, and until when."""
    logger.warning("%s: %s", account, cooldown.in_words(now))


def warn_of_attention(account: str, reason: str) -> None:
    """Say that a person has to do something about an account."""
    ended_by = typed(f"accounts resume {account}")
    logger.warning("%s needs attention: %s; `%s` or a new login ends that", account, reason, ended_by)


def line(exchange: Story) -> str:
    """For the log: `POST /v1/messages 200 ok · max-2 · opus-4-8 · 1,204 in / 312 out · $0.0123 · 843 ms`."""
    opening = exchange.opening
    outcome = exchange.outcome
    came_of_it = outcome.in_words if outcome else "open"
    head = f"{opening.method} {label(opening.path)} {exchange.status or '-'} {came_of_it}"
    took = f"{exchange.duration * 1000:,.0f} ms"
    return " · ".join([head, *_parts(exchange), took, *([exchange.error] if exchange.error else [])])


def _parts(exchange: Story) -> list[str]:
    key = exchange.opening.key
    parts = [f"for {key.name}"] if key else []
    parts.append(served_by(exchange))
    reading = exchange.reading
    if model := (reading.model if reading else None) or exchange.facts.model:
        parts.append(label(model).removeprefix("claude-"))
    if stand_in := exchange.stand_in(lambda model: model.removeprefix("claude-")):
        parts.append(stand_in)
    if reading is not None and (usage := reading.usage).input_tokens is not None:
        read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        about = "~" if reading.is_estimated else ""
        parts.append(f"{read:,} in / {about}{usage.output_tokens or 0:,} out")
        parts.append(f"{about}{money(exchange.cost)}")
    if told := waited(exchange.waited):
        parts.append(told)
    if (lease := exchange.lease) is not None and (moved := _moves(exchange, lease.account.id)):
        parts.append(moved)
    return parts


def served_by(exchange: Story) -> str:
    """The account's name, or whose credential it was else."""
    if (lease := exchange.lease) is not None:
        return lease.account.name
    return "client's own credential" if exchange.ticket is Ticket.PASS else "no account"


def _moves(exchange: Story, final: str) -> str:
    """`moved from max-1 (5h window spent until 14:20)`, for each account that was left."""
    now = exchange.started_at
    left = {a.account_name: a.verdict for a in exchange.attempts if a.account_id != final}
    return ", ".join(
        f"moved from {name} ({verdict.reason}{f' until {local_time(verdict.until, now)}' if verdict.until else ''})"
        for name, verdict in left.items()
    )


def waited(seconds: float, before: str = "") -> str:
    """`a wait of 19.0 s for an account`, with `before` in front; "" if there was none worth a word."""
    return f"{before}a wait of {seconds:.1f} s for an account" if seconds >= 0.05 else ""


def money(cost: Decimal | None) -> str:
    """Dollars with four decimals; `$?` if the price is unknown."""
    return "$?" if cost is None else f"${cost:,.4f}"
