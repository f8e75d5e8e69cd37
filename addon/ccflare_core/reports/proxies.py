"""All proxies on the database: what each tells of itself, how it is by its last sign of life, and which one it was.

`now` is by the clock that all of them share, see store.now(); so no clock of a proxy has to be right.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final, NamedTuple

from ccflare_core.http.sse import parse_json
from ccflare_core.reports.running import as_told
from ccflare_core.reports.tally import Query, marks
from ccflare_core.text import to_ms

SILENT_SECONDS: Final = 45.0
"""After so long without a sign of life, three heartbeats, nobody counts on it any more."""
STARTING, SERVING, DRAINING, SILENT, ENDED, CRASHED = "starting", "serving", "draining", "silent", "ended", "crashed"
GONE: Final = (ENDED, CRASHED)
UPKEEP: Final = "upkeep"
"""The duty that one of them has: retention, what is unusual, and alerts about what the database has."""
ANNOUNCED, POLLED = "announced", "polled"


class ProxyStatus(NamedTuple):
    """A proxy, or a worker of one. What an older version does not tell is None. Times in epoch seconds, else seconds.

    `open_requests`, `loop_lag_seconds` and `changes` are as it last told.
    """

    name: str
    run: str
    host: str
    pid: int
    worker: int | None
    version: str | None
    mitmproxy: str | None
    python: str | None
    address: str | None
    state: str
    started_at: float
    seen_seconds: float | None
    """Since its last sign of life; None once it is gone."""
    ended_at: float | None
    open_requests: int | None
    requests: int
    """That it took in the period that was asked for."""
    loop_lag_seconds: float | None
    changes: str | None
    has_upkeep: bool

    @property
    def is_live(self) -> bool:
        """Whether it is there, as far as anybody knows."""
        return self.state not in (*GONE, SILENT)


_LATEST_MS: Final = 253_370_764_800_000
"""The year 9999, after which there are no times to show."""
_COLUMNS: Final = (
    *("id", "host", "pid", "started_at", "heartbeat_at", "ended_at", "beat_at", "name", "worker", "version"),
    *("mitmproxy", "python", "address", "state", "open_requests", "lag_ms", "changes"),
)


def proxies(query: Query, since: float, now: float) -> list[ProxyStatus]:
    """Those that have not ended, or not before `since` (epoch seconds): who is there first, then by name.

    Without rows whose times are none, which no proxy has written.
    """
    sql = f"SELECT {', '.join(_COLUMNS)} FROM runs WHERE ended_at IS NULL OR ended_at >= ?"  # noqa: S608
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in query(sql, (to_ms(since),))]
    rows = [row for row in rows if all(map(_is_time, (row["started_at"], row["heartbeat_at"], _seen_ms(row))))]
    rows = [row for row in rows if row["ended_at"] is None or _is_time(row["ended_at"])]
    ids = [row["id"] for row in rows]
    rows_of = query(_COUNTS.format(marks(ids)), (to_ms(since), *ids)) if ids else ()
    counts: dict[str, int] = {run: number for run, number in rows_of}  # noqa: C416 - rows are no pairs to mypy
    owner = next((run for (run,) in query("SELECT owner FROM duties WHERE name = ?", (UPKEEP,))), None)
    found = [_status(row, counts.get(row["id"], 0), row["id"] == owner, now) for row in rows]
    return sorted(found, key=lambda each: (not each.is_live, each.state in GONE, each.name, -each.started_at))


_COUNTS: Final = "SELECT run_id, COUNT(*) FROM requests WHERE timestamp >= ? AND run_id IN ({}) GROUP BY run_id"


def _status(row: Mapping[str, Any], requests: int, has_upkeep: bool, now: float) -> ProxyStatus:
    ended = row["ended_at"]
    seen = None if ended is not None else max(0.0, now - _seen_ms(row) / 1000)
    state = _state(row, seen)
    return ProxyStatus(
        name=row["name"] or row["host"],
        run=row["id"],
        host=row["host"],
        pid=row["pid"],
        worker=row["worker"],
        version=row["version"],
        mitmproxy=row["mitmproxy"],
        python=row["python"],
        address=row["address"] if ended is None else None,
        state=state,
        started_at=row["started_at"] / 1000,
        seen_seconds=seen,
        ended_at=None if ended is None else ended / 1000,
        open_requests=row["open_requests"] if ended is None else None,
        requests=requests,
        loop_lag_seconds=row["lag_ms"] / 1000 if ended is None and isinstance(row["lag_ms"], int) else None,
        changes=row["changes"] if ended is None else None,
        has_upkeep=has_upkeep and state not in (*GONE, SILENT),
    )


def _seen_ms(row: Mapping[str, Any]) -> Any:
    return row["heartbeat_at"] if row["beat_at"] is None else row["beat_at"]


def _is_time(ms: object) -> bool:
    return isinstance(ms, int) and 0 <= ms < _LATEST_MS


def _state(row: Mapping[str, Any], seen: float | None) -> str:
    if seen is None:  # older versions end with a time of their own, and die with that of their last sign of life
        return str(row["state"] or (CRASHED if row["ended_at"] == row["heartbeat_at"] else ENDED))
    return SILENT if seen > SILENT_SECONDS else str(row["state"] or SERVING)


def with_own(found: Iterable[ProxyStatus], run: str, open_requests: int) -> list[ProxyStatus]:
    """The same, with what the proxy of this run knows of itself: that it is there, and what is open."""
    return [each._replace(open_requests=open_requests, seen_seconds=0.0) if each.run == run else each for each in found]


def differing(found: Iterable[ProxyStatus]) -> str:
    """What to do if those that are there run different versions, as a sentence; "" if they do not, or it is unknown."""
    told = sorted((each.version, each.name) for each in found if each.is_live and each.version)
    by_version = {version: [name for _, name in group] for version, group in groupby(told, key=lambda one: one[0])}
    if len(by_version) < 2:
        return ""
    which = "; ".join(f"{version} on {', '.join(names)}" for version, names in by_version.items())
    return f"The proxies run different versions of ccflare: {which}. Bring the older ones up to date."


def running_elsewhere(query: Query, run_id: str, now: float) -> dict[str, dict[str, Any]]:
    """What is open in the other proxies, by ids, with the fields of the API, as far as they tell it.

    A row whose values are none of the API is left out, as pages and programs go by them.
    """
    sql = "SELECT running FROM runs WHERE running IS NOT NULL AND ended_at IS NULL AND id <> ? AND beat_at >= ?"
    lists = [parse_json(text.encode()) for (text,) in query(sql, (run_id, to_ms(now - SILENT_SECONDS)))]
    rows = [row for told in lists if isinstance(told, list) for row in told]
    return {row["id"]: row for row in map(as_told, rows) if row is not None}
