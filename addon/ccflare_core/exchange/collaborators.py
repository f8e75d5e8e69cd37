"""What all exchanges share: the settings, the pool, the recorder, the prices, the clocks and the budgets."""

import random as random_module
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ccflare_core.accounts.pool import AccountPool, Report
from ccflare_core.accounts.renewal import NoRenewer, Renewer
from ccflare_core.anthropic.agents import Agents
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.clients.guardrails import Guardrails
from ccflare_core.config.settings import Settings
from ccflare_core.exchange.counted import Counted
from ccflare_core.exchange.departures import Departures
from ccflare_core.exchange.failover import RetryBudget
from ccflare_core.exchange.memory import MemoryBudget
from ccflare_core.exchange.ownership import Ownership
from ccflare_core.exchange.steps import Attempt, Opening, Outcome
from ccflare_core.exchange.story import Story


class Recorder(Protocol):
    """Who writes down what happened. None of these may raise or block."""

    def keeps_bodies(self, opening: Opening) -> bool: ...
    def started(self, exchange: Story) -> None: ...
    def attempted(self, exchange: Story, attempt: Attempt) -> None: ...
    def reserved(self, exchange: Story, estimate: Counted) -> None: ...
    def learned(self, account_id: str, report: Report) -> None: ...
    def organization(self, account_id: str, organization_id: str) -> None: ...
    def finished(self, exchange: Story) -> None: ...
    def corrected(self, exchange_id: str, outcome: Outcome, error: str) -> None: ...


@dataclass(slots=True)
class Collaborators:
    """See the module."""

    settings: Settings
    pool: AccountPool
    recorder: Recorder
    prices: PriceList
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time  # noqa: TID251
    random: Callable[[], float] = random_module.random
    budget: RetryBudget = field(default_factory=RetryBudget)
    tokens: Renewer = field(default_factory=NoRenewer)
    agents: Agents = field(default_factory=Agents)
    guardrails: Guardrails = field(default_factory=Guardrails)
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    ownership: Ownership = field(default_factory=Ownership)
    departures: Departures = field(default_factory=Departures)
    held: set[str] = field(default_factory=set)
    """The ids of those that wait for an account."""
    ended: list[Callable[[Story], object]] = field(default_factory=list)
    """Who is told of each that has ended."""
