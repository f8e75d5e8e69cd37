"""What the record has of a stretch of time, as anomalies.py takes it: requests, refreshes and refused attempts.

Two questions, each bounded by time and answered by an index: `requests_timestamp`, `audit_log_time`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from ccflare_core.audit.entries import stamp
from ccflare_core.reports.anomalies import Cause, Event, Seen, slot_of
from ccflare_core.reports.habits import SLOT_SECONDS
from ccflare_core.reports.measures import IS_INFERENCE
from ccflare_core.reports.tally import Query

_SLOT_MS = SLOT_SECONDS * 1000
# What the upstream or the lack of an account is to blame for says nothing about the client.
_ITS_FAULT = "status_code BETWEEN 400 AND 499 AND outcome IN ('upstream_error', 'refused')"
_SEEN = f"""
    SELECT timestamp / {_SLOT_MS}, COALESCE(client_id, ''), client_ip, user_agent,
        SUM(CASE WHEN {IS_INFERENCE} THEN 1 ELSE 0 END), SUM(CASE WHEN {_ITS_FAULT} THEN 1 ELSE 0 END)
    FROM requests WHERE timestamp >= ? AND timestamp < ?
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""  # noqa: S608
_EVENTS = """
    SELECT ts_utc, action, actor, target, detail FROM audit_log
    WHERE ts_utc >= ? AND ts_utc < ? AND (action = 'token.refresh' OR action = 'auth.denied')"""
_CLIENT = "client:"


class Observed(NamedTuple):
    """What there was in some slots."""

    seen: list[Seen]
    events: list[Event]


def observed(query: Query, first: int, until: int) -> Observed:
    """What there was in the slots from `first` on and before `until`."""
    seen = [Seen(*row) for row in query(_SEEN, (first * _SLOT_MS, until * _SLOT_MS))]
    return Observed(seen, list(_events(query, first, until)))


def _events(query: Query, first: int, until: int) -> Iterable[Event]:
    """Those of the audit log, where a burst of refused attempts is one row that tells their number."""
    numbers: defaultdict[tuple[int, Cause, str], int] = defaultdict(int)
    for at, action, actor, target, detail in query(_EVENTS, (_stamp(first), _stamp(until))):
        slot = slot_of(datetime.fromisoformat(at).timestamp())
        if action == "token.refresh":
            numbers[slot, Cause.REFRESHES, target] += 1
        else:
            numbers[slot, Cause.DENIALS, actor.removeprefix(_CLIENT)] += int(json.loads(detail).get("count", 1))
    return (Event(slot, cause, name, number) for (slot, cause, name), number in sorted(numbers.items()))


def _stamp(slot: int) -> str:
    return stamp(slot * SLOT_SECONDS)


def first_requests(query: Query, keys: Iterable[str]) -> dict[str, int]:
    """The slots of the first requests of these client keys, of those that have made any."""
    sql = "SELECT MIN(timestamp) FROM requests WHERE client_id = ?"
    found = {key: query(sql, (key,)) for key in keys if key}
    return {key: row[0] // _SLOT_MS for key, rows in found.items() for row in rows if row[0] is not None}
