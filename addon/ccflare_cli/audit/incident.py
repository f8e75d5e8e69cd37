"""`scripts/audit.py who-used` and `bundle`: who has used an account, and all that is known of a period, to keep."""

import argparse
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.console import OK, Console, Refused, open_sealed, read_settings, reading_stages
from ccflare_cli.output import DASH, Column, Table, count, iso, moment, money, named
from ccflare_cli.parsing import Parser, add_command
from ccflare_cli.periods import span
from ccflare_core import __version__
from ccflare_core.audit.check import Check
from ccflare_core.audit.entries import Row, stamp
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.files import draft, publish
from ccflare_core.program import typed
from ccflare_core.store.store import Store
from ccflare_core.text import composed, to_ms

_DAY = 86_400.0
_USES = """\
SELECT client_name, client_ip, user_agent, COUNT(*), COUNT(DISTINCT session_id), MIN(timestamp), MAX(timestamp),
       SUM(CASE WHEN account_used = ? OR account_name = ? THEN total_tokens ELSE 0 END),
       SUM(CASE WHEN account_used = ? OR account_name = ? THEN cost_usd ELSE 0 END),
       SUM(CASE WHEN (account_used = ? OR account_name = ?) AND cost_usd IS NULL AND output_tokens > 0
                THEN 1 ELSE 0 END)
FROM requests WHERE timestamp >= ? AND timestamp <= ? AND (account_used = ? OR account_name = ?
      OR id IN (SELECT request_id FROM attempts WHERE account_id = ? OR account_name = ?))
GROUP BY client_name, client_ip, user_agent ORDER BY 4 DESC, 2"""
_REQUEST = (
    *("id", "timestamp", "method", "path", "account_used", "account_name", "status_code", "outcome", "error_message"),
    *("model", "client_id", "client_name", "client_ip", "user_agent", "session_id", "door", "total_tokens", "cost_usd"),
)
_ATTEMPT = ("request_id", "number", "account_id", "account_name", "status_code", "verdict", "reason", "started_at")

Moment = Callable[[float], float]
"""Epoch seconds, given what the time is now."""


