"""The endpoints of the API. Their fields are those of the scripts' `--format json`, see reports/fields.py."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from ccflare_core.anthropic.answers import json_answer
from ccflare_core.clients.keys import Permission
from ccflare_core.errors import NotFound
from ccflare_core.exchange.steps import Outcome
from ccflare_core.reports import vocabulary
from ccflare_core.reports.fields import (
    DOING,
    EXCHANGE,
    PROXY,
    WINDOW,
    account_fields,
    record,
    total_fields,
    traffic_fields,
)
from ccflare_core.reports.limit_history import LimitHistory
from ccflare_core.reports.proxies import differing, with_own
from ccflare_core.reports.proxies import proxies as all_proxies
from ccflare_core.reports.queries import OPEN, Position, Reports, Wanted
from ccflare_core.reports.session_state import SessionState, as_record, is_made_by, read_session
from ccflare_core.reports.traffic import By, Period, Traffic
from ccflare_core.reports.vocabulary import TEXT_OR_NULL, Schema, list_of, object_of
from ccflare_core.store.statuses import statuses_and_use
from ccflare_core.store.store import Store
from ccflare_core.text import to_ms
from ccflare_mitm.pages.api.conversations import CONVERSATIONS
from ccflare_mitm.pages.api.endpoint import ID, Call, Content, Endpoint
from ccflare_mitm.pages.api.parameters import Asked, choice, cursor, flag, tag, text, when, whole, write_cursor

MOST: Final = 500
"""Rows of an answer."""
MOST_STEPS: Final = 1440
"""Minutes, or 5 minutes, of an answer: the last ones of the period."""
_ROWS: Final = 100
_COUNTED: Final = "how many rows there are, shown or not"
_SINCE = when("since", "where the period begins", "24h")
_UNTIL = when("until", "where it ends", None)
_LIMIT = whole("limit", "rows of the answer", MOST, _ROWS)
_OUTCOMES = (*(outcome.value for outcome in Outcome), OPEN)


def _period(asked: Asked, now: float) -> Period:
    """The period that is asked for; an empty one if it ends before it begins."""
    since = asked["since"].moment(now)
    until = now + 0.001 if asked["until"] is None else asked["until"].moment(now)  # the present is a part of it
    return Period(since, max(since, until))


def _latest(period: Period, by: Sequence[By]) -> Period:
    """The period, or its end if it has too many minutes: for those the requests are read one by one."""
    fine = [each for each in by if each in (By.MINUTE, By.FIVE_MINUTES)]
    return period._replace(since=max(period.since, period.until - MOST_STEPS * fine[0].seconds)) if fine else period


# Accounts


async def accounts(call: Call) -> Content:
    """Each account by the database, and what it is doing now."""
    now = call.visit.at
    rows = await call.read(lambda store: statuses_and_use(store, now))
    fields = account_fields([status.account for status, _ in rows], now)
    live = {each["name"]: each for each in call.admin.health()["accounts"]}
    found = [record(row, fields) for row in rows]
    return {"accounts": [{**live[each["name"]], **each} for each in found if each["name"] in live]}


async def windows(call: Call) -> Content:
    """Each limit of each account, with its forecast."""
    by, now = By(call.asked["by"]), call.visit.at
    period = _latest(_period(call.asked, now), (by,))
    pasts = await call.read(lambda store: LimitHistory(store.query).windows(period, by, now))
    return {"windows": [record(past, WINDOW) for past in pasts]}


# Requests


async def requests(call: Call) -> Content:
    """Single requests, the newest first."""
    asked, period = call.asked, _period(call.asked, call.visit.at)
    wanted = Wanted(*(asked[name] for name in Wanted._fields))
    limit, before = asked["limit"], asked["cursor"]
    found = await call.admin.requests(period, limit + 1, wanted, before, call.visit.at, others=asked["others"])
    shown = found[:limit]
    last = shown[-1].place if len(found) > limit else None
    return {"requests": [record(each, EXCHANGE) for each in shown], "next": last and write_cursor(last)}


async def sessions(call: Call) -> Content:
    """What the requests of each session add up to, the latest session first."""
    period, limit = _period(call.asked, call.visit.at), call.asked["limit"]
    groups = await call.read(lambda store: Reports(store.query).traffic(period, (By.SESSION,), latencies=False))
    places = sorted(((_place(group), group) for group in groups), key=lambda found: found[0], reverse=True)
    before = call.asked["cursor"]
    left = [(place, group) for place, group in places if before is None or place < before]
    shown, fields = left[:limit], traffic_fields((By.SESSION,))
    following = write_cursor(shown[-1][0]) if len(left) > limit else None
    return {"sessions": [record(group, fields) for _, group in shown], "next": following}


async def session(call: Call) -> Content:
    """How a session stands. A client that may not see all figures is told of its own sessions, and of no alerts."""
    id_, now, identity = call.visit.name, call.visit.at, call.visit.identity
    if not re.fullmatch(ID, id_):
        raise NotFound("This is no id of a session.")
    key = None if call.visit.may(_VIEW) else identity.key.id if identity.key else ""

    def look(store: Store) -> SessionState | None:
        is_theirs = key is None or is_made_by(store.query, id_, key)
        return read_session(store.query, id_, now) if is_theirs else None

    if (state := await call.read(look)) is None:
        raise NotFound("This client key has made no session with this id.")
    return as_record(id_, state if key is None else state._replace(alerts=()))


def _place(group: Traffic) -> Position:
    return Position(to_ms(group.last_at or 0.0), group.keys[0] or "")


async def stats(call: Call) -> Content:
    """What the requests of the period add up to, in all and split."""
    asked, period = call.asked, _period(call.asked, call.visit.at)
    by = () if asked["by"] is None else (By(asked["by"]),)
    total, groups, others = await call.read(partial(_sums, period=period, by=by))
    shown = groups[-asked["limit"] :] if by and by[0].is_time else groups[: asked["limit"]]
    fields = traffic_fields(by)
    return {
        "total": record(total, total_fields(period, others)),
        "groups": [record(group, fields) for group in shown],
        "groups_in_all": len(groups),
    }


def _sums(store: Store, period: Period, by: Sequence[By]) -> tuple[Traffic, list[Traffic], int]:
    reports = Reports(store.query)
    if by and by[0].is_time:
        return reports.total(period), reports.traffic(_latest(period, by), by), reports.others(period)
    total, groups = reports.total_and_split(period, by)
    return total, groups if by else [], reports.others(period)


# The proxy


async def config(call: Call) -> Content:
    """The options as they are."""
    return {"options": call.admin.options()}


async def proxies(call: Call) -> Content:
    """All proxies on the database, and whether their versions differ."""
    since, own = call.asked["since"].moment(call.visit.at), call.admin.own
    found = await call.read(lambda store: all_proxies(store.query, since, store.now()))
    rows = with_own(found, own.run, len(call.admin.exchanges.open))
    return {"proxies": [record(each, PROXY) for each in rows], "notice": differing(rows) or None}


async def health(call: Call) -> Content:
    """That the proxy is alive, and how the accounts are."""
    return call.admin.health()


async def ready(call: Call) -> Content:
    """The same, with another status if no request could be routed now."""
    told = call.admin.health()
    return json_answer(200 if told["ready"] else 503, told)


async def events(call: Call) -> Content:
    """What goes on, for as long as the client listens and may."""
    return call.admin.events.answer(call.visit, _VIEW)


# What they give


def _names(fields: Sequence[tuple[str, object]]) -> list[str]:
    return [name for name, _ in fields]


def _list(name: str, row: Schema, **more: Schema) -> Schema:
    properties = {name: list_of(row), **more}
    return {"type": "object", "properties": properties, "required": list(properties)}


_NEXT: Final[Schema] = {**TEXT_OR_NULL, "description": "The cursor of what follows; null: there is no more."}
_TRAFFIC = object_of(_names(traffic_fields(())), vocabulary.TRAFFIC)
_SESSION = object_of(_names(traffic_fields((By.SESSION,))), vocabulary.TRAFFIC)
_TOTAL = object_of(_names(total_fields(Period(0, 0), 0)), vocabulary.TRAFFIC)
_GROUP: Final[Schema] = {
    **_TRAFFIC,
    "properties": {**_TRAFFIC["properties"], **{by.value: vocabulary.TRAFFIC[by.value].as_schema() for by in By}},
}
_STATS: Final[Schema] = {
    "type": "object",
    "properties": {
        "total": _TOTAL,
        "groups": list_of(_GROUP),
        "groups_in_all": {"type": "integer", "minimum": 0, "description": _COUNTED},
    },
    "required": ["total", "groups", "groups_in_all"],
}
_HEALTH = object_of(vocabulary.HEALTH, vocabulary.HEALTH)
_PROXIES: Final = _list(
    "proxies",
    object_of(_names(PROXY), vocabulary.PROXY),
    notice={**TEXT_OR_NULL, "description": "What to do if their versions differ; null: they do not."},
)
_REQUEST = object_of(_names(EXCHANGE), vocabulary.REQUEST)
_EVENTS: Final[Schema] = {
    **dict.fromkeys(("open", "progress", "closed"), _REQUEST),
    "accounts": _list("accounts", object_of(_names(DOING), vocabulary.ACCOUNT)),
}
_FILTERS = (
    text("account", "an account's name"),
    text("model", "a model as it is recorded"),
    text("session", "a session's id"),
    text("project", "a project"),
    text("client", "the name of a client key"),
    tag("tag", "a tag, as name=value"),
    choice("outcome", "how it ended", _OUTCOMES),
    text("proxy", "a proxy's name, its host, or the id of its run"),
)
_OTHERS = flag("others", "whether requests that needed no account are in it too")
_TIMES = tuple(by for by in By if by.is_time)
_LAST = f"of minutes the last {MOST_STEPS} at most"
_VIEW = Permission.DASHBOARD_VIEW

ENDPOINTS: Final = (
    Endpoint(
        "/accounts",
        _VIEW,
        "The accounts, as `accounts.py list` tells them, and what each is doing now.",
        _list("accounts", object_of(vocabulary.ACCOUNT, vocabulary.ACCOUNT)),
        accounts,
    ),
    Endpoint(
        "/requests",
        _VIEW,
        "Single requests, the newest first, as `stats.py requests` tells them.",
        _list("requests", _REQUEST, next=_NEXT),
        requests,
        (_SINCE, _UNTIL, *_FILTERS, _OTHERS, _LIMIT, cursor()),
    ),
    *CONVERSATIONS,
    Endpoint(
        "/stats",
        _VIEW,
        "What the requests of a period add up to, as `stats.py` tells it.",
        _STATS,
        stats,
        (_SINCE, _UNTIL, choice("by", f"by what to split it; {_LAST}", By), _LIMIT),
    ),
    Endpoint(
        "/windows",
        _VIEW,
        "The limits of the accounts, their past and their forecast, as `stats.py windows` tells them.",
        _list("windows", object_of(_names(WINDOW), vocabulary.WINDOW)),
        windows,
        (_SINCE, _UNTIL, choice("by", f"how fine the past is; {_LAST}", _TIMES, By.HOUR)),
    ),
    Endpoint(
        "/sessions",
        _VIEW,
        "The sessions, the latest first, as `stats.py sessions` tells them.",
        _list("sessions", _SESSION, next=_NEXT),
        sessions,
        (_SINCE, _UNTIL, _LIMIT, cursor()),
    ),
    Endpoint(
        "/session/{name}",
        Permission.SESSION_VIEW,
        "How one session stands, as `ccflare statusline` tells it: to a client key without `dashboard.view` only if "
        "it has made all of its requests, and without alerts.",
        object_of(vocabulary.SESSION_STATE, vocabulary.SESSION_STATE),
        session,
    ),
    Endpoint(
        "/config",
        _VIEW,
        "The options in use. What may hold a password is not shown.",
        _list("options", object_of(vocabulary.OPTION, vocabulary.OPTION)),
        config,
    ),
    Endpoint(
        "/proxies",
        _VIEW,
        "All proxies and workers on the database that are there, or ended in the period, as `stats.py proxies` tells "
        "them.",
        _PROXIES,
        proxies,
        (when("since", "where the period begins that requests are counted in", "1h"),),
    ),
    Endpoint("/health", _VIEW, "That the proxy is alive, and how the accounts are.", _HEALTH, health),
    Endpoint(
        "/ready",
        _VIEW,
        "Whether a request could be routed now: with 503 if not.",
        _HEALTH,
        ready,
        statuses=(200, 503),
    ),
    Endpoint(
        "/events",
        _VIEW,
        "What goes on, as it happens: each request as it opens, proceeds and closes, with the fields of `/requests`, "
        "and all accounts when one has changed. It begins with what is open. At most twice a second, for 16 listeners.",
        _EVENTS,
        events,
        tells_events=True,
    ),
)
"""All but the document."""
