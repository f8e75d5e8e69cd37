"""One exchange: from a client's request to exactly one recorded outcome, over as many attempts as it takes.

Nothing here does I/O. The wire asks for the next step, carries it out and reports what the upstream said; every
decision between the two is made here, where it can be tested without a socket.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ccflare_core.anthropic import answers, verdicts
from ccflare_core.anthropic.answers import Answer, Bound
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.ids import NO_IDS, Named
from ccflare_core.anthropic.rate_limit_headers import organization_of
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.routes import BATCHES, CACHE_TOUCH, COUNT_TOKENS, MESSAGES, runs_model
from ccflare_core.anthropic.usage import Ending, Reading
from ccflare_core.anthropic.verdicts import Kind, Verdict
from ccflare_core.clients.guardrails import Ruling
from ccflare_core.exchange.aftermath import outcome_of, verdict_on_end
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.ownership import Pending
from ccflare_core.exchange.serving import BAD_GATEWAY, Serving
from ccflare_core.exchange.silence import Silence, account_to_avoid
from ccflare_core.exchange.steps import LOOK_SECONDS, Opening, Outcome, Send, Step, Ticket, Wait
from ccflare_core.exchange.story import End, Spooled, Story
from ccflare_core.http.headers import Header
from ccflare_core.http.rejection import Rejection
from ccflare_core.secrets import redact

logger = logging.getLogger("ccflare")

type Clearance = Callable[[], Wait | Rejection | Counted]
"""Says whether a request may go on, as soon as that is known."""

TIMED_OUT, LOOP = 504, 508

_DISTRUST = {
    Kind.NOT_PINNED: "certificate not pinned, see ccflare_upstream_pins",
    Kind.NOT_TRUSTED: "no certificate that is good for the name in ccflare_upstream",
}
"""Why nothing is sent by a connection, for people."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,100}")
"""What an upstream's request id may look like to be kept."""


