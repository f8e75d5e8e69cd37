"""What has happened: alerts that are on or were, and the newest entries of the audit log."""

import json
from typing import NamedTuple

from ccflare_core.anthropic.answers import Answer
from ccflare_core.audit.entries import Row
from ccflare_core.clients.keys import Permission
from ccflare_core.store.store import Store
from ccflare_core.text import to_seconds
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.html import long_page
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.visit import Visit

ENTRIES, ALERTS = 100, 30


class Alarm(NamedTuple):
    """A condition that alerts are about. Times in epoch seconds."""

    cause: str
    name: str
    what: str
    began_at: float | None
    seen_at: float | None
    is_open: bool


class Happened(NamedTuple):
    """What the page shows."""

    alarms: list[Alarm]
    entries: list[Row]


async def show_journal(admin: Admin, visit: Visit) -> Answer:
    """The page."""
    happened = await admin.read(read)
    return await long_page("journal.html", visit, alarms=happened.alarms, entries=happened.entries, brief=_brief)


def read(store: Store) -> Happened:
    """The newest of both."""
    alarms = store.query(
        "SELECT cause, name, what, began_at, seen_at, is_open FROM alerts "
        "WHERE cause <> 'summary' ORDER BY is_open DESC, seen_at DESC LIMIT ?",
        (ALERTS,),
    )
    columns = ", ".join(Row._fields)
    entries = store.query(f"SELECT {columns} FROM audit_log ORDER BY id DESC LIMIT ?", (ENTRIES,))  # noqa: S608
    return Happened([_alarm(*row) for row in alarms], [Row(*row) for row in entries])


def _alarm(cause: str, name: str, what: str, began_at: int, seen_at: int, is_open: int) -> Alarm:
    return Alarm(cause, name, what, to_seconds(began_at), to_seconds(seen_at), bool(is_open))


def _brief(detail: str) -> str:
    """An entry's details in one line, without what is only there for equality."""
    told = json.loads(detail)
    return ", ".join(f"{name}: {value}" for name, value in told.items() if "hmac-sha256:" not in str(value))


PAGES = (Page("/ccflare/journal", READ, Permission.LOGS_VIEW, show_journal),)
