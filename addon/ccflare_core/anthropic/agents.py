"""Agents that are known by their prompt, and the models that they are to have in place of those asked for.

The definitions are a folder of Claude Code's own agent files, such as ~/.claude/agents, or a YAML file:

    reviewer:
      file: ~/.claude/agents/reviewer.md    # whose prompt it is; or `prompt: "You review code …"`
      model: claude-haiku-4-5               # optional: the model that its requests get

An agent file is Markdown behind `---` lines with `name: value` between them; its text is the prompt. Its `model` counts
if it is a model's full name. An alias (`sonnet`, `inherit`) is for Claude Code, which has put the model in already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccflare_core.anthropic.claude_code import system_text
from ccflare_core.errors import ConfigError
from ccflare_core.http.json_members import STRING_OR_BRACKET
from ccflare_core.reading import read_text

AGENT_LIMIT = 200
"""Each is looked for in every request."""

SHORTEST_PROMPT = 40
"""Characters. A shorter text stands in prompts that are not the agent's."""

_NAME = re.compile(r"[\w.@:-]{1,100}")
MODEL_NAME = re.compile(r"claude-[a-zA-Z0-9.@-]{1,100}(\[1m\])?", re.ASCII)
_FRONT = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"(\w+):[ \t]*(.*)")
_KEYS: Final = {"file", "prompt", "model"}

# A JSON text's tokens that tell where its top level is.


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent; `model` is what its requests get, None leaves them as they are."""

    name: str
    prompt: str = field(repr=False)
    model: str | None = None


class Agents:
    """Finds out whose request it is. Without agents it looks at nothing."""

    def __init__(self, agents: Iterable[Agent] = ()) -> None:
        self._known = [(agent, _written(agent.prompt)) for agent in agents]

    def __len__(self) -> int:
        return len(self._known)

    @classmethod
    def load(cls, path: Path | None) -> Agents:
        """The agents that a folder or a YAML file defines; ConfigError with every mistake."""
        if path is None:
            return cls()
        found = list(_from_folder(path) if path.is_dir() else _from_yaml(path))
        if len(found) > AGENT_LIMIT:
            raise ConfigError(f"{path} defines {len(found)} agents; at most {AGENT_LIMIT} can be looked for.")
        return cls(found)

    def find(self, body: bytes) -> Agent | None:
        """The agent whose prompt the system text of this (undecoded) request has; the longest, if it has several."""
        if not self._known or not (system := system_text(body)):
            return None
        found = [agent for agent, forms in self._known if any(form in system for form in forms)]
        return max(found, key=lambda agent: len(agent.prompt), default=None)


def with_model(body: bytes, model: str) -> bytes | None:
    """The body with another `model` at its top level and no other byte changed; None if it has none, or several."""
    spans = list(_models(body))
    if len(spans) != 1:
        return None
    start, end = spans[0]
    return body[:start] + json.dumps(model).encode() + body[end:]


def _models(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the string values of the key `model` of the outermost object stand."""
    depth, key_end = 0, -1
    for token in STRING_OR_BRACKET.finditer(body):
        mark = body[token.start()]
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
        elif depth == 1:
            if key_end >= 0 and body[key_end : token.start()].strip() == b":":
                yield token.span()
            key_end = token.end() if token[0] == b'"model"' else -1


def _written(prompt: str) -> tuple[bytes, ...]:
    """The prompt as JSON texts have it: Claude Code escapes as little as possible, others all but ASCII."""
    forms = (json.dumps(prompt, ensure_ascii=False), json.dumps(prompt))
    return tuple({form[1:-1].encode("utf-8", "surrogatepass") for form in forms})


def _from_folder(folder: Path) -> Iterator[Agent]:
    for path in sorted(folder.glob("*.md")):
        fields, prompt = _read_agent(path)
        if len(prompt) < SHORTEST_PROMPT:
            continue  # Claude Code accepts such a file; here it would match what is not the agent's
        model = fields.get("model", "")
        yield Agent(
            _name(fields.get("name") or path.stem, path), prompt, model if MODEL_NAME.fullmatch(model) else None
        )


def _read_agent(path: Path) -> tuple[dict[str, str], str]:
    """The fields and the prompt of an agent file."""
    text = read_text(path)
    front = _FRONT.match(text)
    if front is None:
        return {}, text.strip()
    lines = (_FIELD.fullmatch(line.strip()) for line in front[1].splitlines())
    return {line[1]: line[2].strip("\"' ") for line in lines if line}, text[front.end() :].strip()


def _from_yaml(path: Path) -> Iterator[Agent]:
    try:
        found = YAML(typ="safe", pure=True).load(read_text(path))
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: give a name and its `prompt` or `file` for each agent.") from error
    if not isinstance(found, dict | None):
        raise ConfigError(f"{path} defines no agents: give a name and its `prompt` or `file` for each.")
    problems: list[str] = []
    for name, definition in (found or {}).items():
        try:
            yield _defined(str(name), definition, path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)


def _defined(name: str, definition: Any, path: Path) -> Agent:
    """One agent of a YAML file. Raises ConfigError."""
    where = f"{path}: {_name(name, path)}"
    if (
        not isinstance(definition, dict)
        or not definition.keys() <= _KEYS
        or ("file" in definition) == ("prompt" in definition)
    ):
        raise ConfigError(f"{where} needs a `prompt` or a `file`, and may have a `model`.")
    prompt, model = definition.get("prompt"), definition.get("model")
    if "file" in definition:
        prompt = _read_agent(Path(str(definition["file"])).expanduser())[1]
    if not isinstance(prompt, str) or len(prompt.strip()) < SHORTEST_PROMPT:
        raise ConfigError(f"{where} needs a prompt of {SHORTEST_PROMPT} characters or more, to be told from others.")
    if model is not None and not MODEL_NAME.fullmatch(str(model)):
        raise ConfigError(f"{where} has a model that is no full name such as claude-haiku-4-5.")
    return Agent(name, prompt.strip(), model)


def _name(name: str, path: Path) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: an agent's name has 1 to 100 letters, digits and _.@:- only.")
    return name
