"""The /ccflare/ pages that the proxy answers itself: which there are, and who may see or do what."""

import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from mitmproxy import http

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.pool import AccountStatus
from ccflare_core.accounts.validity import login_end, login_warning
from ccflare_core.anthropic.answers import Answer, error, json_answer
from ccflare_core.clients.authentication import Denied, Principal
from ccflare_core.clients.keys import Permission
from ccflare_core.errors import CCFlareError, NotFound
from ccflare_core.exchange.exchange import Exchanges


class Visit(NamedTuple):
    """A request for one of our pages, by somebody who may make it."""

    flow: http.HTTPFlow
    who: Principal | Denied
    """Denied only where a page is for everybody."""
    address: str
    name: str = ""
    """What stands in the path in the place of `{name}`."""

    @property
    def actor(self) -> str:
        """Who asks, for the audit log."""
        return actor(self.who)

    def may(self, permission: Permission) -> bool:
        """Whether the visitor has this permission too."""
        return isinstance(self.who, Principal) and self.who.may(permission)


def actor(who: Principal | Denied) -> str:
    """Somebody's name in the audit log; "" without a key."""
    return f"client:{who.key.name}" if who.key else ""


class Deeds(Protocol):
    """What the pages can have done. Each raises CCFlareError if it cannot be, and audits it if it is."""

    async def pause_account(self, visit: Visit, paused: bool) -> None: ...
    async def revoke_client(self, visit: Visit) -> None: ...


class Admin:
    """Answers what is asked under /ccflare/. Nothing it says holds a secret."""

    def __init__(
        self,
        exchanges: Exchanges,
        token_state: Callable[[Account], str],
        deeds: Deeds,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._exchanges = exchanges
        self._token_state = token_state
        self._deeds = deeds
        self._wall = wall

    def show_health(self, visit: Visit) -> Answer:
        """That the proxy is alive; to who may see it, also how the accounts are."""
        return json_answer(200, self.health() if visit.may(Permission.DASHBOARD_VIEW) else {"status": "ok"})

    def show_ready(self, visit: Visit) -> Answer:
        """Whether a request could be routed now."""
        health = self.health()
        return json_answer(200 if health["ready"] else 503, health)

    def show_accounts(self, visit: Visit) -> Answer:
        """Each account as it stands."""
        return json_answer(200, {"accounts": self.health()["accounts"]})

    async def pause_account(self, visit: Visit) -> Answer:
        """Take an account out of the pool."""
        await self._deeds.pause_account(visit, True)
        return json_answer(200, {"name": visit.name, "paused": True})

    async def resume_account(self, visit: Visit) -> Answer:
        """Put it back."""
        await self._deeds.pause_account(visit, False)
        return json_answer(200, {"name": visit.name, "paused": False})

    async def revoke_client(self, visit: Visit) -> Answer:
        """End a client key for good."""
        await self._deeds.revoke_client(visit)
        return json_answer(200, {"name": visit.name, "revoked": True})

    def health(self) -> dict[str, Any]:
        """Alive (this answer), and whether a request could be routed now, with each account's reason."""
        accounts = self._exchanges.pool.status()
        passthrough = self._exchanges.settings.passthrough
        can_pass = passthrough == "always" or (passthrough == "auto" and not accounts)
        return {
            "status": "ok",
            "ready": can_pass or any(account.available for account in accounts),
            "open_exchanges": len(self._exchanges.open),
            "accounts": [describe(status) | self._login(status.account) for status in accounts],
        }

    def _login(self, account: Account) -> dict[str, Any]:
        return {
            "token": self._token_state(account),
            "token_expires_at": iso(account.expires_at),
            "login_at": iso(account.login_at),
            "login_expires_at": iso(login_end(account)),
            "warning": login_warning(account, self._wall()),
        }


type Handler = Callable[[Admin, Visit], Answer | Awaitable[Answer]]


class Page(NamedTuple):
    """One page: what it takes to get its answer. `permission` None is for everybody, also without a key."""

    path: str
    methods: tuple[str, ...]
    permission: Permission | None
    handler: Handler

    def match(self, path: str) -> re.Match[str] | None:
        """Whether a path means this page; `{name}` in ours stands for one segment of it."""
        pattern = re.escape(self.path).replace(re.escape("{name}"), "(?P<name>[^/]+)")
        return re.fullmatch(pattern, path)


READ, DO = ("GET", "HEAD"), ("POST",)
PAGES: tuple[Page, ...] = (
    Page("/ccflare/health", READ, None, Admin.show_health),
    Page("/ccflare/ready", READ, Permission.DASHBOARD_VIEW, Admin.show_ready),
    Page("/ccflare/accounts", READ, Permission.DASHBOARD_VIEW, Admin.show_accounts),
    Page("/ccflare/accounts/{name}/pause", DO, Permission.ACCOUNTS_MANAGE, Admin.pause_account),
    Page("/ccflare/accounts/{name}/resume", DO, Permission.ACCOUNTS_MANAGE, Admin.resume_account),
    Page("/ccflare/clients/{name}/revoke", DO, Permission.ACCOUNTS_MANAGE, Admin.revoke_client),
)
NO_PAGE = error(404, "There is no such page; /ccflare/health is one.")


def no_method(page: Page) -> Answer:
    """The answer to a method that the page does not take."""
    answer = error(405, f"This page takes {', '.join(page.methods)} only.")
    return answer.allowing(page.methods)


def find_page(path: str) -> tuple[Page, str] | None:
    """The page that a path (without a query) means, and the name in it; None if there is none."""
    for page in PAGES:
        if match := page.match(path):
            return page, unquote(match.groupdict().get("name", ""))
    return None


def refusal(problem: CCFlareError) -> Answer:
    """What to say if a deed could not be done."""
    return error(404 if isinstance(problem, NotFound) else 503, str(problem))


def describe(status: AccountStatus) -> dict[str, Any]:
    """An account as the health page shows it."""
    return {
        "name": status.account.name,
        "kind": status.account.kind,
        "priority": status.account.priority,
        "available": status.available,
        "reason": status.reason,
        "available_at": iso(status.until),
        "in_flight": status.in_flight,
        "windows": [
            {
                "name": window.name,
                "status": window.status,
                "utilization": window.utilization,
                "resets_at": iso(window.resets_at),
            }
            for window in status.windows
        ],
    }


def iso(moment: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
