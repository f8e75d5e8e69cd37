"""The /ccflare/ pages that the proxy answers itself: which there are, and which permission each needs."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.pool import AccountStatus
from ccflare_core.accounts.validity import login_end, login_warning
from ccflare_core.anthropic.answers import Answer, json_answer
from ccflare_core.anthropic.routes import CONTROL_PREFIX
from ccflare_core.clients.authentication import Identity
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.request_head import PageAccess
from ccflare_core.errors import CCFlareError, NotFound
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.http.rejection import Rejection
from ccflare_core.text import iso


class AdminRequest(NamedTuple):
    """A request for one of our pages that has been admitted."""

    identity: Identity
    """Without a principal only where a page is for everybody."""
    address: str
    """Where the request comes from, for the audit log."""
    target: str
    """The path, for the audit log."""
    name: str = ""
    """What stands in the path in the place of `{name}`."""
    code: str | None = None
    """The code of the second factor that came with it."""

    @property
    def actor(self) -> str:
        """The client's name in the audit log; "" without a key."""
        return self.identity.actor

    def may(self, permission: Permission) -> bool:
        """Whether the client has this permission too."""
        return self.identity.principal is not None and self.identity.principal.may(permission)

    def __repr__(self) -> str:
        return f"AdminRequest({self.target}, {self.actor or '-'})"


class AdminActions(Protocol):
    """What the pages can change. Each raises CCFlareError if that fails, and is audited if it does not."""

    async def pause_account(self, request: AdminRequest, paused: bool) -> None: ...
    async def revoke_client(self, request: AdminRequest) -> None: ...


class Admin:
    """Answers what is asked under /ccflare/. Nothing it says holds a secret."""

    def __init__(
        self,
        exchanges: Exchanges,
        token_state: Callable[[Account], str],
        actions: AdminActions,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._exchanges = exchanges
        self._token_state = token_state
        self._actions = actions
        self._wall = wall

    def show_health(self, request: AdminRequest) -> Answer:
        """That the proxy is alive; to who may see it, also how the accounts are."""
        return json_answer(200, self.health() if request.may(Permission.DASHBOARD_VIEW) else {"status": "ok"})

    def show_ready(self, request: AdminRequest) -> Answer:
        """Whether a request could be routed now."""
        health = self.health()
        return json_answer(200 if health["ready"] else 503, health)

    def show_accounts(self, request: AdminRequest) -> Answer:
        """Each account as it stands."""
        return json_answer(200, {"accounts": self.health()["accounts"]})

    async def pause_account(self, request: AdminRequest) -> Answer:
        """Take an account out of the pool."""
        await self._actions.pause_account(request, True)
        return json_answer(200, {"name": request.name, "paused": True})

    async def resume_account(self, request: AdminRequest) -> Answer:
        """Put it back."""
        await self._actions.pause_account(request, False)
        return json_answer(200, {"name": request.name, "paused": False})

    async def revoke_client(self, request: AdminRequest) -> Answer:
        """End a client key for good."""
        await self._actions.revoke_client(request)
        return json_answer(200, {"name": request.name, "revoked": True})

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


type Handler = Callable[[Admin, AdminRequest], Answer | Awaitable[Answer]]


class Page(NamedTuple):
    """One page: what it takes to get its answer. `permission` None is for everybody, also without a key."""

    path: str
    methods: tuple[str, ...]
    permission: Permission | None
    handler: Handler

    @property
    def access(self) -> PageAccess:
        """What it takes, for the gate."""
        return PageAccess(self.methods, self.permission)

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


class FoundPage(NamedTuple):
    """A page that a path means, and the name in the path, if it has one."""

    page: Page
    name: str


def find_page(path: str) -> FoundPage | None:
    """The page that a path (without a query) means; None if there is none."""
    if not path.startswith(CONTROL_PREFIX):
        return None
    for page in PAGES:
        if match := page.match(path):
            return FoundPage(page, unquote(match.groupdict().get("name", "")))
    return None


def failure(problem: CCFlareError) -> Rejection:
    """What to say if an action failed."""
    return Rejection(404 if isinstance(problem, NotFound) else 503, str(problem), is_recorded=False)


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
