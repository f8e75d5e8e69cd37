"""The writer's regular duties: changed accounts, heartbeat, sums, index, size of the write-ahead log."""

import threading
from collections.abc import Callable, Sequence, Set

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.affinity import Held
from ccflare_core.accounts.peers import Peers
from ccflare_core.clients.authentication import KeyRing
from ccflare_core.db.announcements import Kind
from ccflare_core.errors import CCFlareError
from ccflare_core.program import typed
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from ccflare_core.store.takeover import SETTLING_SECONDS
from ccflare_core.text import some
from ccflare_core.writer.warnings import RateLimitedWarnings

LOOK_SECONDS = 0.25
"""How often to look; a change by another process is to be known within a second."""

_WHOLE_SECONDS = 5.0
_WHOLE_SHARE = 20
"""Where changes are announced, how often to look at all that may have changed all the same: somebody may have changed
rows by hand. It comes so many times later than the last look took, if that is later still: there may be many accounts.
"""
_URGENT_SECONDS = 0.7
"""How often then to look at who may do what, and at the accounts: a revoked key, a block and a pause count within a
second also where their notice is lost, as on a connection that a firewall has forgotten. Only the accounts wait longer
if there are many.
"""
_PEERS_SECONDS = 1.0
"""How often the others tell what they have in flight, which is not announced."""
_BEAT_SECONDS = 15.0
_CHECK_SECONDS = 30.0
_CHECK_SHARE = 500
"""The next check for damage comes so many times later than the last one took, if that is later still."""

_TAKEN_OVER = (
    "a standby has taken the place of the database server: what was recorded or changed in the last moments may be "
    f"missing, and if other proxies run, no token is refreshed for {SETTLING_SECONDS:.0f} s"
)
_SUM_SECONDS = 30.0
_INDEX_SECONDS = 1.0
_LOG_BYTES = 256 * 1024 * 1024


def in_thread(work: Callable[[], None]) -> None:
    """Do this in a thread that nobody waits for, at the end of the process neither."""
    threading.Thread(target=work, name="ccflare-check", daemon=True).start()


