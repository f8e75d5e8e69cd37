"""How much of an exchange is written down, and who decides that. Pure.

The owner says it in general, and for paths by rules of which the first that matches counts, be it stricter or not. A
client's key can only make it stricter: a client cannot undo what the machine's owner has set.
"""

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple


class Mode(StrEnum):
    """From nothing to everything."""

    OFF = "off"
    """Nothing. What the pool learns of its accounts is kept all the same: it is state, not history."""
    METADATA = "metadata"
    """The figures, without bodies."""
    REDACTED = "redacted"
    """The bodies too, without the secrets in them."""
    FULL = "full"
    """The bodies as they were on the wire."""

    @property
    def keeps_bodies(self) -> bool:
        return self in (Mode.REDACTED, Mode.FULL)


_BY_STRICTNESS = tuple(Mode)


class Rule(NamedTuple):
    """A pattern for paths, as the shell's, and what holds for those that match it."""

    pattern: str
    mode: Mode


_RULE = re.compile(r"\s*(/[^\s,=]{0,200})\s*=\s*(off|metadata|redacted|full)\s*", re.ASCII)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules in `/v1/files*=off, /v1/messages=full`; ValueError if the text says anything else."""
    rules = []
    for part in text.split(",") if text.strip() else ():
        if (match := _RULE.fullmatch(part)) is None:
            raise ValueError(f"{part!r} is no rule")
        rules.append(Rule(match[1], Mode(match[2])))
    return tuple(rules)


@lru_cache(512)
def record_mode(general: str, rules: tuple[Rule, ...], path: str, key_mode: str | None) -> Mode:
    """How an exchange on `path` is recorded. ValueError if a mode is none, which no option or key can say."""
    by_path = (rule.mode for rule in rules if fnmatchcase(path, rule.pattern))
    mode = next(by_path, Mode(general))
    return mode if key_mode is None else min(mode, Mode(key_mode), key=_BY_STRICTNESS.index)
