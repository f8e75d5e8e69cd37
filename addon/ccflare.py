"""ccflare: your own Claude accounts behind one local proxy. Load it with `mitmdump -s addon/ccflare.py`.

The hooks stand in the order in which a request meets them. Each asks one collaborator; the way of a request through
its upstream attempts is in `ccflare_mitm/wire/stream.py`, what an answer means in `ccflare_core/exchange/exchange.py`.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData

try:
    from ccflare_core.config import environment
    from ccflare_core.config.settings import Settings
    from ccflare_core.errors import CCFlareError, ConfigError
    from ccflare_core.exchange.steps import Outcome
    from ccflare_core.http import failure_words
    from ccflare_core.process import hide_memory, leave_lost_terminal
    from ccflare_core.store.store import has_client_keys
    from ccflare_mitm import logs
    from ccflare_mitm.app import App
    from ccflare_mitm.commanding import CONSOLE
    from ccflare_mitm.gate import ingress
    from ccflare_mitm.host import contract, dumps, listener, opening, options, tls, tuning, unsafe_options, worker
    from ccflare_mitm.log_file import LogFile
    from ccflare_mitm.wire import layer, upstream
except ModuleNotFoundError as missing:
    # mitmproxy would go on without an addon that it cannot load, and listen, and forward whatever comes.
    sys.exit(
        f"ccflare: this Python has no package {missing.name}: start it with scripts/run, which installs what it needs"
    )

logger = logging.getLogger("ccflare")


class CCFlare:
    """The addon: it shows each event to the part of the app that knows what to do."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._places: dict[str, str] = {}
        self._app: App | None = None
        self._opening = opening.Opening(lambda: ctx.master.addons.get("proxyserver").connections)
        self._log_file: LogFile | None = None
        self._worker: worker.Worker | None = None

    # The start

    def load(self, loader: Loader) -> None:
        """Declare the options, with the defaults of this place: the environment's over the file's."""
        early = listener.addresses()
        listener.postpone()
        dumps.keep_private()
        logs.write_soon(asyncio.get_running_loop())
        try:
            self._worker = worker.Worker.of(os.environ)
            contract.install()
            self._places = options.declare(loader, os.environ)
            listener.forgive(early)
            listener.check_web_address()
        except ConfigError as error:
            give_up(error)

    def configure(self, updated: set[str]) -> None:
        """Check all of our options together, at the start and whenever one changes."""
        try:
            self._settings = Settings.build(options.current())
            unsafe_options.check(ctx.options, os.environ)
            listener.check_addresses(self._settings, self._has_client_keys)
            tls.check_ca_folder(ctx.options.confdir)
            if self._app is not None:
                self._app.change(self._settings)
            elif self._log_file is None:
                self._log_file = logs.open_file(self._settings, self._worker.own_file if self._worker else None)
        except ConfigError as error:
            if self._app is None:
                give_up(error)
            raise exceptions.OptionsError(str(error)) from error
        logs.configure(self._settings.log_level, self._settings.log_format)

    async def running(self) -> None:
        """Open the app, and only then listen; who is here already waits for that."""
        if self._settings is None:
            give_up(ConfigError("The options could not be read."))
        if self._worker is not None:
            self._worker.heed(ctx.master.shutdown)
        self._opening.hold(listener.open_servers())
        stop_reloading()
        heed((signal.SIGHUP,), ctx.master.shutdown)  # mitmproxy heeds the other two; its terminal's end is a stop too
        if not (self._settings.debuggable or hide_memory()):
            logger.warning("core dumps cannot be switched off here: one would hold the accounts' credentials")
        await tuning.forbid_replay(self._replay_refused)
        try:
            number, folder = (self._worker.number, self._worker.folder) if self._worker else (None, None)
            app = App(self._settings, os.environ, asyncio.get_running_loop(), self._places, number, folder)
            await unless_stopped(app.open())
            self._app = app
            listener.check_addresses(self._settings, self._has_client_keys)
        except CCFlareError as error:
            give_up(error)
        if foreign := environment.told(environment.read_environment(os.environ).foreign):
            logger.warning("%s", foreign)
        for name in unsafe_options.of_other_addons(ctx.options):
            logger.warning("%s is an option of another addon: ccflare does not know what that does to requests", name)
        if self._settings.tuning:
            tuning.apply()
        try:
            if self._worker is not None:
                await self._worker.prepare()
            await listener.listen()
        except ConfigError as error:
            give_up(ConfigError(f"{error} ({options.told_places(self._places, 'listen_host', 'listen_port')})."))
        sentences = [await self._app.dashboard_link()] if number in (None, 1) else []
        # Nothing is awaited from here on: mitmproxy makes its certificates right after this, and who waits wants one.
        self._opening.ready()
        if self._worker is not None:
            self._worker.serves()
        if number in (None, 1):  # of several workers one greets
            sentences = [self._app.greeting(), *self._app.next_steps(), *sentences]
        for sentence in sentences:
            logger.info("%s", sentence)

    # A connection

    async def client_connected(self, client: Client) -> None:
        """Hang up on addresses that may not connect, whatever the socket was bound to, and if there is no room.

        Who comes before the proxy is ready waits for it here; who has waited for too long is told so in `next_layer`.
        """
        client.error = "ccflare is not open"  # and so it stays if an error keeps us from looking
        if not await self._opening.wait(client):
            client.error = None
            return
        client.error = self._open_app().objection(client)

    def next_layer(self, data: NextLayer) -> None:
        """Let mitmproxy decide on the protocol and put our HTTP layer in the place of its own."""
        try:
            if self._opening.has_put_off(data.context.client):
                layer.put_off(data)
                return
            app = self._open_app()
            if app.settings.requires_client_tls and layer.refuse_plaintext(data):
                return
            if ingress.is_foreign_tunnel(data.context, app.settings.upstream) and not self._is_open_tunnel(data):
                data.layer = layer.Refused(data.context)
                return
            ctx.master.addons.get("nextlayer").next_layer(data)
            layer.adopt(data, app.wire.services)
        except Exception:
            # mitmproxy would go on with its own layer, which sends what it is given.
            data.layer = layer.Refused(data.context)
            raise

    def tls_clienthello(self, data: ClientHelloData) -> None:
        """Leave the TLS of other hosts alone."""
        app = self._open_app()
        if ingress.is_foreign_tunnel(data.context, app.settings.upstream):
            data.ignore_connection = True
            app.wire.reaper.let_go(data.context.client)

    def tls_start_client(self, data: TlsData) -> None:
        """Ask for a certificate, if clients must have one; and for the protocol that the upstream is spoken to in."""
        try:
            self._open_app().start_client_tls(data)
        except Exception:
            tls.refuse_handshake(data)  # mitmproxy would go on with a handshake of its own, which asks for none
            raise

    def tls_start_server(self, data: TlsData) -> None:
        """Ask the upstream for the name that is its own, before mitmproxy asks for the client's."""
        try:
            app = self._open_app()
            app.upstream.proof.reached(data)
            upstream.aim_tls(data, app.target(data.context.client))
        except Exception:
            upstream.refuse_server_handshake(data)  # mitmproxy would go on with a handshake of its own
            raise

    def tls_established_server(self, data: TlsData) -> None:
        """Remember what a server has proved of itself; the wire asks for it."""
        self._open_app().upstream.proof.note(data)

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        """A client asks for a tunnel: decide whether it may have it. Where it leads may have to be looked up."""
        await self._open_app().admission.opener.connect(flow)

    async def server_connect(self, data: ServerConnectionHookData) -> None:
        """A server is about to be connected to: never ourselves, and for a tunnel the address that was looked at."""
        try:
            await self._open_app().admission.opener.aim(data)
        except Exception:
            data.server.error = "nobody could look where it leads"  # mitmproxy would connect
            raise

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        """A server cannot be connected to: of a tunnel nothing else tells that."""
        self._open_app().admission.opener.failed(data)

    def client_disconnected(self, client: Client) -> None:
        """A connection is over, and what was a tunnel in it."""
        if self._app is not None:
            self._app.admission.strangers.leaves(client.id)
            self._app.admission.gate.tunnels.left(client)

    # A request

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Decide on the request by its head: reject it, answer it here or aim it at the upstream."""
        self._open_app().arrives(flow)

    def request(self, flow: http.HTTPFlow) -> None:
        """Read what it needs and issue its ticket. The wire takes it from here."""
        app = self._open_app()
        app.admission.gate.issue_ticket(flow)
        app.follow(flow)

    # Its end

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """The answer's head goes out: a page of an allowed origin may read it."""
        self._open_app().admission.gate.share(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer is with the client: show its exchange in the inspector."""
        app = self._open_app()
        if exchange := app.admission.gate.find(flow):
            exchange.finish(Outcome.REFUSED, "another addon has answered")  # unless it has ended, as ours all have
        app.show(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The flow broke off. If nobody has ended its exchange yet, the client did, or mitmproxy refused it."""
        app = self._open_app()
        if exchange := app.admission.gate.find(flow):
            why = flow.error.msg if flow.error else ""
            outcome = Outcome.CLIENT_ABORT if ingress.tells_of_leaving(why) else Outcome.REFUSED
            exchange.finish(outcome, failure_words.of(why))
        app.show(flow)

    # The end

    async def done(self) -> None:
        """Stop listening, let open answers go on for a while, write everything down.

        A coroutine on purpose: mitmproxy awaits it when it stops, and cannot remove an addon that has one while it
        runs. So no change of the `scripts` option leaves a proxy without its gate.
        """
        if self._app is None:
            return
        hurry = self._worker.hurry if self._worker else asyncio.Event()
        # A service's manager may send the one signal of a stop to the supervisor of workers and to each of them.
        heed((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), (lambda: None) if self._worker else hurry.set)
        self._app.begin_stop()
        await listener.stop_listening()
        await self._app.close(hurry)

    # Pieces

    def _has_client_keys(self) -> bool:
        if self._app is not None:
            return self._app.admission.authenticator.has_keys
        return self._settings is not None and has_client_keys(self._settings.database)

    def _is_open_tunnel(self, data: NextLayer) -> bool:
        return self._open_app().admission.gate.tunnels.is_open(data.context.server)

    def _replay_refused(self) -> None:
        self._open_app().storage.auditor.denied("", "replay", actor=CONSOLE.actor, action="replay.denied")

    def _open_app(self) -> App:
        if self._app is None:
            raise RuntimeError("an event came in before the addon was running")
        return self._app


def stop_reloading() -> None:
    """Stop mitmproxy from watching this file.

    A broken edit, or a deleted file, would unload the addon and leave a proxy that forwards everything.
    """
    for script in ctx.master.addons.get("scriptloader").addons:
        if script.reloadtask is not None and Path(script.fullpath).resolve() == Path(__file__).resolve():
            script.reloadtask.cancel()


def heed(numbers: Sequence[signal.Signals], action: Callable[[], None]) -> None:
    """Do this at each of these signals, unless whoever started us has switched it off, as nohup does with SIGHUP.

    Their handler itself does not wait for the event loop: the console reads without end from a terminal that has gone.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, action)
            signal.signal(number, lambda *_: leave_lost_terminal())


async def unless_stopped(start: Coroutine[Any, Any, None]) -> None:
    """Wait for a part of the start. Raises ConfigError if the proxy is to stop meanwhile."""
    starting, stop = asyncio.ensure_future(start), asyncio.ensure_future(ctx.master.should_exit.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        raise ConfigError("stopped before it was ready")
    stop.cancel()
    starting.result()


def give_up(error: CCFlareError) -> NoReturn:
    """Say why the proxy cannot start, and leave before it listens.

    It is said last of all: what is written while the console has the screen is gone with that.
    """
    sentences = environment.all_explained(str(error).splitlines(), os.environ)
    raise SystemExit("\n".join(f"ccflare: {sentence}" for sentence in sentences))


addons = [CCFlare()]
