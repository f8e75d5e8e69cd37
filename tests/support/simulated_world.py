"""A week of an office whose real pool runs on a clock of ours, recorded by the real recorder into a real database.

What the accounts' windows take is known here alone. They count the prompt when an answer begins and the output when it
ends, and tell whole percents. Clients are not those of the simulator either: a session goes on when its last answer is
there, and asks again when it is refused.
"""

import heapq
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.config.record_mode import Mode
from ccflare_core.config.settings import Settings
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.recorder import Recorder
from ccflare_core.exchange.records import Record
from ccflare_core.exchange.steps import Opening, Outcome, Send, Step, Wait
from ccflare_core.store.store import Store
from history import KEY

DAY, HOUR = 86_400.0, 3600.0
MONDAY = 1_793_577_600.0
"""00:00 UTC of 2 November 2026."""
JSON = ((b"content-type", b"application/json"),)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
LIMITED = {"type": "error", "error": {"type": "rate_limit_error", "message": "Limited"}}
WEIGHTS = {"claude-opus-4-8": 5.0, "claude-sonnet-5": 2.0}
"""What a million input tokens count; output five times, writing 1.25 times, reading a tenth of it."""
SHARED = 12_000
"""Tokens of the prompt that every session begins with."""


class Capacity(NamedTuple):
    """What the windows of an account take, in dollars, which nobody but the provider knows."""

    five_hours: float
    week: float
    priority: int = 50


@dataclass
class Window:
    """One window of the provider's. `phase`: when it is reset; None: after its time, from the hour of its first use."""

    name: str
    seconds: float
    capacity: float
    phase: float | None = None
    used: float = 0.0
    end: float = 0.0

    def turn(self, now: float) -> None:
        if now >= self.end:
            begin = now - (now - self.phase) % self.seconds if self.phase is not None else now - now % HOUR
            self.used, self.end = 0.0, begin + self.seconds

    @property
    def is_full(self) -> bool:
        return self.used >= self.capacity

    def headers(self, *, refuses: bool) -> list[tuple[bytes, bytes]]:
        name = f"anthropic-ratelimit-unified-{self.name}-"
        used = int(100 * self.used / self.capacity) / 100
        told = ("status", "rejected" if refuses and self.is_full else "allowed"), ("utilization", f"{used:.2f}")
        return [((name + field).encode(), value.encode()) for field, value in (*told, ("reset", f"{self.end:.0f}"))]


@dataclass
class Session:
    """A conversation that grows. `cached`: what each account has of it, and until when."""

    id: str
    model: str
    project: str
    turns: int
    prompt: int = SHARED
    cached: dict[str, tuple[int, float]] = field(default_factory=dict)
    refusals: int = 0
    number: int = 0


@dataclass(eq=False)
class Ask:
    """One request of a session."""

    session: Session
    exchange: Exchange
    output: int
    head_seconds: float
    seconds: float
    prompt: int
    read: int = 0


