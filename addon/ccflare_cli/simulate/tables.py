"""The tables of a simulation: what came of the traffic in each scenario, and the windows that were fitted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, count, duration, iso, money, percent
from ccflare_core.simulation.plans import Plan
from ccflare_core.simulation.tallies import Counts

_WORTH = "Dollars are list prices, whoever pays them."


class Outcome(NamedTuple):
    """A scenario, or the past itself, and what came of the traffic in it."""

    name: str
    strategy: str
    is_recorded: bool
    counts: Counts


def _count(get: Callable[[Counts], int]) -> Callable[[Outcome], str]:
    return lambda outcome: count(get(outcome.counts))


def outcome_table(outcomes: Sequence[Outcome], title: str, note: str) -> Table[Outcome]:
    """One row for the past, and one for each scenario."""
    return Table(
        key="scenarios",
        title=title,
        rows=outcomes,
        fields=(
            ("scenario", lambda outcome: outcome.name),
            ("strategy", lambda outcome: outcome.strategy),
            ("is_recorded", lambda outcome: outcome.is_recorded),
            ("requests", lambda outcome: outcome.counts.requests),
            ("served", lambda outcome: outcome.counts.served),
            ("failed", lambda outcome: outcome.counts.failed),
            ("moved", lambda outcome: outcome.counts.moved),
            ("waited", lambda outcome: outcome.counts.waited),
            ("waited_seconds", lambda outcome: round(outcome.counts.waited_seconds, 3)),
            ("refused", lambda outcome: outcome.counts.refused),
            ("limits", lambda outcome: outcome.counts.limits),
            ("cost_usd", lambda outcome: round(outcome.counts.cost_usd, 6)),
            ("billed_usd", lambda outcome: round(outcome.counts.billed_usd, 6)),
            ("lost_tokens", lambda outcome: outcome.counts.lost_tokens),
            ("lost_usd", lambda outcome: round(outcome.counts.lost_usd, 6)),
            ("of_unknown_size", lambda outcome: outcome.counts.unsized),
        ),
        columns=(
            Column("Scenario", lambda outcome: outcome.name, way=wrapped(11)),
            Column("Served", _count(lambda counts: counts.served), right=True),
            Column("Failed", _count(lambda counts: counts.failed), right=True, rank=2),
            Column(
                "Moved",
                _count(lambda counts: counts.moved),
                right=True,
                legend="Moved: to another account than the request before in its session.",
            ),
            Column("Waited", _waited, right=True, brief=_count(lambda counts: counts.waited)),
            Column("Refused", _count(lambda counts: counts.refused), right=True),
            Column(
                "Limits",
                _count(lambda counts: counts.limits),
                right=True,
                rank=1,
                legend="Limits: answers of accounts that a window is full.",
            ),
            Column("Cost", lambda outcome: money(outcome.counts.cost_usd), right=True, legend=_WORTH),
            Column(
                "Cache lost",
                lambda outcome: money(outcome.counts.lost_usd),
                right=True,
                under="Cost",
                legend="Cache lost: what writing it again has cost, and thinking that stays with an account.",
            ),
        ),
        note=note,
    )


def _waited(outcome: Outcome) -> str:
    waited = outcome.counts.waited
    return f"{count(waited)} ({duration(outcome.counts.waited_seconds)})" if waited else count(waited)


def plan_table(plans: Sequence[Plan], title: str) -> Table[Plan]:
    """The windows, as the record has them."""
    return Table(
        key="windows",
        title=title,
        rows=plans,
        fields=(
            ("account", lambda plan: plan.account),
            ("window", lambda plan: plan.name),
            ("capacity_usd", lambda plan: None if plan.capacity is None else round(plan.capacity, 4)),
            ("error", lambda plan: None if plan.error is None else round(plan.error, 4)),
            ("readings", lambda plan: plan.readings),
            ("never_full", lambda plan: plan.is_wide),
            ("used", lambda plan: round(plan.used, 4)),
            ("resets_at", lambda plan: iso(plan.resets_at)),
        ),
        columns=(
            Column("Account", lambda plan: plan.account, way=shortened(12)),
            Column("Window", lambda plan: plan.name, way=shortened(8)),
            Column(
                "Full at",
                _capacity,
                right=True,
                way=wrapped(10),
                legend="Full at: the list price of what fills the window.",
            ),
            Column("Error", lambda plan: DASH if plan.error is None else f"± {percent(plan.error)}", right=True),
            Column("Readings", lambda plan: count(plan.readings), right=True, rank=1),
            Column("At the beginning", lambda plan: percent(plan.used, 0), right=True, rank=1),
        ),
        empty="No account has limits that were read.",
    )


def _capacity(plan: Plan) -> str:
    return "more than is used" if plan.is_wide else money(plan.capacity)
