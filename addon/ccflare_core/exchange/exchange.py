"""One exchange: from a client's request to exactly one recorded outcome, over as many attempts as it takes.

Nothing here does I/O. The wire asks for the next step, carries it out and reports what the upstream said; every
decision between the two is made here, where it can be tested without a socket.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.pool import Exhausted, Lease
from ccflare_core.anthropic import answers, usage, verdicts
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.ids import NO_IDS, Named
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.routes import BATCHES, CACHE_TOUCH, COUNT_TOKENS, MESSAGES, runs_model
from ccflare_core.anthropic.usage import Ending, Reading
from ccflare_core.anthropic.verdicts import Kind, Verdict
from ccflare_core.exchange.aftermath import is_clients_limit, outcome_of, verdict_on_end
from ccflare_core.exchange.binding import Binding
from ccflare_core.exchange.capture import Capture
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.counted import AS_RECORDED, NOTHING, Counted, Demand, presumed, unanswered
from ccflare_core.exchange.departures import SILENT_SECONDS, Departure, SameRequest
from ccflare_core.exchange.failover import Deliver, Failover, NextAccount, RetrySame, all_agree
from ccflare_core.exchange.ownership import LOOK_SECONDS, Pending
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, PendingRenewal, Send, Step, Ticket, Wait
from ccflare_core.exchange.story import End, Story, Used
from ccflare_core.http.headers import Header
from ccflare_core.http.rejection import Rejection
from ccflare_core.secrets import redact
from ccflare_core.secrets.echo import Echo

logger = logging.getLogger("ccflare")

type Clearance = Callable[[], Wait | Rejection | Counted]
"""Says whether a request may go on, as soon as that is known."""

BAD_GATEWAY, TIMED_OUT, LOOP = 502, 504, 508

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


class Exchange(Story):
    """See the module. Times of the clock are monotonic seconds, those of the wall epoch seconds."""

    def __init__(self, opening: Opening, shared: Collaborators, forget: Callable[[str], object]) -> None:
        """`forget` gets the id once it has ended."""
        capture = Capture(shared.settings.capture_limit_bytes, shared.memory, shared.clock)
        super().__init__(opening, capture, shared.wall())
        self._shared = shared
        self._started = shared.clock()
        self._forget = forget
        self._on_end: Callable[[Story], object] = lambda story: None
        self._echo: Echo | None = None
        """Knows the credential that was sent last."""
        self._attempt_at = (0.0, 0.0)
        self._under_way = False
        self._sent_at: float | None = None
        """When the request went out that nobody has answered yet."""
        self._was_late = False
        self._clearance: Clearance | None = None
        self._estimate: Counted | None = None
        """What a batch may take that this exchange makes."""
        self._may_be_made = False
        """Whether the upstream may have made it, although it did not say so."""
        self._tried: set[str] = set()
        self._last_words: dict[str, Verdict] = {}
        """The last verdict on each account that was asked."""
        self._begun: list[Cooldown] = []
        """What this exchange has made rest for refusals that may be about the request."""
        self._avoided: str | None = None
        """The account that this client has got nothing good out of, until another one is asked."""
        self._hold_until: float | None = None
        self._held_since: float | None = None
        self._waited_before = 0.0
        self._same_account = False
        self._refused: PendingRenewal | None = None
        self._binding = self._bind(NO_IDS)
        self._names: Pending[Named] | None = None
        self._renewed: set[str] = set()
        self._budgeted = False
        self._failover = self._new_failover(shared.settings.retry_attempts)

    def _new_failover(self, attempts: int) -> Failover:
        settings = self._shared.settings
        return Failover(
            attempts=attempts,
            delay=settings.retry_delay_ms / 1000,
            backoff=settings.retry_backoff,
            random=self._shared.random,
        )

    def __repr__(self) -> str:
        account = self._lease.account.name if self._lease else "-"
        return f"Exchange({self.id}, {self._ticket}, account={account}, outcome={self.outcome})"

    # Before the upstream

    def when_ended(self, listener: Callable[[Story], object]) -> None:
        """Have `listener` called once it has ended, before that is recorded."""
        self._on_end = listener

    def identified(self, provenance: Provenance) -> None:
        """It is known which project it comes from, and what for."""
        self._provenance = provenance

    def belongs_to_agent(self, name: str) -> None:
        """It is known whose request it is."""
        self._agent = name

    def replaced_model(self, asked_for: str | None) -> None:
        """The agent's model stands in the body in place of the one that the client asked for."""
        self._original_model = asked_for

    def admit(self, facts: Facts, body: bytes, encoding: str, named: Named = NO_IDS) -> None:
        """Allow the wire to send this inference request upstream, with a leased account; not once it has ended.

        `named` is what belongs to an account and is named in it: that account has to serve it then.
        """
        if self.outcome is not None:
            return
        is_free = bool(named.ids or named.listed) and not runs_model(self.opening.method, self.opening.path)
        self._facts = replace(facts, spends=not is_free)
        self._named, self._binding = named, self._bind(named)
        self._request_body, self._request_encoding = body, encoding
        # The answer of the first tells tokens that nobody is billed for; the other runs no model.
        self._metered = self.opening.path not in (COUNT_TOKENS, CACHE_TOUCH)
        if self.opening.path == CACHE_TOUCH:
            self._failover = self._new_failover(0)
        self._ticket = Ticket.LEASE
        self._avoided = self._bad_experience()

    def _bad_experience(self) -> str | None:
        """The account that another one is tried before, since this client has got nothing good out of it last."""
        departures, now = self._shared.departures, self._shared.clock()
        repeated = departures.take(self.opening, self._facts, self._request_body, now)
        if repeated is None:
            is_free = self.opening.path == MESSAGES and not self._facts.stays and self._named.continues is None
            return departures.avoided(self.opening, self._facts, now) if is_free else None
        if not repeated.is_blamed:
            why = f"the upstream sent nothing for {repeated.silence:.1f} s, and the client asked again"
            self._shared.recorder.corrected(repeated.exchange_id, Outcome.UPSTREAM_ERROR, why)
        return repeated.account_id

    def await_clearance(self, clearance: Clearance) -> None:
        """Ask `clearance` before anything goes upstream, again and again until it is no Wait any more.

        What it then gives is what the batch in the request may take, or why it goes no further.
        """
        self._clearance = clearance

    def admit_stateful(self, facts: Facts) -> None:
        """Allow the wire to send this request upstream with the account that it is for, and with no other one.

        What is no question may have been done although its answer is lost, so it is not asked twice.
        """
        if self.outcome is not None:
            return
        self._facts = facts
        name = self.opening.stateful_account
        self._binding.bind(
            self._shared.pool.id_of(name) or "", f"This request is about Managed Agents, which live in account {name}"
        )
        if self.opening.method != "GET":
            self._failover = self._new_failover(0)
        self._ticket = Ticket.LEASE

    def await_names(self, names: Pending[Named]) -> None:
        """Send nothing before it is known what the request names: it takes a while to look through a long body."""
        self._names = names

    def let_pass(self) -> None:
        """Allow the wire to send this request as it came, with the client's own credential."""
        if self.outcome is None:
            self._ticket = Ticket.PASS

    def refuse(self, status: int, message: str, retry_after: int | None = None, *, is_final: bool = False) -> Answer:
        """End here, with an answer of our own. `retry_after` is in seconds; `is_final`: see answers.error."""
        answer = answers.error(status, message, request_id=self.id, retry_after=retry_after, is_final=is_final)
        self.answered(answer)
        return answer

    def answered(self, answer: Answer, outcome: Outcome | None = None) -> None:
        """The client gets this answer of ours; nothing went upstream for it, or nothing useful came back."""
        if self.outcome is not None:
            return
        self._ticket = Ticket.NONE
        self._status = answer.status
        self._deliver_now()
        of_status = Outcome.UPSTREAM_ERROR if answer.status == BAD_GATEWAY else Outcome.REFUSED
        self.finish(outcome or of_status, answer.reason)

    # Toward the upstream

    def next_step(self) -> Step:
        """What the wire does now: at the start of the exchange, and whenever a wait is over."""
        if self.outcome is not None or self._ticket is Ticket.NONE:
            return answers.error(500, "The proxy has no ticket for this request.", request_id=self.id)
        if self._clearance is not None:
            match self._clearance():
                case Counted() as estimate:
                    self._clearance, self._estimate = None, estimate
                    if estimate.tokens:
                        self._shared.recorder.reserved(self, estimate)
                case Rejection() as rejection:
                    return answers.rejected(rejection, self.id)
                case Wait() as wait:
                    return wait
        if self._ticket is Ticket.PASS:
            return Send(None)
        if self._names is not None:
            if not self._names.done():
                return Wait(LOOK_SECONDS)
            self._named, self._names = self._names.result(), None
            self._binding = self._bind(self._named)
        if self._refused is not None:
            return self._await_token(self._refused)
        if self._same_account and self._lease is not None:
            self._same_account = False
            return self._send(self._lease)
        return self._take_account()

    def sent(self) -> None:
        """The request goes out now. Until there is a verdict on it, the upstream may be at work on it."""
        self._sent_at = self._shared.clock()

    def unreachable(self, why: str) -> Step:
        """The upstream could not be reached, or broke off before its answer's head."""
        self._may_be_made |= self._sent_at is not None
        if self._ticket is Ticket.PASS:
            return self._bad_gateway(why)
        return self._after(verdicts.failed_to_connect(why), holding=False)

    def distrust(self, kind: Kind, why: str = "") -> Answer:
        """The upstream has no pinned key, or no certificate for its name. Another account would meet the same."""
        if self._lease is not None:
            self._note(self._lease, verdicts.unsent(kind))
        what = _DISTRUST[kind]
        return self._bad_gateway(f"{what} ({why}); nothing was sent" if why else f"{what}; nothing was sent")

    def comes_back(self) -> Answer:
        """Where it would go is this proxy. It is answered once, instead of again and again until nothing is left."""
        if self._lease is not None:
            self._note(self._lease, verdicts.unsent(Kind.COMES_BACK))
        where = "to what ccflare_upstream names" if self._lease is not None else "to the address that was asked for"
        return self.refuse(LOOP, f"Sent on {where}, this would come back to this proxy itself.", is_final=True)

    def too_late(self, why: str, *, asked: bool) -> Answer:
        """A deadline has passed before the answer's head; `asked` tells whether an upstream was at work on it.

        Nothing is repeated: the first answer may still be made, and paid for. Nor does the account rest, since a slow
        answer says nothing about its limits.
        """
        if asked:
            self._note_departure(is_blamed=True)
        if self._under_way and self._lease is not None:
            self._note(self._lease, verdicts.failed_to_connect(why))
        answer = answers.error(TIMED_OUT, f"The request was given up: {why}.", request_id=self.id)
        self.answered(answer, Outcome.UPSTREAM_ERROR if asked else Outcome.REFUSED)
        return answer

    def judge(
        self,
        status: int,
        headers: Sequence[Header],
        event: Mapping[str, Any] | None,
        flaw: str = "",
        *,
        is_kept: bool = False,
    ) -> Step:
        """The answer's head is here, and for a stream or an error its first event: deliver it or not?

        `flaw` is why it is no answer, whatever its head says. With `is_kept` it may still be delivered after a wait.
        """
        if self._ticket is Ticket.PASS:
            return Deliver()
        if flaw:
            return self._after(verdicts.no_answer(status, flaw), holding=False)
        verdict = verdicts.classify(status, headers, event, self._shared.wall(), self._facts)
        return self._after(verdict, holding=not verdict.withheld, is_kept=is_kept)

    def cut_while_held(self, why: str, status: int) -> Step:
        """The upstream has broken off a document of which nothing has gone to the client yet.

        A batch may have been made, and is not made twice.
        """
        self._may_be_made = True
        return self._after(verdicts.broken_off(status, why, may_retry=self.opening.path != BATCHES), holding=False)

    def _bind(self, named: Named) -> Binding:
        shared = self._shared
        return Binding(named, self.opening, self.id, pool=shared.pool, ownership=shared.ownership)

    @property
    def binding(self) -> Binding:
        """To which account it has to go because of what it names."""
        return self._binding

    def _acquire(self) -> Lease | Exhausted:
        pool, tried, bound = self._shared.pool, frozenset(self._tried), self._binding.account_id
        avoided, self._avoided = self._avoided, None
        if avoided is not None and bound is None:
            another = pool.acquire(self._facts, exclude=tried | {avoided}, key=self.opening.key)
            if isinstance(another, Lease):
                return another
        return pool.acquire(
            self._facts,
            exclude=tried,
            key=self.opening.key,
            only=bound,
            home=self._binding.thread_account_id,
            patience=self._patience(),
        )

    def _patience(self) -> float:
        """For how many seconds it rather waits for its session's account, or its thread's, than moves."""
        held, settings = self._shared.held, self._shared.settings
        has_room = self.id in held or len(held) < settings.max_waiting
        stays = self._facts.stays or self._binding.thread_account_id is not None
        if not stays or not has_room:
            return 0.0
        return settings.hold_seconds if self._hold_until is None else max(0.0, self._hold_until - self._shared.clock())

    def _take_account(self) -> Step:
        if (step := self._binding.step()) is not None:
            return step
        result = self._acquire()
        if isinstance(result, Exhausted):
            return self._without_account(result)
        return self._send(result)

    def _send(self, lease: Lease) -> Step:
        self._lease = lease
        self._shared.held.discard(self.id)
        self._choice_reason = self._choice_reason or lease.choice.reason
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
        own = self.opening.has_credential or self.opening.key is None
        if wanted and self._binding.account_id is None and not result.is_for_one and own:
            self._ticket = Ticket.PASS
            self._choice_reason = "no account: the client's own credential"
            return Send(None)
        now = self._shared.clock()
        if self._hold_until is None:
            self._hold_until = now + settings.hold_seconds
        is_soon = result.is_for_one or (result.wait is not None and now + result.wait <= self._hold_until)
        if result.wait is not None and is_soon and self._may_wait():
            self._tried.clear()
            self._held_since = now if self._held_since is None else self._held_since
            return Wait(min(max(result.wait, 0.02), HOLD_POLL))
        return answers.exhausted(
            result.reasons, result.wait, now=self._shared.wall(), request_id=self.id, bound=self._binding.why
        )

    def _end_hold(self) -> float:
        """How long it was held since it was sent last."""
        held = 0.0 if self._held_since is None else self._shared.clock() - self._held_since
        self._held_since = None
        self._waited += held
        return held

    def _may_wait(self) -> bool:
        """Whether there is room among those that wait; if so, it has it."""
        held = self._shared.held
        if self.id not in held and len(held) >= self._shared.settings.max_waiting:
            return False
        held.add(self.id)
        return True

    # What an answer means for this exchange

    def _after(self, verdict: Verdict, *, holding: bool, is_kept: bool = False) -> Step:
        lease, self._sent_at = self._lease, None
        if lease is None or self.outcome is not None:
            return answers.error(500, "The proxy lost its lease for this request.", request_id=self.id)
        self._note(lease, verdict)
        self._give_back()
        refused = self._ask_for_token(lease, verdict, is_kept=is_kept)
        return self._await_token(refused) if refused else self._weigh(lease, verdict, holding=holding)

    def _ask_for_token(self, lease: Lease, verdict: Verdict, *, is_kept: bool) -> PendingRenewal | None:
        """A token that upstream refuses may be replaced by a new one, once for each account."""
        account = lease.account
        if verdict.kind is not Kind.CREDENTIAL_REJECTED or not account.is_renewable or account.id in self._renewed:
            return None
        if not self._shared.pool.may_be_the_token(lease):
            return None
        self._renewed.add(account.id)
        renewal = self._shared.tokens.renew(account.id, rejected=account.access_token)
        return PendingRenewal(lease, verdict, renewal, self._shared.clock() + RENEWAL_SECONDS, is_kept)

    def _await_token(self, refused: PendingRenewal) -> Step:
        """The same account again as soon as it has a new token; if it gets none, the refusal counts."""
        if not refused.renewal.done and self._shared.clock() < refused.until:
            self._refused = refused
            return Wait(RENEWAL_POLL)
        self._refused = None
        if not refused.renewal.done:  # the account gets its token yet, so nothing rests for the old one
            return self._move(refused.lease, "its token is being refreshed", or_deliver=False, holding=False)
        lease = self._shared.pool.renewed(refused.lease) if refused.renewal.ok else None
        return self._send(lease) if lease else self._weigh(refused.lease, refused.verdict, holding=refused.is_kept)

    def _weigh(self, lease: Lease, verdict: Verdict, *, holding: bool) -> Step:
        move = self._failover.after(verdict)
        if isinstance(move, RetrySame) and self._may_repeat(verdict):
            self._same_account = True
            return Wait(move.delay)
        # What is repeated in place has not failed yet; only the last word counts for the account.
        report = self._shared.pool.report(lease, verdict)
        self._shared.recorder.learned(lease.account.id, report)
        self._last_words[lease.account.id] = verdict
        if verdict.may_be_the_request:
            self._begun += report.cooldowns
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
        if or_deliver and not result.is_for_one:
            self._take_back()
            return Deliver() if holding else self._bad_gateway(why)
        self._shared.pool.release(lease)
        self._lease = None
        return self._without_account(result)

    def _take_back(self) -> None:
        """No account has served this request, so nobody can tell whether the refusals were about it: none rests."""
        if self._begun:
            self._shared.recorder.learned(self._begun[-1].account_id, self._shared.pool.take_back(self._begun))
        self._begun.clear()

    def _note(self, lease: Lease, verdict: Verdict) -> None:
        self._under_way = False
        started, started_at = self._attempt_at
        attempt = Attempt(
            number=len(self._attempts) + 1,
            account_id=lease.account.id,
            account_name=lease.account.name,
            verdict=verdict,
            started_at=started_at,
            duration=self._shared.clock() - started,
            waited=self._waited_before,
        )
        self._waited_before = 0.0
        self._attempts += (attempt,)
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

    def delivering(self, status: int, headers: Iterable[Header]) -> None:
        """The upstream's head goes to the client now: nothing is retried from here on."""
        if self.outcome is not None:
            return
        self._status, self._sent_at = status, None
        content_type = content_encoding = ""
        for name, value in headers:
            match name.lower():
                case b"content-type":
                    content_type = value.decode("latin-1")
                case b"content-encoding":
                    content_encoding = value.decode("latin-1")
                case b"request-id" if _REQUEST_ID.fullmatch(value):
                    self._upstream_request_id = value.decode()
        self.capture.start(content_type, content_encoding, metered=self._metered)
        self._deliver_now()

    def _deliver_now(self) -> None:
        self._first_byte = self._shared.clock() - self._started

    def broke_off(self, why: str, status: int | None = None, *, late: bool = False) -> None:
        """Nothing more of the answer comes. With `status` the client has nothing of it yet, and gets that instead.

        `late`: it was given up here. Then nobody rests, as slowness says nothing about an account.
        """
        if self.outcome is None:
            self._was_late = late
            if late:
                self._note_departure(is_blamed=True)
            self._status = status or self._status
            self.finish(Outcome.TRUNCATED, why)

    def finish(self, outcome: Outcome | None = None, error: str | None = None) -> None:
        """End the exchange, once; later calls change nothing. Without an outcome the answer tells it."""
        if self.outcome is not None:
            return
        duration = self._shared.clock() - self._started
        is_cut, has_left = outcome is not None, outcome is Outcome.CLIENT_ABORT
        if outcome is Outcome.CLIENT_ABORT and (waited := self._waited_in_vain()) is not None:
            outcome = Outcome.UPSTREAM_ERROR
            error = f"the upstream sent nothing for {waited:.0f} s, and the client gave up"
        used = self._usage(cut=is_cut)
        if has_left and not (used.reading and used.reading.ending in (Ending.COMPLETE, Ending.ERROR)):
            self._note_departure(is_blamed=outcome is not Outcome.CLIENT_ABORT)
        if self._under_way and self._lease is not None:
            self._note(self._lease, verdicts.unanswered())
        self._end_hold()
        ended_as = outcome_of(outcome, used.reading, self._status)
        told = used.reading.error if used.reading else None
        problem = told if ended_as is Outcome.UPSTREAM_ERROR and told else error or told
        self._learn_from_end(ended_as, used.reading)
        self._end = End(
            ended_as,
            redact.text(problem) if problem else None,  # the upstream may quote what it was sent
            duration,
            used,
        )
        self._give_back()
        if not any(attempt.verdict.ok for attempt in self._attempts):
            self._take_back()
        if self._lease is not None:
            self._shared.pool.release(self._lease)
        self._shared.ownership.ended(self, self._named)
        self._forget(self.id)
        self._shared.held.discard(self.id)
        self._on_end(self)
        self._shared.recorder.finished(self)
        self.capture.release()

    def _usage(self, *, cut: bool) -> Used:
        """What it used. A mistake in reading that must not cost the client its answer, nor the pool a lease."""
        used = Used(self._shared.prices)
        if not self._metered:
            return used
        try:
            if not self.capture.content_type:  # also an empty one: a stream of no events was cut
                return used._replace(counted=self._counted_unread(used.prices))
            reading = self.capture.read(cut=cut)
            reading = usage.without(reading, self._echo.is_in) if self._echo else reading
            used = used._replace(reading=reading)
            used = used._replace(cost=used.prices.cost_of(reading, self._facts.model))
            return used._replace(counted=self._counted(reading, used.prices))
        except Exception:
            logger.exception("The usage of %s could not be read", self.id)
            return used

    def _counted(self, reading: Reading, prices: PriceList) -> Counted:
        if self._estimate is not None:
            is_made = self._status is not None and 200 <= self._status < 300
            return self._estimate if is_made or self._may_be_made else NOTHING
        return presumed(reading, prices, self._demand(), self._status)

    def _counted_unread(self, prices: PriceList) -> Counted:
        """What counts where nothing of an answer has gone to the client."""
        if self._estimate is not None:
            return self._estimate if self._sent_at is not None or self._may_be_made else NOTHING
        if self._sent_at is None:
            return AS_RECORDED
        return unanswered(prices, self._demand(), self._shared.clock() - self._sent_at)

    def _demand(self) -> Demand:
        is_streamed = bool(self._facts.stream)
        return Demand(
            self.opening.path, self._facts.model, self._request_body, self._request_encoding, is_streamed=is_streamed
        )

    def _waited_in_vain(self) -> float | None:
        """For how long a client that leaves now had nothing, if that is as long as clients wait for an upstream."""
        silence, has_head = self._silence(), self._first_byte is not None
        if silence is None or not is_clients_limit(silence, has_head=has_head, is_streamed=bool(self._facts.stream)):
            return None
        return silence

    def _silence(self) -> float | None:
        """For how many seconds the client has had nothing, while an upstream was at work on it; None if none is."""
        if self._ticket is not Ticket.LEASE or not (self._first_byte is not None or self._under_way):
            return None
        since = self._started + (self._first_byte or 0.0) if self.capture.last_at is None else self.capture.last_at
        return self._shared.clock() - since

    def _note_departure(self, *, is_blamed: bool) -> None:
        """Remember that it ends while the upstream is silent: the same request may come again."""
        silence = self._silence()
        if silence is None or self._lease is None or (self._first_byte is not None and silence < SILENT_SECONDS):
            return
        asked = SameRequest.of(self.opening, self._facts, self._request_body)
        departure = Departure(self.id, self._lease.account.id, self._shared.clock(), silence, is_blamed)
        self._shared.departures.note(asked, departure)

    def _learn_from_end(self, outcome: Outcome, reading: Reading | None) -> None:
        """Let the account rest for what broke its answer, so that the client's own repeat lands elsewhere."""
        last = self._attempts[-1] if self._attempts else None
        departures = self._shared.departures
        if outcome is Outcome.OK and self.opening.path == MESSAGES:
            departures.served(self.opening, self._facts)
        verdict = verdict_on_end(outcome, reading, last, self.opening.path, self._shared.wall(), self._facts)
        if verdict is None or (self._was_late and not verdict.error):
            return
        if self._lease is not None:
            report = self._shared.pool.report(self._lease, verdict)
            self._shared.recorder.learned(self._lease.account.id, report)
            if verdict.rest is not None:
                departures.broke_off(self.opening, self._facts, self._lease.account.id, self._shared.clock())
