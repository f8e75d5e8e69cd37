"""What stands in mitmproxy: admission with our own pages, alerts, the wire, the inspector."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import ProxyMode

from ccflare_core.audit.entries import By
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.authentication import Authenticator, KeyRing
from ccflare_core.clients.client_runs import ClientRuns
from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.clients.sessions import Sessions
from ccflare_core.clients.strangers import Strangers, room_for_all, share_of
from ccflare_core.clients.totp import SecondFactor, Used, Wrong
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.record_mode import Mode, record_mode
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.errors import StoreError
from ccflare_core.http.client import Fetcher
from ccflare_core.store.spool import Spool, SpoolRoom
from ccflare_core.store.store import Store
from ccflare_core.writer.alarms import Alarms
from ccflare_core.writer.delivery import sinks
from ccflare_core.writer.monitor import Monitor
from ccflare_core.writer.news import Rules
from ccflare_core.writer.retention import Retention
from ccflare_mitm.alerting import Alerting, LocalConditions
from ccflare_mitm.builders.core import Accounts, Recording, Storage, Upstream, warn
from ccflare_mitm.gate.destinations import Destinations
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.header_masking import HeaderMask
from ccflare_mitm.gate.management import Management, StartLinks, renew_digest, report_failures
from ccflare_mitm.gate.tunnel_opener import TunnelOpener
from ccflare_mitm.host.listener import own_names, ports, way_in
from ccflare_mitm.host.options import current
from ccflare_mitm.host.replays import Replay
from ccflare_mitm.inspector.held import Held, Recorded
from ccflare_mitm.inspector.inspector import Inspector
from ccflare_mitm.inspector.repeat import Place, Sender
from ccflare_mitm.inspector.replay import Replayer, Way
from ccflare_mitm.own_proxy import OwnProxy, Telling
from ccflare_mitm.pages.admin import Admin, TelemetryState
from ccflare_mitm.pages.elsewhere import Elsewhere
from ccflare_mitm.pages.events import Events
from ccflare_mitm.pages.fellows import Fellows
from ccflare_mitm.pages.logins import Logins
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.standing import Standing
from ccflare_mitm.wire.feeder import Feeder
from ccflare_mitm.wire.hooks import HookRunner
from ccflare_mitm.wire.reaper import Reaper
from ccflare_mitm.wire.services import Services
from ccflare_mitm.wire.sockets import most_clients
from ccflare_mitm.wire.upstream import target_for


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
    events: Events
    """What goes on, for those who look on."""
    monitor: Monitor
    """The figures of this process."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What keeps the connections."""

    services: Services
    reaper: Reaper


def build_admission(
    live: LiveSettings,
    storage: Storage,
    accounts: Accounts,
    recording: Recording,
    own: OwnProxy,
    telemetry: TelemetryState,
    fellows: Fellows,
) -> Admission:
    """The gate with all that it asks, which follow the client keys and rules in the database."""

    async def keep_try(tried: Used | Wrong) -> bool:
        return await storage.call(lambda store: store.factors.keep(tried))

    def take_rules(rules: Rules) -> None:
        access.ban(rules.blocked)
        second_factor.replace(rules.factor)
        runs.replace(rules.runs)
        sessions.take_ended(rules.ended_sessions)

    news = storage.news
    authenticator = _build_authenticator(live, storage)
    second_factor = SecondFactor(time.time, keep_try)  # noqa: TID251
    sessions, links, access = Sessions(), StartLinks(storage.call), AccessLists(live())
    standing = Standing(authenticator, sessions, access, time.time)  # noqa: TID251
    elsewhere = Elsewhere(storage.readers, own.run, lambda: accounts.pool.has_peers)
    events = Events(
        recording.exchanges,
        standing,
        time.time,  # noqa: TID251
        elsewhere=elsewhere,
        name=lambda: own.name,
    )
    management = Management(storage.call, storage.news.accounts.tell, storage.news.client_keys.tell)
    note, auditor = management.note, storage.auditor
    logins = Logins(authenticator, sessions, links.use, note, time.monotonic, auditor, management.end_session)
    monitor = Monitor(recording.exchanges, storage.writer, recording.lateness)
    admin = Admin(
        recording.exchanges,
        accounts.keeper.state,
        management,
        storage.readers,
        logins,
        monitor,
        current,
        events,
        needs_code=lambda: second_factor.is_needed,
        listening=storage.listening,
        telemetry=telemetry,
        rules_problem=lambda: recording.rules.trouble,
        own=own,
        fellows=fellows,
    )
    pages = PageServer(admin, second_factor, auditor)
    rates, runs = RateLimits(warn), ClientRuns(warn)
    strangers = _build_strangers(live, access)
    live.listen(access.change)
    news.client_keys.listen(authenticator.replace)
    news.client_keys.listen(sessions.follow)
    news.client_keys.listen(lambda ring: rates.of_keys.take_keys(ring.keys.values()))
    news.rules.listen(take_rules)
    gate = Gate(
        recording.exchanges,
        authenticator,
        access,
        rates,
        pages,
        second_factor,
        auditor=auditor,
        sessions=sessions,
        strangers=strangers,
        runs=runs,
        own_names=own_names,
    )
    opener = TunnelOpener(
        gate,
        Destinations(live, ports),
        rates,
        storage.writer.put,
        run_id=own.run,
        wall=time.time,  # noqa: TID251
        records=records_tunnels(live, storage.retention),
    )
    return Admission(gate, authenticator, access, strangers, rates, HeaderMask(), opener, pages, links, events, monitor)


