"""Which account serves an exchange: leases, repeats, new tokens and moves to the next account. Pure.

The half of an exchange that looks at accounts; `exchange` has the half that looks at the client.
"""

from dataclasses import replace

from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.pool import Exhausted, Lease
from ccflare_core.anthropic import answers
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.ids import NO_IDS, Named
from ccflare_core.anthropic.verdicts import Kind, Scope, Verdict
from ccflare_core.clients.guardrails import the_rules
from ccflare_core.exchange.binding import Binding
from ccflare_core.exchange.capture import Capture
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.failover import Deliver, Failover, NextAccount, RetrySame, all_agree
from ccflare_core.exchange.hold import Hold
from ccflare_core.exchange.spending import Spending
from ccflare_core.exchange.steps import Attempt, Opening, PendingRenewal, Send, Step, Ticket, Wait
from ccflare_core.exchange.story import Story
from ccflare_core.secrets.echo import Echo

BAD_GATEWAY = 502
ASKED_FOR = "it was asked for"
"""Why a replay went to the account that a person has named."""
NO_ANSWER = "no answer came that could be passed on"
STREAMED = " (body streamed: for one account, once)"
"""What is noted of an attempt that another account could not take over."""

RENEWAL_POLL, RENEWAL_SECONDS = 0.05, 12.0
"""How often to ask whether a refused token has been replaced, and for how long at most."""