class Watch:
    """Looks at the store now and then, in the thread that the store belongs to."""

    def __init__(
        self,
        store: Store,
        on_change: Callable[[list[Account]], None],
        warnings: RateLimitedWarnings,
        clock: Callable[[], float],
        on_client_keys: Callable[[KeyRing], None] | None = None,
        on_store_changed: Callable[[Store], None] = lambda store: None,
        on_limits: Callable[[Learned], None] = lambda learned: None,
        on_sessions: Callable[[Sequence[Held]], None] = lambda held: None,
        on_peers: Callable[[Peers], None] = lambda peers: None,
        on_shares: Callable[[], None] = lambda: None,
        begin: Callable[[Callable[[], None]], None] = in_thread,
        hears: Callable[[], bool] = lambda: False,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`on_store_changed` is shown the store at first and whenever it has changed; `begin` does what takes long.

        `hears` tells whether `tell_announced` is called for all that other processes change.
        """
        self._hears = hears
        self._on_store_changed = on_store_changed
        self._on_limits = on_limits
        self._on_sessions = on_sessions
        self._on_peers = on_peers
        self._on_shares = on_shares
        self._store = store
        self._on_change = on_change
        self._on_client_keys = on_client_keys
        self._warnings = warnings
        self._clock = clock
        self._look_seconds = look_seconds
        self._accounts: list[Account] | None = None
        self._ring: KeyRing | None = None
        self._has_told_of_wear = False
        self._looked_at = self._beat_at = self._sum_at = self._index_at = self._peers_at = float("-inf")
        self._whole_at = self._access_at = self._accounts_at = float("-inf")
        self._has_changed = False
        # In this order: what is learned of an account's limits is for accounts that are known.
        self._parts = {
            Kind.KEYS: self._look_for_keys,
            Kind.ACCOUNTS: self._tell_changed_accounts,
            Kind.ACCESS: self._tell_access,
            Kind.LIMITS: self._tell_limits,
            Kind.SESSIONS: self._tell_sessions,
            Kind.SHARES: self._tell_shares,
        }
        self._begin = begin
        self._check_at = clock() + _CHECK_SECONDS
        self._problems: list[str] = []
        self.is_stale = True
        """Whether the accounts may differ from those that were last told."""

    def tell_accounts(self) -> None:
        """Hand over the accounts unless they were told before. Raises StoreError or VaultError."""
        for tell in self._parts.values():
            tell()
        self._tell_peers()
        for problem in self._store.altered_rows():
            self._warnings.warn(problem, problem)
        self.is_stale = False

    def tell_announced(self, kinds: Set[str]) -> None:
        """Hand over what another process says to have changed, and nothing else: all of it takes several times as long.

        The next look finds the rest. Of kinds that only a newer version knows, that comes at once.
        """
        if not kinds <= self._parts.keys():
            self._looked_at, self.is_stale = float("-inf"), True
            return
        try:
            for kind, tell in self._parts.items():
                if kind in kinds:
                    tell()
        except CCFlareError as error:
            self.is_stale = True
            self._warnings.warn(str(error), str(error))

    def _tell_changed_accounts(self) -> None:
        accounts = self._store.accounts.all()
        if accounts != self._accounts:
            self._on_change(list(accounts))
            self._accounts = accounts

    def _tell_access(self) -> None:
        if self._on_client_keys is not None and (ring := self._store.clients.ring()) != self._ring:
            self._on_client_keys(ring)
            self._ring = ring
        self._on_store_changed(self._store)

    def _tell_limits(self) -> None:
        if any(learned := self._store.limits_of_others.look()):
            self._on_limits(learned)

    def _tell_sessions(self) -> None:
        if held := self._store.affinity.look():
            self._on_sessions(held)

    def _tell_shares(self) -> None:
        if self._store.shares.look():
            self._on_shares()

    def _tell_peers(self) -> None:
        self._peers_at = self._clock() + _PEERS_SECONDS
        if (peers := self._store.peers.look()) is not None:
            self._on_peers(peers)

    def look(self) -> None:
        """Do what is due. What the database refuses becomes a warning."""
        now = self._clock()
        if not self.is_stale and now - self._looked_at < self._look_seconds:
            return
        self._looked_at = now
        try:
            self._look_for_changes(now)
            if now - self._beat_at >= _BEAT_SECONDS:
                self._beat_at = now
                self._beat()
            if now >= self._check_at:
                self._check_at = float("inf")
                self._begin(self._look_for_damage)
            self._tell_damage()
            if now >= self._sum_at:
                # A long past is added up in many small steps, between which rows are written.
                self._sum_at = now if self._store.usage.step() else now + _SUM_SECONDS
            if now >= self._index_at:
                self._index_at = now if self._store.search_index.step() else now + _INDEX_SECONDS
        except CCFlareError as error:
            self._warnings.warn(str(error), str(error))

    def _look_for_changes(self, now: float) -> None:
        # Asked before the accounts are read: a commit in between is then seen at the next look.
        self._has_changed |= self._store.changed()
        if self._store.takeover.is_news():
            self.is_stale = True
            self._warnings.say(_TAKEN_OVER)
        if self.is_stale or (self._has_changed and (now >= self._whole_at or not self._hears())):
            self.tell_accounts()
            self._has_changed = False  # not before all of it was read
            self._whole_at = self._later(_WHOLE_SECONDS, now)
            self._access_at = self._accounts_at = self._clock() + _URGENT_SECONDS
        elif self._has_changed:
            self._look_for_urgent_changes(now)
            if now >= self._peers_at:
                self._tell_peers()

    def _look_for_urgent_changes(self, now: float) -> None:
        """Also of those that should have been announced and were not."""
        if now >= self._access_at:
            self._look_for_keys()
            self._tell_access()
            self._access_at = self._clock() + _URGENT_SECONDS
        if now >= self._accounts_at:
            began = self._clock()
            self._tell_changed_accounts()
            self._accounts_at = self._later(_URGENT_SECONDS, began)

    def _later(self, seconds: float, began: float) -> float:
        """In so many seconds, or after what began then has taken a small share of the time."""
        ended = self._clock()
        return ended + max(seconds, _WHOLE_SHARE * (ended - began))

    def _look_for_keys(self) -> None:
        if trouble := self._store.look_for_keys():
            self._warnings.warn("keys", trouble)

    def _look_for_damage(self) -> None:
        """SQLite goes on writing into a file whose pages something else has spoilt, so look for that.

        In a thread: a large file takes seconds, for which no record would be written and no page's reading audited.
        """
        began = self._clock()
        try:
            self._problems = self._store.problems()
        finally:
            self._check_at = began + max(_CHECK_SECONDS, _CHECK_SHARE * (self._clock() - began))

    def _tell_damage(self) -> None:
        if problems := self._problems:
            self._problems = []
            self._warnings.warn(
                "damage", f"the database is damaged ({problems[0]}): stop the proxy and restore a backup"
            )

    def _beat(self) -> None:
        if (run := self._store.runs.current) is not None:
            self._store.heartbeat(run)
            if crashed := self._store.dead_runs.close():
                self._warnings.say(f"another proxy crashed with {some(crashed, 'exchange')} open: recorded as crashed")
        self._tell_peers()  # one that is dead changes nothing
        if not self._has_told_of_wear and (key := self._store.worn_key()) is not None:
            self._has_told_of_wear = True
            self._warnings.warn(
                "wear", f"the data key {key.id} has sealed {key.sealed} values: run `{typed('keys rotate')}` soon"
            )
        if self._store.log_bytes() > _LOG_BYTES:
            self._warnings.warn("log", "the database's -wal file is very large: end the program that keeps reading it")
