"""The entries that `audit.py show` finds, as a table."""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import datetime

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, local, moment
from ccflare_cli.page import Tone
from ccflare_core.audit.entries import Row, stamp
from ccflare_core.store.store import Store

_TONES = {"denied": Tone.CARE, "failed": Tone.BAD}


def find_rows(store: Store, arguments: argparse.Namespace, now: float, marks: Sequence[str]) -> list[Row]:
    """The newest rows that fit, the oldest of them first."""
    where, values = ["1 = 1"], []
    for name in ("actor", "target", "ip"):
        if (pattern := getattr(arguments, name)) is not None:
            where.append(f"{name} LIKE ? ESCAPE '!'")
            values.append(_like(pattern))
    if arguments.action is not None:
        where.append("(action LIKE ? ESCAPE '!' OR action LIKE ? ESCAPE '!')")
        values += [_like(arguments.action), _like(arguments.action) + ".%"]
    if arguments.outcome:
        where.append("outcome = ?")
        values.append(arguments.outcome)
    if arguments.secret:
        where.append(f"({' OR '.join(['detail LIKE ?'] * len(marks)) or '1 = 0'})")
        values += [f"%{mark}%" for mark in marks]
    for name, sign in (("since", ">="), ("until", "<=")):
        if (when := getattr(arguments, name)) is not None:
            where.append(f"ts_utc {sign} ?")
            values.append(stamp(when.period(now).since))
    columns, conditions = ", ".join(Row._fields), " AND ".join(where)
    sql = f"SELECT {columns} FROM audit_log WHERE {conditions} ORDER BY id DESC LIMIT {arguments.limit:d}"  # noqa: S608
    return [Row(*row) for row in reversed(store.query(sql, values))]


def _like(pattern: str) -> str:
    """A pattern with * as one for LIKE, escaped by an exclamation mark."""
    for char in "!%_":
        pattern = pattern.replace(char, f"!{char}")
    return pattern.replace("*", "%")


def row_table(rows: list[Row], now: float) -> Table[Row]:
    names = [name for name in Row._fields if name != "detail"]

    def getter(name: str) -> Callable[[Row], object]:
        return lambda row: getattr(row, name)

    return Table(
        key="audit",
        title="",
        rows=rows,
        fields=(*((name, getter(name)) for name in names), ("detail", lambda row: json.loads(row.detail))),
        columns=(
            Column("Row", lambda row: str(row.id), right=True, rank=1),
            Column("When", lambda row: _when(row, now), way=wrapped(10)),
            Column("Who", lambda row: row.actor or DASH, way=shortened(10)),
            Column("From", lambda row: row.ip or DASH, way=shortened(10), under="Who"),
            Column("Action", lambda row: row.action, way=wrapped(12)),
            Column("Target", lambda row: row.target or DASH, way=shortened(12), under="Action"),
            Column("Outcome", lambda row: row.outcome, under="When", tone=lambda row: _TONES.get(row.outcome)),
            Column("Detail", lambda row: _brief(json.loads(row.detail)) or DASH, way=wrapped(20, most=6)),
        ),
        empty="Nothing that fits is in the audit log.",
    )


def _when(row: Row, now: float) -> str:
    return moment(datetime.fromisoformat(row.ts_utc).timestamp(), now, seconds=True)


def _brief(detail: dict[str, object]) -> str:
    """The details for people; who needs all of them takes JSON."""
    if set(detail) == {"what"}:
        return _value(detail["what"])  # a sentence
    return ", ".join(f"{name} {_value(value, name)}" for name, value in detail.items() if name != "id")


def _value(value: object, name: str = "") -> str:
    """A detail of that name. What ends in `_at` is a time."""
    if isinstance(value, dict):
        if set(value) == {"before", "after"}:
            return f"{_value(value['before'], name)} → {_value(value['after'], name)}"
        return ", ".join(f"{each} {_value(value[each], each)}" for each in value)
    if value is None:
        return "none"
    if isinstance(value, float) and name.endswith("_at"):
        return f"{local(value):%Y-%m-%d %H:%M}"
    if isinstance(value, str) and value.startswith("hmac-sha256:"):
        return "(hidden)"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
