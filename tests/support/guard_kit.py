"""An authenticator with keys whose digests are plain, and a gate around it."""

import hashlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from mitmproxy import http

from ccflare_core.audit.entries import By
from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.authentication import Authenticator, Digest, Identity, KeyRing
from ccflare_core.clients.keys import ClientKey
from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.clients.sessions import Sessions
from ccflare_core.clients.totp import SecondFactor, Used, Wrong
from ccflare_core.config.options import OPTIONS
from ccflare_core.errors import StoreError
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.reports.metrics import LATENESS, Histogram
from ccflare_core.store.store import Store
from ccflare_core.writer.monitor import Monitor
from ccflare_core.writer.writer import Writer
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.elsewhere import Elsewhere
from ccflare_mitm.pages.events import Events
from ccflare_mitm.pages.logins import Logins
from ccflare_mitm.pages.readers import Read, Readers
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.standing import Standing
from ccflare_mitm.pages.visit import Visit
from exchange_kit import EPOCH, Bench

SECRET = "ccf_" + "s" * 32
PEPPER = "00" * 8


def digest(secret: str, pepper: str) -> bytes:
    return hashlib.sha256(f"{pepper}|{secret}".encode()).digest()


def ring_of(*keys: ClientKey, secrets: tuple[str, ...] = (SECRET,), peppers: tuple[str, ...] = (PEPPER,)) -> KeyRing:
    """A ring where the first key has the first of `secrets`, and so on, digested under the last of the peppers."""
    digests = {digest(secret, peppers[-1]): Digest(key.id) for key, secret in zip(keys, secrets, strict=False)}
    return KeyRing(digest, peppers, {key.id: key for key in keys}, digests)


def shown(secret: str = SECRET) -> bytes:
    """What the key with this secret is recognised by in such a ring."""
    return digest(secret, PEPPER)


def a_key(name: str = "laptop", **fields: Any) -> ClientKey:
    return ClientKey(f"ck_{name}", name, **fields)


def an_authenticator(
    *keys: ClientKey,
    now: Callable[[], float] = lambda: EPOCH,
    open_loopback: bool = False,
    report: Callable[[str, Identity, int], None] = lambda source, identity, number: None,
    **ring: Any,
) -> Authenticator:
    authenticator = Authenticator(wall=now, open_loopback=lambda: open_loopback, report=report)
    authenticator.replace(ring_of(*keys, **ring))
    return authenticator


class Alone(NamedTuple):
    """The only proxy there is."""

    name: str = "here:8080"
    run: str = "run-1"
    worker: int | None = None


ALONE = Alone()


class Actions:
    """Notes which admin actions are asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    async def pause_account(self, visit: Visit, paused: bool) -> None:
        self.done.append(("pause" if paused else "resume", visit.name, visit.actor))

    async def revoke_client(self, visit: Visit) -> None:
        self.done.append(("revoke", visit.name, visit.actor))

    async def note_reading(self, visit: Visit, target: str, part: str) -> None:
        self.done.append(("read", part, target, visit.actor))


def an_admin(
    bench: Bench,
    actions: Actions | None = None,
    read: Read | None = None,
    logins: Logins | None = None,
    events: Events | None = None,
) -> Admin:
    return Admin(
        bench.exchanges,
        lambda account: f"of {account.name}",
        actions or Actions(),
        read or Readers(no_store),
        logins or some_logins(an_authenticator(), Sessions()),
        Monitor(bench.exchanges, Writer(no_store, on_change=print, on_trouble=print), Histogram(LATENESS)),
        lambda: {option.name: option.default for option in OPTIONS},
        events or some_events(bench, an_authenticator(), Sessions()),
        own=ALONE,
        wall=lambda: bench.clock.wall,
    )


def some_events(bench: Bench, authenticator: Authenticator, sessions: Sessions) -> Events:
    """What goes on at this bench, by its clocks, for those whom these know."""
    access = AccessLists(bench.exchanges.settings)
    clock, wall = bench.exchanges.clock, bench.exchanges.wall
    standing, nobody = (
        Standing(authenticator, sessions, access, wall),
        Elsewhere(Readers(no_store), "run-1", lambda: False),
    )
    return Events(bench.exchanges, standing, wall, clock, elsewhere=nobody, name=lambda: ALONE.name)


def some_logins(authenticator: Authenticator, sessions: Sessions, links: Collection[str] = ()) -> Logins:
    """Logins with these links, which write into no audit log."""
    unused = {*links}

    async def use_link(token: str) -> bool:
        is_good = token in unused
        unused.discard(token)
        return is_good

    async def note(by: By, action: str) -> None:
        return None

    return Logins(authenticator, sessions, use_link, note, lambda: 0.0)


def no_store() -> Store:
    """A database that nobody has made."""
    raise StoreError("There is no database.")


async def forget(tried: Used | Wrong) -> bool:
    """Keep nothing of a second factor."""
    return True


def a_gate(
    bench: Bench,
    authenticator: Authenticator | None = None,
    actions: Actions | None = None,
    *,
    kind: type[Gate] = Gate,
    rates: RateLimits | None = None,
    sessions: Sessions | None = None,
) -> Gate:
    authenticator, sessions = authenticator or an_authenticator(), sessions or Sessions()
    logins = some_logins(authenticator, sessions)
    factor = SecondFactor(lambda: bench.clock.wall, forget)
    return kind(
        bench.exchanges,
        authenticator,
        AccessLists(bench.exchanges.settings),
        rates or RateLimits(print),
        PageServer(an_admin(bench, actions, logins=logins), factor, None),
        factor,
        sessions=sessions,
    )


def enter(gate: Gate, flow: http.HTTPFlow) -> Exchange:
    """The exchange of a request that is let in and whose ticket is issued."""
    gate.enter(flow)
    gate.issue_ticket(flow)
    exchange = gate.find(flow)
    assert exchange is not None
    return exchange
