"""A run as the proxy gets to know it: through the database, where it is begun, kept alive and ended.

Whoever can write there with the data key is the owner: nothing is asked of the proxy that it would have to grant.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ccflare_cli.companion import readiness
from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.console import Console, Refused, open_store
from ccflare_core.clients.authentication import identify
from ccflare_core.clients.client_runs import BEAT_SECONDS, ClientRun
from ccflare_core.clients.keys import ClientKey, Permission
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError
from ccflare_core.secrets.key_sources import KeySource
from ccflare_core.store.store import Store
from ccflare_core.text import sentence

_KNOWN_SECONDS = 20.0
_JOIN_SECONDS = 5.0
_STEP = 0.1
_LOOK_SECONDS = 5.0
"""How often it is asked whether a sign of life is due: soon after a machine has slept, too."""
_OLD = (
    "The proxy at {place} takes no notice of runs: it is older than this command, or was started with another "
    "program. Start it anew."
)
_ELSEWHERE = (
    "The proxy at {place} does not learn of this run: it works with another database. Give that one with --database."
)


class Ticket(NamedTuple):
    """A run that was begun, and its temporary key; "" where keys are not in use."""

    run: ClientRun
    key: str

    def __repr__(self) -> str:
        return f"Ticket({self.run.id})"


def key_of(store: Store, secret: str, now: float) -> ClientKey:
    """The client key with this secret. Raises Refused if nothing is served to it."""
    identity = identify(store.clients.ring(), (secret,), now, is_local=True, open_loopback=False)
    principal = identity.principal
    if principal is None or principal.key is None:
        raise Refused(f"The client key that this shell or --key gives is none here: it is {identity.why}.")
    if not principal.may(Permission.API_REQUEST):
        raise Refused(f"The client key {principal.key.name} is for our pages alone: give one for requests by --key.")
    return principal.key


class Registrar:
    """Begins runs and ends them. `source` is kept, since nobody is to be asked for a passphrase at the end."""

    def __init__(
        self, console: Console, settings: Settings, source: KeySource, known_seconds: float = _KNOWN_SECONDS
    ) -> None:
        self._console = console
        self._settings = settings
        self._source = source
        self._known_seconds = known_seconds

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The database with its key."""
        with open_store(self._console, self._settings, self._source) as store:
            yield store

    @contextmanager
    def going_on(self, run: ClientRun, address: ProxyAddress) -> Iterator[Ticket]:
        """The run goes on in the block, and the proxy at `address` knows it. Raises Refused if it does not."""
        labelled = ProxyAddress(address.place, address.has_tls, run.id)
        if readiness.takes_run(labelled) is not False:
            raise Refused(_OLD.format(place=address.place))
        with self.store() as store:
            key = store.client_runs.begin(run)
        try:
            self._wait_until_known(labelled)
            with beating(lambda: self.beat(run)):
                yield Ticket(run, key)
        finally:
            self._end(run)

    def _wait_until_known(self, labelled: ProxyAddress) -> None:
        end = time.monotonic() + self._known_seconds
        while not readiness.takes_run(labelled):
            if time.monotonic() >= end:
                raise Refused(_ELSEWHERE.format(place=labelled.place))
            time.sleep(_STEP)

    def beat(self, run: ClientRun) -> None:
        """Give a sign of life."""
        with open_store(self._console, self._settings, None) as store:
            store.client_runs.beat(run.id)

    def _end(self, run: ClientRun) -> None:
        try:
            with self.store() as store:
                store.client_runs.end(run.id)
        except CCFlareError as error:
            self._console.complain(
                f"{run.id} could not be ended, so it ends by itself within a day: {sentence(str(error))}"
            )


@contextmanager
def beating(beat: Callable[[], None], every: float = BEAT_SECONDS, look: float = _LOOK_SECONDS) -> Iterator[None]:
    """Signs of life in a thread. One that cannot be given is tried again, and nothing said: the terminal is in use."""
    is_over = threading.Event()

    def go_on() -> None:
        last = time.time()  # noqa: TID251
        while not is_over.wait(look):
            now = time.time()  # noqa: TID251
            if abs(now - last) < every:
                continue
            try:
                beat()
                last = now
            except CCFlareError:
                continue

    thread = threading.Thread(target=go_on, name="ccflare-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(_JOIN_SECONDS)
