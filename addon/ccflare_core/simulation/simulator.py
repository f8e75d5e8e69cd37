"""Replays turns in one scenario: the proxy's own exchanges, pool, rules and limits, on a clock that does not wait.

What a turn meets is decided where it is decided for a real request. Here is only what the network, the upstream and the
database would do: an answer comes after as long as the recorded one took, an account's windows fill by what it serves,
and what went wrong at the provider goes wrong again.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Final

from ccflare_core.accounts.account import Kind as AccountKind
from ccflare_core.accounts.affinity import Held, session_key
from ccflare_core.accounts.pool import AccountPool, Report
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.ids import Named
from ccflare_core.anthropic.verdicts import Verdict
from ccflare_core.clients.client_runs import ClientRuns
from ccflare_core.clients.guardrails import Ruling
from ccflare_core.clients.rate_limits import Moment, RateLimits
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.ownership import Ownership
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, Send, Step, Wait
from ccflare_core.exchange.story import Story
from ccflare_core.exchange.traits import Legible, Remembered, traits_of
from ccflare_core.simulation.caches import Caches, Loss
from ccflare_core.simulation.past import Past, Sizes
from ccflare_core.simulation.rates import Rates
from ccflare_core.simulation.scenarios import Scenario
from ccflare_core.simulation.tallies import Counts, Tally
from ccflare_core.simulation.turns import LIMITS, Recent, Turn, Weather
from ccflare_core.simulation.upstream import REFUSAL_SECONDS, Upstream

_ENDINGS: Final = {
    each.value: each for each in (Outcome.CLIENT_ABORT, Outcome.TRUNCATED, Outcome.SHUTDOWN, Outcome.CRASHED)
}
"""How an answer may end that began well."""
_MOST_OPENINGS: Final = 1000
"""What is the same for many requests is made once for so many of them."""


class _Silent:
    """A recorder that writes nothing."""

    def keeps_bodies(self, opening: Opening) -> bool:
        return False

    def started(self, exchange: Story) -> None: ...
    def attempted(self, exchange: Story, attempt: Attempt) -> None: ...
    def reserved(self, exchange: Story, estimate: Counted) -> None: ...
    def learned(self, account_id: str, report: Report) -> None: ...
    def organization(self, account_id: str, organization_id: str) -> None: ...
    def finished(self, exchange: Story) -> None: ...
    def corrected(self, exchange_id: str, outcome: Outcome, error: str) -> None: ...


class _NoOwners(Ownership):
    """Turns name nothing that belongs to an account."""

    def ended(self, story: Story, named: Named) -> None: ...


class _Course:
    """One turn on its way."""

    __slots__ = ("cost", "counts", "exchange", "is_passed", "left", "loss", "lost", "turn", "verdict", "weather")

    def __init__(self, turn: Turn, exchange: Exchange, counts: tuple[Counts, Counts]) -> None:
        self.turn = turn
        self.counts = counts
        """Those that it counts in."""
        self.exchange = exchange
        self.weather: tuple[Weather, ...] = turn.weather
        self.verdict: Verdict | None = None
        """That of the answer which is on its way, if it is none of the good ones."""
        self.left = 0.0
        """Seconds from the head of a good answer to its end."""
        self.loss = Loss(moved=False)
        self.cost = turn.cost
        self.lost = 0.0
        """What it pays for what another account has cached."""
        self.is_passed = False


type _Act = Callable[[_Course], None]


class Simulator:
    """See the module. Give it the turns with `take`, then call `finish`. Times are epoch seconds."""

    def __init__(self, scenario: Scenario, since: float, step: float) -> None:
        self.scenario = scenario
        self.tally = Tally(step)
        self._now = since
        self._events: list[tuple[float, int, _Act, _Course]] = []
        self._numbers = itertools.count()
        settings = scenario.settings
        self._rates = Rates(scenario.prices)
        self._upstream = Upstream(scenario.plans)
        self._caches = Caches(settings.session_seconds)
        self._billed = {account.id for account in scenario.accounts if account.kind is AccountKind.API_KEY}
        self._keys = {key.id: key for key in scenario.keys}
        self._limits = RateLimits(_say_nothing)
        self._limits.budgets.restore(scenario.uses)
        self._runs = ClientRuns()
        self._runs.replace(scenario.runs)
        self._remembered = Remembered()
        self._openings: dict[tuple[object, ...], Opening] = {}
        self._served: Recent[tuple[str | None, ...], bool] = Recent(600.0)
        self._sizes = Sizes()
        pool = AccountPool(
            strategy=settings.strategy, session_seconds=settings.session_seconds, clock=self._clock, wall=self._clock
        )
        pool.replace_accounts(scenario.accounts)
        pool.adopt([Held(session_key(id), account, at) for id, account, at in scenario.sessions], are_new=False)
        for session_id, account_id, at in scenario.sessions:
            self._caches.adopt(session_id, account_id, at)
        self._shared = Collaborators(
            settings,
            pool,
            _Silent(),
            scenario.prices,
            clock=self._clock,
            wall=self._clock,
            random=itertools.cycle((0.25, 0.75, 0.5)).__next__,  # the same each time
            guardrails=scenario.guardrails,
            ownership=_NoOwners(),
        )

    def _clock(self) -> float:
        return self._now

    def take(self, turn: Turn) -> None:
        """The next turn, in the order of time."""
        self._advance(turn.at)
        self._now = max(self._now, turn.at)
        self._begin(turn)

    def finish(self) -> None:
        """There are no more: let what is on its way come to its end."""
        self._advance(float("inf"))

    def _advance(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            at, _, act, course = heapq.heappop(events)
            self._now = max(self._now, at)
            act(course)

    def _after(self, seconds: float, act: _Act, course: _Course) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), act, course))

    # The request

    def _begin(self, turn: Turn) -> None:
        if turn.is_repeat and self._served.get(turn.thread, turn.at):
            return  # here the first one was not refused
        turn = self._sizes.sized(turn)
        found = self.tally.at(turn.at)
        for counts in found:
            counts.requests += 1
        opening = self._opening(turn)
        exchange = Exchange(opening, self._shared, _forget)
        course = _Course(turn, exchange, found)
        if self._is_over_a_limit(turn, opening) or not self._keeps_to_rules(course):
            self._refuse(course)
            return
        turn = course.turn
        facts = turn.facts
        if facts.ties_thinking and self._caches.has_thought(turn):
            facts = replace(facts, has_thinking=True)
        if opening.key is not None:
            self._limits.count_key(opening.key, Moment(self._now, self._now))
        exchange.admit(facts, b"", "")
        self._carry_out(course, exchange.next_step())

    def _opening(self, turn: Turn) -> Opening:
        key = (turn.method, turn.path, turn.facts.client, turn.key_id, turn.run_id, turn.user_agent)
        found = self._openings.get(key)
        if found is None:
            if len(self._openings) >= _MOST_OPENINGS:
                self._openings.clear()
            found = self._openings[key] = Opening(
                turn.method,
                turn.path,
                turn.facts.client,
                "simulated",
                turn.user_agent,
                key=self._keys.get(turn.key_id or ""),
                has_credential=False,
                run=self._runs.find(turn.run_id or ""),
            )
        return replace(found, tags=turn.tags) if turn.tags else found

    def _is_over_a_limit(self, turn: Turn, opening: Opening) -> bool:
        """Whether its client key or its run has nothing left for it."""
        spends = turn.facts.spends
        if opening.key is not None:
            if not opening.key.may_use_model(turn.facts.model) and spends:
                return True
            if self._limits.for_key(opening.key, Moment(self._now, self._now), spends=spends) is not None:
                return True
        return opening.run is not None and spends and self._runs.spent_up(opening.run) is not None

    def _keeps_to_rules(self, course: _Course) -> bool:
        """Whether the rules let it go on; they may have put another model in its place."""
        if not self.scenario.guardrails:
            return True
        turn, exchange = course.turn, course.exchange
        exchange.identified(Provenance(project=turn.project, request_class=turn.request_class))
        if turn.agent:
            exchange.belongs_to_agent(turn.agent)
        models = (turn.facts.model,) if turn.facts.model else ()
        session = (turn.facts.session_id,) if turn.facts.session_id else ()
        legible = Legible(session, whole=not turn.is_in_thread, has_agents=True)
        traits = traits_of(exchange, legible, self._remembered, self._now, lambda: models)
        ruling: Ruling = self.scenario.guardrails.of(traits)
        if ruling.limits_models and models:
            model = None if turn.is_in_thread else ruling.replacement(models)
            if model is not None:
                course.turn = self._with_model(turn, model)
                models = (model,)
                ruling = ruling.joined(self.scenario.guardrails.of(traits.with_model(model)))
            if ruling.objection_to_models(models):
                return False
        exchange.ruled(ruling)
        return True

    def _with_model(self, turn: Turn, model: str) -> Turn:
        """The same for another model, at its price."""
        before, now = self._rates.of(turn.facts.model).of(turn.tokens), self._rates.of(model).of(turn.tokens)
        cost = turn.cost * now / before if before else turn.cost
        return turn._replace(facts=replace(turn.facts, model=model), cost=cost)

    # Its attempts

    def _carry_out(self, course: _Course, step: Step) -> None:
        if isinstance(step, Send):
            self._send(course, step)
        elif isinstance(step, Deliver):
            self._deliver(course)
        elif isinstance(step, Wait):
            self._after(step.seconds, self._go_on, course)
        else:
            self._answer(course, step)

    def _go_on(self, course: _Course) -> None:
        self._carry_out(course, course.exchange.next_step())

    def _send(self, course: _Course, step: Send) -> None:
        turn, exchange = course.turn, course.exchange
        lease = exchange.lease
        if step.credential is None or lease is None:
            course.is_passed = True
            self._after(turn.head_seconds, self._receive, course)
            return
        exchange.sent()
        account_id = lease.account.id
        if (refusal := self._upstream.refusal(account_id, turn.facts, self._now)) is not None:
            course.verdict = refusal
            self._after(REFUSAL_SECONDS, self._receive, course)
        elif (met := next((each for each in course.weather if each.concerns(account_id)), None)) is not None:
            course.weather = tuple(each for each in course.weather if each is not met)
            course.verdict = met.verdict(self._now, turn.facts)
            self._after(met.seconds, self._receive, course)
        else:
            course.verdict, course.left = None, turn.seconds - turn.head_seconds
            self._after(turn.head_seconds, self._receive, course)

    def _receive(self, course: _Course) -> None:
        exchange, turn, verdict = course.exchange, course.turn, course.verdict
        if course.is_passed:
            self._carry_out(course, Deliver())
            return
        lease = exchange.lease
        if lease is None:
            return
        if verdict is None:
            self._price(course, lease.account.id)
            prompt = course.cost - turn.cost * turn.output_share
            verdict = self._upstream.served(lease.account.id, turn.facts, prompt, self._now)
        if verdict.kind in LIMITS:
            for counts in course.counts:
                counts.limits += 1
        self._carry_out(course, exchange.judged(verdict))

    # Its end

    def _deliver(self, course: _Course) -> None:
        turn = course.turn
        # The exchange is not told of a head that it would capture a body behind: there is none, and silence is no sign.
        if course.verdict is not None:
            course.exchange.finish(Outcome.UPSTREAM_ERROR)
            self._end(course, is_served=False)
            return
        if turn.is_repeat or turn.outcome == "refused":
            self._served.put(turn.thread, True, turn.at)
        self._after(course.left, self._complete, course)

    def _price(self, course: _Course, account_id: str) -> None:
        """It is known who serves it, and so what it loses by that."""
        turn = course.turn
        loss = course.loss = self._caches.serve(turn, account_id, turn.at)
        if loss.rebilled:
            rate = self._rates.of(turn.facts.model)
            course.lost = rate.again(loss.rebilled, is_long=turn.tokens.written_1h > 0)
        course.cost = turn.cost + course.lost

    def _complete(self, course: _Course) -> None:
        turn, exchange, loss = course.turn, course.exchange, course.loss
        ending = _ENDINGS.get(turn.outcome)
        exchange.finish(ending or Outcome.OK)
        lease = exchange.lease
        if lease is not None and not course.is_passed and turn.facts.spends:
            self._upstream.use(lease.account.id, turn.facts, turn.cost * turn.output_share, self._now)
        for counts in course.counts:
            counts.cost_usd += course.cost
            counts.billed_usd += course.cost if lease is not None and lease.account.id in self._billed else 0.0
            counts.moved += loss.moved
            counts.lost_tokens += loss.rebilled
            counts.lost_usd += course.lost
            if loss.thinking:
                counts.lost_usd += loss.thinking * self._rates.of(turn.facts.model).output
            counts.unsized += not turn.is_sized
        self._end(course, is_served=ending is None)

    def _answer(self, course: _Course, answer: Answer) -> None:
        course.exchange.answered(answer)
        if course.exchange.outcome is Outcome.UPSTREAM_ERROR:
            self._end(course, is_served=False)
        else:
            self._count_waiting(course)
            self._refuse(course)
            self._settle(course)

    def _end(self, course: _Course, *, is_served: bool) -> None:
        for counts in course.counts:
            counts.served += is_served
            counts.failed += not is_served
        self._count_waiting(course)
        self._settle(course)

    def _refuse(self, course: _Course) -> None:
        for counts in course.counts:
            counts.refused += 1

    def _count_waiting(self, course: _Course) -> None:
        waited = course.exchange.waited
        if waited > 0:
            for counts in course.counts:
                counts.waited += 1
                counts.waited_seconds += waited

    def _settle(self, course: _Course) -> None:
        """Count what it used in the budgets of its client."""
        opening, turn = course.exchange.opening, course.turn
        if opening.key is None and opening.run is None:
            return
        tokens, dollars = sum(turn.tokens), Decimal(str(round(course.cost, 8)))
        if opening.key is not None:
            self._limits.ended(opening.key, turn.at, tokens, dollars)
        if opening.run is not None:
            self._runs.add(opening.run, tokens, dollars)


def _forget(exchange_id: str) -> None: ...


def _say_nothing(sentence: str) -> None: ...


def replay(turns: Iterable[Turn], simulators: Iterable[Simulator], past: Past) -> None:
    """Give each of them all turns."""
    made = tuple(simulators)
    for turn in turns:
        past.take(turn)
        for simulator in made:
            simulator.take(turn)
    for simulator in made:
        simulator.finish()