class Serving(Story):
    """See the module. Times of the clock are monotonic seconds, those of the wall epoch seconds."""

    def __init__(self, opening: Opening, shared: Collaborators) -> None:
        super().__init__(
            opening, Capture(shared.settings.capture_limit_bytes, shared.memory, shared.clock), shared.wall()
        )
        self._shared = shared
        self._choice_reason = ASKED_FOR if opening.only_account else ""
        self._hold = Hold(self.id, shared)
        self._spending = Spending(self, shared.clock)
        self._binding = self._bind(NO_IDS)
        self._failover = self._new_failover(shared.settings.retry_attempts)
        self._echo: Echo | None = None
        """Knows the credential that was sent last."""
        self._attempt_at = (0.0, 0.0)
        self._under_way = False
        self._waited_before = 0.0
        self._tried: set[str] = set()
        self._last_words: dict[str, Verdict] = {}
        """The last verdict on each account that was asked."""
        self._begun: list[Cooldown] = []
        """What this exchange has made rest for refusals that may be about the request."""
        self._avoided: str | None = None
        """The account that this client has got nothing good out of, until another one is asked."""
        self._same_account = False
        self._refused: PendingRenewal | None = None
        self._renewed: set[str] = set()
        self._budgeted = False
        self._is_given_away = False
        """Whether what went upstream is here no more, so that nothing can be repeated."""

    def _new_failover(self, attempts: int) -> Failover:
        settings = self._shared.settings
        return Failover(
            attempts=attempts,
            delay=settings.retry_delay_ms / 1000,
            backoff=settings.retry_backoff,
            random=self._shared.random,
        )

    def _bind(self, named: Named) -> Binding:
        shared = self._shared
        return Binding(
            named, self.opening, self.id, pool=shared.pool, ownership=shared.ownership, rules=lambda: self._ruling
        )

    @property
    def is_under_way(self) -> bool:
        """Whether an attempt has begun on which there is no verdict yet."""
        return self._under_way

    @property
    def binding(self) -> Binding:
        """To which account it has to go because of what it names."""
        return self._binding

    def _acquire(self) -> Lease | Exhausted:
        pool, tried, bound = self._shared.pool, frozenset(self._tried), self._binding.account_id
        avoided, self._avoided = self._avoided, None
        if avoided is not None and bound is None:
            another = pool.acquire(self._facts, exclude=tried | {avoided}, key=self.opening.key, ruling=self._ruling)
            if isinstance(another, Lease):
                return another
        stays = self._facts.stays or self._binding.thread_account_id is not None
        return pool.acquire(
            self._facts,
            exclude=tried,
            key=self.opening.key,
            ruling=self._ruling,
            only=bound,
            home=self._binding.thread_account_id,
            patience=self._hold.patience() if stays else 0.0,
        )

    def _take_account(self) -> Step:
        if (step := self._binding.step()) is not None:
            return step
        if (answer := self._forbidden()) is not None:
            return answer
        result = self._acquire()
        if isinstance(result, Exhausted):
            return self._without_account(result)
        return self._send(result)

    def _forbidden(self) -> Answer | None:
        """What the client is told if the rules leave none of the accounts that it could have otherwise."""
        if not self._ruling.limits_accounts:
            return None
        bound = self._binding.account_id
        able = [
            account.name
            for account in self._shared.pool.accounts()
            if (bound is None or account.id == bound) and self.opening.may_use(account)
        ]
        if not able or any(map(self._ruling.may_use, able)):
            return None
        keeping = [self._ruling.keeping_from(name) for name in able]
        kept = {rule.name: rule for rule in self._ruling.rules if rule in keeping}
        full = "; ".join(f"the rule {rule.name} allows {rule.of_accounts}" for rule in kept.values())
        told = full if self.opening.sees_accounts else f"not by {the_rules([*kept])}"
        full, told = (f"No account may serve this request: {each}." for each in (full, told))
        return answers.error(403, told, request_id=self.id, is_final=True)._replace(reason=full)

    def _send(self, lease: Lease) -> Step:
        self._lease = lease
        self._choice_reason = self._choice_reason or lease.choice.reason
        self._attempt_at = (self._shared.clock(), self._shared.wall())
        self._under_way = True
        self._waited_before = self._end_hold()
        try:
            credential = lease.account.credential()
            self._echo = Echo(credential.secret)
            return Send(credential, lease.account.proxy)
        except ValueError as problem:  # nothing that could be sent: as good as an account that refuses
            return self._move(lease, str(problem), or_deliver=False, holding=False)

    def _without_account(self, result: Exhausted) -> Step:
        settings = self._shared.settings
        wanted = settings.passthrough == "always" or (settings.passthrough == "auto" and not result.configured)
        own = self.opening.has_credential or self.opening.key is None
        is_free = self._binding.account_id is None and not self._ruling.limits_accounts
        if wanted and is_free and not result.is_for_one and own:
            self._ticket = Ticket.PASS
            self._choice_reason = "no account: the client's own credential"
            return Send(None)
        if (wait := self._hold.wait_for(result)) is not None:
            self._tried.clear()
            return wait
        return answers.exhausted(
            result.reasons,
            result.wait,
            now=self._shared.wall(),
            request_id=self.id,
            bound=self._binding.why,
            may_name=None if self.opening.sees_accounts else self.opening.may_hear_of,
        )

    def _end_hold(self) -> float:
        """How long it was held since it was sent last."""
        held = self._hold.end()
        self._waited += held
        return held

    # What an answer means for this exchange

    def _after(self, verdict: Verdict, *, holding: bool, is_kept: bool = False) -> Step:
        lease = self._lease
        self._spending.judged()
        if lease is None or self.outcome is not None:
            return answers.error(500, "The proxy lost its lease for this request.", request_id=self.id)
        self._note(lease, verdict)
        self._give_back()
        refused = self._ask_for_token(lease, verdict, is_kept=is_kept)
        if refused and self._is_given_away:
            return self._ask_again("its token was refused, and is being refreshed")
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
        if isinstance(move, RetrySame) and verdict.scope is Scope.WAY and self._has_another_way(lease):
            move = NextAccount(or_deliver=True)
        if isinstance(move, RetrySame) and self._may_repeat(verdict):
            self._same_account = True
            return Wait(move.delay)
        # What is repeated in place has not failed yet; only the last word counts for the account.
        report = self._shared.pool.report(lease, verdict)
        self._shared.recorder.learned(lease.account.id, report)
        self._last_words[lease.account.id] = verdict
        if verdict.may_be_the_request:
            self._begun += report.cooldowns
        if isinstance(move, NextAccount) and self._is_given_away:
            return self._hand_back(lease, verdict.reason, holding=holding)
        if isinstance(move, NextAccount) and self._may_repeat(verdict):
            agreed = move.if_all_agree and holding and all_agree(tuple(self._last_words.values()))
            return self._move(lease, verdict.reason, or_deliver=move.or_deliver or agreed, holding=holding)
        return Deliver() if holding else self._bad_gateway(verdict.reason)

    def _has_another_way(self, lease: Lease) -> bool:
        """Whether an account that goes by another proxy, or by none, could serve this now."""
        if self._binding.account_id is not None:
            return False
        return self._shared.pool.has_another_way(
            lease, exclude=frozenset(self._tried), key=self.opening.key, ruling=self._ruling
        )

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
            verdict=replace(verdict, reason=f"{verdict.reason}{STREAMED}") if self._is_given_away else verdict,
            started_at=started_at,
            duration=self._shared.clock() - started,
            waited=self._waited_before,
        )
        self._waited_before = 0.0
        self._attempts += (attempt,)
        self._shared.recorder.attempted(self, attempt)

    def _may_repeat(self, verdict: Verdict) -> bool:
        """Whether it can be repeated, and within the budget that keeps a failing upstream from being multiplied."""
        if self._is_given_away:
            return False
        if verdict.kind not in (Kind.OVERLOADED, Kind.UPSTREAM_FAILURE, Kind.PROXY_FAILURE) or self._budgeted:
            return True
        if self._shared.budget.allows(self._shared.pool.in_flight):
            self._shared.budget.take()
            self._budgeted = True
        return self._budgeted

    def _give_back(self) -> None:
        if self._budgeted:
            self._budgeted = False
            self._shared.budget.give()

    def _hand_back(self, lease: Lease, why: str, *, holding: bool) -> Step:
        """What is not here any more can go to another account only if the client sends it again."""
        self._tried.add(lease.account.id)
        another = self._acquire()
        if isinstance(another, Exhausted):
            return Deliver() if holding else self._bad_gateway(why)
        self._shared.pool.release(another)
        self._begun.clear()  # what rests now goes on resting, so that the next one does not come here
        return self._ask_again(why)

    def _ask_again(self, why: str) -> Answer:
        """Another account may take what this one did not, if the client sends it once more."""
        kind = why if self.opening.sees_accounts else NO_ANSWER
        told = f"This upload was not taken ({kind}), and it was not kept to be repeated: send it again."
        return answers.error(503, told, request_id=self.id, retry_after=1)

    def _bad_gateway(self, why: str, *, kind: str = NO_ANSWER) -> Answer:
        """The upstream is of no use for this. Whose key may not look behind the proxy is told the `kind` alone."""
        full, told = (f"The upstream could not be used: {each}." for each in (why, kind))
        answer = answers.error(BAD_GATEWAY, full if self.opening.sees_accounts else told, request_id=self.id)
        return answer._replace(reason=full)
