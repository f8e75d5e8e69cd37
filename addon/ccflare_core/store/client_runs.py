"""The stored runs of clients: begun and ended by `ccflare run`, known to every proxy on the database meanwhile.

A run's temporary key is not stored, and neither is its digest: it is made of what the row says of whose it is, by the
data key that the row names. So whoever writes into the row makes no other key of it, and without the data key none.
"""

import base64
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from peewee import fn

from ccflare_core.clients.client_runs import LONGEST_SECONDS, OVER_SECONDS, ClientRun
from ccflare_core.clients.keys import PREFIX, SECRET_BYTES
from ccflare_core.clients.tags import split
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import ClientRunRow, RequestRow
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.secrets.redact import label
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

_MICRO = 1_000_000


class StoredClientRuns:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._database = context.database

    def begin(self, run: ClientRun) -> str:
        """Store it, and give its temporary key; "" if it has none. Every proxy knows of it within a second."""
        vault = self._context.key("no run can be begun")
        row = _columns(run, vault.key_id if run.is_keyed else None)
        with self._context.transaction():
            ClientRunRow.insert(row).execute(self._database)
            self._context.record("run.begin", run.id, "ok", **_told(run))
        return secret_of(vault, run, vault.key_id) if run.is_keyed else ""

    def beat(self, run_id: str) -> None:
        """Note that whoever has started it is alive."""
        self._change(run_id, seen_at=to_ms(self._context.wall()))

    def end(self, run_id: str) -> None:
        """End it, and with it its temporary key. One that has ended stays so."""
        with self._context.transaction():
            if self._change(run_id, ended_at=to_ms(self._context.wall())):
                self._context.record("run.end", run_id)

    def purge(self) -> None:
        """Delete those that were over long ago and of which nothing is recorded any more."""
        is_old = ClientRunRow.created_at <= to_ms(self._context.wall() - LONGEST_SECONDS)
        recorded = RequestRow.select(RequestRow.client_run).where(RequestRow.client_run == ClientRunRow.id)
        with self._context.transaction():
            ClientRunRow.delete().where(is_old & ~fn.EXISTS(recorded)).execute(self._database)

    def active(self, *, but: str = "") -> list[ClientRun]:
        """Those that go on, and what each has cost; without what the proxy's run `but` has recorded."""
        with as_store_errors():
            rows = self._open()
            costs = self._costs([row.id for row in rows if row.micro_dollars is not None], but)
            return [_run(row, costs.get(row.id, Decimal())) for row in rows]

    def seen_since(self, moment: float) -> list[ClientRun]:
        """Those that went on then or later, whether they are over or not, as if none had cost anything yet."""
        query = ClientRunRow.select().where(ClientRunRow.seen_at >= to_ms(moment)).order_by(ClientRunRow.id)
        with as_store_errors():
            return [_run(row) for row in query.bind(self._database)]

    def secrets(self) -> list[tuple[ClientRun, str]]:
        """The temporary keys of those that go on. Where the data key is gone, the run has none any more.

        Raises VaultError without a data key.
        """
        with as_store_errors():
            rows = [row for row in self._open() if row.data_key is not None]
        if not rows:
            return []
        vault, found = self._context.key("no temporary key is known"), list[tuple[ClientRun, str]]()
        for row in rows:
            run = _run(row)
            try:
                found.append((run, secret_of(vault, run, row.data_key)))
            except (VaultError, ValueError):
                continue
        return found

    def _open(self) -> list[Any]:
        now = self._context.wall()
        goes_on = ClientRunRow.ended_at.is_null() & (ClientRunRow.seen_at > to_ms(now - OVER_SECONDS))
        is_young = ClientRunRow.created_at > to_ms(now - LONGEST_SECONDS)
        return list(ClientRunRow.select().where(goes_on & is_young).order_by(ClientRunRow.id).bind(self._database))

    def _costs(self, ids: Sequence[str], but: str) -> dict[str, Decimal]:
        if not ids:
            return {}
        # A budget counts what is known by then, as a client key's does.
        cost = fn.SUM(fn.COALESCE(RequestRow.counted_usd, RequestRow.cost_usd))
        query = RequestRow.select(RequestRow.client_run, cost).group_by(RequestRow.client_run)
        mine = RequestRow.client_run.in_(ids) & (RequestRow.run_id != but)
        rows: Any = query.where(mine).tuples().bind(self._database)
        return {run: Decimal(str(dollars or 0)) for run, dollars in rows}

    def _change(self, run_id: str, **columns: int) -> bool:
        goes_on = (ClientRunRow.id == run_id) & ClientRunRow.ended_at.is_null()
        with self._context.transaction():
            return bool(ClientRunRow.update(columns).where(goes_on).execute(self._database))


def secret_of(vault: Vault, run: ClientRun, key_id: str) -> str:
    """The temporary key of a run. Raises VaultError if the data key of that id is gone."""
    whose = json.dumps([run.id, run.key_id, to_ms(run.created_at)])
    made = vault.mac("runs", whose.encode(), key_id)[:SECRET_BYTES]
    return PREFIX + base64.urlsafe_b64encode(made).decode()


def _told(run: ClientRun) -> dict[str, object]:
    """What the audit log is told of a run."""
    told = {"client": run.key_id, "account": run.account, "project": run.project, "tags": _tags(run)}
    told["dollars"] = None if run.dollars is None else str(run.dollars)
    return {name: value for name, value in told.items() if value} | {"temporary_key": run.is_keyed}


def _tags(run: ClientRun) -> list[str]:
    """Its tags as they are written down: without secrets."""
    return [f"{name}={label(value)}" for name, value in map(split, run.tags)]


def _columns(run: ClientRun, data_key: str | None) -> dict[str, Any]:
    return {
        "id": run.id,
        "created_at": to_ms(run.created_at),
        "seen_at": to_ms(run.seen_at),
        "client_id": run.key_id,
        "data_key": data_key,
        "account_id": run.account_id,
        "account_name": run.account,
        "project": run.project,
        "tags": json.dumps(_tags(run)),
        "micro_dollars": None if run.dollars is None else int(run.dollars * _MICRO),
    }


def _run(row: Any, cost: Decimal = Decimal()) -> ClientRun:
    try:
        return ClientRun(
            id=row.id,
            created_at=row.created_at / 1000,
            seen_at=row.seen_at / 1000,
            key_id=row.client_id,
            is_keyed=row.data_key is not None,
            account_id=row.account_id,
            account=row.account_name,
            project=row.project,
            tags=tuple(json.loads(row.tags)),
            dollars=None if row.micro_dollars is None else Decimal(row.micro_dollars) / _MICRO,
            cost=cost,
        )
    except (ValueError, TypeError) as error:
        raise StoreError(f"{row.id}, a run of a client, was changed outside of ccflare, and cannot be read") from error
