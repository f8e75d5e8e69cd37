"""What is asked of a connection and of a request before anyone looks at its key. Pure.

May the address connect; is there room; may this browser page ask; has the address asked too often. Each refusal is a
status and a sentence, and none of them costs an account anything.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from ccflare_core.clients import browser
from ccflare_core.clients.access import Access, Caller
from ccflare_core.clients.browser import Asked
from ccflare_core.clients.rate_limits import SOON, Allowances, Limited
from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import THIS_MACHINE, Networks
from ccflare_core.http.headers import Header
from ccflare_core.http.origins import Origins


class Refusal(NamedTuple):
    """Why a request gets no further. `retry_after` is in seconds; `is_final` tells clients not to try again."""

    status: int
    message: str
    retry_after: int | None = None
    is_final: bool = False


class Met(NamedTuple):
    """A request at the entrance: whose it is, and why it may not go on, if so."""

    caller: Caller
    refusal: Refusal | None = None


NOT_ADMITTED = Refusal(403, "Requests of this address are not served.")
TOO_MANY_OPEN = Refusal(503, "Too many requests are open at the moment.", SOON)


class Entrance:
    """The first in a request's way."""

    def __init__(self, settings: Settings, allowances: Allowances) -> None:
        self._allowances = allowances
        self._banned = Networks()
        self._settings = settings
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Go on with these settings."""
        self._settings = settings
        self._access = Access(
            allowed=settings.allow_ips or THIS_MACHINE,
            blocked=Networks((*settings.block_ips, *self._banned)),
            trusted=settings.trusted_proxies,
            everybody=settings.allow_remote and not settings.allow_ips,
        )

    @property
    def sites(self) -> Origins:
        """The origins whose pages may call us."""
        return self._settings.allowed_origins

    def ban(self, networks: Networks) -> None:
        """Block these too: the ones in the database, in place of those from before."""
        self._banned = networks
        self.change(self._settings)

    def connected(self, peer: str) -> str | None:
        """Why this peer's connection is hung up on; None if it may stay."""
        return None if self._access.admits(peer) else "this address may not connect"

    def meet(self, peer: str, headers: Iterable[Header]) -> Met:
        """Whose request this is, and whether it may go on. Counts it for its address."""
        try:
            caller = self._access.caller(peer, headers)
        except ValueError as error:
            return Met(Caller(None, peer, is_local=False), Refusal(400, f"{error}."))
        if not self._access.admits(peer) or not self._access.serves(caller):
            return Met(caller, NOT_ADMITTED)
        if denial := self._allowances.admit_address(caller.address, self._settings.requests_per_minute_per_ip):
            return Met(caller, Refusal(429, denial.message, denial.retry_after))
        return Met(caller)

    def admit_key(self, key: Limited) -> Refusal | None:
        """Why one more request of this client key may not go on. If it may, call `ended` once it is over."""
        denial = self._allowances.admit_key(key)
        return Refusal(429, denial.message, denial.retry_after, is_final=denial.is_final) if denial else None

    def ended(self, key: Limited, began_at: float, tokens: int | None, dollars: Decimal | None) -> None:
        """A request that `admit_key` has let go on is over; see allowances.py."""
        self._allowances.ended(key, began_at, tokens, dollars)

    def object_to(self, asked: Asked) -> Refusal | None:
        """Why one of our own pages is not for this request, as a browser describes it."""
        problem = browser.objection(asked, self.sites)
        return Refusal(403, problem) if problem else None

    def lack_of_room(self, open_requests: int) -> Refusal | None:
        """Why not one more request may be open, if so."""
        return TOO_MANY_OPEN if open_requests > self._settings.max_requests else None
