"""UsagePoll: asks Anthropic how full the windows of idle accounts are. Off unless wanted: every answer tells the same.

The endpoint is unofficial and limits hard (claude-code#31637), so it is asked seldom, one account at a time, and left
alone for long when it refuses. What it says may end a cooldown, but never begins one.
"""

import asyncio
import json
import logging
import random as random_module
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from ccflare_core.accounts.account import OAUTH_BETA, Account
from ccflare_core.accounts.pool import AccountPool, Report
from ccflare_core.anthropic.rate_limit_headers import Window, is_named
from ccflare_core.errors import CCFlareError
from ccflare_core.http.messages import Request, Response

logger = logging.getLogger("ccflare")

PATH = "/api/oauth/usage"
SHORTEST_SECONDS = 60.0
LONGEST_BACK_OFF = 3600.0
_LOOK_SECONDS = 1.0
_NAMES = (("five_hour", "5h"), ("seven_day", "7d"))


def usage_request(url: str, access_token: str) -> Request:
    """Asks for the usage of the account that the token belongs to. Raises ValueError if `url` is no place for it."""
    headers = (
        ("User-Agent", "ccflare"),
        ("Accept", "application/json"),
        ("Authorization", f"Bearer {access_token}"),
        ("anthropic-beta", OAUTH_BETA.decode()),
    )
    return Request("GET", url, headers)


def read_usage(body: bytes) -> tuple[Window, ...]:
    """The windows in an answer, named as in the headers: "5h", "7d", "7d_opus" …; what makes no sense is left out.

    A full window without a reset says nothing: accounts that serve well were seen with one.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    found = content.items() if isinstance(content, dict) else ()
    windows = [_window(name, value) for name, value in found if name.startswith(("five_hour", "seven_day"))]
    return tuple([window for window in windows if window is not None][:16])


def _window(name: str, value: Any) -> Window | None:
    percent = value.get("utilization") if isinstance(value, dict) else None
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 10_000:
        return None
    resets_at = _epoch(value.get("resets_at"))
    if percent >= 100 and resets_at is None:
        return None
    for long, short in _NAMES:
        name = name.replace(long, short)
    return Window(name, None, percent / 100, resets_at) if is_named(name) else None


def _epoch(value: object) -> float | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.timestamp() if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


class UsagePoll:
    """See the module. `seconds` is how long an account must be idle, and how often it is asked; 0 is never."""

    def __init__(
        self,
        pool: AccountPool,
        *,
        send: Callable[[Request], Awaitable[Response]],
        url: Callable[[], str],
        seconds: Callable[[], float],
        learned: Callable[[str, Report], None],
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._pool = pool
        self._send = send
        self._url = url
        self._seconds = seconds
        self._learned = learned
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._next_at: dict[str, float] = {}  # monotonic, by account
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            if self._seconds() > 0:
                try:
                    await self._round(max(self._seconds(), SHORTEST_SECONDS))
                except Exception as error:  # its text may hold what must not be logged
                    logger.warning("polling usage failed with %s", type(error).__name__)
            await self._sleep(_LOOK_SECONDS)

    async def _round(self, interval: float) -> None:
        for account in self._pool.idle_accounts(interval):
            now = self._clock()
            # The first time anywhere within the interval, so that accounts are not asked in step.
            if now >= self._next_at.setdefault(account.id, now + interval * self._random()):
                pause = await self._ask(account, interval)
                self._next_at[account.id] = self._clock() + pause * (0.8 + 0.4 * self._random())

    async def _ask(self, account: Account, interval: float) -> float:
        """Seconds until the account may be asked again."""
        try:
            request = replace(usage_request(self._url(), account.access_token or ""), proxy=account.proxy)
            answer = await self._send(request)
        except (CCFlareError, ValueError) as error:
            logger.debug("%s: its usage could not be queried: %s", account.name, error)
            return self._back_off(account, interval, 0.0)
        windows = read_usage(answer.body) if answer.status == 200 else ()
        if not windows:
            logger.debug("%s: the usage endpoint answered %d", account.name, answer.status)
            return self._back_off(account, interval, _retry_after(answer))
        self._failures.pop(account.id, None)
        self._learned(account.id, self._pool.learn(account.id, windows))
        return interval

    def _back_off(self, account: Account, interval: float, told: float) -> float:
        failures = self._failures[account.id] = min(self._failures.get(account.id, 0) + 1, 16)
        return max(told, interval, min(interval * 2.0**failures, LONGEST_BACK_OFF))


def _retry_after(answer: Response) -> float:
    text = answer.header("retry-after")
    return min(float(text), 86_400.0) / 0.8 if text.isascii() and text.isdigit() else 0.0