def _build_authenticator(live: LiveSettings, storage: Storage) -> Authenticator:
    return Authenticator(
        wall=time.time,  # noqa: TID251
        open_loopback=live.reader("open_loopback"),
        outdated=lambda key_id, secret: renew_digest(storage.writer, key_id, secret),
        report=report_failures,
    )


def _build_strangers(live: LiveSettings, access: AccessLists) -> Strangers:
    return Strangers(
        lambda: share_of(most_clients(live())),
        lambda: access.access.trusted,
        room=lambda: room_for_all(most_clients(live())),
    )


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
    alarms = Alarms(wall, live.reader("hold_seconds"), lambda: storage.duty.is_mine)
    return Alerting(storage.call, alarms, local, sinks(live(), environ, fetch))


def build_telling(own: OwnProxy, storage: Storage, recording: Recording, admission: Admission) -> Telling:
    """What tells the other proxies of this one."""
    telling = Telling(
        own,
        recording.exchanges,
        storage.writer.put,
        is_announced=lambda: storage.listening.works,
        is_watched=lambda: admission.events.is_watched,
        lag=lambda: recording.lateness.last,
    )
    storage.news.peers.listen(telling.meet)
    return telling


def build_wire(
    live: LiveSettings, storage: Storage, upstream: Upstream, recording: Recording, admission: Admission
) -> Wire:
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
        is_stopping=lambda: recording.exchanges.is_stopping,
        unsent_bytes=reaper.unsent_bytes,
        open_spool=spools_of(live, reaper),
        feed=Feeder(connections).start,
    )
    return Wire(services, reaper)


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
        if (found := way_in()) is None:  # another program may, by now
            raise StoreError("the proxy does not listen at the moment")
        return Place(*found, live().requires_client_tls)

    sender = Sender(gate.replays, place)
    way = Way(
        find=gate.find,
        is_loaded=inspector.is_loaded,
        bring_back=inspector.held.bring_back,
        describe=describe,
        objection=objection,
        audit=audit,
        send=sender.send,
        say=inspector.say,
        start=start,
    )
    return Replayer(way, time.monotonic)


def build_held(live: LiveSettings, storage: Storage, loop: asyncio.AbstractEventLoop) -> Held:
    """What keeps the bodies that the inspector shows in bounds."""

    def recorded(exchange_id: str) -> Future[Recorded]:
        return storage.writer.call(lambda store: store.transcripts.bodies(exchange_id))

    def limit() -> int:
        # What `hardump` names is written when the database is closed already, so with it all bodies stay.
        return sys.maxsize if ctx.options.hardump else live().inspector_bytes

    held = Held(limit, recorded, storage.writer.written, loop.call_soon_threadsafe)
    live.listen(lambda _: held.make_room())
    return held


def target_of(live: LiveSettings, upstream: Upstream) -> Callable[[Client], UpstreamTarget]:
    """Where credentials go, for a client of this ingress: worked out once for each, until the settings change."""
    known: dict[tuple[ProxyMode, str | None], UpstreamTarget] = {}
    live.listen(lambda settings: known.clear())

    def target(client: Client) -> UpstreamTarget:
        of = (client.proxy_mode, ctx.options.upstream_auth)
        if (found := known.get(of)) is None:
            known[of] = found = target_for(live(), client, upstream.proxy, of[1])
        return found

    return target


def records_tunnels(live: LiveSettings, retention: Retention) -> Callable[[str | None], bool]:
    """Whether there is a row for a tunnel of a client key that is recorded in this mode (None: as everybody)."""
    return lambda mode: retention.allowed(record_mode(live().record, (), "", mode)) is not Mode.OFF


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
