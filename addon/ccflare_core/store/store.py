"""The database's owner: one connection, kept to the thread that opened it, which gives and takes values.

A proxy has one writing store, inside the writer's thread (writer.py); scripts open their own beside it. Every
write is one transaction, and one at a time (database.py). StoreError means that the database cannot be used now,
or not as asked.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peewee

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Scope
from ccflare_core.audit.chain import Audit
from ccflare_core.audit.configurations import Configurations
from ccflare_core.audit.entries import By, Entry, Outcome, Secret
from ccflare_core.audit.file import AuditFile
from ccflare_core.config.location import Location
from ccflare_core.db.engine import CommitUnknown, Engine, Space, as_store_errors
from ccflare_core.db.engine_choice import is_made, open_engine
from ccflare_core.db.models import AccountRow, CooldownRow, RefreshLeaseRow, RequestRow, RunRow, WindowRow
from ccflare_core.errors import AuditError, NotFound, StoreError, Unusable, VaultError
from ccflare_core.exchange.records import AttentionNeeded, Record, to_ms, to_seconds
from ccflare_core.reports.rollup import Rollup
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.secrets.vault import Vault, is_sealed, place
from ccflare_core.store.blocklist import Blocklist
from ccflare_core.store.client_keys import Clients
from ccflare_core.store.data_keys import DataKey, DataKeys, list_keys
from ccflare_core.store.history import History
from ccflare_core.store.ledger import Ledger, clear_cooldown, set_cooldown
from ccflare_core.store.oauth_tokens import Logins, refresh_digest
from ccflare_core.store.pending_logins import Sessions
from ccflare_core.store.resealing import Resealing, count_values
from ccflare_core.store.second_factor import Factors
from ccflare_core.transcripts.read import Body, Transcripts
from ccflare_core.transcripts.search_index import SearchIndex

_SECRETS = ("access_token", "refresh_token", "api_key")
_TIMES = ("expires_at", "created_at", "login_at", "login_expires_at")
_PLAIN = ("name", "kind", "priority", "paused", "needs_login", "attention")
_HEARTBEAT_SECONDS = 60.0
_GONE = "the account is no longer there: another process has removed it"
PROXY = By("proxy")


class Store:
    """The rows of one database as values. Make it with `Store.open`."""

    def __init__(
        self,
        engine: Engine,
        source: KeySource | None,
        *,
        read_only: bool = False,
        by: By = PROXY,
        audit_file: Path | None = None,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._engine = engine
        self._database = database = engine.database
        self._wall = wall
        self._unknown: tuple[Sequence[Record], int] | None = None
        self.by = by
        """Who is named in the audit log."""
        second = AuditFile(audit_file) if audit_file else None
        self.vault: Vault | None = None
        self.audit = Audit(database, lambda: self.vault, transaction=self._transaction, wall=wall, file=second)
        self.keys: DataKeys | None = None
        """The ring of keys; None without a key source."""
        if source is not None:
            self.keys = DataKeys(
                database,
                source,
                transaction=self._transaction,
                wall=wall,
                read_only=read_only,
                record=self._record,
                resign=lambda: self.audit.resign(),
            )
        self.vault = self.keys.vault if self.keys else None
        self._ledger = Ledger(database, self.vault)
        self.configurations = Configurations(database, self.audit, transaction=self._transaction, record=self._record)
        self.logins = Logins(
            database,
            transaction=self._transaction,
            account=self._account,
            columns=self._columns,
            record=self._record,
        )
        self.sessions = Sessions(database, self.vault, transaction=self._transaction, wall=wall)
        self.transcripts = Transcripts(database, self.vault, self._transaction)
        self.clients = Clients(database, self.vault, transaction=self._transaction, wall=wall, record=self._record)
        self.blocklist = Blocklist(database, transaction=self._transaction, wall=wall, record=self._record)
        self.factors = Factors(database, self.vault, transaction=self._transaction, wall=wall, record=self._record)
        self.history = History(database, self.transcripts, self._transaction)
        self.search_index = SearchIndex(
            database,
            self.transcripts,
            query=self.query,
            transaction=self._transaction,
            scrub=lambda: engine.scrub(whole=False),
        )
        self.usage = Rollup(database, self.query, self._transaction, wall=wall)
        self.has_changed_accounts = False
        """Whether a batch has changed accounts since the writer last looked at this."""
        self.run_id: str | None = None
        """The run that was started through this store and has not ended."""

    @classmethod
    def open(
        cls,
        location: Location,
        source: KeySource | None,
        *,
        read_only: bool = False,
        by: By = PROXY,
        audit_file: Path | None = None,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> "Store":
        """The store of the database at `location`, which is made or brought up to date unless `read_only`.

        Its changes are audited as those of `by`, with a second copy in `audit_file`, if any. Without a key source no
        secret, no body and no entry can be written, and accounts come without their secrets. Raises StoreError if the
        database is another program's, damaged, newer than this version, or out of reach, and VaultError if its keys do
        not unwrap.
        """
        engine = open_engine(location, now_ms=round(wall() * 1000), read_only=read_only)
        try:
            return cls(engine, source, read_only=read_only, by=by, audit_file=audit_file, wall=wall)
        except BaseException:
            engine.close()
            raise

    def close(self) -> None:
        """Close the connection; a second time is harmless."""
        self._engine.close()

    @contextlib.contextmanager
    def acting(self, by: By) -> Iterator[None]:
        """What is changed in the block is audited as done by another one."""
        before, self.by = self.by, by
        try:
            yield
        finally:
            self.by = before

    @contextlib.contextmanager
    def audited(self, action: str, target: str = "", outcome: Outcome = "ok", **detail: object) -> Iterator[None]:
        """One transaction with this entry: what is changed in the block is there with it or not at all."""
        with self._transaction():
            yield
            self._record(action, target, outcome, **detail)

    def note(self, action: str, target: str = "", outcome: Outcome = "ok", **detail: object) -> None:
        """Write one entry. Raises StoreError if that cannot be done, and then neither can what it is about."""
        with self.audited(action, target, outcome, **detail):
            pass

    def report(self, entry: Entry) -> None:
        """Write an entry about what has happened already: where the table cannot take it, into the file beside it."""
        try:
            with self._transaction():
                self.audit.add(entry)
        except StoreError:
            self.audit.aside(entry)

    def _record(self, action: str, target: str = "", outcome: Outcome = "ok", **detail: object) -> None:
        self.audit.add(Entry.of(self.by, action, target, outcome, **detail))

    def accounts(self) -> list[Account]:
        """Every account, by priority and name.

        Raises VaultError, naming the account, if one of its secrets does not open.
        """
        query = AccountRow.select().order_by(AccountRow.priority, AccountRow.name)
        with as_store_errors():
            return [self._account(row) for row in query.bind(self._database)]

    def account_by_name(self, name: str, *, secrets: bool = True) -> Account:
        """The account of that name, maybe without its secrets. Raises StoreError if there is none."""
        query = AccountRow.select().where(AccountRow.name == name)
        with as_store_errors():
            for row in query.bind(self._database):
                return self._account(row, secrets=secrets)
        raise NotFound(f"there is no account called {name}: `scripts/accounts.py list` shows all")

    def add_account(self, account: Account, **detail: object) -> None:
        """Insert it; `detail` goes into the audit log. Raises StoreError if its name (or id) is taken."""
        names = (*_PLAIN, *_SECRETS, *_TIMES)
        fields = {name: getattr(account, name) for name in names}
        with self._changing_account(account.name):
            AccountRow.insert({**self._columns(account.id, fields), "id": account.id}).execute(self._database)
            told = {name: _told(name, value) for name, value in fields.items() if value is not None}
            self.audit.add(Entry.of(self.by, "account.add", account.name, id=account.id, fields=told, **detail))

    def update_account(self, account_id: str, **fields: Any) -> None:
        """Change these fields of the account and no others.

        Raises StoreError if the account is gone or the new name is taken.
        """
        is_it = AccountRow.id == account_id
        with self._changing_account(fields.get("name")):
            columns = self._columns(account_id, fields)
            before = AccountRow.select().where(is_it).bind(self._database).first()
            if before is None:
                raise StoreError(_GONE)
            AccountRow.update(columns).where(is_it).execute(self._database)
            changes = {name: _change(name, getattr(before, name), value) for name, value in fields.items()}
            self._record(_action(fields), before.name, id=account_id, changes=changes)

    def remove_account(self, account_id: str) -> None:
        """Delete it with its cooldowns and readings. Its requests stay, with the name that it had."""
        is_it = AccountRow.id == account_id
        with self._transaction():
            row = AccountRow.select().where(is_it).bind(self._database).first()
            if row is None:
                raise StoreError(_GONE)
            for model in (CooldownRow, RefreshLeaseRow, WindowRow):
                model.delete().where(model.account_id == account_id).execute(self._database)
            AccountRow.delete().where(is_it).execute(self._database)
            self._record("account.remove", row.name, id=account_id)

    @contextlib.contextmanager
    def _changing_account(self, name: str | None) -> Iterator[None]:
        """A transaction; the sentence for a `name` that is taken."""
        try:
            with self._transaction():
                yield
        except peewee.IntegrityError as error:
            raise StoreError(f"there is an account called {name} already: choose another name") from error

    def _columns(self, account_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of Account as columns: secrets sealed for their place, times in ms."""
        row: dict[str, Any] = {"updated_at": to_ms(self._wall())}
        for name, value in fields.items():
            if name in _SECRETS:
                row[name] = self._seal(value, place("accounts", name, account_id))
                if name == "access_token":
                    row["refresh_retry_at"] = None
                if name == "refresh_token":
                    row["refresh_digest"] = None if value is None else refresh_digest(value)
            elif name in _TIMES:
                row[name] = to_ms(value)
                if name == "login_at":
                    row["attention"] = None  # a new login ends it
            elif name in _PLAIN:
                row[name] = value.value if isinstance(value, Kind) else value
                if name == "paused" and not value:
                    row["attention"] = None  # and so does a resume
            else:
                raise ValueError(f"an account has no field {name!r} that can be changed")
        return row

    def _seal(self, secret: str | None, where: str) -> bytes | None:
        if secret is None:
            return None
        if self.vault is None:
            raise VaultError("a secret cannot be stored without a key: open the database with a key source")
        return self.vault.seal(secret.encode(), where)

    def _account(self, row: AccountRow, *, secrets: bool = True) -> Account:
        values = {name: getattr(row, name) for name in _PLAIN}
        values |= {name: to_seconds(getattr(row, name)) for name in _TIMES}
        values |= {name: self._unseal(row, name) if secrets else None for name in _SECRETS}
        return Account(id=row.id, **{**values, "kind": Kind(row.kind)})

    def _unseal(self, row: AccountRow, column: str) -> str | None:
        sealed: bytes | str | None = getattr(row, column)
        if sealed is None or self.vault is None:
            return None
        if not is_sealed(sealed):
            raise VaultError(
                f"the {column} of account {row.name} is stored in clear: run `scripts/keys.py migrate-plaintext`"
            )
        try:
            return self.vault.open(sealed, place("accounts", column, row.id)).decode()
        except VaultError as error:
            raise VaultError(
                f"the {column} of account {row.name} does not open with this key: "
                "bring back the key it was sealed with, or remove the account and add it again"
            ) from error

    def cooldowns(self) -> list[Cooldown]:
        """Every stored cooldown, also those whose time is over."""
        with as_store_errors():
            return [_cooldown(row) for row in CooldownRow.select().bind(self._database)]

    def save_cooldowns(self, cooldowns: Iterable[Cooldown]) -> None:
        """Insert each, or put it in place of the one for the same part of the account."""
        with self._transaction():
            for cooldown in cooldowns:
                set_cooldown(self._database, cooldown)

    def clear_cooldown(self, account_id: str, part: Part) -> None:
        """Delete one, if it is there."""
        with self._transaction():
            clear_cooldown(self._database, account_id, part)

    def latest_windows(self) -> dict[str, tuple[Window, ...]]:
        """The last reading of each window, by account id."""
        with as_store_errors():
            return {account_id: windows for account_id in self._read_ids() if (windows := self._latest(account_id))}

    def _read_ids(self) -> Iterator[str]:
        """The accounts that have readings, from step to step through the index: all readings are too many to group."""
        found: str | None = self._first(WindowRow.account_id)
        while found is not None:
            yield found
            found = self._first(WindowRow.account_id, WindowRow.account_id > found)

    def _latest(self, account_id: str) -> tuple[Window, ...]:
        """The last reading of each window of the account."""
        windows, is_its = [], WindowRow.account_id == account_id
        name: str | None = self._first(WindowRow.name, is_its)
        while name is not None:
            newest = WindowRow.select().where(is_its & (WindowRow.name == name))
            row = newest.order_by(WindowRow.at.desc(), WindowRow.id.desc()).limit(1).bind(self._database)[0]
            windows.append(Window(row.name, row.status, row.utilization, to_seconds(row.resets_at)))
            name = self._first(WindowRow.name, is_its & (WindowRow.name > name))
        return tuple(windows)

    def _first(self, column: Any, condition: Any = None) -> Any:
        """The lowest value of a column of `windows`; None if there is none."""
        query = WindowRow.select(peewee.fn.MIN(column))
        return (query if condition is None else query.where(condition)).bind(self._database).scalar()

    def start_run(self, run_id: str, host: str, pid: int) -> None:
        """Note that this process has begun to serve."""
        now = to_ms(self._wall())
        row = {"id": run_id, "host": host, "pid": pid, "started_at": now, "heartbeat_at": now}
        with self._transaction():
            RunRow.insert(row).execute(self._database)
        self.run_id = run_id

    def heartbeat(self, run_id: str) -> None:
        """Note that the run is alive, and drop the begun logins that nobody finished. Once in 60 s is enough."""
        self._touch_run(run_id, heartbeat_at=to_ms(self._wall()))
        self.sessions.purge()

    def end_run(self, run_id: str) -> None:
        """Note that the run is over and has closed its own exchanges."""
        self._touch_run(run_id, ended_at=to_ms(self._wall()))
        self.run_id = None

    def _touch_run(self, run_id: str, **columns: int | None) -> None:
        with self._transaction():
            RunRow.update(columns).where(RunRow.id == run_id).execute(self._database)

    def close_dead_runs(self, host: str, is_alive: Callable[[int], bool], now: float) -> int:
        """Close the open exchanges of every run that is over as `crashed`; how many that were.

        A run of this host is over when its process is, a run of another host when its heartbeat is older than
        60 s. Should it live after all, its exchanges get their true outcome when they end.
        """
        with self._transaction():
            live: list[str] = []
            dead: list[str] = []
            for run in RunRow.select().where(RunRow.ended_at.is_null()).bind(self._database):
                (live if self._is_live(run, host, is_alive, now) else dead).append(run.id)
            ended = {RunRow.ended_at: RunRow.heartbeat_at}
            RunRow.update(ended).where(RunRow.id.in_(dead)).execute(self._database)
            crashed = {RequestRow.outcome: "crashed", RequestRow.success: False}
            is_orphan = RequestRow.outcome.is_null() & RequestRow.run_id.not_in(live)
            return int(RequestRow.update(crashed).where(is_orphan).execute(self._database))

    def _is_live(self, run: RunRow, host: str, is_alive: Callable[[int], bool], now: float) -> bool:
        if run.id == self.run_id:
            return True
        if run.host != host:
            return now - run.heartbeat_at / 1000 <= _HEARTBEAT_SECONDS
        # In a container every run has the same process id: another run with ours is a former one.
        return run.pid != os.getpid() and is_alive(run.pid)

    def write(self, batch: Sequence[Record]) -> None:
        """Write the batch whole, in one transaction, or nothing of it.

        Raises StoreError if the database cannot take it now, or is no longer the one that was opened; anything
        else (peewee's IntegrityError, VaultError, ValueError …) is about one of the records.
        """
        if self._is_written(batch):
            return
        rows, sealed_by = self._ledger.prepare(batch), self._key_id()
        try:
            with self._transaction():
                if self._key_id() != sealed_by:
                    rows = self._ledger.prepare(batch)
                self._ledger.write(rows)
            self.has_changed_accounts |= bool(rows[AttentionNeeded])
        except BaseException as error:
            self._ledger.forget()
            if isinstance(error, CommitUnknown):
                self._unknown = (batch, error.transaction)
            raise

    def _is_written(self, batch: Sequence[Record]) -> bool:
        """Whether the batch, which comes a second time because nobody knew what became of it, is there."""
        if self._unknown is None:
            return False
        is_written = self._unknown[0] == batch and self._engine.was_committed(self._unknown[1])
        self._unknown = None
        return is_written

    def body(self, request_id: str, part: str) -> Body | None:
        """A recorded body, see bodies.py."""
        return self.transcripts.body(request_id, part)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT, with `?` for each parameter."""
        return self._engine.select(sql, parameters)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read in the block is the database as it is now, whatever others write meanwhile."""
        with self._engine.snapshot():
            yield

    def changed(self) -> bool:
        """Whether another connection has committed since the last call, or since this one was opened."""
        return self._engine.changed()

    def look_for_keys(self) -> str | None:
        """Take up the keys that other processes have made; why one of them cannot be used, if so."""
        if self.keys is None:
            return None
        self.keys.refresh()
        return self.keys.trouble

    def data_keys(self) -> list[DataKey]:
        """The keys, newest first; it takes no key to see them."""
        return list_keys(self._database)

    def value_counts(self) -> Counter[str]:
        """How many values each key has sealed, see sealed.py."""
        return count_values(self._database)

    def resealing(self) -> Resealing:
        """Work on everything that is sealed, or should be. Raises VaultError without a key."""
        if self.vault is None:
            raise VaultError("nothing can be sealed without a key: open the database with a key source")
        return Resealing(self._database, self.vault, self._transaction)

    def scrub(self, *, whole: bool = False) -> bool:
        """Wipe what deleted and replaced rows have left; with `whole` write the tables anew before that.

        False if a reader stands in the way for longer than five seconds.
        """
        self.search_index.sweep(whole=whole)
        return self._engine.scrub(whole=whole)

    def _key_id(self) -> str | None:
        return self.vault.key_id if self.vault else None

    def log_bytes(self) -> int:
        """The size of the write-ahead log, which grows while some reader keeps a transaction open."""
        return self._engine.log_bytes()

    def space(self) -> Space | None:
        """What the database takes and its disk has left; None where that is a server's affair."""
        return self._engine.space()

    def shrink(self, pages: int) -> None:
        """Give up to so many spare pages back to the disk, in one short transaction."""
        self._engine.shrink(pages)

    def problems(self) -> list[str]:
        """What a look through the whole file finds damaged, a few lines at most."""
        return self._engine.problems()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        mark = self.audit.mark()
        try:
            with self._engine.transaction():
                if self.keys is not None:
                    self.keys.refresh()
                yield
        except BaseException as error:
            self.audit.rewind(mark)
            if isinstance(error, Unusable | AuditError):
                self.audit.stumbled(self.by, str(error))
            raise
        self.audit.worked()
        self.audit.publish()


