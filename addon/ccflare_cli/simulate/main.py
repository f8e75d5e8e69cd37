"""`scripts/simulate.py`: the recorded traffic once more, with other accounts, rules or settings. It only reads."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.completion import complete
from ccflare_cli.console import OK, Console, Refused, check_made, guarded, read_settings
from ccflare_cli.parsing import Parser, one_of, script_parser
from ccflare_cli.periods import WHEN, span
from ccflare_cli.progress import progress
from ccflare_cli.simulate.tables import Outcome, outcome_table, plan_table
from ccflare_cli.simulate.what_ifs import (
    Pool,
    account_changes,
    change_all,
    check_known,
    joined_words,
    priority,
    setting,
    strategies,
)
from ccflare_cli.stats.plot import draw_lines, picture, save
from ccflare_core.anthropic import price_files
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.clients import guardrail_files
from ccflare_core.clients.budgets import Use, month_start
from ccflare_core.clients.guardrails import Guardrails
from ccflare_core.config.settings import Settings, defaults
from ccflare_core.reports.traffic import Period, clock_of
from ccflare_core.simulation.capacities import fit, starting
from ccflare_core.simulation.past import Past
from ccflare_core.simulation.rates import Rates
from ccflare_core.simulation.recorded import read_turns, sessions_before
from ccflare_core.simulation.scenarios import Policy, Scenario, usable
from ccflare_core.simulation.simulator import Simulator, replay
from ccflare_core.simulation.tallies import PANELS, Tally
from ccflare_core.simulation.turns import Turn
from ccflare_core.store.client_usage import uses_since
from ccflare_core.store.store import Store
from ccflare_core.text import some

_EXAMPLES = """\
examples:
  scripts/simulate.py                          the last week as it is set
  scripts/simulate.py --strategy session,least-used,round-robin
  scripts/simulate.py --accounts +1            with one account more
  scripts/simulate.py --accounts -max-2        without this one
  scripts/simulate.py --since 30d --rules new.yaml --plot new.svg
  scripts/simulate.py --set hold_seconds=120 --priority max-1=10

The record has no prompts for this, and needs none: when requests came, how
large they were, in which sessions, of which models. They go through the
proxy's own code on a clock that does not wait. Nothing is sent. The first row
is what has really happened: the one below it, with the past's own settings,
shows how far the simulation can be trusted.
"""
_SINCE, _FIT = "7d", "30d"
_AS_SET = "as it is set"
RECORDED = "recorded"
_SHOWN_EACH = 500
"""Turns between two looks at how far it has got."""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Simulate and give the exit code: 0 done, 1 it cannot be, 2 misused."""
    parser = _parser()
    complete(parser)
    arguments = parser.parse_args(joined_words(sys.argv[1:] if argv is None else argv))
    console = console or Console.real()
    return guarded(console, partial(_simulate, console, arguments))


def _parser() -> Parser:
    parser = script_parser(
        "simulate.py", "Replay the recorded traffic with other accounts, rules or settings.", _EXAMPLES
    )
    parser.add_argument(
        "--since", type=span, default=span(_SINCE), metavar="WHEN", help=f"from this time: {WHEN} (default: {_SINCE})"
    )
    parser.add_argument("--until", type=span, metavar="WHEN", help="up to this time (default: now)")
    parser.add_argument(
        "--fit-since",
        type=span,
        metavar="WHEN",
        help=f"find out from this time on what the limits take (default: {_FIT}, or --since if that is earlier)",
    )
    parser.add_argument(
        "--strategy",
        type=strategies,
        action="extend",
        metavar="NAMES",
        help="ccflare_strategy: one, or several to compare (default: as it is set)",
    )
    parser.add_argument(
        "--accounts",
        type=account_changes,
        action="extend",
        default=[],
        metavar="CHANGES",
        help="+1: one more, like the others on average; +NAME: one more like this one; -NAME: without it; NAME=OTHER: "
        "as if it had the other one's limits",
    )
    parser.add_argument(
        "--priority",
        type=priority,
        action="append",
        default=[],
        metavar="NAME=N",
        help="give an account another priority",
    )
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument("--rules", type=Path, metavar="FILE", help="with these rules (default: those of ccflare_rules)")
    rules.add_argument("--without-rules", action="store_true", help="without rules")
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="with another hold_seconds, max_waiting, session_seconds, passthrough, retry_attempts, retry_delay_ms or "
        "retry_backoff",
    )
    parser.add_argument(
        "--policy",
        type=one_of(Policy),
        choices=list(Policy),
        default=Policy.AS_SET,
        metavar="NAME",
        help="what a session does whose account is limited (as-set: what the proxy does)",
    )
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw it along time into an svg or png file")
    return parser


