"""The first page: the accounts as they stand, what is running now, and the last requests."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ccflare_core.accounts.account import Kind
from ccflare_core.accounts.member import AccountStatus
from ccflare_core.accounts.states import AccountState
from ccflare_core.accounts.validity import login_warning
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Kind as Meant
from ccflare_core.clients.keys import Permission
from ccflare_core.exchange.story import Story
from ccflare_core.program import typed
from ccflare_core.reports.figures import foretell_end
from ccflare_core.reports.forecast import Forecast
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.reports.proxies import ProxyStatus, differing, proxies, with_own
from ccflare_core.reports.queries import OPEN, Exchange, Reports, Wanted
from ccflare_core.reports.running import as_they_run, running
from ccflare_core.reports.traffic import Period, Traffic
from ccflare_core.store.store import Store
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.html import HOME, page
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.visit import Visit

LAST, MOST_OPEN, HOUR = 10, 100, 3600
_NEARLY = 0.8
"""How full a limit is that should be looked at."""


class Limit(NamedTuple):
    """A window of an account, and when it is full, in words, if that is before its reset."""

    window: Window
    level: str
    """"spent", "nearly" or "well"."""
    forecast: str

    @property
    def share(self) -> float:
        """How full it is in percent, for a bar."""
        return min(max(self.window.utilization or 0.0, 0.0), 1.0) * 100


class Card(NamedTuple):
    """An account as the page shows it."""

    status: AccountStatus
    tone: str
    remedy: str
    warning: str | None
    limits: list[Limit]


class Recorded(NamedTuple):
    """What the database tells: forecasts by account and window, the last day's sums, the last requests."""

    forecasts: dict[tuple[str, str], Forecast]
    today: Traffic
    last: list[Exchange]
    open: list[Exchange]
    """What is open in all proxies, as far as it is recorded: each has told of its own requests as they came."""
    proxies: list[ProxyStatus]
    """All of them, where there is more than one; those that ended in the last hour too."""


async def show_overview(admin: Admin, visit: Visit) -> Answer:
    """The page."""
    recorded = await admin.read(lambda store: read(store, visit.at))
    several = with_own(recorded.proxies, admin.own.run, len(admin.exchanges.open))
    statuses = admin.exchanges.pool.status()
    return page(
        "overview.html",
        visit,
        cards=[card(status, recorded.forecasts, visit.at) for status in statuses],
        open=open_requests(recorded.open, admin.exchanges.open.values(), visit.at, admin.own.name),
        proxies=several,
        notice=differing(several),
        own=admin.own,
        today=recorded.today,
        exchanges=as_they_run(recorded.last, admin.exchanges.open, visit.at),
        needs_code=admin.needs_code(),
    )


def read(store: Store, now: float) -> Recorded:
    """What the page takes from the database."""
    reports, day = Reports(store.query), Period(now - 86_400, now + 0.001)
    return Recorded(
        LimitHistory(store.query).forecasts(now),
        reports.total(day),
        reports.exchanges(day, LAST),
        reports.exchanges(day, MOST_OPEN, wanted=Wanted(outcome=OPEN)),
        _several(store, store.now()),
    )


def _several(store: Store, now: float) -> list[ProxyStatus]:
    """All proxies on the database; none where there is one alone."""
    found = proxies(store.query, now - HOUR, now)
    return found if len(found) > 1 else []


def open_requests(
    recorded: Iterable[Exchange], stories: Iterable[Story], now: float, own: str | None = None
) -> list[Exchange]:
    """Those that are open, the latest first, as far as they have come: of other proxies' the record has their heads."""
    here = {story.id: running(story, now, own) for story in stories}
    others = (row for row in recorded if row.id not in here and row.proxy != own)
    return sorted([*here.values(), *(_so_far(row, now) for row in others)], key=lambda row: -row.at)


def _so_far(row: Exchange, now: float) -> Exchange:
    return row._replace(seconds=max(0.0, now - row.at))


def card(status: AccountStatus, forecasts: Mapping[tuple[str, str], Forecast], now: float) -> Card:
    """An account with its limits, and what to do if it needs a person."""
    name = status.account.name
    limits = [
        Limit(window, _level(window), foretell_end(forecasts.get((name, window.name)), now))
        for window in status.windows
    ]
    tone = "well" if status.available else "nearly" if status.until else "spent"
    return Card(status, tone, _remedy(status), login_warning(status.account, now), limits)


def _level(window: Window) -> str:
    used = window.utilization or 0.0
    return "spent" if used >= 1 or window.status == "rejected" else "nearly" if used >= _NEARLY else "well"


def _remedy(status: AccountStatus) -> str:
    account = status.account
    match status.state:
        case AccountState.NEEDS_LOGIN:
            return typed(f"accounts login {account.name}")
        case AccountState.NEEDS_ATTENTION:
            return f"see to it, then {typed(f'accounts resume {account.name}')}"
        case _ if any(each.source == Meant.CREDENTIAL_REJECTED for each in status.cooldowns):
            return typed(f"accounts login {account.name}{' --mode console' if account.kind is Kind.API_KEY else ''}")
        case _:
            return ""


PAGES = (Page(HOME, READ, Permission.DASHBOARD_VIEW, show_overview),)
