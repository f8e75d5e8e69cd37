"""The one thread that writes to the database, so that no event loop ever waits for a disk.

It gathers what is put for up to 50 ms or 500 rows and commits that as one transaction. So kill -9 loses what was put
in the last 50 ms, or, while a batch is being written, that batch and what came since. While the database cannot be
written it keeps the rows and tries again, more and more slowly: bodies are left out once their bound is reached, rows
only when `max_rows` of them wait (see backlog.py).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future
from typing import Protocol

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.affinity import Held
from ccflare_core.accounts.peers import Peers
from ccflare_core.clients.authentication import KeyRing
from ccflare_core.db.announcements import ANYTHING
from ccflare_core.errors import CCFlareError, Gone, StoreError
from ccflare_core.exchange.records import Record, storable
from ccflare_core.process import be_less_urgent
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from ccflare_core.text import some
from ccflare_core.writer.backlog import Backlog, Marker
from ccflare_core.writer.warnings import RateLimitedWarnings
from ccflare_core.writer.watch import LOOK_SECONDS, Watch

_LINGER_SECONDS = 0.05
_RETRY_SECONDS = (0.1, 5.0)


class Upkeep(Protocol):
    """Work on the store that is done in small steps while there is nothing more urgent, see retention.py."""

    def due_in(self) -> float:
        """Seconds until the next step."""

    def work(self, store: Store) -> None:
        """Do a step, if it is time. CCFlareError becomes a warning."""


class Writer:
    """Takes records from any thread, and owns the store they go to.

    `on_change` gets the accounts when the writer starts and whenever they have changed, by whichever process, and
    `on_client_keys` the client keys; `on_limits` gets what other proxies have learned of the accounts' limits, and
    `on_sessions` which account has served which session; `on_peers` gets what is known of the other proxies,
    and `on_shares` is called when one has changed its shares of limits;
    `on_trouble` gets sentences for the log, and `on_store_changed` is shown the store whenever it has changed. All are
    called in the writer's thread.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        on_change: Callable[[list[Account]], None],
        on_trouble: Callable[[str], None],
        on_client_keys: Callable[[KeyRing], None] | None = None,
        on_store_changed: Callable[[Store], None] = lambda store: None,
        on_limits: Callable[[Learned], None] = lambda learned: None,
        on_sessions: Callable[[Sequence[Held]], None] = lambda held: None,
        on_peers: Callable[[Peers], None] = lambda peers: None,
        on_shares: Callable[[], None] = lambda: None,
        upkeep: Upkeep | None = None,
        max_rows: int = 20_000,
        max_payload_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`look_seconds` is how often it polls for changes by other processes, see also `wake`."""
        self._open_store = open_store
        self._on_change = on_change
        self._on_client_keys = on_client_keys
        self._on_store_changed = on_store_changed
        self._on_limits = on_limits
        self._on_sessions = on_sessions
        self._on_peers = on_peers
        self._on_shares = on_shares
        self._warnings = RateLimitedWarnings(on_trouble, clock)
        self._upkeep = upkeep
        self._clock = clock
        self._look_seconds = look_seconds
        self._backlog = Backlog(max_rows, max_payload_bytes, clock)
        self._thread: threading.Thread | None = None

        self._arrived = threading.Event()  # there is something to do
        self._urgent = threading.Event()  # there is no point in gathering more
        self._lock = threading.Lock()  # for the four below
        self._announced: set[str] = set()
        self._hears = False
        self._calls: deque[tuple[Callable[[Store], None], Set[str]]] = deque()
        self._deadline: float | None = None
        self._is_over = False

        # The writer's thread alone changes what follows.
        self._batch: list[Record] = []
        self._markers: list[Marker] = []
        self._lost = 0
        self._trouble: str | None = None
        self._is_gone = False
        self._retry_at = 0.0
        self._retry_seconds = _RETRY_SECONDS[0]
        self._reported = (0, 0)

    @property
    def dropped_payloads(self) -> int:
        """Bodies that were left out because too much was waiting."""
        return self._backlog.dropped_payloads

    @property
    def dropped_rows(self) -> int:
        """Rows that are lost: too many were waiting, no database takes them, or the end came first."""
        return self._backlog.dropped_rows

    @property
    def waiting_rows(self) -> int:
        """How much is still to be written."""
        return self._backlog.records + len(self._batch)

    @property
    def lag(self) -> float:
        """For how many seconds the oldest of that has waited."""
        return self._backlog.lag

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Open the store, and hand over the accounts once. Raises StoreError or VaultError if that fails."""
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="ccflare-writer", daemon=True)
        self._thread.start()
        opened.result()

    def put(self, record: Record) -> None:
        """Have the record written soon. Never waits and never raises; any thread may call it."""
        if self._is_over:
            self._backlog.lose(1)
            return
        self._backlog.put(record)
        if not self._arrived.is_set():
            self._arrived.set()
        if self._trouble is None and self._backlog.has_full_batch and not self._urgent.is_set():
            self._urgent.set()

    def call[T](self, function: Callable[[Store], T], changes: Set[str] = ANYTHING) -> Future[T]:
        """Have `function` called with the store, ahead of what waits; its result or exception as a future.

        `changes` are the kinds of what it may change, see announcements.py: that is looked at anew then. If they are
        not told, everything is, but only after a transaction: most calls do nothing but read.

        Never wait for that future in the writer's own thread, where `on_change` and `on_trouble` run.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_over:
                future.set_exception(StoreError("the database is closed: start the proxy again"))
                return future
            self._calls.append((lambda store: _settle(future, function, store), changes))
        self._hurry()
        return future

    def wake(self, kinds: Set[str]) -> None:
        """Look now for what other processes say to have changed, see announcements.py. Any thread may call it."""
        with self._lock:
            self._announced |= kinds
        self._hurry()

    def hears(self, yes: bool) -> None:
        """Say whether all changes by other processes are announced, by `wake`, from now on. Any thread may call it."""
        self._hears = yes

    def written(self) -> Marker:
        """Told True once everything that was put before is in the database (or dropped), and False if it cannot be."""
        marker: Marker = Future()
        with self._lock:
            if self._is_over or self._is_gone:
                marker.set_result(False)
            else:
                self._backlog.mark(marker)
        self._arrived.set()
        return marker

    def flush(self, timeout: float) -> bool:
        """Whether everything that was put before is in the database (or dropped) within `timeout` seconds."""
        marker = self.written()
        self._hurry()
        try:
            return marker.result(timeout)
        except TimeoutError:
            return False

    def close(self, timeout: float) -> bool:
        """Write what waits, for at most `timeout` seconds, and end. Whether all of it is in the database.

        A second call only waits for the end.
        """
        with self._lock:
            if self._deadline is None:
                self._deadline = self._clock() + timeout
            self._is_over |= self._thread is None
        self._hurry()
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive() and not self._lost
        return True

    def _hurry(self) -> None:
        self._urgent.set()
        self._arrived.set()

    # What follows runs in the writer's thread.

    def _run(self, opened: Future[None]) -> None:
        be_less_urgent()
        with contextlib.ExitStack() as stack:
            try:
                store = self._open_store()
                stack.callback(store.close)
                watch = Watch(
                    store,
                    self._on_change,
                    self._warnings,
                    self._clock,
                    self._on_client_keys,
                    on_store_changed=self._on_store_changed,
                    on_limits=self._on_limits,
                    on_sessions=self._on_sessions,
                    on_peers=self._on_peers,
                    hears=lambda: self._hears,
                    on_shares=self._on_shares,
                    look_seconds=self._look_seconds,
                )
                watch.tell_accounts()
            except BaseException as error:
                self._is_over = True
                opened.set_exception(error)
                return
            opened.set_result(None)
            while self._goes_on():
                try:
                    self._turn(store, watch)
                except Exception as error:  # whatever it was, the next rows still want to be written
                    self._warnings.warn("turn", f"the writer stumbled over {type(error).__name__}: {error}")
                    self._urgent.wait(_RETRY_SECONDS[0])
            self._end(store)

    def _goes_on(self) -> bool:
        if self._deadline is None:
            return True
        if self._is_gone:  # no time would be enough
            return False
        return self._clock() < self._deadline and bool(self._calls or self._batch or self._backlog)

    def _turn(self, store: Store, watch: Watch) -> None:
        self._wait()
        self._tell_announced(watch)
        while self._calls:
            act, changes = self._calls.popleft()
            before = store.transactions
            act(store)  # the database tells only of what other writers have changed
            watch.is_stale |= changes == ANYTHING and store.transactions != before
            self._tell_announced(watch, changes - ANYTHING)
        if self._deadline is not None or self._clock() >= self._retry_at:
            self._write(store)
        watch.is_stale |= store.has_changed_accounts
        store.has_changed_accounts = False
        self._warn_of_drops()
        self._tell_announced(watch)
        watch.look()
        if self._upkeep is not None and self._trouble is None and self._deadline is None:
            self._keep_up(self._upkeep, store)

    def _tell_announced(self, watch: Watch, more: Set[str] = frozenset()) -> None:
        """Between any two steps that may wait for the database's lock: what others have learned is not to wait for it.

        To read takes no lock.
        """
        with self._lock:
            announced, self._announced = self._announced | more, set()
        if announced:
            watch.tell_announced(announced)

    def _keep_up(self, upkeep: Upkeep, store: Store) -> None:
        try:
            upkeep.work(store)
        except CCFlareError as error:
            self._warnings.warn("upkeep", f"what is too old or too much cannot be deleted: {error}")

    def _wait(self) -> None:
        """Until there is something to do, and then a little, for more of it to come together."""
        if not (self._calls or self._batch or self._backlog or self._deadline is not None):
            self._arrived.wait(min(self._look_seconds, self._upkeep.due_in() if self._upkeep else float("inf")))
        self._arrived.clear()
        if self._trouble is not None:
            self._urgent.wait(min(self._look_seconds, max(0.0, self._retry_at - self._clock())))
        elif self._backlog and not self._backlog.has_full_batch and self._deadline is None:
            self._urgent.wait(_LINGER_SECONDS)
        self._urgent.clear()

    def _write(self, store: Store) -> None:
        if not self._batch:
            self._batch, self._markers = self._backlog.take()
        try:
            if self._batch:
                self._write_batch(store)
        except StoreError as error:
            self._is_gone = isinstance(error, Gone)
            self._fail(str(error))
            if self._is_gone:
                self._settle_markers(is_written=False)
            return
        self._settle_markers(is_written=True)
        if self._trouble is not None:
            self._recover()

    def _settle_markers(self, *, is_written: bool) -> None:
        for marker in self._markers:
            marker.set_result(is_written)
        self._markers = []

    def _write_batch(self, store: Store) -> None:
        try:
            store.write(self._batch)
        except StoreError:
            raise
        except Exception:
            # One record is at fault. It must not take the others with it.
            while self._batch:
                self._write_record(store, self._batch[0])
                self._backlog.done([self._batch.pop(0)])
        else:
            self._backlog.done(self._batch)
            self._batch = []

    def _write_record(self, store: Store, record: Record) -> None:
        try:
            store.write([storable(record)])
        except StoreError:
            raise
        except Exception as error:
            self._backlog.lose(1)
            kind = type(record).__name__
            self._warnings.warn("record", f"a record ({kind}) cannot be written and is left out: {error}")

    def _fail(self, cause: str) -> None:
        if cause != self._trouble:
            self._warnings.say(f"nothing can be recorded at the moment: {cause}")
        self._trouble = cause
        self._retry_at = self._clock() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _RETRY_SECONDS[1])

    def _recover(self) -> None:
        self._trouble, self._is_gone = None, False
        self._retry_at = 0.0
        self._retry_seconds = _RETRY_SECONDS[0]
        self._warnings.say(f"recording works again; left to write: {some(len(self._backlog), 'row')}")

    def _warn_of_drops(self) -> None:
        dropped = (self.dropped_payloads, self.dropped_rows)
        if dropped != self._reported:
            message = f"too much waits for the database: {dropped[0]} bodies and {dropped[1]} rows are lost so far"
            if self._warnings.warn("drops", message):
                self._reported = dropped

    def _end(self, store: Store) -> None:
        """Refuse what comes from now on, and account for what is left."""
        with self._lock:
            self._is_over = True
        while self._calls:
            self._calls.popleft()[0](store)
        while self._backlog:
            batch, markers = self._backlog.take()
            self._batch += batch
            self._markers += markers
        for marker in self._markers:
            marker.set_result(not self._batch)
        if self._batch:
            self._lost = len(self._batch)
            self._backlog.lose(self._lost)
            cause = self._trouble or "there was no time left"
            self._warnings.say(f"{self._lost} rows could not be recorded before the end: {cause}")


def _settle[T](future: Future[T], function: Callable[[Store], T], store: Store) -> None:
    """Give the future what the function gives, unless nobody wants it any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(store))
    except BaseException as error:
        future.set_exception(error)
