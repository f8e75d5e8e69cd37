"""The recorded requests as a list with filters, and one of them with its conversation."""

from typing import Any, NamedTuple
from urllib.parse import urlencode

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.tags import FORM, valid_tag
from ccflare_core.exchange.records import storable
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.summary import tokens_in_words
from ccflare_core.reports.figures import count
from ccflare_core.reports.queries import OPEN, Exchange, Position, Wanted
from ccflare_core.text import composed
from ccflare_core.transcripts.passages import Section, sections_of, whole_of, within
from ccflare_core.transcripts.recorded import Recorded, facts_of, read_recorded
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.html import long_page
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.periods import CHOICES, asked
from ccflare_mitm.pages.visit import BadQuery, Visit

LIST = "/ccflare/requests"
MOST = 100
_WHOLE = 4_000_000
"""Characters of a conversation that are shown when all of it is asked for."""
_LONGEST = 200
"""Of a filter's value."""
OUTCOMES = (*(outcome.value for outcome in Outcome), OPEN)


class Said(NamedTuple):
    """A recorded exchange, and its conversation as it is shown."""

    recorded: Recorded
    sections: list[Section]


async def show_list(admin: Admin, visit: Visit) -> Answer:
    """The last requests that have what is asked for."""
    wanted, before, time = _wanted(visit), _position(visit.asked("before")), asked(visit)
    found = await admin.requests(time.period, MOST + 1, wanted, before, visit.at)
    rows, is_more = found[:MOST], len(found) > MOST
    filters = {name: value for name, value in wanted._asdict().items() if value}
    return await long_page(
        "requests.html",
        visit,
        exchanges=rows,
        filters=filters,
        names=_filters_shown(admin, rows, filters),
        outcomes=OUTCOMES,
        time=time,
        choices=CHOICES,
        older=_older(rows, filters, time.choice.value) if is_more else "",
    )


def _filters_shown(admin: Admin, rows: list[Exchange], filters: dict[str, str]) -> list[str]:
    """The names of those that mean something: where there is one proxy, none is asked for."""
    is_one = len({row.proxy for row in rows} | {admin.own.name}) == 1 and not admin.exchanges.pool.has_peers
    return [name for name in Wanted._fields if name != "proxy" or filters.get(name) or not is_one]


def _wanted(visit: Visit) -> Wanted:
    given = {name: str(storable(visit.asked(name).strip())) or None for name in Wanted._fields}
    if any(value and len(value) > _LONGEST for value in given.values()):
        raise BadQuery(f"A filter has at most {_LONGEST} characters.")
    given["tag"] = given["tag"] and composed(given["tag"])
    if given["tag"] and not valid_tag(given["tag"]):
        raise BadQuery(f"tag is {FORM}.")
    if given["outcome"] not in (None, *OUTCOMES):
        raise BadQuery(f"outcome is one of {', '.join(OUTCOMES)}.")
    return Wanted(**given)


def _position(text: str) -> Position | None:
    if not text:
        return None
    at, _, id_ = text.partition("-")
    if not at.isascii() or not at.isdigit() or len(at) > 15 or not id_:
        raise BadQuery("before is no place in the list.")
    return Position(int(at), id_)


def _older(rows: list[Exchange], filters: dict[str, str], since: str) -> str:
    before = "-".join(map(str, rows[-1].place))
    return f"{LIST}?{urlencode({**filters, 'since': since, 'before': before})}"


async def show_exchange(admin: Admin, visit: Visit) -> Answer:
    """One request: who served it and why, for how much, and what was said. The audit log tells who has read it."""
    row = await admin.read(lambda store: facts_of(store.query, visit.name))
    await admin.note_reading(visit, row["id"])
    is_whole = bool(visit.asked("all"))

    said = await admin.read(lambda store: _said(read_recorded(store.query, store.body, row), is_whole))
    return await long_page(
        "exchange.html",
        visit,
        said=said,
        row=row,
        tokens=_tokens(row),
        is_whole=is_whole,
        flow_link=admin.flow_link(visit, row["id"]),
    )


def _said(recorded: Recorded, is_whole: bool) -> Said:
    bodies = recorded.request, recorded.answer
    sections = within(whole_of(*bodies), _WHOLE) if is_whole else within(sections_of(*bodies))
    return Said(recorded, list(sections))


def _tokens(row: dict[str, Any]) -> str:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    new, read, written, out = (row[name] for name in names)
    return tokens_in_words(new, read, written, out, "~" if row["estimated"] else "", count)


PAGES = (
    Page(LIST, READ, Permission.DASHBOARD_VIEW, show_list),
    Page(f"{LIST}/{{name}}", READ, Permission.LOGS_VIEW, show_exchange),
)
