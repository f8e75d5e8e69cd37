"""What was used: charts along time, and tables by model, account, project, agent and client."""

from collections.abc import Callable
from typing import NamedTuple

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.keys import Permission
from ccflare_core.reports.figures import count, duration, money, percent
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.traffic import By, Traffic, labels
from ccflare_core.store.store import Store
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.charts import Chart, chart
from ccflare_mitm.pages.html import long_page
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.periods import CHOICES, Asked, asked
from ccflare_mitm.pages.visit import Visit

SPLITS = (By.MODEL, By.ACCOUNT, By.PROJECT, By.AGENT, By.CLIENT)
MOST_ROWS = 30


def _whole(number: float | None) -> str:
    return count(None if number is None else int(number))


MEASURES: tuple[tuple[str, Callable[[Traffic], float | None], Callable[[float | None], str]], ...] = (
    ("Requests", lambda t: t.requests, _whole),
    ("Cost", lambda t: t.cost_usd, money),
    ("Tokens in", lambda t: t.prompt_tokens, _whole),
    ("Tokens out", lambda t: t.output_tokens, _whole),
    ("Cache hits", lambda t: t.cache_hit_rate, percent),
    ("Time, median", lambda t: t.latency.p50, duration),
    ("First byte, median", lambda t: t.first_byte.p50, duration),
    ("Failovers", lambda t: t.failovers, _whole),
    ("Errors", lambda t: t.errors, _whole),
)
"""What is drawn: its title, the figure, and how that is written."""


class Group(NamedTuple):
    """The traffic split by one thing, the busiest first; `left` rows are not shown."""

    by: By
    rows: list[Traffic]
    left: int


class Used(NamedTuple):
    """What the database tells."""

    total: Traffic
    along: list[Traffic]
    groups: list[Group]


async def show_usage(admin: Admin, visit: Visit) -> Answer:
    """The page."""
    time = asked(visit)
    used = await admin.read(lambda store: read(store, time))
    return await long_page(
        "usage.html", visit, time=time, choices=CHOICES, total=used.total, groups=used.groups,
        charts=draw(used.along), along=used.along, measures=MEASURES,
    )  # fmt: skip


def read(store: Store, time: Asked) -> Used:
    """The figures of this time, as the scripts have them; the axis is all of it, also where nothing is recorded."""
    reports, period, clock = Reports(store.query), time.period, time.clock
    total, steps = reports.total_and_split(period, (clock,))
    found = {each.keys: each for each in steps}
    along = [found.get((name,), Traffic((name,))) for name in labels(period, clock)]
    return Used(total, along, list(map(_group, SPLITS, reports.splits(period, SPLITS))))


def _group(by: By, rows: list[Traffic]) -> Group:
    return Group(by, rows[:MOST_ROWS], max(len(rows) - MOST_ROWS, 0))


def draw(along: list[Traffic]) -> list[Chart]:
    """A chart for each measure."""
    names = [each.keys[0] or "" for each in along]
    return [chart(title, names, [get(each) for each in along], show) for title, get, show in MEASURES]


PAGES = (Page("/ccflare/usage", READ, Permission.DASHBOARD_VIEW, show_usage),)
