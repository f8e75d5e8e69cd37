"""The running proxy: it opens and closes in order, and takes up new settings. Its parts are made in builders/."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.tls import TlsData

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.affinity import Held
from ccflare_core.accounts.cooldowns import Cooldown
from ccflare_core.accounts.token_refresh import ANSWER_SECONDS
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.clients.authentication import KeyRing
from ccflare_core.clients.budgets import Use
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.options import waits_for_restart
from ccflare_core.config.permissions import Guarded, check, guarded_files, require
from ccflare_core.config.settings import Settings, config_file
from ccflare_core.errors import ConfigError
from ccflare_core.http.addresses import Address
from ccflare_core.process import is_alive
from ccflare_core.program import Version, typed
from ccflare_core.secrets.start_links import GOOD_SECONDS, link
from ccflare_core.store.store import Store
from ccflare_core.text import some
from ccflare_core.writer.lookout import Lookout
from ccflare_core.writer.news import Rules, StoreNews
from ccflare_mitm import logs
from ccflare_mitm.background import (
    Background,
    follow_anomalies,
    follow_file,
    follow_spending,
    once_done,
    publish_load,
    spending,
    tell_others,
    watch_loop,
    watch_memory,
)
from ccflare_mitm.builders.core import (
    build_accounts,
    build_recording,
    build_storage,
    build_upstream,
    build_usage_poll,
)
from ccflare_mitm.builders.telemetry import build_telemetry
from ccflare_mitm.builders.wing import (
    build_admission,
    build_alerting,
    build_held,
    build_replayer,
    build_telling,
    build_wire,
    target_of,
)
from ccflare_mitm.commanding import CONSOLE, Commanding
from ccflare_mitm.host import listener
from ccflare_mitm.host.options import current, in_use
from ccflare_mitm.host.tls import ClientAuthority, prefer_http1
from ccflare_mitm.inspector.inspector import Inspector
from ccflare_mitm.inspector.unshown import Unshown
from ccflare_mitm.own_proxy import SECONDS, OwnProxy
from ccflare_mitm.pages.admin import NO_TELEMETRY
from ccflare_mitm.pages.fellows import Fellows
from ccflare_mitm.sharing import Sharing
from ccflare_mitm.stopping import drain, write_down
from ccflare_mitm.wire.layer import is_outer_tls

logger = logging.getLogger("ccflare")


class Known(NamedTuple):
    """What the database knows at the start."""

    crashed: int
    """How many exchanges of runs that died have been closed."""
    accounts: list[Account]
    cooldowns: list[Cooldown]
    windows: Mapping[str, tuple[Window, ...]]
    sessions: list[Held]
    client_keys: KeyRing
    rules: Rules
    uses: list[Use]
    is_alone: bool
    """Whether no other proxy keeps limits together with this one."""


class App:
    """All parts of one proxy.

    Both making it and `open` raise CCFlareError if the database, the key, the prices, the agents or the rules cannot be
    used. So does `open` if a file that holds a secret is open to other users.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        loop: asyncio.AbstractEventLoop,
        places: Mapping[str, str],
        worker: int | None = None,
        folder: Path | None = None,
    ) -> None:
        """`places` tells where each option that is set comes from, `worker` which of several this is, from 1 on.

        `folder` is where the workers can meet.
        """
        self._loop = loop
        self._run_id = secrets.token_hex(8)
        self._config = config_file(environ)
        self._client_authority = client_authority(settings)
        self._running_with = self._options = current()
        self._places = places
        own = OwnProxy(self._run_id, worker)
        self._own = own
        self._fellows = Fellows(worker, folder)
        self._background = Background()
        self.live = live = LiveSettings(settings)
        self.upstream = build_upstream(live)
        self.target = target_of(live, self.upstream)
        self.storage = build_storage(live, environ, StoreNews(loop), self._run_id)
        self.accounts = build_accounts(live, self.storage, self.upstream, self._run_id)
        self._telemetry = telemetry = build_telemetry(live, environ, self.upstream.fetch, self._run_id)
        self.recording = build_recording(live, self.storage, self.accounts, self._run_id, telemetry)
        self._poll = build_usage_poll(live, self.storage, self.accounts, self.upstream, self.recording)
        self.admission = build_admission(
            live,
            self.storage,
            self.accounts,
            self.recording,
            own,
            telemetry or NO_TELEMETRY,
            self._fellows,
        )
        self._telling = build_telling(own, self.storage, self.recording, self.admission)
        self._sharing = Sharing(self.admission.rates, self.storage.call, self._run_id)
        self.storage.news.peers.listen(lambda _: self._sharing.met())
        self.storage.news.shares.listen(lambda _: self._sharing.heard())
        self.wire = build_wire(live, self.storage, self.upstream, self.recording, self.admission)
        self._alerting = build_alerting(live, environ, self.storage, self.admission, self.upstream.fetch)
        logs.hush(self._may_tell)
        self._inspector = Inspector(self.admission.gate.find, build_held(live, self.storage, loop))
        self._unshown = Unshown(lambda: bool(self.recording.exchanges.open))
        gate, start = self.admission.gate, self._background.start
        self._replayer = build_replayer(live, self.storage, gate, self._inspector, CONSOLE, start)
        self._commanding = Commanding(
            live, self.storage, self.accounts, self.recording, self._inspector, self._replayer, gate.find, start
        )

    @property
    def settings(self) -> Settings:
        """The options as they are now."""
        return self.live()

    # Start and end

    async def open(self) -> None:
        """Look at the files, start the writer, close what a dead run left open, and take up what it knew.

        From then on tokens are kept alive, and memory is watched. The event loop goes on meanwhile, as a large
        database may take a while to be brought up to date.
        """
        files = self._guarded_files()
        require(files)
        await asyncio.to_thread(self.storage.writer.start)
        for finding in check(files):
            logger.warning("%s", finding)
        known = await self.storage.call(self._begin)
        self._take_up(known)
        self._check_stateful_account(self.settings)
        if known.crashed:
            logger.warning("an earlier run crashed with %s open: recorded as crashed", some(known.crashed, "exchange"))
        for host in self.settings.upstream_pins.without_backup():
            logger.warning("%s has one pin only: if its key is replaced, nothing can be sent to it", host)
        self._inspector.open(self.admission.pages)
        self._commanding.install()
        self._start_background()

    def _guarded_files(self) -> list[Guarded]:
        return guarded_files(self.settings, Path(ctx.options.confdir).expanduser(), self._config)

    def _begin(self, store: Store) -> Known:
        """Note that this run begins, and read what is known. The writer's thread calls it."""
        crashed = store.runs.close_dead(socket.gethostname(), is_alive)
        store.search_index.begin(plain=self.settings.search_index == "plain")
        used = in_use()
        came_from = {name: place for name, place in self._places.items() if name in used}
        version, program = Version.of(), self._own.program()
        who = {"version": version.number, "files": version.files, "run": self._run_id, "pid": os.getpid()}
        self.storage.auditor.begin(store, scope(), used, **who, sources=came_from)
        store.runs.start(self._run_id, socket.gethostname(), os.getpid(), program)
        return Known(
            crashed,
            store.accounts.all(),
            store.limits.cooldowns(),
            store.limits.latest_windows(),
            store.affinity.newest(self.accounts.pool.max_sessions),
            store.clients.ring(),
            Rules.of(store),
            spending(store, self._run_id).uses,
            store.shares.begin(self._run_id),
        )

    def _take_up(self, known: Known) -> None:
        self.accounts.pool.replace_accounts(known.accounts)
        self.accounts.pool.restore(known.cooldowns, known.windows)
        self.accounts.pool.adopt(known.sessions, are_new=False)
        self.storage.news.client_keys.tell(known.client_keys)
        self.storage.news.rules.tell(known.rules)
        self.admission.rates.budgets.restore(known.uses)
        self.admission.rates.shares.begin(is_alone=known.is_alone)

    def _start_background(self) -> None:
        if self._telemetry is not None:
            self._telemetry.start()
        self.storage.listening.start()
        start, recording = self._background.start, self.recording
        start("tokens", self.accounts.keeper.run())
        start("first requests", self.accounts.probes.run())
        start("load", publish_load(self.accounts.pool, self.storage.writer.put, self._run_id))
        start("usage", self._poll.run())
        start("workers' metrics", self._fellows.serve(self.admission.monitor.families))
        start("telling", tell_others(self._telling.tell, SECONDS))
        budgets, flush = self.admission.rates.budgets, self.storage.writer.flush
        start("spending", follow_spending(self.storage.call, flush, budgets, self._run_id))
        start("shares", self._sharing.run())
        start("prices", follow_file(recording.prices, recording.take_prices))
        start("rules", follow_file(recording.rules, recording.take_rules))
        start("audit", self.storage.auditor.run())
        notices, duty = self.live.reader("anomaly_notices"), self.storage.duty

        def is_wanted() -> bool:
            return notices() and duty.is_mine

        start("anomalies", follow_anomalies(self.storage.call, Lookout(), is_wanted, self._alerting.notice))
        start("alerts", self._alerting.look())
        start("alert delivery", self._alerting.deliver())
        start("reaper", self.wire.reaper.run())
        start("memory", watch_memory(recording.memory))
        start("event loop", watch_loop(recording.lateness.add))
        start("inspector", self._inspector.live.run())
        start("memory given back", self._unshown.run())
        start("events", self.admission.events.run())

    def begin_stop(self) -> None:
        """Say from now on that requests should go elsewhere; those that come all the same are served."""
        self.recording.exchanges.is_stopping = True
        self._telling.tell()

    async def close(self, hurry: asyncio.Event) -> None:
        """Wait for open answers (a second signal shortens it), record the rest as cut, write everything down."""
        self.admission.events.close()
        await drain(self.recording.exchanges, self.wire.reaper.unserved, self.settings.drain_seconds, hurry)
        self.admission.gate.tunnels.close()
        self._background.stop()
        self.storage.listening.close()
        await self.accounts.keeper.close(ANSWER_SECONDS, hurry)
        self.storage.readers.close()
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.close)
        await asyncio.to_thread(write_down, self.storage.writer, self._end_run)

    def _end_run(self) -> None:
        self.storage.writer.call(lambda store: self.storage.auditor.end(store, scope()))
        report = self.admission.rates.shares.report(whole=True)
        self.storage.writer.call(lambda store: store.shares.leave(self._run_id, report))
        self.storage.writer.call(lambda store: store.runs.end(self._run_id))

    # Settings

    def change(self, settings: Settings) -> None:
        """Go on with these settings as soon as the change is audited.

        What of it takes a restart is logged then. Raises ConfigError, and goes on as before, if the authority of the
        clients' certificates cannot be used, or there is no account of the name that Managed Agents are to live in.
        """
        self._check_stateful_account(settings)
        authority, options, used = client_authority(settings), current(), in_use()

        def take() -> None:
            self._client_authority = authority
            self.live.change(settings)
            for name in waits_for_restart(self._running_with, self._options, options):
                logger.warning("%s: the change applies after a restart", name)
            self._options = options

        change = self.storage.writer.call(lambda store: store.configurations.take(scope(), used))
        once_done(change, self._loop, take, "the options stay as they were, for the change cannot be audited")

    def _check_stateful_account(self, settings: Settings) -> None:
        name = settings.stateful_account
        if name and self.accounts.pool.id_of(name) is None:
            raise ConfigError(
                f"ccflare_stateful_account: there is no account called {name}; `{typed('accounts list')}` shows all"
            )

    # What the entry asks

    def objection(self, client: Client) -> str | None:
        """Why a new connection is hung up on; None if it may stay."""
        admission, address = self.admission, client.peername[0]
        if (objection := admission.access.objection(address)) is None:
            objection = admission.strangers.arrives(client.id, Address.parse(address))
        if objection is not None:
            self.storage.auditor.denied(address, objection)
        elif not self.wire.reaper.takes_more():
            objection = "ccflare has too many connections"
        return objection

    def _may_tell(self, address: str) -> bool:
        """Whether the log may have a line about a connection from there; what it may not have is counted."""
        if self.admission.strangers.may_tell(Address.parse(address)):
            return True
        self.storage.auditor.denied(address, "a connection that came to nothing")
        return False

    def greeting(self) -> str:
        """One line that tells a person what they have started."""
        accounts = len(self.accounts.pool.accounts())
        origin, passthrough = self.settings.upstream, self.settings.passthrough
        target = f"{origin.scheme}://{origin.host}:{origin.port}".removesuffix(":443") + self.settings.upstream_path
        if accounts:
            return f"ccflare pools {some(accounts, 'account')} for {target}"
        if passthrough == "never":
            return "ccflare has no account yet and refuses requests"
        return f"ccflare has no account yet: requests pass to {target} with the client's own credential"

    def next_steps(self) -> list[str]:
        """What a person does after the first start; nothing once there is an account."""
        if self.accounts.pool.accounts():
            return []
        scheme = self.settings.own_scheme
        return [
            f"next, in another terminal: add an account with `{typed('accounts login NAME')}`",
            f"then connect a client: ANTHROPIC_BASE_URL={scheme}://{listener.local_address()} and "
            "ANTHROPIC_AUTH_TOKEN=unused for Claude Code, ANTHROPIC_API_KEY=unused for SDKs",
        ]

    async def dashboard_link(self) -> str:
        """One line with a link that logs the owner in to our own pages."""
        own = link(self.settings.own_scheme, listener.local_address(), await self.admission.links.new())
        return f"dashboard, once and for {GOOD_SECONDS // 60} minutes: {own}"

    def start_client_tls(self, data: TlsData) -> None:
        """Begin TLS with a client. If there is an authority for them, it shows its certificate to the proxy."""
        if self._client_authority is not None and is_outer_tls(data.context):
            self._client_authority.demand_certificate(data)
        else:
            ctx.master.addons.get("tlsconfig").tls_start_client(data)
        prefer_http1(data)

    def arrives(self, flow: http.HTTPFlow) -> None:
        """The head of a request is here: decide on it, and on whether the inspector's list has it."""
        try:
            self._inspector.arrives(flow)
            self.admission.gate.enter(flow)
        finally:
            self.admission.mask.mask(flow.request)

    def follow(self, flow: http.HTTPFlow) -> None:
        """Show in the inspector what becomes of a flow that has been let in."""
        if self.admission.gate.find(flow):
            self._inspector.follow(flow)

    def show(self, flow: http.HTTPFlow) -> None:
        """Show a finished flow's exchange in the inspector, if anybody looks, and bound the inspector's list."""
        if exchange := self.admission.gate.find(flow):
            has_list = self._inspector.has_list
            if has_list:
                self._replayer.remember(flow, exchange)
            if has_list or self._unshown.has_readers():
                self._inspector.show(flow, exchange)
            else:
                exchange.let_go()
            if not has_list:
                self._unshown.finished(flow)
        self._inspector.bound(flow, self.settings.inspector_flows)


def client_authority(settings: Settings) -> ClientAuthority | None:
    """Who signs the certificates that clients must show; None if they need none."""
    return ClientAuthority(settings.client_ca) if settings.client_ca else None


def scope() -> str:
    """Which of the proxies that may share a database this is."""
    return f"{socket.gethostname()}:{ctx.options.listen_port or 0}"
