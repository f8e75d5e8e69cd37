"""What all pages ask, and the oldest of them: health, the accounts as they stand, pause, resume, revoke."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.validity import login_end, login_warning
from ccflare_core.anthropic.answers import Answer, json_answer
from ccflare_core.audit.entries import cover
from ccflare_core.clients.keys import Permission
from ccflare_core.config.option import Value
from ccflare_core.config.options import OPTIONS
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.reports.fields import DOING, record
from ccflare_core.reports.queries import Exchange, Position, Reports, Wanted
from ccflare_core.reports.running import as_they_run, listed, open_as_wanted
from ccflare_core.reports.traffic import Period
from ccflare_core.text import iso
from ccflare_core.writer.monitor import Monitor
from ccflare_mitm.pages.events import Events
from ccflare_mitm.pages.fellows import Fellows
from ccflare_mitm.pages.html import HOME, see_other
from ccflare_mitm.pages.logins import Logins
from ccflare_mitm.pages.readers import Read
from ccflare_mitm.pages.visit import Visit

_HIDDEN = frozenset({"ccflare_alert_webhook", "ccflare_alert_command", "ccflare_egress_proxy"})


class AdminActions(Protocol):
    """What the pages can change. Each raises CCFlareError if that fails, and is audited if it does not."""

    async def pause_account(self, visit: Visit, paused: bool) -> None: ...
    async def revoke_client(self, visit: Visit) -> None: ...
    async def note_reading(self, visit: Visit, target: str, part: str) -> None: ...


class Changes(Protocol):
    """How changes by other proxies are learned of: whether they are announced, and why not if they should be."""

    @property
    def works(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...


class Polled:
    """Nobody announces anything, nor should."""

    works = False
    problem = None


POLLED = Polled()


class TelemetryState(Protocol):
    """Whether OpenTelemetry arrives where it is sent to (off, works, failing), why not, and what of it is lost."""

    @property
    def state(self) -> str: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def lost(self) -> int: ...


class Own(Protocol):
    """What this proxy is among all on the database."""

    @property
    def name(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def worker(self) -> int | None: ...


class NoTelemetry:
    """It is sent nowhere."""

    state = "off"
    problem = None
    lost = 0


NO_TELEMETRY = NoTelemetry()
ALONE = Fellows()


class Admin:
    """Answers what is asked under /ccflare/. Nothing it says holds a secret."""

    def __init__(
        self,
        exchanges: Exchanges,
        token_state: Callable[[Account], str],
        actions: AdminActions,
        read: Read,
        logins: Logins,
        monitor: Monitor,
        options: Callable[[], Mapping[str, Value]],
        events: Events,
        needs_code: Callable[[], bool] = lambda: False,
        listening: Changes = POLLED,
        telemetry: TelemetryState = NO_TELEMETRY,
        rules_problem: Callable[[], str | None] = lambda: None,
        *,
        own: Own,
        fellows: Fellows = ALONE,
        wall: Callable[[], float] = time.time,  # noqa: TID251
    ) -> None:
        self.exchanges = exchanges
        self.read = read
        """Runs a function on the database, in a thread."""
        self.searching = asyncio.Lock()
        """Held while a search reads: several at once would leave no thread for anybody else."""
        self.logins = logins
        self.monitor = monitor
        self.events = events
        self.needs_code = needs_code
        """Whether a change takes a code of the second factor."""
        self.flow_link: Callable[[Visit, str], str] = lambda visit, request_id: ""
        """Where mitmweb shows a request to who visits; "" if it does not."""
        self._options = options
        self._token_state = token_state
        self._actions = actions
        self._listening = listening
        self._telemetry = telemetry
        self._rules_problem = rules_problem
        self.own = own
        self.fellows = fellows
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
        await self._actions.pause_account(visit, True)
        return _done(visit, paused=True)

    async def resume_account(self, visit: Visit) -> Answer:
        """Put it back."""
        await self._actions.pause_account(visit, False)
        return _done(visit, paused=False)

    async def revoke_client(self, visit: Visit) -> Answer:
        """End a client key for good."""
        await self._actions.revoke_client(visit)
        return _done(visit, revoked=True)

    async def note_reading(self, visit: Visit, target: str, part: str = "conversation") -> None:
        """Have it audited that what was said in a request is about to be read; what cannot be audited is not read.

        The target of a search (`part`) is the session that it is limited to, or nothing.
        """
        await self._actions.note_reading(visit, target, part)

    async def requests(
        self, period: Period, limit: int, wanted: Wanted, before: Position | None, now: float, *, others: bool = False
    ) -> list[Exchange]:
        """The requests that are wanted, the latest first; those that are open, as far as they have come."""
        stories = {**self.exchanges.open}  # one that ends meanwhile is still told, however late its row is written
        ids = open_as_wanted(stories, wanted, now, before)
        rows = await self.read(
            lambda store: listed(
                Reports(store.query), period, limit, open_ids=ids, others=others, wanted=wanted, before=before
            )
        )
        return as_they_run(rows, {**self.exchanges.open, **stories}, now)

    def options(self) -> list[dict[str, object]]:
        """Each option of ours with what it holds. Of what may hold a password nothing is told but whether it is set."""
        return [
            {
                "name": option.name,
                "value": None if option.name in _HIDDEN else _covered(self._options()[option.name]),
                "default": option.default,
                "is_default": self._options()[option.name] == option.default,
                "applies": option.applies,
            }
            for option in OPTIONS
        ]

    def health(self) -> dict[str, Any]:
        """Alive (this answer), and whether a request could be routed now, with each account's reason.

        While the proxy stops it is none that a new request should go to.
        """
        accounts = self.exchanges.pool.status()
        passthrough = self.exchanges.settings.passthrough
        can_pass = passthrough == "always" or (passthrough == "auto" and not accounts)
        return {
            "status": "ok",
            "ready": not self.exchanges.is_stopping and (can_pass or any(account.available for account in accounts)),
            "proxy": self.own.name,
            "run": self.own.run,
            "worker": self.own.worker,
            "open_exchanges": len(self.exchanges.open),
            "changes": "announced" if self._listening.works else "polled",
            "changes_problem": self._listening.problem,
            "telemetry": self._telemetry.state,
            "telemetry_problem": self._telemetry.problem,
            "telemetry_lost": self._telemetry.lost,
            "rules": len(self.exchanges.guardrails),
            "rules_problem": self._rules_problem(),
            "accounts": [record(status, DOING) | self._login(status.account) for status in accounts],
        }

    def _login(self, account: Account) -> dict[str, Any]:
        return {
            "token": self._token_state(account),
            "token_expires_at": iso(account.expires_at),
            "login_at": iso(account.login_at),
            "login_expires_at": iso(login_end(account)),
            "warning": login_warning(account, self._wall()),
        }


def _done(visit: Visit, **what: bool) -> Answer:
    """What was done; a person goes back to the first page, which shows it."""
    return see_other(HOME) if visit.is_browsers else json_answer(200, {"name": visit.name, **what})


def _covered(value: Value) -> Value:
    return cover(value) if isinstance(value, str) else value
