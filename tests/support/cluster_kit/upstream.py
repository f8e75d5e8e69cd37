"""The scripted upstream: accounts reach limits at random, and it alone knows the truth about each.

It answers as the API does (fake_upstream has its words), and writes down every request with the account whose token it
came with. Tokens end, and refresh tokens are good once.
"""

import asyncio
import json
import math
import random
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster_kit.beat import follow_loop
from cluster_kit.scale import Asked, Refreshes, account_name, owner, tokens
from fake_upstream import (
    MESSAGES,
    TOKEN,
    Answer,
    FakeUpstream,
    Request,
    allowed_headers,
    json_answer,
    limited_5h,
    message_json,
    model_bucket,
    oauth_usage,
    short_throttle,
    sse,
    unauthorized,
)

USAGE = "/api/oauth/usage"
THROTTLE_SECONDS = 3
LIMIT_SECONDS = (4.0, 15.0)
_WHO = re.compile(rb"@(\d+) (\d+)@")
_MODEL = re.compile(rb'"model":"([^"]+)"')


@dataclass(slots=True)
class _Account:
    """The truth about one account."""

    name: str
    serial: int = 0
    expires_at: float = 0.0
    spent: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Until when each family ("" is all) is limited, and how that is said."""
    used: float = 0.02

    def limit(self, family: str, now: float) -> tuple[float, str] | None:
        """The limit that a request of this family meets now: its end, and its kind."""
        for name in ("", family):
            if (found := self.spent.get(name)) and now < found[0]:
                return found
        return None


class World:
    """The accounts, what is asked of them, and the answers."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._limit_share: float = job["limit_share"]
        self._token_seconds: float = job["token_seconds"]
        self._random = random.Random(job["seed"])
        ends = time.time() + self._token_seconds
        self._accounts = {
            (name := account_name(number)): _Account(name, expires_at=ends) for number in range(job["accounts"])
        }
        self._uses: Counter[str] = Counter()
        self.asked: list[Asked] = []

    @property
    def refreshes(self) -> Refreshes:
        return Refreshes(self._uses.total(), sum(uses > 1 for uses in self._uses.values()))

    def message(self, request: Request) -> Answer:
        """POST /v1/messages."""
        now = time.time()
        name, _ = owner(request.credential)
        account = self._accounts[name]
        who, model = _WHO.search(request.body), _MODEL.search(request.body)
        assert who is not None
        assert model is not None
        answer = self._answer(account, request, model[1].decode(), family := model[1].decode().split("-")[1], now)
        self.asked.append(Asked(now, account.name, int(who[2]), int(who[1]), family, answer.status))
        return answer

    def _answer(self, account: _Account, request: Request, model: str, family: str, now: float) -> Answer:
        if now >= account.expires_at or owner(request.credential)[1] != account.serial:
            return unauthorized()
        found = account.limit(family, now)
        if found is None and self._random.random() < self._limit_share:
            found = self._reach_limit(account, family, now)
        if found is not None:
            return _refusal(*found, now)
        account.used = min(0.99, account.used + 0.002)
        headers = allowed_headers(round(account.used, 2))
        if b'"stream":true' in request.body:
            return sse(self._random.randint(2, 8), model=model, delay=self._random.uniform(0.02, 0.3), headers=headers)
        return message_json(model=model, headers=headers)

    def _reach_limit(self, account: _Account, family: str, now: float) -> tuple[float, str]:
        kind = self._random.choices(("5h", "model", "throttle"), (7, 2, 1))[0]
        end = now + THROTTLE_SECONDS if kind == "throttle" else math.ceil(now + self._random.uniform(*LIMIT_SECONDS))
        account.spent[family if kind == "model" else ""] = found = (float(end), kind)
        account.used = 0.02
        return found

    def token(self, request: Request) -> Answer:
        """POST /v1/oauth/token: the next pair for a refresh token that was not used before."""
        spent = request.json()["refresh_token"]
        self._uses[spent] += 1
        account = self._accounts[owner(spent)[0]]
        if spent != tokens(account.name, account.serial)[1]:
            return json_answer({"error": "invalid_grant", "error_description": "Refresh token not found"}, 400)
        account.serial += 1
        account.expires_at = time.time() + self._token_seconds
        access, refresh = tokens(account.name, account.serial)
        content = {"token_type": "Bearer", "access_token": access, "refresh_token": refresh}
        return json_answer(content | {"expires_in": self._token_seconds, "scope": "user:inference"})

    def usage(self, request: Request) -> Answer:
        """GET /api/oauth/usage."""
        account = self._accounts[owner(request.credential)[0]]
        is_limited = account.limit("", time.time()) is not None
        return oauth_usage(100.0 if is_limited else 100 * account.used)


def _refusal(end: float, kind: str, now: float) -> Answer:
    match kind:
        case "5h":
            return limited_5h(end)
        case "model":
            return model_bucket(end)
    return short_throttle(max(1, math.ceil(end - now)))


async def serve(job: dict[str, Any]) -> None:
    """Print the port, serve until SIGTERM, and write down what was seen."""
    world, upstream, over = World(job), FakeUpstream(log=False), asyncio.Event()
    for path, answer in ((MESSAGES, world.message), (TOKEN, world.token), (USAGE, world.usage)):
        upstream.always(answer, path=path)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    late: list[tuple[float, float]] = []
    beat = asyncio.create_task(follow_loop(late.append))
    print(upstream.port, flush=True)
    await upstream.serve(over)
    beat.cancel()
    told = {"asked": world.asked, "late": late, "refreshes": world.refreshes}
    Path(job["file"]).write_text(json.dumps(told))
