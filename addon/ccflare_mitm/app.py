"""Everything that serves a running proxy, made in order and closed in reverse."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.tls import TlsData
from mitmproxy.utils import asyncio_utils

from ccflare_core import __version__
from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Part
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.accounts.token_keeper import TokenKeeper
from ccflare_core.accounts.token_refresh import ANSWER_SECONDS, Refresher
from ccflare_core.accounts.usage_poll import PATH, UsagePoll
from ccflare_core.anthropic.agents import Agents
from ccflare_core.anthropic.price_files import PriceWatch
from ccflare_core.audit.entries import By
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.authentication import Authenticator, KeyRing
from ccflare_core.clients.rate_limits import RateLimits, Use, month_start
from ccflare_core.clients.totp import Factor, SecondFactor
from ccflare_core.config.permissions import check, guarded_files, require
from ccflare_core.config.record_mode import Mode, record_mode
from ccflare_core.config.settings import Settings, config_file
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.exchange.exchange import Exchanges
from ccflare_core.exchange.memory import MemoryWatch, Room
from ccflare_core.exchange.recorder import Recorder
from ccflare_core.exchange.records import CooldownCleared
from ccflare_core.exchange.steps import Opening, Outcome
from ccflare_core.http.addresses import Networks
from ccflare_core.http.client import Fetcher
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import PinGuard
from ccflare_core.process import resident_bytes
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.client_usage import has_other_runs, uses_since
from ccflare_core.store.store import Store
from ccflare_core.writer.auditor import Auditor
from ccflare_core.writer.retention import Policy, Retention
from ccflare_core.writer.writer import Writer
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.header_masking import HeaderMask
from ccflare_mitm.gate.management import Management, renew_digest, report_failures
from ccflare_mitm.gate.pages import Admin
from ccflare_mitm.host.options import in_use
from ccflare_mitm.host.tls import ClientAuthority, prefer_http1
from ccflare_mitm.inspector import Inspector
from ccflare_mitm.wire.hooks import HookRunner
from ccflare_mitm.wire.layer import is_outer_tls
from ccflare_mitm.wire.reaper import Reaper
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.upstream import UpstreamProof, target_for

logger = logging.getLogger("ccflare")

FLUSH_SECONDS = 10.0
DRAIN_POLL = 0.05
SPENDING_SECONDS = 60.0
"""How often to ask what other proxies on the same database have used."""
PRICES_SECONDS = 2.0
"""How often the price file is looked at."""

CONSOLE = By("console")
"""Who gives commands inside of mitmproxy, as the audit log calls them."""
MEMORY_SECONDS = 1.0

T = TypeVar("T")


class House:
    """Wires the parts together.

    Both making it and `open` raise CCFlareError if the database, the key, the prices or the agents cannot be used. So
    does `open` if a file that holds a secret is open to other users.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self._loop = loop
        self._run_id = secrets.token_hex(8)
        self._config = config_file(environ, Path(__file__).resolve().parents[2])
        source = choose(settings, environ)
        self._retention = Retention(self._policy, self._warn)
        self._writer = Writer(
            lambda: Store.open(settings.database, source, audit_file=settings.audit_path),
            on_change=self._accounts_changed,
            on_trouble=self._warn,
            on_client_keys=self._client_keys_changed,
            also=self._rules_changed,
            upkeep=self._retention,
        )
        self.authenticator = Authenticator(
            wall=time.time,  # noqa: TID251
            open_loopback=lambda: self.settings.open_loopback,
            outdated=lambda key_id, secret: renew_digest(self._writer, key_id, secret),
            report=report_failures,
        )
        pool = AccountPool(
            strategy=settings.strategy,
            session_seconds=settings.session_seconds,
            expired=lambda account: self.keeper.unavailable(account),
            is_refreshing=lambda account: self.keeper.is_refreshing(account),
        )
        recorder = Recorder(
            self._writer,
            run_id=self._run_id,
            mode=self._record_mode,
            body_limit=lambda: self.settings.capture_limit_bytes,
            wall=time.time,  # noqa: TID251
            account_name=self._account_name,
        )
        trusted = ctx.options.ssl_verify_upstream_trusted_ca
        self.auditor = Auditor(self._writer, stop_after=lambda: self.settings.audit_stop_after_seconds)
        guard = PinGuard(lambda: self.settings.upstream_pins, enforced=lambda: self.settings.pins_mode == "enforce")
        self.proof = UpstreamProof(guard)
        self._client_authority = client_authority(settings)
        ca_file = Path(trusted).expanduser() if trusted else None
        self._fetcher = Fetcher(ca_file=ca_file, pins=guard, egress=lambda: self.settings.egress)
        self._refresh_fetcher = Fetcher(
            ca_file=ca_file, pins=guard, egress=lambda: self.settings.egress, total_seconds=ANSWER_SECONDS
        )
        self.keeper = self._make_keeper(pool)
        self._poll = self._make_poll(pool, recorder)
        self._tasks: list[asyncio.Task[None]] = []
        self._room = Room(lambda: self.settings.capture_budget_bytes)
        self._memory = MemoryWatch(
            self._room, occupied=resident_bytes, limit=lambda: self.settings.memory_soft_limit_bytes
        )
        self._prices = PriceWatch(lambda: self.settings.prices_path, self._warn)
        self.exchanges = Exchanges(
            settings,
            pool,
            recorder,
            self._prices.start(),
            tokens=self.keeper,
            room=self._room,
            agents=Agents.load(settings.agents_path),
        )
        management = Management(self._call, self._replace_accounts, self._take_client_keys)
        admin = Admin(self.exchanges, self.keeper.state, management)
        self._rates = RateLimits(self._warn)
        self.access = AccessLists(settings)
        self._factor = SecondFactor(time.time, self._keep_factor)  # noqa: TID251
        self.gate = Gate(
            self.exchanges, self.authenticator, self.access, self._rates, admin, self._factor, auditor=self.auditor
        )
        connections = ctx.master.addons.get("proxyserver").connections
        self.reaper = Reaper(connections, lambda: self.settings, is_over=self.gate.tunnels.is_over)
        self.mask = HeaderMask()
        self.services = Services(
            find=self.gate.find,
            target=self.target,
            proof=self.proof,
            settings=lambda: self.settings,
            claim=self.gate.names.note,
            unmask=self.mask.unmask,
            decisions=self.gate.decisions,
            hooks=HookRunner(ctx.master.addons),
            watch=self.reaper.watch,
            let_go=self.reaper.let_go,
        )
        self._inspector = Inspector()

    def _make_keeper(self, pool: AccountPool) -> TokenKeeper:
        refresher = Refresher(
            call=self._call,
            send=self._refresh_fetcher.send,
            endpoints=lambda: self.settings.endpoints,
            owner=self._run_id,
        )
        return TokenKeeper(
            refresher,
            accounts=pool.accounts,
            adopted=lambda account: self._clear(pool.change_account(account)),
            before_seconds=lambda: self.settings.refresh_before_seconds,
        )

    def _make_poll(self, pool: AccountPool, recorder: Recorder) -> UsagePoll:
        return UsagePoll(
            pool,
            send=self._fetcher.send,
            url=lambda: f"{self.settings.upstream}{PATH}",
            seconds=lambda: self.settings.usage_poll_seconds,
            learned=recorder.learned,
        )

    def _call(self, function: Callable[[Store], T], /) -> Awaitable[T]:
        """Run it on the writer's store and wait for its result without blocking the event loop."""
        return asyncio.wrap_future(self._writer.call(function))

    def open(self) -> None:
        """Look at the files, start the writer, close what a dead run left open, and take up what it knew.

        From then on tokens are kept alive, and memory is watched.
        """
        files = guarded_files(self.settings, Path(ctx.options.confdir).expanduser(), self._config)
        require(files)
        self._writer.start()
        for finding in check(files):
            logger.warning("%s", finding)
        pool = self.exchanges.pool

        def begin(store: Store) -> int:
            now = time.time()  # noqa: TID251
            host = socket.gethostname()
            crashed = store.close_dead_runs(host, is_alive, now)
            store.search_index.begin(plain=self.settings.search_index == "plain")
            self.auditor.begin(store, scope(), in_use(), version=__version__, run=self._run_id, pid=os.getpid())
            store.start_run(self._run_id, host, os.getpid())
            pool.replace_accounts(store.accounts())
            pool.restore(store.cooldowns(), store.latest_windows())
            self.authenticator.replace(store.clients.ring())
            self._take_rules(store.blocklist.networks(), store.factors.get())
            self._rates.restore(uses_since(store.query, month_start(now), but=self._run_id))
            return crashed

        crashed = self._writer.call(begin).result(timeout=FLUSH_SECONDS)
        if crashed:
            logger.warning("%d exchanges of an earlier run that died were closed as crashed", crashed)
        for host in self.settings.upstream_pins.without_backup():
            logger.warning("%s has one pin only: if its key is replaced, nothing can be sent to it", host)
        self._start(self.keeper.run(), "tokens")
        self._start(self._poll.run(), "usage")
        self._start(self._watch_spending(), "spending")
        self._start(self._follow_prices(), "prices")
        self._start(self.auditor.run(), "audit")
        self._start(self.reaper.run(), "reaper")
        self._start(self._watch_memory(), "memory")

    def _record_mode(self, opening: Opening) -> Mode:
        settings = self.settings
        mode = record_mode(settings.record, settings.record_paths, opening.path, opening.record)
        mode = Mode.METADATA if mode.keeps_bodies and self._room.is_closed else mode
        return self._retention.allowed(mode)

    async def _watch_memory(self) -> None:
        while True:
            self._memory.look()
            await asyncio.sleep(MEMORY_SECONDS)

    async def _watch_spending(self) -> None:
        """Learn now and then what other proxies on this database let the client keys use."""

        def look(store: Store) -> list[Use] | None:
            if not has_other_runs(store.query, self._run_id):
                return None
            return uses_since(store.query, month_start(time.time()), but=self._run_id)  # noqa: TID251

        while True:
            await asyncio.sleep(SPENDING_SECONDS)
            try:
                uses = await self._call(look)
            except CCFlareError as error:
                self._warn(f"what other proxies have used is not known: {error}")
                continue
            if uses is not None:
                self._rates.restore(uses)

    def greeting(self) -> str:
        """One line that tells a person what they have started."""
        accounts = len(self.exchanges.pool.status())
        origin, passthrough = self.settings.upstream, self.settings.passthrough
        target = f"{origin.scheme}://{origin.host}:{origin.port}"
        if accounts:
            return f"ccflare pools {accounts} account{'s' * (accounts > 1)} for {target}"
        if passthrough == "never":
            return "ccflare has no account yet and refuses requests: add one with scripts/accounts.py"
        return f"ccflare has no account yet: requests pass to {target} with the client's own credential"

    def change(self, settings: Settings) -> None:
        """Go on with these settings as soon as the change is audited.

        Where the database, the key and the strategy are stays until a restart, and whether searches have an index.
        Raises ConfigError, and goes on as before, if the authority of the clients' certificates cannot be used.
        """
        authority, options = client_authority(settings), in_use()

        def done(change: Future[list[str]]) -> None:
            if error := change.exception():
                logger.warning("the options stay as they were, for the change cannot be audited: %s", error)
            else:
                self._loop.call_soon_threadsafe(self._take_settings, settings, authority)

        self._writer.call(lambda store: store.configurations.take(scope(), options)).add_done_callback(done)

    def _take_settings(self, settings: Settings, authority: ClientAuthority | None) -> None:
        self._client_authority = authority
        self.settings = self.exchanges.settings = settings
        self.access.change(settings)

    def upstream(self) -> Origin:
        """Where requests go."""
        return self.settings.upstream

    def target(self, client: Client) -> UpstreamTarget:
        """Where credentials go, for a client that has come by this door."""
        return target_for(self.settings, client)

    def start_client_tls(self, data: TlsData) -> None:
        """Begin TLS with a client. If there is an authority for them, it shows its certificate at the proxy's door."""
        if self._client_authority is not None and is_outer_tls(data.context):
            self._client_authority.demand_certificate(data)
        else:
            ctx.master.addons.get("tlsconfig").tls_start_client(data)
        prefer_http1(data)

    def show(self, flow: http.HTTPFlow) -> None:
        """Tell a finished flow's story in the inspector, and bound the inspector's list."""
        if exchange := self.gate.find(flow):
            self._inspector.show(flow, exchange)
        self._inspector.bound(flow, self.settings.inspector_flows)

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume an account in the database. Raises StoreError if there is no such account."""
        ids = {status.account.name: status.account.id for status in self.exchanges.pool.status()}
        if name not in ids:
            raise StoreError(f"There is no account called {name}; ccflare.accounts shows all.")

        def change(store: Store) -> list[Account]:
            with store.acting(CONSOLE):
                store.update_account(ids[name], paused=paused)
            return store.accounts()

        self._writer.call(change).add_done_callback(self._paused)

    def _paused(self, change: Future[list[Account]]) -> None:
        if error := change.exception():
            logger.warning("the account stays as it was: %s", error)
        else:
            self._accounts_changed(change.result())

    async def _follow_prices(self) -> None:
        """Take up new prices as soon as their file has changed."""
        while True:
            await asyncio.sleep(PRICES_SECONDS)
            if prices := await asyncio.to_thread(self._prices.look):
                self.exchanges.prices = prices
                logger.info("new prices are in force, for answers that end from now on")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio_utils.create_task(work, name=f"ccflare {name}", keep_ref=True))

    async def close(self, hurry: asyncio.Event) -> None:
        """Wait for open answers (a second signal shortens it), record the rest as cut, write everything down."""
        deadline = self._loop.time() + self.settings.drain_seconds
        while self.exchanges.open and self._loop.time() < deadline and not hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), DRAIN_POLL)
        cut = self.exchanges.finish_all(Outcome.SHUTDOWN)
        if cut:
            logger.warning("%d open exchanges were cut by the shutdown", cut)
        for task in self._tasks:
            task.cancel()
        await self.keeper.close(ANSWER_SECONDS, hurry)
        await asyncio.to_thread(self._end_run)

    def _end_run(self) -> None:
        """Blocks until all is written, or for as long as that may take."""
        if self._writer.flush(FLUSH_SECONDS / 2):
            self._writer.call(lambda store: self.auditor.end(store, scope()))
            self._writer.call(lambda store: store.end_run(self._run_id))
        self._writer.close(FLUSH_SECONDS / 2)

    def _policy(self) -> Policy:
        now = self.settings
        return Policy(now.payload_days, now.request_days, now.database_limit_bytes, now.minimum_free_bytes)

    def _warn(self, trouble: str) -> None:
        logger.warning("%s", trouble)

    def _account_name(self, account_id: str) -> str:
        names = {s.account.id: s.account.name for s in self.exchanges.pool.status()}
        return names.get(account_id, account_id)

    def _accounts_changed(self, accounts: list[Account]) -> None:
        """Called by the writer's thread."""
        self._loop.call_soon_threadsafe(self._replace_accounts, accounts)

    def _client_keys_changed(self, ring: KeyRing) -> None:
        """Called by the writer's thread."""
        self._loop.call_soon_threadsafe(self._take_client_keys, ring)

    def _take_client_keys(self, ring: KeyRing) -> None:
        self.authenticator.replace(ring)
        self.reaper.hurry()

    def _rules_changed(self, store: Store) -> None:
        """Called by the writer's thread."""
        self._loop.call_soon_threadsafe(self._take_rules, store.blocklist.networks(), store.factors.get())

    def _take_rules(self, blocked: Networks, factor: Factor | None) -> None:
        self.access.ban(blocked)
        self._factor.replace(factor)

    async def _keep_factor(self, factor: Factor, spent: str | None) -> None:
        await self._call(lambda store: store.factors.keep(factor, spent))

    def _replace_accounts(self, accounts: list[Account]) -> None:
        self._clear(self.exchanges.pool.replace_accounts(self.keeper.overlay(accounts)))

    def _clear(self, cooldowns: Iterable[tuple[str, Part]]) -> None:
        for account_id, part in cooldowns:
            self._writer.put(CooldownCleared(account_id, part))


def client_authority(settings: Settings) -> ClientAuthority | None:
    """Who signs the certificates that clients must show; None if they need none."""
    return ClientAuthority(settings.client_ca) if settings.client_ca else None


def scope() -> str:
    """Which of the proxies that may share a database this is."""
    return f"{socket.gethostname()}:{ctx.options.listen_port or 0}"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine with that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
