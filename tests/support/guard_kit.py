"""A guard with keys whose digests are plain, and what it stands in front of."""

import hashlib
from collections.abc import Callable
from typing import Any

from ccflare_core.clients.admission import Entrance
from ccflare_core.clients.authentication import Denied, Digest, Guard, KeyRing
from ccflare_core.clients.keys import ClientKey
from ccflare_core.clients.rate_limits import Allowances
from ccflare_core.clients.totp import Factor, SecondFactor
from ccflare_mitm.gate.gate import Gate
from ccflare_mitm.gate.pages import Admin, Visit
from exchange_kit import EPOCH, Bench

SECRET = "ccf_" + "s" * 32
PEPPER = "00" * 8


def digest(secret: str, pepper: str) -> bytes:
    return hashlib.sha256(f"{pepper}|{secret}".encode()).digest()


def ring_of(*keys: ClientKey, secrets: tuple[str, ...] = (SECRET,), peppers: tuple[str, ...] = (PEPPER,)) -> KeyRing:
    """A ring where the first key has the first of `secrets`, and so on, digested under the last of the peppers."""
    digests = {digest(secret, peppers[-1]): Digest(key.id) for key, secret in zip(keys, secrets, strict=False)}
    return KeyRing(digest, peppers, {key.id: key for key in keys}, digests)


def a_key(name: str = "laptop", **fields: Any) -> ClientKey:
    return ClientKey(f"ck_{name}", name, **fields)


def a_guard(
    *keys: ClientKey,
    now: Callable[[], float] = lambda: EPOCH,
    open_loopback: bool = False,
    report: Callable[[str, Denied, int], None] = lambda source, denied, number: None,
    **ring: Any,
) -> Guard:
    guard = Guard(wall=now, clock=now, open_loopback=lambda: open_loopback, report=report)
    guard.replace(ring_of(*keys, **ring))
    return guard


class Deeds:
    """Notes what is to be done."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    async def pause_account(self, visit: Visit, paused: bool) -> None:
        self.done.append(("pause" if paused else "resume", visit.name, visit.actor))

    async def revoke_client(self, visit: Visit) -> None:
        self.done.append(("revoke", visit.name, visit.actor))


def an_admin(bench: Bench, deeds: Deeds | None = None) -> Admin:
    return Admin(bench.exchanges, lambda account: f"of {account.name}", deeds or Deeds(), wall=lambda: bench.clock.wall)


async def forget(factor: Factor, spent: str | None) -> None:
    """Keep nothing of a second factor."""


def a_gate(bench: Bench, guard: Guard | None = None, deeds: Deeds | None = None, *, kind: type[Gate] = Gate) -> Gate:
    def wall() -> float:
        return bench.clock.wall

    entrance = Entrance(bench.exchanges.settings, Allowances(lambda: bench.clock.mono, wall, print))
    factor = SecondFactor(wall, forget)
    return kind(bench.exchanges, guard or a_guard(), an_admin(bench, deeds), entrance, factor)
