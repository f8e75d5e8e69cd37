"""The owner's rules (`ccflare_rules`): which requests each of them is about, and what it lets those do. Pure.

Every rule that matches a request counts, whatever its place in the file, beside the limits of the client key and of the
run: the strictest wins. What only one rule can say, an order of accounts and another model, the first one says. A rule
of which it cannot be told whether it matches limits the request as if it did, and gives it nothing.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from typing import Final, NamedTuple, Self

from ccflare_core.anthropic.demands import DEFAULT, up_to
from ccflare_core.text import composed, plural

type Said = tuple[str, ...] | None
"""What a request says of itself: () if it says nothing, None if that cannot be read."""

DAY_MINUTES: Final = 24 * 60
_MOST_KNOWN: Final = 1000
_MOST_SAID: Final = 8
"""What says more of itself than this is not remembered: a request may name any number of models."""


class Trait(StrEnum):
    """What rules match a request by."""

    PROJECT = "project"
    CLIENT = "client"
    RUN = "run"
    SESSION = "session"
    TAG = "tag"
    AGENT = "agent"
    CLASS = "class"
    MODEL = "model"
    """The last one, since it may have to be looked for in the body."""


class Patterns(NamedTuple):
    """Patterns as the shell's, such as `claude-haiku-*`; one of them is enough."""

    texts: tuple[str, ...]
    expression: re.Pattern[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """These, in the one spelling of all that look the same."""
        spelt = tuple(composed(text) for text in texts)
        return cls(spelt, re.compile("|".join(map(translate, spelt))))

    def have(self, text: str) -> bool:
        """Whether one of them matches, in whichever spelling."""
        return self.expression.match(composed(text)) is not None

    def __str__(self) -> str:
        return ", ".join(self.texts)


class Hours(NamedTuple):
    """A part of the day on this machine's clock, in minutes; one that ends before it begins goes over midnight."""

    begin: int
    end: int

    def have(self, minute: int) -> bool:
        """Whether this minute of the day is in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        return "-".join(f"{each // 60:02}:{each % 60:02}" for each in self)


class Traits:
    """What one request says of itself, and when it came.

    `minute`, of the day, and `models` are asked only where a rule is about them.
    """

    def __init__(self, said: Mapping[Trait, Said], minute: Callable[[], int], models: Callable[[], Said]) -> None:
        self._said = said
        self._minute = minute
        self._models = models

    @property
    def minute(self) -> int:
        """The minute of the day."""
        return self._minute()

    def of(self, trait: Trait) -> Said:
        """What it says of this."""
        return self._models() if trait is Trait.MODEL else self._said[trait]

    def with_model(self, model: str) -> "Traits":
        """The same for another model."""
        return Traits(self._said, self._minute, lambda: (model,))


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One rule: what it is about, and what it lets that do. What is None or empty limits nothing."""

    name: str
    conditions: tuple[tuple[Trait, Patterns], ...] = ()
    """All of them have to be met, in the order of Trait."""
    hours: tuple[Hours, ...] = ()
    accounts: Patterns | None = None
    """The only accounts."""
    not_accounts: Patterns | None = None
    """Never these, whatever `accounts` says."""
    prefer: tuple[Patterns, ...] = ()
    """Accounts in the order in which they are asked; all others come behind them."""
    models: Patterns | None = None
    """The only models."""
    replace: str | None = None
    """The model that stands in for one which is not among them."""
    effort: str | None = None
    """The most of it."""

    def matches(self, traits: Traits) -> bool | None:
        """Whether the request is one of those that it is about; None if that cannot be told."""
        if self.hours and not any(each.have(traits.minute) for each in self.hours):
            return False
        is_certain = True
        for trait, patterns in self.conditions:
            said = traits.of(trait)
            if said is None:
                is_certain = False
            elif not any(map(patterns.have, said)):
                return False
        return True if is_certain else None

    def unmatched(self, accounts: Collection[str]) -> tuple[str, ...]:
        """What it says of accounts that is about none of these: an account that is gone, or a typing mistake."""
        told = [each for each in (self.accounts, self.not_accounts, *self.prefer) if each]
        texts = dict.fromkeys(text for each in told for text in each.texts)
        return tuple(text for text in texts if not any(map(Patterns.of([text]).have, accounts)))

    def lets_use(self, account: str) -> bool:
        """Whether an account of this name may serve what it is about."""
        if self.not_accounts is not None and self.not_accounts.have(account):
            return False
        return self.accounts is None or self.accounts.have(account)

    @property
    def limits_accounts(self) -> bool:
        """Whether some accounts may not serve it."""
        return self.accounts is not None or self.not_accounts is not None

    @property
    def limits_models(self) -> bool:
        """Whether it takes a look at what a request wants to run."""
        return self.models is not None or self.effort is not None

    @property
    def of_accounts(self) -> str:
        """Which accounts it allows, in words."""
        if self.accounts is None:
            return "" if self.not_accounts is None else f"all but {self.not_accounts}"
        return (
            f"{self.accounts} only"
            if self.not_accounts is None
            else f"{self.accounts} only, but not {self.not_accounts}"
        )

    @property
    def effects(self) -> tuple[str, ...]:
        """What it does, in words."""
        told = (
            ("accounts", self.of_accounts),
            ("first", ", ".join(map(str, self.prefer))),
            ("models", str(self.models or "")),
            ("in place of others", self.replace),
            ("effort", f"at most {self.effort}" if self.effort else ""),
        )
        return tuple(f"{what}: {text}" for what, text in told if text)

    @property
    def subject(self) -> tuple[str, ...]:
        """What it is about, in words; () is every request."""
        told = [f"{trait}: {patterns}" for trait, patterns in self.conditions]
        return (*told, f"hours: {', '.join(map(str, self.hours))}") if self.hours else tuple(told)


@dataclass(frozen=True, slots=True)
class Ruling:
    """All rules that a request has to keep to, in their order."""

    rules: tuple[Guardrail, ...] = ()
    doubtful: frozenset[str] = frozenset()
    """The names of those that may not be meant for it."""
    _keeping: dict[str, Guardrail | None] = field(default_factory=dict, repr=False, compare=False)

    def joined(self, other: "Ruling") -> "Ruling":
        """These, and those others that are not among them."""
        more = tuple(rule for rule in other.rules if rule not in self.rules)
        certain = {rule.name for each in (self, other) for rule in each.rules if rule.name not in each.doubtful}
        return Ruling((*self.rules, *more), (self.doubtful | other.doubtful) - certain)

    @property
    def limits_accounts(self) -> bool:
        """Whether some accounts may not serve it."""
        return any(rule.limits_accounts for rule in self.rules)

    @property
    def limits_models(self) -> bool:
        """Whether it depends on what is to be run."""
        return any(rule.limits_models for rule in self.rules)

    def keeping_from(self, account: str) -> Guardrail | None:
        """The rule that keeps the request from an account of this name."""
        if not self.rules:
            return None
        if account not in self._keeping:
            self._keeping[account] = next((rule for rule in self.rules if not rule.lets_use(account)), None)
        return self._keeping[account]

    def may_use(self, account: str) -> bool:
        """Whether an account of this name may serve it."""
        return self.keeping_from(account) is None

    @property
    def order(self) -> tuple[Patterns, ...]:
        """The accounts that are asked first."""
        return next((rule.prefer for rule in self.rules if rule.prefer and rule.name not in self.doubtful), ())

    @property
    def told(self) -> str:
        """Which of them have a say in the account: `by the rules night and spare`; "" if none has."""
        order = self.order
        names = [rule.name for rule in self.rules if rule.limits_accounts or (order and rule.prefer is order)]
        if not names:
            return ""
        return f"by {the_rules(names)}"

    def objection_to_models(self, models: Said) -> str:
        """Why these may not be asked for, as a sentence with those that may; "" if they may."""
        for rule in self.rules:
            if rule.models is None:
                continue
            if not models:
                return f"{_allows(rule, str(rule.models))}, and it cannot be told which models this request asks for."
            if above := [model for model in models if not rule.models.have(model)]:
                return f"{_allows(rule, str(rule.models))}, and this request asks for {listed(above)}."
        return ""

    def objection_to_efforts(self, efforts: Said) -> str:
        """The same for its efforts."""
        for rule in self.rules:
            if rule.effort is None:
                continue
            allowed = up_to(rule.effort)
            above = [effort for effort in efforts or () if effort not in allowed]
            if efforts and not above:
                continue
            limit = _allows(rule, f"the {'effort' if len(allowed) == 1 else 'efforts'} {listed(allowed)}")
            if not efforts:
                return f"{limit}, and it cannot be told which one this request asks for."
            what = f"{listed(above)}{', which is what none means' if DEFAULT in above else ''}"
            return f"{limit}, and this request asks for {what}."
        return ""

    def replacement(self, models: Said) -> str | None:
        """The model that is to stand in for the one that is asked for; None: it stays."""
        if models is None or len(models) != 1:
            return None
        for rule in self.rules:
            if rule.replace and rule.models and rule.name not in self.doubtful and not rule.models.have(models[0]):
                return rule.replace
        return None


UNRULED: Final = Ruling()


class Guardrails:
    """The rules that are in force. What they are for requests that say the same of themselves is found out once."""

    def __init__(self, rules: Iterable[Guardrail] = ()) -> None:
        self.rules = tuple(rules)
        self._has_hours = any(rule.hours for rule in self.rules)
        asked = {trait for rule in self.rules for trait, _ in rule.conditions}
        self._traits = tuple(trait for trait in Trait if trait in asked)
        self._known: dict[tuple[Said, ...], Ruling] = {}

    def __len__(self) -> int:
        return len(self.rules)

    def of(self, traits: Traits) -> Ruling:
        """Those that a request has to keep to."""
        if not self.rules:
            return UNRULED
        said = tuple([traits.of(trait) for trait in self._traits])
        told = (*said, (str(traits.minute),)) if self._has_hours else said
        if (known := self._known.get(told)) is None:
            known = self._find(traits)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            if all(each is None or len(each) <= _MOST_SAID for each in said):
                self._known[told] = known
        return known

    def _find(self, traits: Traits) -> Ruling:
        found = [(rule, matched) for rule in self.rules if (matched := rule.matches(traits)) is not False]
        if not found:
            return UNRULED
        return Ruling(tuple(rule for rule, _ in found), frozenset(rule.name for rule, matched in found if not matched))


def the_rules(names: Sequence[str]) -> str:
    """`the rules night and spare`."""
    return f"the {plural(len(names), 'rule')} {listed(names)}"


def listed(words: Sequence[str]) -> str:
    """`low, medium and high`."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} and {last}" if others else last


def _allows(rule: Guardrail, what: str) -> str:
    return f"The rule {rule.name} allows {what} only"
