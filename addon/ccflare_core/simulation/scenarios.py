"""What is simulated: the accounts with their windows, the rules, the settings. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.clients.budgets import Use
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.guardrails import Guardrails
from ccflare_core.clients.keys import ClientKey
from ccflare_core.config.settings import Settings
from ccflare_core.simulation.plans import Plan

OPTIONS: Final = (
    *("ccflare_session_seconds", "ccflare_hold_seconds", "ccflare_max_waiting"),
    *("ccflare_retry_attempts", "ccflare_retry_delay_ms", "ccflare_retry_backoff", "ccflare_passthrough"),
)
"""The options that make a difference here, beside the strategy and the rules."""


class Policy(StrEnum):
    """What a session does whose account is limited."""

    AS_SET = "as-set"
    """It moves or waits as ccflare_hold_seconds and its thinking have it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One set of circumstances in which the traffic is replayed."""

    name: str
    settings: Settings
    accounts: tuple[Account, ...]
    plans: Mapping[str, tuple[Plan, ...]]
    """The windows of each account that has some, by its id."""
    guardrails: Guardrails = field(default_factory=Guardrails)
    prices: PriceList = field(default_factory=PriceList)
    keys: tuple[ClientKey, ...] = ()
    runs: tuple[ClientRun, ...] = ()
    uses: tuple[Use, ...] = ()
    """What the keys had used in the month before it begins."""
    sessions: tuple[tuple[str, str, float], ...] = ()
    """The session, account id and time (epoch seconds) of those that had an account before it begins."""
    policy: Policy = Policy.AS_SET


def usable(account: Account) -> Account:
    """The account as a simulation has it: with a credential that is good for nothing, and never over."""
    return replace(
        account,
        paused=False,
        needs_login=False,
        attention=None,
        access_token=None if account.kind is Kind.API_KEY else "simulated",
        api_key="simulated" if account.kind is Kind.API_KEY else None,
        refresh_token=None,
        expires_at=None,
        login_expires_at=None,
        organization_id=account.organization_id or "simulated",
    )


def alike(plans: Iterable[Plan], account: str) -> tuple[Plan, ...]:
    """The same windows for another account, which has used nothing of them."""
    return tuple(replace(plan, account=account, used=0.0, resets_at=None) for plan in plans)


def average(plans: Iterable[Iterable[Plan]], account: str) -> tuple[Plan, ...]:
    """The windows of an account that is like all of these on average."""
    by_name: dict[str, list[Plan]] = {}
    for plan in (plan for found in plans for plan in found):
        by_name.setdefault(plan.name, []).append(plan)
    made = []
    for found in by_name.values():
        known = [plan.capacity for plan in found if plan.capacity is not None]
        first = next((plan for plan in found if plan.capacity is not None), found[0])
        made.append(replace(first, capacity=sum(known) / len(known) if known else None, error=None))
    return alike(made, account)