class _Made(NamedTuple):
    """What was simulated."""

    outcomes: list[Outcome]
    tallies: list[tuple[str, Tally]]
    pool: Pool
    period: Period
    """As far as there is a record of it."""
    unpriced: list[str]
    """The models that were asked for and have no price."""


def _simulate(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    check_made(settings)
    period = arguments.since.period(console.now(), arguments.until)
    if period.since >= period.until:
        raise Refused("The period is empty: --until must lie after --since.")
    store = Store.open(settings.database, None, read_only=True, wall=console.now)
    try:
        with store.snapshot():
            made = _Simulation(console, store, settings, arguments, period).run()
    finally:
        store.close()
    when = arguments.since.words(arguments.until)
    if arguments.plot:
        _plot(made, f"Simulated, {when}", arguments.plot)
        console.write(f"{arguments.plot} is written.")
        return OK
    plans = [plan for account in made.pool.accounts for plan in made.pool.plans.get(account.id, ())]
    console.show(
        arguments,
        outcome_table(made.outcomes, f"Simulated, {when}", _note(made, arguments)),
        plan_table(plans, "Windows, fitted to the record"),
    )
    return OK


class _Simulation:
    """One run of the command on an open database."""

    def __init__(
        self, console: Console, store: Store, settings: Settings, arguments: argparse.Namespace, period: Period
    ) -> None:
        self._console = console
        self._store = store
        self._settings = settings
        self._arguments = arguments
        self._prices: PriceList = price_files.load(settings.prices_path)
        self._rates = Rates(self._prices)
        self._rules = guardrail_files.load(settings.rules_path)
        self._period = self._within_the_record(period)
        self._is_tagged = False
        self._is_priced: dict[str, bool] = {}
        """Whether a model has a price, for those that were asked for."""

    def run(self) -> _Made:
        """Fit the windows, and replay the traffic in all scenarios at once."""
        pool = self._pool()
        changed = change_all(pool, [*self._arguments.accounts, *self._arguments.priority])
        check_known(changed)
        scenarios = self._scenarios(pool, changed)
        self._is_tagged = any(
            trait == "tag" for each in scenarios for rule in each.guardrails.rules for trait, _ in rule.conditions
        )
        step = clock_of(self._period).seconds
        simulators = [Simulator(each, self._period.since, step) for each in scenarios]
        billed = {account.id for account in pool.accounts if account.kind == "api_key"}
        past = Past(step, billed)
        replay(self._noted(self._turns(self._period)), simulators, past)
        tallies = [(RECORDED, past.tally), *((each.scenario.name, each.tally) for each in simulators)]
        outcomes = [Outcome(RECORDED, "", is_recorded=True, counts=past.tally.total)]
        outcomes += [
            Outcome(each.scenario.name, each.scenario.settings.strategy, is_recorded=False, counts=each.tally.total)
            for each in simulators
        ]
        unpriced = sorted(model for model, is_priced in self._is_priced.items() if not is_priced)
        return _Made(outcomes, tallies, changed, self._period, unpriced)

    def _within_the_record(self, period: Period) -> Period:
        first = next(iter(self._store.query("SELECT MIN(timestamp) FROM requests")))[0]
        if first is None:
            raise Refused("Nothing is recorded yet: send a request through the proxy first.")
        return period._replace(since=max(period.since, min(first / 1000, period.until)))

    def _turns(self, period: Period) -> Iterator[Turn]:
        """Those of the period, with how far it has got on a terminal."""
        settings = self._settings
        turns = read_turns(self._store.query, self._rates, period, settings.session_seconds, tagged=self._is_tagged)
        with progress(self._console) as show:
            for number, turn in enumerate(turns):
                if number % _SHOWN_EACH == 0:
                    show(round(turn.at - period.since), round(period.until - period.since))
                yield turn

    def _noted(self, turns: Iterable[Turn]) -> Iterator[Turn]:
        for turn in turns:
            model = turn.facts.model
            if model and model not in self._is_priced and turn.facts.spends:
                self._is_priced[model] = self._rates.is_known(model)
            yield turn

    def _pool(self) -> Pool:
        """The accounts as they are, and what their windows take by the record."""
        sql = "SELECT DISTINCT account_used FROM requests WHERE timestamp >= ? AND timestamp < ?"
        serving = {id for (id,) in self._store.query(sql, self._period.bounds_ms())}
        accounts = [
            usable(account) for account in self._store.accounts.all() if not account.paused or account.id in serving
        ]
        given = self._arguments.fit_since or span(_FIT)
        since = min(given.moment(self._console.now()), self._period.since)
        fitted = self._within_the_record(Period(since, self._period.until))
        names = {account.id: account.name for account in accounts}
        plans = fit(self._store.query, self._turns(fitted), names, fitted)
        begun = {id: tuple(starting(self._store.query, found, id, self._period.since)) for id, found in plans.items()}
        return Pool(tuple(accounts), begun)

    def _scenarios(self, pool: Pool, changed: Pool) -> list[Scenario]:
        """One for each strategy; where more than that is changed, also one as it is set."""
        arguments, store = self._arguments, self._store
        rules = self._changed_rules()
        values = {**defaults(self._console.environ), **dict(arguments.set)}
        wanted = arguments.strategy or [self._settings.strategy]
        is_changed = bool(changed is not pool or arguments.set or arguments.rules or arguments.without_rules)
        as_set = Scenario(
            _AS_SET,
            self._settings,
            pool.accounts,
            pool.plans,
            self._rules,
            self._prices,
            tuple(store.clients.all()),
            tuple(store.client_runs.seen_since(self._period.since)),
            self._uses(),
            tuple(sessions_before(store.query, self._period, self._settings.session_seconds)),
            arguments.policy,
        )
        made = [as_set] if is_changed and _is_simulable(pool) else []
        for strategy in dict.fromkeys(wanted):
            settings = Settings.build({**values, "ccflare_strategy": strategy}, self._console.environ)
            name = strategy if not is_changed else f"{strategy}, changed"
            made.append(
                replace(
                    as_set,
                    name=name,
                    settings=settings,
                    accounts=changed.accounts,
                    plans=changed.plans,
                    guardrails=rules,
                )
            )
        return made

    def _changed_rules(self) -> Guardrails:
        if self._arguments.without_rules:
            return Guardrails()
        return guardrail_files.load(self._arguments.rules.expanduser()) if self._arguments.rules else self._rules

    def _uses(self) -> tuple[Use, ...]:
        """What the keys had used in the month before the day on which it begins."""
        start = month_start(self._period.since)
        since = self._period.since
        return tuple(use for use in uses_since(self._store.query, start, but="") if _midnight(use) + 86_400.0 <= since)


def _midnight(use: Use) -> float:
    return (use.day.toordinal() - 719_163) * 86_400.0


def _is_simulable(pool: Pool) -> bool:
    try:
        check_known(pool)
    except Refused:
        return False
    return True


def _note(made: _Made, arguments: argparse.Namespace) -> str:
    """What one should know of the figures."""
    changes = [each.text for each in arguments.accounts]
    changes += [f"{each.name} with priority {each.number}" for each in arguments.priority]
    changes += [f"the rules of {arguments.rules}"] if arguments.rules else []
    changes += ["no rules"] if arguments.without_rules else []
    changes += [f"{name}={value}" for name, value in arguments.set]
    notes = [f"Changed: {', '.join(changes)}."] if changes else []
    if unsized := max(outcome.counts.unsized for outcome in made.outcomes):
        notes.append(
            f"Up to {some(unsized, 'request')} that was refused then is served here; its size is taken from others."
            if unsized == 1
            else f"Up to {some(unsized, 'request')} that were refused then are served here; their sizes are taken from "
            "others."
        )
    if made.unpriced:
        models = ", ".join(made.unpriced)
        notes.append(f"No price is known of {models}: counted as the dearest model; ccflare_prices can name it.")
    return "\n".join(notes)


def _plot(made: _Made, title: str, path: Path) -> None:
    by = clock_of(made.period)
    steps = sorted({number for _, tally in made.tallies for number in tally.steps})
    times = [number * by.seconds for number in steps]
    panels = {
        heading: [
            (name, [float(getattr(tally.steps[number], field)) if number in tally.steps else 0.0 for number in steps])
            for name, tally in made.tallies
        ]
        for field, heading in PANELS
    }
    save(draw_lines(times, panels, made.period, title), path)