class World:
    """Make it, `run` it, and read what `store` has of it."""

    def __init__(
        self,
        path: Path,
        seed: int,
        capacities: dict[str, Capacity],
        *,
        days: float = 7.0,
        sessions_a_day: float = 120.0,
        **options: object,
    ) -> None:
        self.now = MONDAY
        self.store = Store.open(path, KEY, wall=self.clock)
        self.until = MONDAY + days * DAY
        self.chance = random.Random(f"world {seed}")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._records: list[Record] = []
        self._sessions_a_day = sessions_a_day
        self.windows = {}
        accounts = []
        for number, (name, capacity) in enumerate(capacities.items()):
            account = Account(
                name.upper(),
                name,
                Kind.OAUTH,
                capacity.priority,
                access_token=f"token-of-{name}",
                organization_id="org",
            )
            self.store.accounts.add(account)
            accounts.append(account)
            weekly = Window("7d", 7 * DAY, capacity.week, phase=MONDAY + number * DAY + 9 * HOUR)
            self.windows[account.id] = [Window("5h", 5 * HOUR, capacity.five_hours), weekly]
        settings = Settings.build(options, {"XDG_DATA_HOME": str(path.parent)})
        pool = AccountPool(
            strategy=settings.strategy, session_seconds=settings.session_seconds, clock=self.clock, wall=self.clock
        )
        pool.replace_accounts(accounts)
        recorder = Recorder(
            self,
            run_id="run",
            mode=lambda opening: Mode.METADATA,
            body_limit=lambda: 0,
            wall=self.clock,
            account_name=str.lower,
        )
        self.exchanges = Exchanges(settings, pool, recorder, PriceList(), self.clock, self.clock, self.chance.random)

    def clock(self) -> float:
        return self.now

    def put(self, record: Record) -> None:
        self._records.append(record)
        if len(self._records) >= 1000:
            self._write()

    def _write(self) -> None:
        self.store.write(self._records)
        self._records = []

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), act))

    def run(self) -> None:
        """Until the last session is over."""
        self._arrive()
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self._write()

    # Clients

    def _arrive(self) -> None:
        """A session begins, and after a while the next one: there are fewer by night."""
        if self.now >= self.until:
            return
        hour = self.now % DAY / HOUR
        busy = 1.6 if 8 <= hour < 20 else 0.4
        self._later(self.chance.expovariate(self._sessions_a_day * busy / DAY), self._arrive)
        model = self.chance.choices(list(WEIGHTS), (3, 1))[0]
        number = next(self._numbers)
        turns = 1 + round(self.chance.expovariate(1 / 18))
        session = Session(f"session-{number}", model, self.chance.choice(("shop", "site")), turns)
        self._ask(session)

    def _ask(self, session: Session) -> None:
        session.number += 1
        chance = self.chance
        if not session.refusals:
            session.prompt += round(chance.lognormvariate(6.8, 0.8))
        opening = Opening("POST", "/v1/messages", "127.0.0.1", "base", "claude-cli/2.1.330", has_credential=False)
        exchange = self.exchanges.begin(opening)
        exchange.identified(Provenance(project=session.project, request_class="main"))
        output = 40 + round(chance.lognormvariate(6.0, 0.9))
        head = chance.uniform(0.8, 2.5)
        ask = Ask(session, exchange, output, head, head + output / 70, session.prompt)
        exchange.admit(Facts(session.model, session.id, "127.0.0.1", stream=False), b"x" * (session.prompt // 4), "")
        self._carry_out(ask, exchange.next_step())

    def _carry_out(self, ask: Ask, step: Step) -> None:
        if isinstance(step, Send):
            ask.exchange.sent()
            self._receive(ask)
        elif isinstance(step, Wait):
            self._later(step.seconds, lambda: self._carry_out(ask, ask.exchange.next_step()))
        elif isinstance(step, Deliver):
            self._deliver(ask)
        else:
            ask.exchange.answered(step)
            self._refused(ask)

    def _refused(self, ask: Ask) -> None:
        """It asks again some times, and gives up then."""
        session = ask.session
        session.refusals += 1
        if session.refusals <= 3:
            self._later(30.0 * session.refusals, lambda: self._ask(session))

    # The provider

    def _receive(self, ask: Ask) -> None:
        lease = ask.exchange.lease
        assert lease is not None
        windows = self.windows[lease.account.id]
        for window in windows:
            window.turn(self.now)
        full = [window for window in windows if window.is_full]
        if full:
            self._later(self.chance.uniform(0.2, 0.5), lambda: self._judge(ask, 429, full))
        elif self.chance.random() < 0.01:
            self._later(0.4, lambda: self._judge(ask, 529, []))
        else:
            self._later(ask.head_seconds, lambda: self._head(ask))

    def _judge(self, ask: Ask, status: int, full: list[Window]) -> None:
        lease = ask.exchange.lease
        assert lease is not None
        head: list[tuple[bytes, bytes]] = []
        if full:
            head = [field for window in self.windows[lease.account.id] for field in window.headers(refuses=True)]
            reset = max(window.end for window in full)
            head += [(b"anthropic-ratelimit-unified-status", b"rejected")]
            head += [
                (b"anthropic-ratelimit-unified-reset", b"%d" % reset),
                (b"retry-after", b"%d" % (reset - self.now)),
            ]
        error = LIMITED if full else OVERLOADED
        step = ask.exchange.judge(status, head, error)
        if isinstance(step, Deliver):
            ask.exchange.delivering(status, JSON)
            ask.exchange.capture.add(json.dumps(error).encode())
            ask.exchange.finish()
            self._refused(ask)
        else:
            self._carry_out(ask, step)

    def _head(self, ask: Ask) -> None:
        """The prompt counts; what of it the account has cached counts less."""
        session, lease = ask.session, ask.exchange.lease
        assert lease is not None
        account_id = lease.account.id
        cached, until = session.cached.get(account_id, (SHARED, 0.0))
        ask.read = max(SHARED, cached if self.now <= until else 0)
        session.cached[account_id] = ask.prompt, self.now + 300
        weight = WEIGHTS[session.model] / 1e6
        self._count(account_id, weight * (0.1 * ask.read + 1.25 * (ask.prompt - ask.read)))
        head = [field for window in self.windows[account_id] for field in window.headers(refuses=False)]
        head += [(b"anthropic-ratelimit-unified-status", b"allowed")]
        self._carry_out(ask, ask.exchange.judge(200, [*JSON, *head], None))

    def _count(self, account_id: str, amount: float) -> None:
        for window in self.windows[account_id]:
            window.turn(self.now)
            window.used += amount

    def _deliver(self, ask: Ask) -> None:
        ask.exchange.delivering(200, JSON)
        self._later(ask.seconds - ask.head_seconds, lambda: self._end(ask))

    def _end(self, ask: Ask) -> None:
        session, lease = ask.session, ask.exchange.lease
        assert lease is not None
        usage = {
            "input_tokens": 3,
            "output_tokens": ask.output,
            "cache_read_input_tokens": ask.read,
            "cache_creation_input_tokens": ask.prompt - ask.read,
        }
        message = {"type": "message", "model": session.model, "stop_reason": "end_turn", "usage": usage}
        ask.exchange.capture.add(json.dumps(message).encode())
        ask.exchange.finish()
        assert ask.exchange.outcome is Outcome.OK
        self._count(lease.account.id, WEIGHTS[session.model] / 1e6 * 5 * ask.output)
        session.refusals = 0
        session.prompt += ask.output
        if session.number < session.turns:
            self._later(self.chance.expovariate(1 / 150), lambda: self._ask(session))
