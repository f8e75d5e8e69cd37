"""The parts of a running proxy, built room by room from the bottom up: each gets what stands below it.

None of them does anything yet: the app starts the writer and the tasks, and from then on events come in.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.connection import Client

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Part
from ccflare_core.accounts.owners import Holding, Owner
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.accounts.token_keeper import TokenKeeper
from ccflare_core.accounts.token_refresh import ANSWER_SECONDS, Refresher
from ccflare_core.accounts.usage_poll import PATH, UsagePoll
from ccflare_core.anthropic.agents import Agents
from ccflare_core.anthropic.ids import Id, Kind
from ccflare_core.anthropic.price_files import PriceWatch
from ccflare_core.audit.entries import By
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.authentication import Authenticator, KeyRing
from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.clients.sessions import Sessions
from ccflare_core.clients.strangers import Strangers, room_for_all, share_of
from ccflare_core.clients.totp import SecondFactor, Used, Wrong
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.record_mode import Mode, record_mode
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.memory import MemoryBudget, MemoryWatch
from ccflare_core.exchange.ownership import Ownership, Pending
from ccflare_core.exchange.recorder import Recorder
from ccflare_core.exchange.records import CooldownCleared
from ccflare_core.exchange.steps import Opening
from ccflare_core.http.client import Fetcher
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.pinning import PinGuard
from ccflare_core.process import resident_bytes
from ccflare_core.secrets import egress_proxy
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.spool import Spool, SpoolRoom
from ccflare_core.store.store import Store
from ccflare_core.writer.alarms import Alarms
from ccflare_core.writer.auditor import Auditor
from ccflare_core.writer.delivery import sinks
from ccflare_core.writer.monitor import Monitor
from ccflare_core.writer.news import Rules, StoreCalls, StoreNews
from ccflare_core.writer.retention import Policy, Retention
from ccflare_core.writer.writer import Writer
from ccflare_mitm.alerting import Alerting, LocalConditions
from ccflare_mitm.gate.destinations import Destinations
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.header_masking import HeaderMask
from ccflare_mitm.gate.management import Management, StartLinks, renew_digest, report_failures
from ccflare_mitm.gate.tunnel_opener import TunnelOpener
from ccflare_mitm.host.listener import local_address, own_names, ports
from ccflare_mitm.host.options import current
from ccflare_mitm.host.replays import Replay
from ccflare_mitm.inspector.held import Held, Recorded
from ccflare_mitm.inspector.inspector import Inspector
from ccflare_mitm.inspector.repeat import Place, Sender
from ccflare_mitm.inspector.replay import Replayer, Way
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.logins import Logins
from ccflare_mitm.pages.readers import Readers
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.wire.hooks import HookRunner
from ccflare_mitm.wire.reaper import Reaper
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.sockets import most_clients
from ccflare_mitm.wire.upstream import UpstreamProof, target_for

logger = getLogger("ccflare")


@dataclass(frozen=True, slots=True)
class Upstream:
    """What leads to the upstream, beside mitmproxy's own connections."""

    proof: UpstreamProof
    fetcher: Fetcher
    refresh_fetcher: Fetcher
    """It waits longer for an answer: one that nobody reads is a lost login."""
    proxy: EgressProxy | None
    """What `ccflare_egress_proxy` has led to."""
    fetch: Callable[..., Fetcher]
    """Makes a client like `fetcher`; arguments of Fetcher make it another."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The database and what works on it in the writer's thread."""

    writer: Writer
    call: StoreCalls
    news: StoreNews
    retention: Retention
    auditor: Auditor
    readers: Readers
    """What pages read of it, in threads of their own."""


