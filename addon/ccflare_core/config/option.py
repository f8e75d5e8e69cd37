"""One option: what it may hold, when a change of it applies, and what its variable's text means."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

Value = str | int | bool

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


class Group(StrEnum):
    """The sections of the options table, in their order."""

    UPSTREAM = "Upstream"
    ACCOUNTS = "Accounts"
    RECORDING = "Recording"
    NETWORK = "Network and access"
    LIMITS = "Deadlines and limits"
    KEYS = "Keys"
    OAUTH = "OAuth"
    LOGGING = "Logging"


class Applies(StrEnum):
    """When a change at run time takes effect."""

    AT_ONCE = "at once"
    """For what is under way too."""
    NEW = "to new exchanges"
    """An exchange that is open keeps what it began with."""
    RESTART = "after a restart"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what it may hold, what it holds if nobody says anything, and which variable sets it."""

    name: str
    applies: Applies
    kind: type[str] | type[int] | type[bool]
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    environment: str | None = None
    scale: int = 1  # how many of the variable's units make one of the option's
    synonyms: tuple[tuple[str, str], ...] = ()  # what the variable may also say, and what it means by that
    check: Callable[[str], bool] | None = None
    form: str = "printable text"
    group: Group | None = None
    """Its section in the tables."""

    @property
    def allowed(self) -> str:
        """What may be said, for people."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.kind is bool:
            return "true or false"
        return self.form if self.kind is str else f"a whole number from {self.minimum} to {self.maximum}"

    def problem(self, value: object) -> str | None:
        """What is wrong with `value` and what is allowed instead; None if it will do."""
        return None if self._fits(value) else f"{shown(value)} cannot be used; allowed is {self.allowed}"

    def read(self, text: str) -> Value:
        """What a variable's `text` means, in the option's unit, rounded up; ValueError with the problem."""
        value: Value = text
        if self.kind is bool:
            value = _SWITCH.get(text.lower(), text)
        elif self.kind is int and _WHOLE.fullmatch(text):
            value = int(text)
        elif self.choices:
            value = dict(self.synonyms).get(text.lower(), text.lower())
        if problem := self._in_variable_unit().problem(value):
            raise ValueError(problem)
        return -(-value // self.scale) if self.scale > 1 and isinstance(value, int) else value

    def _fits(self, value: object) -> bool:
        if type(value) is not self.kind:  # not isinstance: True is no number here
            return False
        if not isinstance(value, str):
            low, high = self.minimum, self.maximum
            return (low is None or value >= low) and (high is None or value <= high)
        if self.choices:
            return value in self.choices
        return value.isprintable() and (self.check is None or self.check(value))

    def _in_variable_unit(self) -> "Option":
        if self.minimum is None or self.maximum is None:
            return self
        return replace(self, minimum=self.minimum * self.scale, maximum=self.maximum * self.scale)


def shown(value: object) -> str:
    """A short quotation for a message; nothing of a text that may hold a password or a key."""
    if isinstance(value, str) and ("@" in value or "sk-" in value or "pass" in value):
        return "this value"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
