"""The file of the owner's rules, `ccflare_rules`. What it says is in guardrails.py.

night:                           # a rule's name
  when:                          # optional: all of it has to be met; without it the rule is about every request
    project: shop-*              # a pattern as the shell's, or a list of which one has to match
    client: [ci, ci-*]           # the client key's name
    run: run-*                   # the id of a run that `ccflare run` has started
    session: 0f4*                # the session's id
    tag: team=blue               # a tag, with its value
    agent: reviewer              # an agent of ccflare_agents
    class: [title, auxiliary]    # what Claude Code asks for: main, subagent, title, compaction, …
    model: claude-opus-*         # one of the models that are asked for
    hours: 22:00-06:00           # the time of day on this machine, or a list of which one has to hold
  accounts: [spare-*, night]     # the only accounts
  not_accounts: work             # never these
  prefer: [night, spare-*]       # these accounts first, in this order
  models: [claude-haiku-*, claude-sonnet-*]    # the only models
  replace: claude-sonnet-5-5     # the model that stands in for others; without it they are refused
  effort: medium                 # the most that a request may ask for
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ruamel.yaml.nodes import Node, ScalarNode, SequenceNode

from ccflare_core.anthropic.agents import MODEL_NAME
from ccflare_core.anthropic.demands import EFFORTS
from ccflare_core.clients.guardrails import DAY_MINUTES, Guardrail, Guardrails, Hours, Patterns, Trait
from ccflare_core.reading import TEXT_LIMIT, FileWatch, read_bytes
from ccflare_core.yaml_text import Mistakes, Section, compose

RULE_LIMIT: Final = 200
"""Each is looked at for every request."""
_PATTERN_LIMIT: Final = 100
_LONGEST: Final = 200
_WHEN, _HOURS = "when", "hours"
_EFFECTS: Final = ("accounts", "not_accounts", "prefer", "models", "replace", "effort")
_CONDITIONS: Final = (*(str(trait) for trait in Trait), _HOURS)
_NAME = re.compile(r"[\w.@:-]{1,100}")
_HOURS_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", re.ASCII)
_TEXTUAL = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp"))
_CAPS = EFFORTS[:-1]
"""The efforts that limit something."""


def load(path: Path | None) -> Guardrails:
    """The rules in a file, or none; ConfigError with every mistake and its line."""
    return parse(read_bytes(path, TEXT_LIMIT), str(path)) if path else Guardrails()


def watch(path: Callable[[], Path | None], on_trouble: Callable[[str], None]) -> FileWatch[Guardrails]:
    """What takes up new rules as their file changes."""
    return FileWatch(path, load, "the rules stay as they were", on_trouble)


def parse(text: bytes, name: str) -> Guardrails:
    """The rules in a text, called `name` in messages; ConfigError with every mistake and its line."""
    root = compose(text, name)
    if root is None:
        return Guardrails()
    reader = _Reader()
    entries = reader.mistakes.section(root, "the file").entries
    if len(entries) > RULE_LIMIT:
        reader.mistakes.note(root, f"these are {len(entries)} rules, and there may be {RULE_LIMIT}")
    rules = [reader.rule(rule, node) for rule, node in entries.items()]
    reader.mistakes.require_none(name)
    return Guardrails(rules)


class _Reader:
    """Turns nodes into rules and notes the mistakes, so that all are told at once. What has one limits nothing."""

    def __init__(self) -> None:
        self.mistakes = Mistakes()

    def rule(self, name: str, node: Node) -> Guardrail:
        owner = f"rule {name if _NAME.fullmatch(name) else ascii(name)[:_LONGEST]}"
        if not _NAME.fullmatch(name):
            self.mistakes.note(node, f"the name of a {owner} has 1 to 100 letters, digits and _.@:- only")
        before = len(self.mistakes)
        section = self.mistakes.section(node, owner, (_WHEN, *_EFFECTS))
        is_understood = len(self.mistakes) == before
        when = section.entries.get(_WHEN)
        conditions, hours = self._when(when, f"{_WHEN} of {owner}") if when else ((), ())
        if is_understood and not section.entries.keys() & set(_EFFECTS):
            self.mistakes.note(node, f"{owner} does nothing; what it may have is {', '.join(_EFFECTS)}")
        rule = Guardrail(
            name,
            conditions,
            hours,
            accounts=self._patterns(section, "accounts"),
            not_accounts=self._patterns(section, "not_accounts"),
            prefer=tuple(Patterns.of([text]) for text in self._texts(section, "prefer")),
            models=self._patterns(section, "models"),
            replace=self._replace(section),
            effort=self._effort(section),
        )
        if rule.replace and rule.models and not rule.models.have(rule.replace):
            self.mistakes.note(section.entries["replace"], f"replace of {owner} must be one of its models")
        return rule

    def _when(self, node: Node, owner: str) -> tuple[tuple[tuple[Trait, Patterns], ...], tuple[Hours, ...]]:
        before = len(self.mistakes)
        section = self.mistakes.section(node, owner, _CONDITIONS)
        if not section.entries and len(self.mistakes) == before:
            self.mistakes.note(node, f"{owner} is empty; leave it out for every request")
        found = ((trait, self._patterns(section, trait)) for trait in Trait)
        hours = [self._hours(section, text) for text in self._texts(section, _HOURS)]
        return tuple((trait, each) for trait, each in found if each), tuple(each for each in hours if each)

    def _patterns(self, section: Section, key: str) -> Patterns | None:
        texts = self._texts(section, key)
        for text in texts if key == Trait.TAG else ():
            if "=" not in text:
                self.mistakes.note(section.entries[key], f"{key} in {section.owner} must be name=value, such as team=*")
        return Patterns.of(texts) if texts else None

    def _texts(self, section: Section, key: str) -> tuple[str, ...]:
        """The texts of a member that is one or a list of some."""
        node = section.entries.get(key)
        if node is None:
            return ()
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        texts = tuple(each.value for each in nodes if _is_text(each))
        if not texts or len(texts) < len(nodes) or len(texts) > _PATTERN_LIMIT:
            wanted = (
                f"a text or a list of 1 to {_PATTERN_LIMIT}, each of 1 to {_LONGEST} characters that can be printed"
            )
            self.mistakes.note(node, f"{key} of {section.owner} must be {wanted}")
        return texts

    def _text(self, section: Section, key: str) -> str | None:
        """The text of a member that is only one."""
        node = section.entries.get(key)
        if node is not None and not _is_text(node):
            self.mistakes.note(node, f"{key} of {section.owner} must be one text")
        return str(node.value) if node is not None and _is_text(node) else None

    def _hours(self, section: Section, text: str) -> Hours | None:
        found = _HOURS_FORM.fullmatch(text)
        begin, end = (int(found[n]) * 60 + int(found[n + 1]) for n in (1, 3)) if found else (0, 0)
        if begin != end and end <= DAY_MINUTES:
            return Hours(begin, end)
        self.mistakes.note(
            section.entries[_HOURS], f"{_HOURS} in {section.owner} must be two times such as 22:00-06:00"
        )
        return None

    def _replace(self, section: Section) -> str | None:
        model = self._text(section, "replace")
        if model is not None and not MODEL_NAME.fullmatch(model):
            wanted = "a model's full name, such as claude-haiku-4-5"
            self.mistakes.note(section.entries["replace"], f"replace of {section.owner} must be {wanted}")
        if model is not None and "models" not in section.entries:
            self.mistakes.note(section.entries["replace"], f"replace of {section.owner} needs models: those that stay")
        return model

    def _effort(self, section: Section) -> str | None:
        effort = self._text(section, "effort")
        if effort is not None and effort not in _CAPS:
            self.mistakes.note(
                section.entries["effort"], f"effort of {section.owner} must be {', '.join(_CAPS[:-1])} or {_CAPS[-1]}"
            )
        return effort


def _is_text(node: Node) -> bool:
    is_one = isinstance(node, ScalarNode) and (node.tag is None or str(node.tag) in _TEXTUAL)
    return is_one and 0 < len(node.value) <= _LONGEST and node.value.isprintable()
