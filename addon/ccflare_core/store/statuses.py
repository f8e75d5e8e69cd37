"""How the accounts stand, by what the database knows of them."""

from ccflare_core.accounts.status import StoredStatus, stored_status
from ccflare_core.reports.queries import Reports, Use
from ccflare_core.reports.traffic import Period
from ccflare_core.store.store import Store

_DAY = 86_400


def statuses(store: Store, now: float) -> list[StoredStatus]:
    """Each account at `now` (epoch seconds)."""
    cooldowns, windows, upkeep = store.limits.cooldowns(), store.limits.latest_windows(), store.logins.upkeep()
    return [
        stored_status(account, cooldowns, windows.get(account.id, ()), now, upkeep.get(account.id))
        for account in store.accounts.all()
    ]


def statuses_and_use(store: Store, now: float) -> list[tuple[StoredStatus, Use]]:
    """The same, with its use in the last 24 hours."""
    reports, last_day = Reports(store.query), Period(now - _DAY, now)
    return [(status, reports.use(status.account.id, last_day)) for status in statuses(store, now)]
