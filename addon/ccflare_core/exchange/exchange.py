"""One exchange: from a client's request to exactly one recorded outcome, over as many attempts as it takes.

Nothing here does I/O. The wire asks for the next step, carries it out and reports what the upstream said; every
decision between the two is made here, where it can be tested without a socket.
"""

import itertools
import logging
import random as random_module
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.pool import AccountPool, Exhausted, Lease, Report
from ccflare_core.accounts.renewal import NoRenewer, Renewer
from ccflare_core.anthropic import answers, usage, verdicts
from ccflare_core.anthropic.agents import Agents
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.routes import COUNT_TOKENS, resource_of
from ccflare_core.anthropic.usage import Ending, Reading
from ccflare_core.anthropic.verdicts import Kind, Verdict
from ccflare_core.config.settings import Settings
from ccflare_core.exchange.capture import Capture
from ccflare_core.exchange.counted import AS_RECORDED, presumed
from ccflare_core.exchange.failover import Deliver, Failover, NextAccount, RetryBudget, RetrySame, all_agree
from ccflare_core.exchange.memory import Room
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, PendingRenewal, Send, Step, Ticket, Wait
from ccflare_core.http.headers import Header
from ccflare_core.secrets import redact
from ccflare_core.secrets.echo import Echo

logger = logging.getLogger("ccflare")

BAD_GATEWAY, TIMED_OUT = 502, 504

_DISTRUST = {
    Kind.NOT_PINNED: "certificate not pinned, see ccflare_upstream_pins",
    Kind.NOT_TRUSTED: "no certificate that is good for the name in ccflare_upstream",
}
"""Why nothing is sent by a connection, for people."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,100}")
"""What an upstream's request id may look like to be kept."""

HOLD_POLL = 0.25
"""Seconds between two looks at the pool while a request is held."""

RENEWAL_POLL, RENEWAL_SECONDS = 0.05, 12.0
"""How often to ask whether a refused token has been replaced, and for how long at most."""


class Recorder(Protocol):
    """Who writes down what happened. None of these may raise or block."""

    def started(self, exchange: "Exchange") -> None: ...
    def attempted(self, exchange: "Exchange", attempt: Attempt) -> None: ...
    def learned(self, account_id: str, report: Report) -> None: ...
    def finished(self, exchange: "Exchange") -> None: ...


@dataclass(slots=True)
class Exchanges:
    """All open exchanges and what they share."""

    settings: Settings
    pool: AccountPool
    recorder: Recorder
    prices: PriceList
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time  # noqa: TID251
    random: Callable[[], float] = random_module.random
    budget: RetryBudget = field(default_factory=RetryBudget)
    tokens: Renewer = field(default_factory=NoRenewer)
    agents: Agents = field(default_factory=Agents)
    room: Room = field(default_factory=Room)
    open: dict[str, "Exchange"] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    """The ids of those that wait for an account."""

    def begin(self, opening: Opening) -> "Exchange":
        """A new exchange with no ticket yet; its row is on the way to the database."""
        exchange = Exchange(opening, self)
        self.recorder.started(exchange)
        self.open[exchange.id] = exchange
        return exchange

    def finish_all(self, outcome: Outcome) -> int:
        """End whatever is still open, as when the process stops. Returns how many that were."""
        left = list(self.open.values())
        for exchange in left:
            exchange.finish(outcome)
        return len(left)