class Exchange(Serving):
    """See the module. Times of the clock are monotonic seconds, those of the wall epoch seconds."""

    def __init__(self, opening: Opening, shared: Collaborators, forget: Callable[[str], object]) -> None:
        """`forget` gets the id once it has ended."""
        super().__init__(opening, shared)
        self._started = shared.clock()
        self._forget = forget
        self._on_end: Callable[[Story], object] = lambda story: None
        self._silence = Silence(self, shared, self._started)
        self._was_late = False
        self._clearance: Clearance | None = None
        self._names: Pending[Named] | None = None

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
        """Another model stands in the body in place of the one that the client asked for."""
        self._original_model = self._original_model or asked_for

    def ruled(self, ruling: Ruling) -> None:
        """It is known which of the owner's rules it has to keep to."""
        self._ruling = ruling

    def admit(self, facts: Facts, body: bytes, encoding: str, named: Named = NO_IDS) -> None:
        """Allow the wire to send this inference request upstream, with a leased account; not once it has ended.

        `named` is what belongs to an account and is named in it: that account has to serve it then.
        """
        if self._end is not None:
            return
        is_free = bool(named.ids or named.listed) and not runs_model(self.opening.method, self.opening.path)
        self._facts = replace(facts, spends=False) if is_free else facts
        self._named, self._binding = named, self._bind(named)
        self._request_body, self._request_encoding = body, encoding
        # The answer of the first tells tokens that nobody is billed for; the other runs no model.
        self._metered = self.opening.path not in (COUNT_TOKENS, CACHE_TOUCH)
        if self.opening.path == CACHE_TOUCH:
            self._failover = self._new_failover(0)
        self._ticket = Ticket.LEASE
        self._avoided = account_to_avoid(self, self._shared)

    def admit_upload(self, facts: Facts, content_type: str) -> None:
        """As `admit`, for a body that goes upstream as it comes: one account gets it, once, and nobody keeps it."""
        self.admit(facts, b"", "")
        self._is_streamed, self._request_type = True, content_type[:200]

    def streamed(self, size: int) -> None:
        """So much of such a body has come."""
        self._unkept_bytes = size

    def spool_body(self, spool: Spooled) -> None:
        """Its body goes to the disk, which it leaves when this ends."""
        self._spool, self._request_type = spool, "application/json"

    def await_clearance(self, clearance: Clearance) -> None:
        """Ask `clearance` before anything goes upstream, again and again until it is no Wait any more.

        What it then gives is what the batch in the request may take, or why it goes no further.
        """
        self._clearance = clearance

    def admit_stateful(self, facts: Facts) -> None:
        """Allow the wire to send this request upstream with the account that it is for, and with no other one.

        What is no question may have been done although its answer is lost, so it is not asked twice.
        """
        if self._end is not None:
            return
        self._facts = facts
        name = self.opening.stateful_account
        self._binding.bind(
            self._shared.pool.id_of(name) or "", Bound("This request is about Managed Agents, which live in", name)
        )
        if self.opening.method != "GET":
            self._failover = self._new_failover(0)
        self._ticket = Ticket.LEASE

    def await_names(self, names: Pending[Named]) -> None:
        """Send nothing before it is known what the request names: it takes a while to look through a long body."""
        self._names = names

    def let_pass(self) -> None:
        """Allow the wire to send this request as it came, with the client's own credential."""
        if self._end is None:
            self._ticket = Ticket.PASS

    def refuse(self, status: int, message: str, retry_after: int | None = None, *, is_final: bool = False) -> Answer:
        """End here, with an answer of our own. `retry_after` is in seconds; `is_final`: see answers.error."""
        answer = answers.error(status, message, request_id=self.id, retry_after=retry_after, is_final=is_final)
        self.answered(answer)
        return answer

    def answered(self, answer: Answer, outcome: Outcome | None = None) -> None:
        """The client gets this answer of ours; nothing went upstream for it, or nothing useful came back."""
        if self._end is not None:
            return
        self._ticket = Ticket.NONE
        self._status = answer.status
        self._deliver_now()
        of_status = Outcome.UPSTREAM_ERROR if answer.status == BAD_GATEWAY else Outcome.REFUSED
        self.finish(outcome or of_status, answer.reason)

    # Toward the upstream

    def next_step(self) -> Step:
        """What the wire does now: at the start of the exchange, and whenever a wait is over."""
        if self._end is not None or self._ticket is Ticket.NONE:
            return answers.error(500, "The proxy has no ticket for this request.", request_id=self.id)
        if self._clearance is not None:
            match self._clearance():
                case Counted() as estimate:
                    self._clearance, self._spending.estimate = None, estimate
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
        self._spending.sent()
        self._is_given_away = self.is_streamed

    def unreachable(self, why: str) -> Step:
        """The upstream could not be reached, or broke off before its answer's head."""
        self._spending.broke_off(before_head=True)
        if self._ticket is Ticket.PASS:
            return self._bad_gateway(why)
        return self._after(verdicts.failed_to_connect(why), holding=False)

    def no_way(self, why: str) -> Step:
        """The proxy on the way has let nothing through."""
        self._spending.broke_off(before_head=True)
        if self._ticket is Ticket.PASS:
            return self._bad_gateway(why)
        return self._after(verdicts.no_way(why), holding=False)

    def distrust(self, kind: Kind, why: str = "") -> Step:
        """The upstream has no pinned key, or no certificate for its name.

        Another account would meet the same, unless this one's own proxy is what has led to somebody else.
        """
        if self._lease is not None and self._lease.account.proxy is not None:
            told = f"{_DISTRUST[kind]} ({why})" if why else _DISTRUST[kind]
            return self._after(verdicts.no_way(f"its proxy leads to {told}; nothing was sent", kind), holding=False)
        if self._lease is not None:
            self._note(self._lease, verdicts.unsent(kind))
        what = _DISTRUST[kind]
        told = f"{what} ({why}); nothing was sent" if why else f"{what}; nothing was sent"
        return self._bad_gateway(told, kind="nothing was sent, for it could not prove who it is")

    def comes_back(self) -> Step:
        """Where it would go is this proxy. It is answered once, instead of again and again until nothing is left.

        If that is only so by the account's own proxy, another one is asked.
        """
        if self._lease is not None and self._lease.account.proxy is not None:
            return self._after(verdicts.no_way("its proxy leads back to this one", Kind.COMES_BACK), holding=False)
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
            self._silence.note_departure(is_blamed=True)
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
        if verdict.ok:
            self._learn_organization(headers)
        return self.judged(verdict, is_kept=is_kept)

    def judged(self, verdict: Verdict, *, is_kept: bool = False) -> Step:
        """The same, once it is known what the answer means."""
        return self._after(verdict, holding=not verdict.withheld, is_kept=is_kept)

    def _learn_organization(self, headers: Sequence[Header]) -> None:
        lease = self._lease
        if lease is not None and lease.account.organization_id is None:
            organization = organization_of(headers)
            if organization and self._shared.pool.learn_organization(lease, organization):
                self._shared.recorder.organization(lease.account.id, organization)

    def cut_while_held(self, why: str, status: int) -> Step:
        """The upstream has broken off a document of which nothing has gone to the client yet.

        A batch may have been made, and is not made twice.
        """
        self._spending.broke_off(before_head=False)
        return self._after(verdicts.broken_off(status, why, may_retry=self.opening.path != BATCHES), holding=False)

    # Delivery and the end

    def delivering(self, status: int, headers: Iterable[Header]) -> None:
        """The upstream's head goes to the client now: nothing is retried from here on."""
        if self._end is not None:
            return
        self._status = status
        self._spending.judged()
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
        if self._end is None:
            self._was_late = late
            if late:
                self._silence.note_departure(is_blamed=True)
            self._status = status or self._status
            self.finish(Outcome.TRUNCATED, why)

    def finish(self, outcome: Outcome | None = None, error: str | None = None) -> None:
        """End the exchange, once; later calls change nothing. Without an outcome the answer tells it."""
        if self._end is not None:
            return
        duration = self._shared.clock() - self._started
        is_cut, has_left = outcome is not None, outcome is Outcome.CLIENT_ABORT
        waited = self._silence.waited_in_vain() if has_left else None
        if waited is not None:
            outcome = Outcome.UPSTREAM_ERROR
            error = f"the upstream sent nothing for {waited:.0f} s, and the client gave up"
        used = self._spending.used(self._shared.prices, self._echo, cut=is_cut)
        if has_left and not (used.reading and used.reading.ending in (Ending.COMPLETE, Ending.ERROR)):
            is_blamed = outcome is not Outcome.CLIENT_ABORT
            self._silence.note_departure(is_blamed=is_blamed)
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
        if self._spool is not None:
            self._spool.close()
        self._forget(self.id)
        self._on_end(self)
        self._shared.recorder.finished(self)
        self.capture.release()
        for tell in self._shared.ended:
            tell(self)

    def let_go(self) -> None:
        """Keep neither body any more, once it has ended: they are recorded, and whoever shows them has them."""
        if self._end is not None:
            self._request_body = b""
            self.capture.let_go()

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
