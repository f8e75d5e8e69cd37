"""The /ccflare/ pages that the proxy answers itself."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mitmproxy import http

from ccflare_core.accounts import Account
from ccflare_core.answers import Answer, error, json_answer
from ccflare_core.exchange import Exchanges
from ccflare_core.pool import AccountStatus
from ccflare_core.validity import login_end, login_warning


class Admin:
    """Answers what is asked under /ccflare/. Nothing it says holds a secret."""

    def __init__(
        self,
        exchanges: Exchanges,
        token_state: Callable[[Account], str],
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self._exchanges = exchanges
        self._token_state = token_state
        self._wall = wall

    def answer(self, flow: http.HTTPFlow) -> Answer:
        """The answer to a request for one of our pages."""
        request = flow.request
        path = request.path.partition("?")[0]
        if path not in ("/ccflare/health", "/ccflare/ready"):
            return error(404, "There is no such page; /ccflare/health is one.", request_id="req_none")
        if request.method not in ("GET", "HEAD"):
            return error(405, "This page can only be read.", request_id="req_none")
        health = self.health()
        return json_answer(503 if path == "/ccflare/ready" and not health["ready"] else 200, health)

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