@dataclass(frozen=True, slots=True)
class OwnersInStore:
    """The database's part of who made what, asked in the writer's thread."""

    writer: Writer

    def find(self, wanted: Sequence[Id]) -> Pending[Mapping[Id, Owner]]:
        """The owners of those that it knows."""
        return self.writer.call(lambda store: store.owners.find(wanted))

    def holdings(self, kind: Kind) -> Pending[Sequence[Holding]]:
        """What each account has of one kind."""
        return self.writer.call(lambda store: store.owners.holdings(kind))


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts and their tokens."""

    pool: AccountPool
    keeper: TokenKeeper


@dataclass(frozen=True, slots=True)
class Recording:
    """The open exchanges, and what is kept of them."""

    exchanges: Exchanges
    recorder: Recorder
    prices: PriceWatch
    memory: MemoryWatch


@dataclass(frozen=True, slots=True)
class Admission:
    """What decides on a request, and what it asks."""

    gate: Gate
    authenticator: Authenticator
    access: AccessLists
    strangers: Strangers
    rates: RateLimits
    mask: HeaderMask
    opener: TunnelOpener
    pages: PageServer
    links: StartLinks


@dataclass(frozen=True, slots=True)
class Wire:
    """What keeps the connections."""

    services: Services
    reaper: Reaper


def build_upstream(live: LiveSettings) -> Upstream:
    """Raises ConfigError if the file of authorities that are trusted upstream, or the proxy, cannot be used."""
    named = egress_proxy.configured(live().egress_proxy)

    def proxy() -> EgressProxy | None:
        return named or egress_proxy.of_modes(ctx.options.mode, ctx.options.upstream_auth)

    trusted = ctx.options.ssl_verify_upstream_trusted_ca
    pins = PinGuard(live.reader("upstream_pins"), enforced=lambda: live().pins_mode == "enforce")
    ca_file = Path(trusted).expanduser() if trusted else None
    fetch = partial(Fetcher, ca_file=ca_file, pins=pins, egress=live.reader("egress"), proxy=proxy)
    return Upstream(UpstreamProof(pins), fetch(), fetch(total_seconds=ANSWER_SECONDS), named, fetch)


def build_storage(live: LiveSettings, environ: Mapping[str, str], news: StoreNews) -> Storage:
    """Raises ConfigError or VaultError if the key's source cannot be used."""
    settings = live()
    source = choose(settings, environ)
    retention = Retention(lambda: Policy.of(live()), warn)
    writer = Writer(
        lambda: Store.open(settings.database, source, audit_file=settings.audit_path),
        on_change=news.accounts.send,
        on_trouble=warn,
        on_client_keys=news.client_keys.send,
        on_store_changed=news.send_rules,
        upkeep=retention,
    )
    auditor = Auditor(writer, stop_after=live.reader("audit_stop_after_seconds"))
    readers = Readers(lambda: Store.open(settings.database, source, read_only=True))
    return Storage(writer, StoreCalls(writer), news, retention, auditor, readers)


def build_accounts(live: LiveSettings, storage: Storage, upstream: Upstream, run_id: str) -> Accounts:
    """The pool and the keeper of its tokens, which follow the accounts in the database."""

    def clear(cooldowns: Iterable[tuple[str, Part]]) -> None:
        for account_id, part in cooldowns:
            storage.writer.put(CooldownCleared(account_id, part))

    def replace(accounts: list[Account]) -> None:
        clear(pool.replace_accounts(keeper.overlay(accounts)))

    pool = AccountPool(
        strategy=live().strategy,
        session_seconds=live().session_seconds,
        # The two need each other. These are called for a request, and none comes before both are here.
        expired=lambda account: keeper.unavailable(account),
        is_refreshing=lambda account: keeper.is_refreshing(account),
    )
    keeper = TokenKeeper(
        Refresher(
            call=storage.call,
            send=upstream.refresh_fetcher.send,
            endpoints=live.reader("endpoints"),
            owner=run_id,
        ),
        accounts=pool.accounts,
        adopted=lambda account: clear(pool.change_account(account)),
        before_seconds=live.reader("refresh_before_seconds"),
    )
    storage.news.accounts.listen(replace)
    return Accounts(pool, keeper)


def build_recording(live: LiveSettings, storage: Storage, accounts: Accounts, run_id: str) -> Recording:
    """Raises ConfigError if the prices or the agents cannot be read."""
    settings = live()
    budget = MemoryBudget(live.reader("capture_budget_bytes"))
    memory = MemoryWatch(budget, occupied=resident_bytes, limit=live.reader("memory_soft_limit_bytes"))
    prices = PriceWatch(live.reader("prices_path"), warn)
    recorder = Recorder(
        storage.writer,
        run_id=run_id,
        mode=mode_of(live, budget, storage.retention),
        body_limit=live.reader("capture_limit_bytes"),
        wall=time.time,  # noqa: TID251
        account_name=name_in(accounts.pool),
    )
    ownership = Ownership(OwnersInStore(storage.writer), storage.writer.put)
    storage.news.accounts.listen(ownership.keep)
    exchanges = Exchanges(
        settings,
        accounts.pool,
        recorder,
        prices.start(),
        tokens=accounts.keeper,
        memory=budget,
        ownership=ownership,
        agents=Agents.load(settings.agents_path),
    )
    live.listen(exchanges.change)
    return Recording(exchanges, recorder, prices, memory)


