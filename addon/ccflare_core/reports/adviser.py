"""What the record of a period says one should change. It asks the database, and changes nothing."""

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.reports.advice import Advice, by_worth
from ccflare_core.reports.cost_advice import cost_advice
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.tally import Query
from ccflare_core.reports.traffic import Period
from ccflare_core.reports.window_advice import window_advice


def advise(query: Query, prices: PriceList, period: Period) -> list[Advice]:
    """All that is worth something, the dearest first; nothing where there is nothing to change."""
    reports = Reports(query)
    return by_worth([*cost_advice(query, reports, prices, period), *window_advice(query, reports, period)])
