"""What is to be different in a simulation: accounts, priorities, rules, options, strategies."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

from ccflare_cli.console import Refused
from ccflare_cli.parsing import near
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.priority import FIRST, LAST
from ccflare_core.config.options import OPTIONS as ALL_OPTIONS
from ccflare_core.simulation.capacities import FEWEST_READINGS
from ccflare_core.simulation.plans import Plan
from ccflare_core.simulation.scenarios import OPTIONS, alike, average, usable
from ccflare_core.text import composed, some

STRATEGIES = ("session", "least-used", "round-robin")
_NEW = re.compile(r"\+([1-9]\d?)")
_MOST_ACCOUNTS = 100


class Pool(NamedTuple):
    """Accounts with their windows, by the account's id."""

    accounts: tuple[Account, ...]
    plans: Mapping[str, tuple[Plan, ...]]

    def named(self, name: str) -> Account:
        """The account of that name. Raises Refused."""
        name = composed(name)
        for account in self.accounts:
            if account.name == name:
                return account
        known = ", ".join(account.name for account in self.accounts) or "none"
        raise Refused(f"There is no account {name} to simulate with; there are: {known}.")

    def with_one(self, account: Account, plans: tuple[Plan, ...]) -> Self:
        """One more."""
        if len(self.accounts) >= _MOST_ACCOUNTS:
            raise Refused(f"That are more than {_MOST_ACCOUNTS} accounts.")
        return self._replace(accounts=(*self.accounts, account), plans={**self.plans, account.id: plans})

    def new_name(self, name: str) -> str:
        """A name that none of them has."""
        taken = {account.name for account in self.accounts}
        return next(each for number in range(1, 1000) if (each := f"{name}-{number}") not in taken)

    @property
    def known(self) -> list[tuple[Plan, ...]]:
        """The windows of the accounts of which all are known."""
        return [found for found in self.plans.values() if found and all(plan.is_known for plan in found)]


@dataclass(frozen=True, slots=True)
class AccountChange:
    """One more account, one less, or one that is taken for another one's like."""

    text: str
    number: int = 0
    more: str = ""
    less: str = ""
    like: str = ""

    @classmethod
    def of(cls, text: str) -> Self:
        """That of "+1", "+max-1", "-max-1" or "max-1=max-2". Raises ValueError."""
        if found := _NEW.fullmatch(text):
            return cls(text, number=int(found[1]))
        name, _, other = text.partition("=")
        if text[:1] == "+" and len(text) > 1:
            return cls(text, more=text[1:])
        if text[:1] == "-" and len(text) > 1:
            return cls(text, less=text[1:])
        if name and other:
            return cls(text, less=name, like=other)
        raise ValueError(text)

    def change(self, pool: Pool) -> Pool:
        """The pool with it. Raises Refused."""
        if self.number:
            for _ in range(self.number):
                pool = _with_average(pool)
            return pool
        if self.more:
            return _with_another(pool, pool.named(self.more))
        account = pool.named(self.less)
        if self.like:
            other = pool.named(self.like)
            return pool._replace(plans={**pool.plans, account.id: alike(pool.plans.get(other.id, ()), account.name)})
        return pool._replace(accounts=tuple(each for each in pool.accounts if each is not account))


def _with_another(pool: Pool, account: Account) -> Pool:
    name = pool.new_name(account.name)
    plans = alike(pool.plans.get(account.id, ()), name)  # an account with an API key has none
    return pool.with_one(replace(account, id=f"simulated {name}", name=name), plans)


def _with_average(pool: Pool) -> Pool:
    name, known = pool.new_name("new"), pool.known
    if not known:
        raise Refused("There is no account whose limits are known, so none can be added that is like them.")
    return pool.with_one(usable(Account(f"simulated {name}", name, Kind.OAUTH)), average(known, name))


class Priority(NamedTuple):
    """Another priority of an account."""

    name: str
    number: int

    def change(self, pool: Pool) -> Pool:
        """The pool with it. Raises Refused."""
        account = pool.named(self.name)
        changed = replace(account, priority=self.number)
        return pool._replace(accounts=tuple(changed if each is account else each for each in pool.accounts))


def check_known(pool: Pool) -> None:
    """Raises Refused where it is not known what an account's windows take: then no figure would mean anything."""
    problems = []
    for account in pool.accounts:
        if account.kind is Kind.API_KEY:
            continue
        plans = pool.plans.get(account.id, ())
        unknown = [plan for plan in plans if not plan.is_known]
        if not plans:
            problems.append(f"{account.name}: no limit of it was read")
        problems += [f"{account.name}: {_few(plan)} of its {plan.name} window" for plan in unknown]
    if problems:
        raise Refused(
            f"It is not known what these accounts take until their limits are reached:\n{'\n'.join(problems)}\n"
            "Look further back with --fit-since, take an account for one like another with --accounts NAME=OTHER, or "
            "leave it out with --accounts -NAME."
        )


def _few(plan: Plan) -> str:
    if plan.readings < FEWEST_READINGS:
        return f"{some(plan.readings, 'reading')}, where {FEWEST_READINGS} are needed,"
    return f"{some(plan.readings, 'reading')}, between which it rises too little,"


# What argparse reads


def account_changes(text: str) -> list[AccountChange]:
    """An argparse type for changes of accounts, with a comma between them."""
    try:
        return [AccountChange.of(each.strip()) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("give +1, +NAME, -NAME or NAME=OTHER, or several with commas") from None


def strategies(text: str) -> list[str]:
    """An argparse type for strategies, with a comma between them."""
    found = [each.strip() for each in text.split(",")]
    for each in found:
        if each not in STRATEGIES:
            raise argparse.ArgumentTypeError(f"{_hint(each, STRATEGIES)}give some of {', '.join(STRATEGIES)}")
    return found


def priority(text: str) -> Priority:
    """An argparse type for the priority of an account."""
    name, _, number = text.rpartition("=")
    if name and number.isdecimal() and FIRST <= int(number) <= LAST:
        return Priority(name, int(number))
    raise argparse.ArgumentTypeError(f"give NAME=N, with a number from {FIRST} to {LAST}")


def setting(text: str) -> tuple[str, object]:
    """An argparse type for an option with its value."""
    name, _, value = text.partition("=")
    name = name if name.startswith("ccflare_") else f"ccflare_{name}"
    if name not in OPTIONS:
        raise argparse.ArgumentTypeError(f"{_hint(name, OPTIONS)}give one of {', '.join(OPTIONS)} as OPTION=VALUE")
    option = next(each for each in ALL_OPTIONS if each.name == name)
    return name, int(value) if option.kind is int and value.lstrip("-").isdecimal() else value


def _hint(word: str, names: Sequence[str]) -> str:
    hint = near(word, names)
    return f"{hint} " if hint else ""


def joined_words(argv: Sequence[str]) -> list[str]:
    """The arguments, with `--accounts -max-1` as argparse can read it: what begins with a dash is an option to it."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--accounts" and word[:1] == "-" and word[:2] != "--":
            words[-1] = f"--accounts={word}"
        else:
            words.append(word)
    return words


def change_all(pool: Pool, changes: Sequence[AccountChange | Priority]) -> Pool:
    """The pool with all of them, one after the other. Raises Refused."""
    makers: list[Callable[[Pool], Pool]] = [partial(each.change) for each in changes]
    for make in makers:
        pool = make(pool)
    if not pool.accounts:
        raise Refused("No account is left to simulate with.")
    return pool