def build_usage_poll(live: LiveSettings, accounts: Accounts, upstream: Upstream, recording: Recording) -> UsagePoll:
    """What asks for the limits of idle accounts."""
    return UsagePoll(
        accounts.pool,
        send=upstream.fetcher.send,
        url=lambda: live().api_url(PATH),
        seconds=live.reader("usage_poll_seconds"),
        learned=recording.recorder.learned,
    )


def build_admission(
    live: LiveSettings, storage: Storage, accounts: Accounts, recording: Recording, run_id: str
) -> Admission:
    """The gate with all that it asks, which follow the client keys and rules in the database."""

    async def keep_try(tried: Used | Wrong) -> bool:
        return await storage.call(lambda store: store.factors.keep(tried))

    def take_rules(rules: Rules) -> None:
        access.ban(rules.blocked)
        second_factor.replace(rules.factor)

    news = storage.news
    authenticator = Authenticator(
        wall=time.time,  # noqa: TID251
        open_loopback=live.reader("open_loopback"),
        outdated=lambda key_id, secret: renew_digest(storage.writer, key_id, secret),
        report=report_failures,
    )
    management = Management(storage.call, news.accounts.tell, news.client_keys.tell)
    second_factor = SecondFactor(time.time, keep_try)  # noqa: TID251
    sessions = Sessions()
    links = StartLinks(storage.call, run_id)
    logins = Logins(authenticator, sessions, links.read, management.note, time.monotonic, storage.auditor)
    monitor = Monitor(recording.exchanges, storage.writer)
    admin = Admin(
        recording.exchanges,
        accounts.keeper.state,
        management,
        storage.readers,
        logins,
        monitor,
        current,
        needs_code=lambda: second_factor.is_needed,
    )
    rates = RateLimits(warn)
    access = AccessLists(live())
    strangers = Strangers(
        lambda: share_of(most_clients(live())),
        lambda: access.access.trusted,
        room=lambda: room_for_all(most_clients(live())),
    )
    pages = PageServer(admin, second_factor, storage.auditor)
    live.listen(access.change)
    news.client_keys.listen(authenticator.replace)
    news.rules.listen(take_rules)
    gate = Gate(
        recording.exchanges,
        authenticator,
        access,
        rates,
        pages,
        second_factor,
        auditor=storage.auditor,
        sessions=sessions,
        strangers=strangers,
        own_names=own_names,
    )
    opener = TunnelOpener(
        gate,
        Destinations(live, ports),
        rates,
        storage.writer.put,
        run_id=run_id,
        wall=time.time,  # noqa: TID251
        records=records_tunnels(live, storage.retention),
    )
    return Admission(gate, authenticator, access, strangers, rates, HeaderMask(), opener, pages, links)


def records_tunnels(live: LiveSettings, retention: Retention) -> Callable[[str | None], bool]:
    """Whether there is a row for a tunnel of a client key that is recorded in this mode (None: as everybody)."""
    return lambda mode: retention.allowed(record_mode(live().record, (), "", mode)) is not Mode.OFF


def build_alerting(
    live: LiveSettings,
    environ: Mapping[str, str],
    storage: Storage,
    admission: Admission,
    fetch: Callable[..., Fetcher],
) -> Alerting:
    """What tells people. Raises ConfigError or VaultError if there is a webhook, and no secret to sign with."""
    wall = time.time  # noqa: TID251
    local = LocalConditions(admission.rates.budgets, storage.retention, storage.auditor, wall)
    storage.news.client_keys.listen(local.take_keys)
    alarms = Alarms(wall, live.reader("hold_seconds"))
    return Alerting(storage.call, alarms, local, sinks(live(), environ, fetch))