def _action(fields: Mapping[str, Any]) -> str:
    """What a change of an account is called in the audit log."""
    if any(name in fields for name in _SECRETS):
        return "login.done"
    if "paused" in fields and set(fields) <= {"paused", "attention"}:
        return "account.pause" if fields["paused"] else "account.resume"
    only = next(iter(fields)) if len(fields) == 1 else ""
    return {"name": "account.rename", "priority": "account.priority"}.get(only, "account.change")


def _told(name: str, value: object) -> object:
    """A field's value as the audit log has it."""
    return Secret(str(value)) if name in _SECRETS and value is not None else value


def _change(name: str, before: object, after: object) -> dict[str, object]:
    if name in _SECRETS:
        return {"after": _told(name, after)}
    return {"before": to_seconds(before) if name in _TIMES and isinstance(before, int) else before, "after": after}


def _cooldown(row: CooldownRow) -> Cooldown:
    part = Part(Scope(row.scope), row.name)
    return Cooldown(row.account_id, part, row.until / 1000, row.reason, row.source, row.failures)


def has_client_keys(location: Location) -> bool:
    """Whether the database has client keys; False also if there is none, or it cannot be read."""
    try:
        if not is_made(location):
            return False
        with contextlib.closing(Store.open(location, None, read_only=True)) as store:
            return bool(store.clients.all())
    except StoreError:
        return False