class AccountUse(NamedTuple):
    """What one client has had of an account. Times are ms since the epoch."""

    client: str | None
    ip: str
    user_agent: str
    requests: int
    sessions: int
    first_at: int
    last_at: int
    tokens: int | None
    cost_usd: float | None
    """The known part."""
    unknown_costs: int


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add both to the commands of `audit.py`."""
    used = add_command(commands, "who-used", _who_used, "show which clients have used an account")
    used.add_argument("account", metavar="ACCOUNT", type=composed, help="its name, also a former one")
    bundle = add_command(
        commands, "bundle", _bundle, "write the records of a period into a ZIP file as evidence, without bodies"
    )
    bundle.add_argument("file", metavar="FILE", type=Path, help="a new ZIP file")
    for command in (used, bundle):
        command.add_argument(
            "--between",
            nargs=2,
            type=_moment,
            metavar=("FROM", "TO"),
            help="24h, 2026-11-01, 2026-11-01T14:20 or now (default: 24h now)",
        )


def _moment(text: str) -> Moment:
    if text == "now":
        return lambda now: now
    since = span(text)
    return lambda now: since.period(now).since


def _period(arguments: argparse.Namespace, now: float) -> tuple[float, float]:
    """In epoch seconds. Raises Refused for one that ends before it begins."""
    if arguments.between is None:
        return now - _DAY, now
    begin, end = (find(now) for find in arguments.between)
    if begin >= end:
        raise Refused("That period ends before it begins: give the earlier time first.")
    return begin, end


def _who_used(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    begin, end = _period(arguments, now)
    with closing(_opened(settings)) as store:
        uses = find_uses(store, arguments.account, begin, end)
    console.show(arguments, use_table(uses, now))
    return OK


def find_uses(store: Store, account: str, begin: float, end: float) -> list[AccountUse]:
    """Who has used the account of this name; times are epoch seconds."""
    id_ = next((id_ for (id_,) in store.query("SELECT id FROM accounts WHERE name = ?", (account,))), account)
    it, period = (id_, account), (to_ms(begin), to_ms(end))
    return [AccountUse(*row) for row in store.query(_USES, (*it, *it, *it, *period, *it, *it))]


def use_table(uses: list[AccountUse], now: float) -> Table[AccountUse]:
    """The clients for people and programs."""
    return Table(
        key="uses",
        title="",
        rows=uses,
        fields=(
            *named("client", "ip", "user_agent", "requests", "sessions"),
            ("first_at", lambda use: iso(use.first_at / 1000)),
            ("last_at", lambda use: iso(use.last_at / 1000)),
            *named("tokens", "cost_usd", "unknown_costs"),
        ),
        columns=(
            Column("Key", lambda use: use.client or DASH, way=shortened(12)),
            Column("From", lambda use: use.ip, way=wrapped(15)),
            Column("Program", lambda use: use.user_agent or DASH, way=wrapped(12), under="From"),
            Column("Requests", lambda use: count(use.requests), right=True),
            Column("Sessions", lambda use: count(use.sessions), right=True, rank=2),
            Column("First", lambda use: moment(use.first_at / 1000, now, seconds=True), way=wrapped(10)),
            Column("Last", lambda use: moment(use.last_at / 1000, now, seconds=True), way=wrapped(10), under="First"),
            Column("Tokens", lambda use: count(use.tokens), right=True, rank=1),
            Column("Cost", lambda use: money(use.cost_usd or 0.0, use.unknown_costs), right=True, way=wrapped(9)),
        ),
        empty=f"Nobody has used that account in that time; `{typed('accounts list')}` shows the names.",
    )


# The bundle


def _bundle(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    begin, end = _period(arguments, now)
    if arguments.file.exists():
        raise Refused(f"{arguments.file} is there already; name a new file.")
    if not is_made(settings.database):
        raise Refused(f"There is nothing to bundle: {settings.database} does not exist yet.")
    with open_sealed(console, settings) as store:
        detail = {"file": arguments.file.name, "since": stamp(begin), "until": stamp(end)}
        with reading_stages(console, store, "evidence", **detail):
            whole = _evidence(store, settings, begin, end, now)
            _write(arguments.file, whole)
    console.say(f"Wrote {arguments.file}, {count(len(whole))} bytes. Its SHA-256, to be kept elsewhere:")
    console.write(hashlib.sha256(whole).hexdigest())
    return OK


def _evidence(store: Store, settings: Settings, begin: float, end: float, now: float) -> bytes:
    """The whole bundle, of one moment."""
    with store.snapshot():
        parts = _parts(store, settings, begin, end)
        anchor = store.audit.anchor()
    manifest = {
        "version": __version__,
        "made_at": iso(now),
        "since": iso(begin),
        "until": iso(end),
        "audit_anchor": anchor,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    }
    return _zipped({**parts, "manifest.json": _json(manifest)})


def _parts(store: Store, settings: Settings, begin: float, end: float) -> dict[str, bytes]:
    """The bundle's files. No secret and no body is among them."""
    first, last = to_ms(begin), to_ms(end)
    requests = f"SELECT {', '.join(_REQUEST)} FROM requests WHERE timestamp >= ? AND timestamp <= ? ORDER BY id"  # noqa: S608
    attempts = f"SELECT {', '.join(_ATTEMPT)} FROM attempts WHERE started_at >= ? AND started_at <= ? ORDER BY id"  # noqa: S608
    audit = f"SELECT {', '.join(Row._fields)} FROM audit_log WHERE ts_utc >= ? ORDER BY id"  # noqa: S608
    check = Check(store.audit).run(settings.audit_path, is_used=True)
    accounts = store.query("SELECT id, name, kind, priority, paused, needs_login FROM accounts ORDER BY name")
    clients = store.query("SELECT id, name, role, created_at, expires_at, revoked_at FROM client_keys ORDER BY name")
    return {
        "requests.jsonl": _lines(_REQUEST, store.query(requests, (first, last))),
        "attempts.jsonl": _lines(_ATTEMPT, store.query(attempts, (first, last))),
        "audit.jsonl": _lines(Row._fields, store.query(audit, (stamp(begin),))),
        "accounts.jsonl": _lines(("id", "name", "kind", "priority", "paused", "needs_login"), accounts),
        "client_keys.jsonl": _lines(("id", "name", "role", "created_at", "expires_at", "revoked_at"), clients),
        "audit_check.json": _json({"problem": check.problem, "rows": check.rows, "last_id": check.last_id}),
    }


def _lines(names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> bytes:
    return b"".join(json.dumps(dict(zip(names, row, strict=True))).encode() + b"\n" for row in rows)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    """The file, whole and private (0600), or not at all."""
    try:
        with draft(path) as new:
            new.write_bytes(data)
            if not publish(new, path):
                raise Refused(f"{path} is there already; name a new file.")
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror or error}.") from error


def _opened(settings: Settings) -> Store:
    if not is_made(settings.database):
        raise Refused(f"There is nothing to show: {settings.database} does not exist yet.")
    return Store.open(settings.database, None, read_only=True)
