"""One open database: its parts (accounts, limits, runs, client keys …), its records, its audited transactions.

A proxy has one writing store, inside the writer's thread (writer.py); scripts open their own beside it. Every
write is one transaction, and one at a time (engine.py). StoreError means that the database cannot be used now,
or not as asked.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ccflare_core.audit.chain import Audit
from ccflare_core.audit.configurations import Configurations
from ccflare_core.audit.entries import By, Entry, Outcome
from ccflare_core.audit.file import AuditFile
from ccflare_core.audit.signed_rows import SignedRows
from ccflare_core.config.location import Location
from ccflare_core.db.announcements import Channel
from ccflare_core.db.engine import CommitUnknown, Engine, Space
from ccflare_core.db.engine_choice import is_made, open_engine
from ccflare_core.db.models import BlockedAddressRow, ClientKeyRow
from ccflare_core.errors import AuditError, CCFlareError, StoreError, Unusable
from ccflare_core.exchange.records import AttentionNeeded, Record, SessionServed
from ccflare_core.reports.rollup import Rollup
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.accounts import Accounts
from ccflare_core.store.affinity import StoredAffinity
from ccflare_core.store.alerts import Alerts
from ccflare_core.store.blocklist import Blocklist
from ccflare_core.store.browser_sessions import BrowserSessions
from ccflare_core.store.carry_over import CarryOver
from ccflare_core.store.client_keys import Clients
from ccflare_core.store.client_runs import StoredClientRuns
from ccflare_core.store.context import StoreContext, shared_clock
from ccflare_core.store.data_keys import DataKey, DataKeys, list_keys
from ccflare_core.store.dead_runs import DeadRuns
from ccflare_core.store.duties import StoredDuties
from ccflare_core.store.history import History
from ccflare_core.store.ledger import Ledger
from ccflare_core.store.limit_shares import StoredShares
from ccflare_core.store.limits import Limits
from ccflare_core.store.limits_of_others import LimitsOfOthers
from ccflare_core.store.notices import Notices
from ccflare_core.store.oauth_tokens import Logins
from ccflare_core.store.owners import StoredOwners
from ccflare_core.store.peers import StoredPeers
from ccflare_core.store.pending_logins import Sessions
from ccflare_core.store.probes import StoredProbes
from ccflare_core.store.resealing import Resealing, count_values
from ccflare_core.store.runs import Runs
from ccflare_core.store.sealed_counts import ROTATE_AT, SealedCounts
from ccflare_core.store.second_factor import Factors
from ccflare_core.store.takeover import Takeover
from ccflare_core.text import to_ms
from ccflare_core.transcripts.read import Body, Transcripts
from ccflare_core.transcripts.search_index import SearchIndex

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
        self._database = engine.database
        self._wall = wall
        self._unknown: tuple[Sequence[Record], int] | None = None
        self.transactions = 0
        """How many have begun that may write; while it stays the same, nothing is changed here."""
        self.by = by
        """Who is named in the audit log."""
        second = AuditFile(audit_file) if audit_file else None
        self.vault: Vault | None = None
        self.audit = Audit(self._database, lambda: self.vault, transaction=self._transaction, wall=wall, file=second)
        self._sealed = SealedCounts(self._database)
        self.signed_rows = SignedRows(self.audit, engine.snapshot)
        """The signatures of client keys, blocks and the second factor."""
        self.keys: DataKeys | None = None
        """The ring of keys; None without a key source."""
        if source is not None:
            self.keys = self._open_keys(source, read_only=read_only)
        self.vault = self.keys.vault if self.keys else None
        self._ledger = Ledger(self._database, self.vault)
        now = shared_clock(self._database, wall) if wall is time.time else wall  # noqa: TID251 - else it is a test's
        self._context = StoreContext(
            self._database, self.vault, self._transaction, engine.snapshot, self._record, self.signed_rows, wall, now
        )
        self._make_parts(self._context)
        if not read_only:
            self.sign_older_rows()
        self.has_changed_accounts = False
        """Whether a batch has changed accounts since the writer last looked at this."""

    def _open_keys(self, source: KeySource, *, read_only: bool) -> DataKeys:
        return DataKeys(
            self._database,
            source,
            transaction=self._transaction,
            wall=self._wall,
            read_only=read_only,
            record=self._record,
            resign=lambda: self.signed_rows.renew(),
        )

    def _make_parts(self, context: StoreContext) -> None:
        """Everything that is read and written through the store, each with the tables that it owns."""
        database, transaction = context.database, context.transaction
        self.configurations = Configurations(database, self.audit, transaction=transaction, record=context.record)
        self.transcripts = Transcripts(database, context.vault, transaction)
        self.accounts = Accounts(context)
        self.limits = Limits(context)
        self.limits_of_others = LimitsOfOthers(self.limits, context.snapshot)
        self.affinity = StoredAffinity(context)
        self.runs = Runs(context)
        self.peers = StoredPeers(context, self.runs)
        self.dead_runs = DeadRuns(context, self.runs)
        self.shares = StoredShares(context, self.peers, self.query)
        self.probes = StoredProbes(context)
        self.takeover = Takeover(lambda: self._engine.takeovers, lambda: self.peers.are_there)
        """Whether a standby has taken the place of the database server."""
        self.duties = StoredDuties(context)
        self.browser_sessions = BrowserSessions(context)
        self.logins = Logins(context, self.accounts, is_settling=self.takeover.is_settling)
        self.sessions = Sessions(context)
        self.client_runs = StoredClientRuns(context)
        self.clients = Clients(context, self.client_runs)
        self.blocklist = Blocklist(context)
        self.factors = Factors(context)
        self.owners = StoredOwners(context)
        self.carry_over = CarryOver(context, self.accounts, self.blocklist)
        self.history = History(context, self.transcripts)
        self.notices = Notices(context)
        self.alerts = Alerts(context)
        self.search_index = SearchIndex(
            database,
            self.transcripts,
            query=self.query,
            transaction=transaction,
            scrub=lambda: self._engine.scrub(whole=False),
        )
        self.usage = Rollup(database, self.query, transaction, wall=context.wall)

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
        engine = open_engine(location, now_ms=to_ms(wall()), read_only=read_only)
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

    @contextlib.contextmanager
    def failures(self, action: str, target: str = "", **detail: object) -> Iterator[None]:
        """An entry if the block fails, with the reason."""
        try:
            yield
        except BaseException as error:
            reason = str(error) if isinstance(error, CCFlareError) else type(error).__name__
            self.report(Entry.of(self.by, action, target, "failed", **detail, reason=reason))
            raise

    @contextlib.contextmanager
    def stages(self, action: str, target: str = "", **detail: object) -> Iterator[dict[str, object]]:
        """Two entries: before the block, or it is not begun, and after it, with how it went and what it filled in."""
        self.note(action, target, "ok", stage="begin", **detail)
        results: dict[str, object] = {}
        with self.failures(action, target, stage="end"):
            yield results
        self.note(action, target, "ok", stage="end", **results)

    def report(self, entry: Entry) -> None:
        """Write an entry about what has happened already: where the table cannot take it, into the file beside it."""
        try:
            with self._transaction():
                self.audit.add(entry)
        except StoreError:
            self.audit.aside(entry)

    def _record(self, action: str, target: str = "", outcome: Outcome = "ok", **detail: object) -> None:
        self.audit.add(Entry.of(self.by, action, target, outcome, **detail))

    def heartbeat(self, run_id: str) -> None:
        """Note that the run is alive, and drop begun logins that nobody finished, and what is over for long.

        Once in 60 s is enough.
        """
        self.runs.heartbeat(run_id)
        self.sessions.purge()
        self.client_runs.purge()
        self.shares.purge()
        self.sign_older_rows()

    def sign_older_rows(self) -> None:
        """Sign the rows that are from before rows were signed, once; an entry says how many of which kind."""
        if self.vault is None or not self.signed_rows.are_older():
            return
        with self._transaction():
            self.signed_rows.begin(to_ms(self._wall()), lambda rows: self._record("rows.sign", "", rows=rows))

    def altered_rows(self) -> list[str]:
        """What somebody else has done to rows that decide who may do what, a sentence each; without a key nothing."""
        return [] if self.vault is None else self.signed_rows.problems()

    def restart_audit(self, problem: str) -> None:
        """Go on with an audit log that is broken.

        Client keys that do not count any more are revoked for good, and blocks are made anew. A second factor that does
        not count goes on being asked for, until it is disabled.
        """
        with self._transaction():
            is_whole = self.signed_rows.look(ClientKeyRow).is_whole
            self.audit.restart(self.by, problem)
            if not is_whole:
                self.signed_rows.restart()
            self.clients.end(self.signed_rows.look(ClientKeyRow))
            self.blocklist.keep(self.signed_rows.look(BlockedAddressRow))

    def write(self, batch: Sequence[Record]) -> None:
        """Write the batch whole, in one transaction, or nothing of it.

        Raises StoreError if the database cannot take it now, or is no longer the one that was opened; anything
        else (peewee's IntegrityError, VaultError, ValueError …) is about one of the records.
        """
        if self._is_written(batch):
            self._wrote(batch)
            return
        for record in batch:
            if isinstance(record, AttentionNeeded):
                self._attend(record)
        rows, sealed_by = self._ledger.prepare(batch), self._key_id()
        try:
            with self._transaction():
                if self.takeover.is_news_for_the_ledger():
                    self._ledger.forget()
                if self._key_id() != sealed_by:
                    rows = self._ledger.prepare(batch)
                self._ledger.write(rows)
        except BaseException as error:
            self._ledger.forget()
            if isinstance(error, CommitUnknown):
                self._unknown = (batch, error.transaction)
            raise
        self._wrote(batch)

    def _wrote(self, batch: Sequence[Record]) -> None:
        """What is no news to this proxy, when it looks for those of others."""
        self.limits_of_others.wrote(batch)
        self.affinity.wrote(record.held for record in batch if isinstance(record, SessionServed))

    def _attend(self, record: AttentionNeeded) -> None:
        """Take an account out until a person acts. In a transaction of its own, which a batch may repeat.

        Where it cannot be audited it is not done; the running proxy knows of it all the same.
        """
        try:
            self.has_changed_accounts |= self.accounts.need_attention(record.account_id, record.reason)
        except AuditError:
            self.audit.aside(Entry.of(self.by, "account.attention", record.account_id, "failed", reason=record.reason))

    def _is_written(self, batch: Sequence[Record]) -> bool:
        """Whether the batch, which comes a second time because its commit was not acknowledged, is there."""
        if self._unknown is None:
            return False
        is_written: bool | None = False
        if self._unknown[0] == batch:
            is_written = self._engine.was_committed(self._unknown[1])
        self._unknown = None
        return self._ledger.holds(batch) if is_written is None else is_written

    def body(self, request_id: str, part: str) -> Body | None:
        """A recorded body, see read.py."""
        return self.transcripts.body(request_id, part)

    @property
    def is_frozen(self) -> bool:
        """Whether it is a copy that nobody here can write: nothing can be audited in it."""
        return self._engine.is_frozen

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT, with `?` for each parameter."""
        return self._engine.select(sql, parameters)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read in the block is the database as it is now, whatever others write meanwhile."""
        with self._engine.snapshot():
            yield

    def now(self) -> float:
        """Epoch seconds by the clock that all processes on the database share."""
        return self._context.now()

    def changed(self) -> bool:
        """Whether another connection has committed since the last call, or since this one was opened."""
        return self._engine.changed()

    @property
    def channel(self) -> Channel | None:
        """Where changes are announced; None where other processes have to look for them."""
        return self._engine.channel

    def announce_test(self) -> None:
        """Announce something that tells nothing, to find out whether it arrives."""
        self._engine.announce_test()

    def look_for_keys(self) -> str | None:
        """Take up the keys that other processes have made; why one of them cannot be used, if so."""
        if self.keys is None:
            return None
        self.keys.refresh()
        return self.keys.trouble

    def data_keys(self) -> list[DataKey]:
        """The keys, newest first; it takes no key to see them."""
        return list_keys(self._database)

    def worn_key(self) -> DataKey | None:
        """The key that seals, if it has sealed so much that another one should take its place."""
        newest = next(iter(self.data_keys()), None)
        return newest if newest is not None and newest.sealed >= ROTATE_AT else None

    def value_counts(self) -> Counter[str]:
        """How many values each key has sealed, see resealing.py."""
        return count_values(self._database)

    def resealing(self) -> Resealing:
        """Work on everything that is sealed, or should be. Raises VaultError without a key."""
        return Resealing(self._context, self._context.key("nothing can be sealed"))

    def scrub(self, *, whole: bool = False) -> bool:
        """Wipe what deleted and replaced rows have left; with `whole` write the tables anew before that.

        False if a reader stands in the way for longer than five seconds.
        """
        self.search_index.collect_garbage(whole=whole)
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
        self.transactions += 1
        mark = self.audit.mark()
        try:
            with self._engine.transaction():
                if self.keys is not None:
                    self.keys.refresh()
                yield
                if self.vault is not None:
                    self._sealed.write(self.vault.sealed)
        except BaseException as error:
            self.audit.rewind(mark)
            self._sealed.rolled_back()
            if isinstance(error, Unusable | AuditError):
                self.audit.stumbled(self.by, str(error))
            raise
        if not self._database.in_transaction():  # else it was the inner one of two
            self._sealed.committed()
        self.audit.worked()
        self.audit.publish()


def has_client_keys(location: Location) -> bool:
    """Whether the database has client keys; False also if there is none, or it cannot be read."""
    try:
        if not is_made(location):
            return False
        with contextlib.closing(Store.open(location, None, read_only=True)) as store:
            return store.clients.exist()
    except StoreError:
        return False