class Exchange:
    """See the module. Times of the clock are monotonic seconds, those of the wall epoch seconds."""

    def __init__(self, opening: Opening, shared: Exchanges) -> None:
        self.opening = opening
        self.started_at = shared.wall()
        self.id = f"req_{int(self.started_at * 1000):012x}{secrets.token_hex(6)}"
        self.ticket = Ticket.NONE
        self.metered = False
        """Whether the answer can tell usage: only the inference paths' answers do."""
        self.facts = Facts(client=opening.client)
        self.request_body = b""
        self.request_encoding = ""
        self.provenance = Provenance()
        self.agent: str | None = None
        """The name of the agent whose request it is."""
        self.original_model: str | None = None
        """What the client asked for, where the agent's definition has put another model in its place."""
        self.capture = Capture(shared.settings.capture_limit_bytes, shared.room, shared.clock)
        self.lease: Lease | None = None
        self.choice_reason = ""
        self.attempts: list[Attempt] = []
        self.status: int | None = None
        self.upstream_request_id: str | None = None
        self.first_byte: float | None = None
        self.duration = 0.0
        self.outcome: Outcome | None = None
        self.error: str | None = None
        self.waited = 0.0
        """Seconds for which it was held, until an account was free."""
        self.reading: Reading | None = None
        self.cost: Decimal | None = None
        self.counted = AS_RECORDED
        """What a budget counts in place of the tokens and the cost."""
        self.at_end: Callable[[Exchange], None] = ignore
        """Called once, when it has ended."""
        self._shared = shared
        self._started = shared.clock()
        self._echo: Echo | None = None
        """Knows the credential that was sent last."""
        self._attempt_at = (0.0, 0.0)
        self._under_way = False
        self._tried: set[str] = set()
        self._last_words: dict[str, Verdict] = {}
        """The last verdict on each account that was asked."""
        self._begun: list[Cooldown] = []
        """What this exchange has made rest."""
        self._hold_until: float | None = None
        self._held_since: float | None = None
        self._waited_before = 0.0
        self._same_account = False
        self._refused: PendingRenewal | None = None
        self._renewed: set[str] = set()
        self._budgeted = False
        settings = shared.settings
        self._failover = Failover(
            attempts=settings.retry_attempts,
            delay=settings.retry_delay_ms / 1000,
            backoff=settings.retry_backoff,
            random=shared.random,
        )

    def __repr__(self) -> str:
        account = self.lease.account.name if self.lease else "-"
        return f"Exchange({self.id}, {self.ticket}, account={account}, outcome={self.outcome})"

    # Before the upstream

    @property
    def prices(self) -> PriceList:
        """The prices in force."""
        return self._shared.prices

    def admit(self, facts: Facts, body: bytes, encoding: str) -> None:
        """Allow the wire to send this inference request upstream, with a leased account."""
        self.facts = replace(facts, path_class=resource_of(self.opening.path))
        self.request_body, self.request_encoding = body, encoding
        self.metered = self.opening.path != COUNT_TOKENS  # its answer tells tokens that nobody is billed for
        self.ticket = Ticket.LEASE

    def let_pass(self) -> None:
        """Allow the wire to send this request as it came, with the client's own credential."""
        self.ticket = Ticket.PASS

    def refuse(self, status: int, message: str, retry_after: int | None = None, *, is_final: bool = False) -> Answer:
        """End here, with an answer of our own. `retry_after` is in seconds; `is_final`: see answers.error."""
        answer = answers.error(status, message, request_id=self.id, retry_after=retry_after, is_final=is_final)
        self.answered(answer)
        return answer

    def answered(self, answer: Answer, outcome: Outcome | None = None) -> None:
        """The client gets this answer of ours; nothing went upstream for it, or nothing useful came back."""
        self.ticket = Ticket.NONE
        self.status = answer.status
        self._deliver_now()
        of_status = Outcome.UPSTREAM_ERROR if answer.status == BAD_GATEWAY else Outcome.REFUSED
        self.finish(outcome or of_status, answer.reason)

    # Toward the upstream

    def next_step(self) -> Step:
        """What the wire does now: at the start of the exchange, and whenever a wait is over."""
        if self.outcome is not None or self.ticket is Ticket.NONE:
            return answers.error(500, "The proxy has no ticket for this request.", request_id=self.id)
        if self.ticket is Ticket.PASS:
            return Send(None)
        if self._refused is not None:
            return self._await_token(self._refused)
        if self._same_account and self.lease is not None:
            self._same_account = False
            return self._send(self.lease)
        return self._take_account()

    def unreachable(self, why: str) -> Step:
        """The upstream could not be reached, or broke off before its answer's head."""
        if self.ticket is Ticket.PASS:
            return self._bad_gateway(why)
        return self._after(verdicts.failed_to_connect(why), holding=False)

    def distrust(self, kind: Kind, why: str = "") -> Answer:
        """The upstream has no pinned key, or no certificate for its name. Another account would meet the same."""
        if self.lease is not None:
            self._note(self.lease, verdicts.unsent(kind))
        what = _DISTRUST[kind]
        return self._bad_gateway(f"{what} ({why}); nothing was sent" if why else f"{what}; nothing was sent")

    def too_late(self, why: str, *, asked: bool) -> Answer:
        """A deadline has passed before the answer's head; `asked` tells whether an upstream was at work on it.

        Nothing is repeated: the first answer may still be made, and paid for. Nor does the account rest, since a slow
        answer says nothing about its limits.
        """
        if self._under_way and self.lease is not None:
            self._note(self.lease, verdicts.failed_to_connect(why))
        answer = answers.error(TIMED_OUT, f"The request was given up: {why}.", request_id=self.id)
        self.answered(answer, Outcome.UPSTREAM_ERROR if asked else Outcome.REFUSED)
        return answer

    def judge(self, status: int, headers: Sequence[Header], event: Mapping[str, Any] | None) -> Step:
        """The answer's head is here, and for a stream or an error its first event: deliver it or not?"""
        if self.ticket is Ticket.PASS:
            return Deliver()
        return self._after(verdicts.classify(status, headers, event, self._shared.wall(), self.facts), holding=True)

    def _acquire(self) -> Lease | Exhausted:
        return self._shared.pool.acquire(self.facts, exclude=frozenset(self._tried), key=self.opening.key)

    def _take_account(self) -> Step:
        result = self._acquire()
        if isinstance(result, Exhausted):
            return self._without_account(result)
        return self._send(result)

    def _send(self, lease: Lease) -> Step:
        self.lease = lease
        self._shared.held.discard(self.id)
        self.choice_reason = self.choice_reason or lease.choice.reason
        self._attempt_at = (self._shared.clock(), self._shared.wall())
        self._under_way = True
        self._waited_before = self._end_hold()
        try:
            credential = lease.account.credential()
            self._echo = Echo(credential.secret)
            return Send(credential)
        except ValueError as problem:  # nothing that could be sent: as good as an account that refuses
            return self._move(lease, str(problem), or_deliver=False, holding=False)

    def _without_account(self, result: Exhausted) -> Step:
        settings = self._shared.settings
        wanted = settings.passthrough == "always" or (settings.passthrough == "auto" and not result.configured)
        if wanted and (self.opening.has_credential or self.opening.key is None):
            self.ticket = Ticket.PASS
            self.choice_reason = "no account: the client's own credential"
            return Send(None)
        now = self._shared.clock()
        if self._hold_until is None:
            self._hold_until = now + settings.hold_seconds
        if result.wait is not None and now + result.wait <= self._hold_until and self._may_wait():
            self._tried.clear()
            self._held_since = now if self._held_since is None else self._held_since
            return Wait(min(max(result.wait, 0.02), HOLD_POLL))
        return answers.exhausted(result.reasons, result.wait, now=self._shared.wall(), request_id=self.id)

    def _end_hold(self) -> float:
        """How long it was held since it was sent last."""
        held = 0.0 if self._held_since is None else self._shared.clock() - self._held_since
        self._held_since = None
        self.waited += held
        return held

    def _may_wait(self) -> bool:
        """Whether there is room among those that wait; if so, it has it."""
        held = self._shared.held
        if self.id not in held and len(held) >= self._shared.settings.max_waiting:
            return False
        held.add(self.id)
        return True

    # What an answer means for this exchange

    def _after(self, verdict: Verdict, *, holding: bool) -> Step:
        lease = self.lease
        if lease is None or self.outcome is not None:
            return answers.error(500, "The proxy lost its lease for this request.", request_id=self.id)
        self._note(lease, verdict)
        self._give_back()
        refused = self._ask_for_token(lease, verdict)
        return self._await_token(refused) if refused else self._weigh(lease, verdict, holding=holding)

    def _ask_for_token(self, lease: Lease, verdict: Verdict) -> PendingRenewal | None:
        """A token that upstream refuses may be replaced by a new one, once for each account."""
        account = lease.account
        if verdict.kind is not Kind.CREDENTIAL_REJECTED or not account.is_renewable or account.id in self._renewed:
            return None
        if not self._shared.pool.may_be_the_token(lease):
            return None
        self._renewed.add(account.id)
        renewal = self._shared.tokens.renew(account.id, rejected=account.access_token)
        return PendingRenewal(lease, verdict, renewal, self._shared.clock() + RENEWAL_SECONDS)

    def _await_token(self, refused: PendingRenewal) -> Step:
        """The same account again as soon as it has a new token; if it gets none, the refusal counts."""
        if not refused.renewal.done and self._shared.clock() < refused.until:
            self._refused = refused
            return Wait(RENEWAL_POLL)
        self._refused = None
        if not refused.renewal.done:  # the account gets its token yet, so nothing rests for the old one
            return self._move(refused.lease, "its token is being refreshed", or_deliver=False, holding=False)
        lease = self._shared.pool.renewed(refused.lease) if refused.renewal.ok else None
        return self._send(lease) if lease else self._weigh(refused.lease, refused.verdict, holding=False)

    def _weigh(self, lease: Lease, verdict: Verdict, *, holding: bool) -> Step:
        move = self._failover.after(verdict)
        if isinstance(move, RetrySame) and self._may_repeat(verdict):
            self._same_account = True
            return Wait(move.delay)
        # What is repeated in place has not failed yet; only the last word counts for the account.
        report = self._shared.pool.report(lease, verdict)
        self._shared.recorder.learned(lease.account.id, report)
        self._last_words[lease.account.id] = verdict
        if report.cooldown is not None:
            self._begun.append(report.cooldown)
        if isinstance(move, NextAccount) and self._may_repeat(verdict):
            agreed = move.if_all_agree and holding and all_agree(tuple(self._last_words.values()))
            return self._move(lease, verdict.reason, or_deliver=move.or_deliver or agreed, holding=holding)
        return Deliver() if holding else self._bad_gateway(verdict.reason)

    def _move(self, lease: Lease, why: str, *, or_deliver: bool, holding: bool) -> Step:
        """To another account, if one is free; else what is in hand, or the pool's own answer."""
        self._tried.add(lease.account.id)
        result = self._acquire()
        if isinstance(result, Lease):
            self._shared.pool.release(lease)
            return self._send(result)
        if or_deliver:
            self._take_back()
            return Deliver() if holding else self._bad_gateway(why)
        self._shared.pool.release(lease)
        self.lease = None
        return self._without_account(result)

    def _take_back(self) -> None:
        """If every account has refused this request alike, it was about the request, and none of them rests for it."""
        if self._begun and all_agree(tuple(self._last_words.values())):
            self._shared.recorder.learned(self._begun[-1].account_id, self._shared.pool.take_back(self._begun))
        self._begun.clear()

    def _note(self, lease: Lease, verdict: Verdict) -> None:
        self._under_way = False
        started, started_at = self._attempt_at
        attempt = Attempt(
            number=len(self.attempts) + 1,
            account_id=lease.account.id,
            account_name=lease.account.name,
            verdict=verdict,
            started_at=started_at,
            duration=self._shared.clock() - started,
            waited=self._waited_before,
        )
        self._waited_before = 0.0
        self.attempts.append(attempt)
        self._shared.recorder.attempted(self, attempt)

    def _may_repeat(self, verdict: Verdict) -> bool:
        """Whether a repeat is within the budget that keeps a failing upstream from being multiplied."""
        if verdict.kind not in (Kind.OVERLOADED, Kind.UPSTREAM_FAILURE) or self._budgeted:
            return True
        if self._shared.budget.allows(self._shared.pool.in_flight):
            self._shared.budget.take()
            self._budgeted = True
        return self._budgeted

    def _give_back(self) -> None:
        if self._budgeted:
            self._budgeted = False
            self._shared.budget.give()

    def _bad_gateway(self, why: str) -> Answer:
        return answers.error(BAD_GATEWAY, f"The upstream could not be used: {why}.", request_id=self.id)

    # Delivery and the end

    @property
    def failovers(self) -> int:
        """How often the exchange moved to another account."""
        accounts = [attempt.account_id for attempt in self.attempts]
        return sum(a != b for a, b in itertools.pairwise(accounts))

    def delivering(self, status: int, headers: Iterable[Header]) -> None:
        """The upstream's head goes to the client now: nothing is retried from here on."""
        self.status = status
        content_type = content_encoding = ""
        for name, value in headers:
            match name.lower():
                case b"content-type":
                    content_type = value.decode("latin-1")
                case b"content-encoding":
                    content_encoding = value.decode("latin-1")
                case b"request-id" if _REQUEST_ID.fullmatch(value):
                    self.upstream_request_id = value.decode()
        self.capture.start(content_type, content_encoding, metered=self.metered)
        self._deliver_now()

    def _deliver_now(self) -> None:
        self.first_byte = self._shared.clock() - self._started

    def finish(self, outcome: Outcome | None = None, error: str | None = None) -> None:
        """End the exchange, once; later calls change nothing. Without an outcome the answer tells it."""
        if self.outcome is not None:
            return
        self.duration = self._shared.clock() - self._started
        if self._under_way and self.lease is not None:
            self._note(self.lease, verdicts.unanswered())
        self._end_hold()
        self._tally(cut=outcome is not None)
        self.outcome = outcome or self._outcome()
        problem = error or (self.reading.error if self.reading else None)
        self.error = redact.text(problem) if problem else None  # the upstream may quote what it was sent
        self._give_back()
        if self.lease is not None:
            self._shared.pool.release(self.lease)
        self._shared.open.pop(self.id, None)
        self._shared.held.discard(self.id)
        self.at_end(self)
        self._shared.recorder.finished(self)
        self.capture.let_go()

    def _tally(self, *, cut: bool) -> None:
        """Read usage and cost. A mistake in that must not cost the client its answer, nor the pool a lease."""
        if not self.metered or not self.capture.content_type:  # also an empty one: a stream of no events was cut
            return
        try:
            reading = self.capture.read(cut=cut)
            self.reading = reading = usage.without(reading, self._echo.is_in) if self._echo else reading
            self.cost = self._shared.prices.cost_of(reading, self.facts.model)
            self.counted = presumed(
                reading,
                self._shared.prices,
                path=self.opening.path,
                status=self.status,
                model=self.facts.model,
                body=self.request_body,
                encoding=self.request_encoding,
            )
        except Exception:
            logger.exception("The usage of %s could not be read", self.id)

    def _outcome(self) -> Outcome:
        ending = self.reading.ending if self.reading else Ending.COMPLETE
        if self.status is None or self.status >= 400 or ending is Ending.ERROR:
            return Outcome.UPSTREAM_ERROR
        return Outcome.TRUNCATED if ending is Ending.TRUNCATED else Outcome.OK


def ignore(_: Exchange) -> None:
    """Nothing is to be done at an end."""