def build_wire(live: LiveSettings, storage: Storage, upstream: Upstream, admission: Admission) -> Wire:
    """The services of the stream layer, and the keeper of its deadlines."""

    def sweep_soon(_: KeyRing) -> None:
        reaper.hurry()

    gate = admission.gate
    connections = ctx.master.addons.get("proxyserver").connections
    reaper = Reaper(connections, live, is_over=gate.tunnels.is_over, strangers=admission.strangers)
    storage.news.client_keys.listen(sweep_soon)
    services = Services(
        find=gate.find,
        target=target_of(live, upstream),
        proof=upstream.proof,
        settings=live,
        claim=gate.names.note,
        unmask=admission.mask.unmask,
        decisions=gate.decisions,
        hooks=HookRunner(ctx.master.addons),
        watch=reaper.watch,
        tunnel=lambda flow: gate.tunnels.story(flow.server_conn),
        let_go=reaper.let_go,
        leave_unread=reaper.leave_unread,
        unsent_bytes=reaper.unsent_bytes,
        open_spool=spools_of(live, reaper),
    )
    return Wire(services, reaper)


def spools_of(live: LiveSettings, reaper: Reaper) -> Callable[[Client], Spool]:
    """Where large batches are kept until they are sent on: beside the database, or the key if that is on a server."""

    def folder() -> Path:
        settings = live()
        return settings.database.parent if isinstance(settings.database, Path) else settings.key_path.parent

    room = SpoolRoom(folder, live.reader("minimum_free_bytes"))
    loop = asyncio.get_running_loop()

    def read_on(client: Client) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(reaper.leave_unread, client, False)

    return lambda client: room.open(lambda: read_on(client))


def build_replayer(
    live: LiveSettings,
    storage: Storage,
    gate: Gate,
    inspector: Inspector,
    by: By,
    start: Callable[[str, Coroutine[Any, Any, None]], object],
) -> Replayer:
    """What sends a request of the inspector's list again, for `by`. It runs by `start`."""

    def describe(flow: http.HTTPFlow, account: str) -> Replay:
        exchange, principal = gate.find(flow), gate.tunnels.asker(flow)
        keyed = principal if principal and principal.key else None
        return Replay(exchange.id if exchange else "", keyed, account)

    async def audit(replay: Replay) -> None:
        def note(store: Store) -> None:
            with store.acting(by):
                store.note("request.replay", replay.of, account=replay.account or "any")

        await storage.call(note)

    def objection() -> str:
        needs_certificate = live().client_ca is not None
        return "not replayed: clients must show a certificate here, and a replay has none" if needs_certificate else ""

    def place() -> Place:
        host, _, port = local_address().rpartition(":")
        return Place(host.strip("[]"), int(port), live().requires_client_tls)

    sender = Sender(gate.replays, place)
    way = Way(
        find=gate.find,
        bring_back=inspector.held.bring_back,
        describe=describe,
        objection=objection,
        audit=audit,
        send=sender.send,
        say=inspector.say,
        start=start,
    )
    return Replayer(way, time.monotonic)


def target_of(live: LiveSettings, upstream: Upstream) -> Callable[[Client], UpstreamTarget]:
    """Where credentials go, for a client of this ingress."""
    return lambda client: target_for(live(), client, upstream.proxy, ctx.options.upstream_auth)


def build_held(live: LiveSettings, storage: Storage, loop: asyncio.AbstractEventLoop) -> Held:
    """What keeps the bodies that the inspector shows in bounds."""

    def recorded(exchange_id: str) -> Future[Recorded]:
        return storage.writer.call(lambda store: store.transcripts.bodies(exchange_id))

    def limit() -> int:
        # What `hardump` names is written when the database is closed already, so with it all bodies stay.
        return sys.maxsize if ctx.options.hardump else live().inspector_bytes

    return Held(limit, recorded, storage.writer.written, loop.call_soon_threadsafe)


def mode_of(live: LiveSettings, budget: MemoryBudget, retention: Retention) -> Callable[[Opening], Mode]:
    """What is recorded of an exchange: what the options say, as far as there is room in memory and on the disk."""

    def mode(opening: Opening) -> Mode:
        settings = live()
        wanted = record_mode(settings.record, settings.record_paths, opening.path, opening.record)
        return retention.allowed(Mode.METADATA if wanted.keeps_bodies and budget.is_closed else wanted)

    return mode


def name_in(pool: AccountPool) -> Callable[[str], str]:
    """An account's name by its id, which stands for it once it is gone."""
    return lambda account_id: next((each.name for each in pool.accounts() if each.id == account_id), account_id)


def warn(trouble: str) -> None:
    """Log a sentence about something that goes on all the same."""
    logger.warning("%s", trouble)
