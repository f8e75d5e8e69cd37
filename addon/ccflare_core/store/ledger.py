"""Turns records into rows: the one hot path into the database.

Every SQLite call lets go of the interpreter's lock and waits for it again, beside an event loop that wants it
too. So a batch's rows of one kind go in with a few many-row statements, whose SQL peewee builds once.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from peewee import Database, Value, fn

from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.anthropic.oauth import Owner
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.db.models import (
    AccountRow,
    AttemptRow,
    CooldownRow,
    OwnerRow,
    PayloadRow,
    RequestRow,
    RunRow,
    TunnelRow,
    UsagePartRow,
    WindowRow,
)
from ccflare_core.db.statements import Insert, Row, render
from ccflare_core.exchange.records import (
    AttemptMade,
    BatchDropped,
    BatchEnded,
    BatchMade,
    BatchRead,
    CooldownCleared,
    CooldownSet,
    ExchangeFinished,
    ExchangeStarted,
    IdForgotten,
    IdMade,
    IdUsed,
    InFlightCounted,
    OrganizationLearned,
    OutcomeCorrected,
    PartUsed,
    Payload,
    ProbeEnded,
    Record,
    RequestTagged,
    RunTold,
    SessionServed,
    TunnelEnded,
    TunnelOpened,
    WindowRead,
)
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.affinity import write_served
from ccflare_core.store.batches import Batches
from ccflare_core.store.peers import counts_text
from ccflare_core.store.probes import end_probe
from ccflare_core.store.request_tags import RequestTags
from ccflare_core.text import to_ms
from ccflare_core.transcripts.conversations import Conversations
from ccflare_core.transcripts.redaction import without_secrets
from ccflare_core.transcripts.stretches import Searched
from ccflare_core.transcripts.write import Blocks

_STARTED = (
    RequestRow.id,
    RequestRow.timestamp,
    RequestRow.method,
    RequestRow.path,
    RequestRow.client_ip,
    RequestRow.user_agent,
    RequestRow.session_id,
    RequestRow.door,
    RequestRow.run_id,
    RequestRow.model,
    RequestRow.client_id,
    RequestRow.client_name,
)
_INHERITED = ("session_id", "working_directory", "project", "agent")
_TWICE = ("id", "model", "session_id")
"""What both records of an exchange have: the later one counts if it knows."""

_ATTEMPT = (
    AttemptRow.request,
    AttemptRow.number,
    AttemptRow.account_id,
    AttemptRow.account_name,
    AttemptRow.status_code,
    AttemptRow.verdict,
    AttemptRow.reason,
    AttemptRow.windows,
    AttemptRow.started_at,
    AttemptRow.duration_ms,
)
_WINDOW = (
    WindowRow.account_id,
    WindowRow.at,
    WindowRow.name,
    WindowRow.status,
    WindowRow.utilization,
    WindowRow.resets_at,
)
_PART = (
    UsagePartRow.request,
    UsagePartRow.number,
    UsagePartRow.at,
    UsagePartRow.kind,
    UsagePartRow.model,
    UsagePartRow.calls,
    UsagePartRow.input_tokens,
    UsagePartRow.output_tokens,
    UsagePartRow.cache_read_tokens,
    UsagePartRow.cache_creation_tokens,
    UsagePartRow.cost_usd,
)
_OWNER = (
    OwnerRow.kind,
    OwnerRow.text,
    OwnerRow.account_id,
    OwnerRow.client_id,
    OwnerRow.made_at,
    OwnerRow.used_at,
)
_PAYLOAD = (
    PayloadRow.request,
    PayloadRow.part,
    PayloadRow.format,
    PayloadRow.content_type,
    PayloadRow.content_encoding,
    PayloadRow.size,
    PayloadRow.truncated,
    PayloadRow.redactions,
    PayloadRow.withheld,
    PayloadRow.body,
    PayloadRow.segment,
)


_FINISHED = tuple(getattr(RequestRow, name) for name in ExchangeFinished._fields if name not in _TWICE)
_END = attrgetter(*(column.name for column in _FINISHED))


_TUNNEL = tuple(getattr(TunnelRow, name) for name in TunnelOpened._fields)


class Ledger:
    """Writes records through one connection, within whatever transaction is open on it."""

    def __init__(self, database: Database, vault: Vault | None) -> None:
        """Without a vault, no payload can be written: that raises VaultError."""
        self._database = database
        self._blocks = Blocks(database, vault)
        self._searched: Conversations[Searched] = Conversations()
        self._batches = Batches(database)
        self._tags = RequestTags(database)
        self._requests = Insert(database, RequestRow, _STARTED)
        self._whole = Insert(database, RequestRow, (*_STARTED, *_FINISHED))
        self._attempts = Insert(database, AttemptRow, _ATTEMPT)
        self._windows = Insert(database, WindowRow, _WINDOW)
        self._parts = Insert(database, UsagePartRow, _PART)
        self._payloads = Insert(database, PayloadRow, _PAYLOAD)
        self._tunnels = Insert(database, TunnelRow, _TUNNEL)
        self._owners = Insert(database, OwnerRow, _OWNER, keeps_first=True)
        self._execute: Callable[..., Any] = database.execute_sql
        self._finish, finished = _finishing(database)
        self._finished = attrgetter(*finished)

    def prepare(self, batch: Iterable[Record]) -> dict[type, list[Any]]:
        """The batch as rows by kind. What a body takes (secrets out, packed, sealed) is done before a transaction."""
        rows: dict[type, list[Any]] = defaultdict(list)
        payloads: list[Payload] = []
        for record in batch:
            match record:
                case AttemptMade():
                    rows[AttemptMade].append((*record[:7], windows_json(record.windows), *record[8:]))
                case WindowRead(account_id, at_ms, window):
                    name, status, utilization, resets_at = window
                    rows[WindowRead].append((account_id, at_ms, name, status, utilization, to_ms(resets_at)))
                case IdMade():
                    rows[IdMade].append((*record, record.at_ms))  # made is used
                case Payload():
                    payloads.append(without_secrets(record, self._searched))
                case CooldownSet() | CooldownCleared():
                    rows[CooldownSet].append(record)  # one list: their order matters
                case BatchMade() | BatchDropped() | BatchEnded() | BatchRead():
                    rows[BatchMade].append(record)
                case _:
                    rows[type(record)].append(record)
        rows[Payload] = self._blocks.prepare(payloads)
        return rows

    def write(self, rows: dict[type, list[Any]]) -> None:
        """Write what `prepare` gave. Exchanges go first, since the others refer to them."""
        whole, started, finished = pair(rows[ExchangeStarted], rows[ExchangeFinished])
        self._whole.run(whole)
        self._requests.run(started)
        self._tags.write(rows[RequestTagged])
        self._attempts.run(rows[AttemptMade])
        self._windows.run(rows[WindowRead])
        self._parts.run(rows[PartUsed])
        self._payloads.run(self._blocks.write(rows[Payload]))
        self._write_owners(rows)
        self._write_tunnels(rows)
        for record in rows[CooldownSet]:
            self._cooldown(record)
        for account_id, part, term in rows[ProbeEnded]:  # after the cooldown that it has led to
            end_probe(self._database, account_id, part, term)
        write_served(self._database, [each.held for each in rows[SessionServed]])
        for run_id, counts in rows[InFlightCounted][-1:]:
            told = {RunRow.in_flight: counts_text(counts)}
            RunRow.update(told).where(RunRow.id == run_id).execute(self._database)
        for run_id, columns in rows[RunTold]:
            RunRow.update(columns).where(RunRow.id == run_id).execute(self._database)
        for account_id, organization_id in rows[OrganizationLearned]:
            learn_owner(self._database, account_id, Owner(organization_id=organization_id))
        for record in finished:
            self._execute(self._finish, self._finished(record))
        for id, outcome, problem in rows[OutcomeCorrected]:
            changed = {RequestRow.outcome: outcome, RequestRow.error_message: problem}
            RequestRow.update(changed).where(RequestRow.id == id).execute(self._database)
        for record in rows[ExchangeFinished]:
            if record.previous_message_id:
                self._inherit(record)
        for record in rows[BatchMade]:  # the last, as one may change what the row of its exchange says
            self._batches.write(record)

    def holds(self, batch: Iterable[Record]) -> bool:
        """Whether the batch, which was written whole or not at all, is there, as far as one of its rows can tell.

        False if none can: what changes rows only may be written twice.
        """
        for record in batch:
            if isinstance(record, ExchangeStarted):
                return RequestRow.select().where(RequestRow.id == record.id).bind(self._database).exists()
            if isinstance(record, AttemptMade):
                is_it = (AttemptRow.request == record.request_id) & (AttemptRow.number == record.number)
                return AttemptRow.select().where(is_it).bind(self._database).exists()
        return False

    def forget(self) -> None:
        """Believe nothing of what was written since the last commit: it did not come to one."""
        self._blocks.forget()
        self._tags.forget()

    def _inherit(self, record: ExchangeFinished) -> None:
        """Give a part of a thread what only its first part says: from the message that it goes on from."""
        is_earlier = RequestRow.message_id == record.previous_message_id
        columns = [getattr(RequestRow, name) for name in _INHERITED]
        query = RequestRow.select(*columns).where(is_earlier).order_by(RequestRow.timestamp.desc()).limit(1)
        rows: Any = query.tuples().bind(self._database)
        for values in rows:
            told = zip(_INHERITED, values, strict=True)
            new = {name: value for name, value in told if value is not None and getattr(record, name) is None}
            if new:
                RequestRow.update(new).where(RequestRow.id == record.id).execute(self._database)

    def _write_owners(self, rows: dict[type, list[Any]]) -> None:
        self._owners.run(rows[IdMade])
        for kind, text, at_ms in rows[IdUsed]:
            is_it = (OwnerRow.kind == kind) & (OwnerRow.text == text) & (OwnerRow.used_at < at_ms)
            OwnerRow.update({OwnerRow.used_at: at_ms}).where(is_it).execute(self._database)
        for kind, text in rows[IdForgotten]:
            is_it = (OwnerRow.kind == kind) & (OwnerRow.text == text)
            OwnerRow.delete().where(is_it).execute(self._database)

    def _write_tunnels(self, rows: dict[type, list[Any]]) -> None:
        self._tunnels.run(rows[TunnelOpened])
        for record in rows[TunnelEnded]:
            ended = {getattr(TunnelRow, name): value for name, value in record._asdict().items() if name != "id"}
            TunnelRow.update(ended).where(TunnelRow.id == record.id).execute(self._database)

    def _cooldown(self, record: CooldownSet | CooldownCleared) -> None:
        if isinstance(record, CooldownSet):
            set_cooldown(self._database, record.cooldown)
        else:
            clear_cooldown(self._database, record.account_id, record.part)


def pair(
    started: Sequence[ExchangeStarted], finished: Sequence[ExchangeFinished]
) -> tuple[list[Row], list[ExchangeStarted], list[ExchangeFinished]]:
    """Whole rows of the exchanges that began and ended within one batch, and what is left of both kinds.

    Under load that is most of them, and one row written once costs half of what it costs written twice.
    """
    ends = {record.id: record for record in finished}
    beginnings = {record.id for record in started}
    whole = [whole_row(record, ends[record.id]) for record in started if record.id in ends]
    return (
        whole,
        [record for record in started if record.id not in ends],
        [record for record in finished if record.id not in beginnings],
    )


def whole_row(started: ExchangeStarted, finished: ExchangeFinished) -> Row:
    """The columns of _STARTED and _FINISHED."""
    begun = started._replace(
        model=started.model if finished.model is None else finished.model,
        session_id=started.session_id if finished.session_id is None else finished.session_id,
    )
    return (*begun, *_END(finished))


def _finishing(database: Database) -> tuple[str, list[str]]:
    """The UPDATE that closes an exchange, and which field of ExchangeFinished each of its parameters is."""
    values = {name: Value(name, converter=False) for name in ExchangeFinished._fields}
    changes: dict[Any, Any] = {getattr(RequestRow, name): value for name, value in values.items() if name != "id"}
    for column in (RequestRow.model, RequestRow.session_id):
        changes[column] = fn.COALESCE(values[column.name], column)
    return render(database, RequestRow.update(changes).where(RequestRow.id == values["id"]))


def windows_json(windows: Iterable[Window]) -> str:
    """The windows of an attempt as its column holds them; `resets_at` in epoch seconds."""
    return json.dumps([window._asdict() for window in windows], separators=(",", ":"))


def learn_owner(database: Database, account_id: str, owner: Owner) -> None:
    """Note whose an account is, as far as that is told and was not known before."""
    told = ((AccountRow.person_id, owner.account_id), (AccountRow.organization_id, owner.organization_id))
    for column, value in told:
        if value is not None:
            is_unknown = (AccountRow.id == account_id) & column.is_null()
            AccountRow.update({column: value}).where(is_unknown).execute(database)


def set_cooldown(database: Database, cooldown: Cooldown) -> None:
    """Insert the cooldown, or put it in place of the one for the same part of the account."""
    part = cooldown.part
    key = {
        CooldownRow.account_id: cooldown.account_id,
        CooldownRow.scope: str(part.scope),
        CooldownRow.name: part.name,
    }
    rest = {
        CooldownRow.until: to_ms(cooldown.until),
        CooldownRow.reason: cooldown.reason,
        CooldownRow.source: cooldown.source,
        CooldownRow.failures: cooldown.failures,
    }
    insert = CooldownRow.insert({**key, **rest})
    insert.on_conflict(conflict_target=list(key), preserve=list(rest)).execute(database)


def clear_cooldown(database: Database, account_id: str, part: Part) -> None:
    """Delete the cooldown of this part of the account, if there is one."""
    is_of_part = (CooldownRow.scope == str(part.scope)) & (CooldownRow.name == part.name)
    is_it = (CooldownRow.account_id == account_id) & is_of_part
    CooldownRow.delete().where(is_it).execute(database)
