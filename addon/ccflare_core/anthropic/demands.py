"""Which models a request wants to run, and with how much effort, for a limit that it might like to get around. Pure.

Both are looked for where first somebody asks. A body that two parsers could read differently tells nothing; the one
that Claude Code sends is told at a glance, however long it is.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from ccflare_core.anthropic.request import (
    ESCAPE,
    ESCAPED_NAME,
    PARSE_LIMIT,
    decoded,
    messages_of,
    model_in_front,
    model_parts,
    models_asked,
    unambiguous,
)
from ccflare_core.anthropic.words import Word, Words

EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
"""From the least on."""
DEFAULT: Final = "high"
"""What the API takes a request for that names none."""

_ANOTHER_MODEL = Word(
    re.compile(rb'"model"(?<!\A\{"model")(?:\s{0,8}:\s{0,8}[^{\s]|\s{0,8}:\s{9}|\s{9})'), b'"model"', most=25
)
"""A model's name anywhere but in front, or what might go on as one. A tool's parameter of that name is an object."""
_FALLBACKS = Word(re.compile(rb'"fallbacks?"'), b'"fallback', most=12)
_OUTPUT_CONFIG = Word(re.compile(rb'"output_config"'), b'"output_config"', most=15)
_EFFORT = re.compile(rb'"output_config"\s*:\s*\{\s*"effort"\s*:\s*"([a-z]{1,20})"\s*\}')
_LAST_MEMBERS = re.compile(
    rb',\s*"output_config"\s*:\s*\{\s*"effort"\s*:\s*"([a-z]{1,20})"\s*\}'
    rb'(?:\s*,\s*"\w+"\s*:\s*(?:true|false|\d+|\{\s*"\w+"\s*:\s*"[^"\\]*"\s*\}))*\s*\}\s*\Z'
)
"""The end of a body whose last members are plain ones, so that it is certain that they are the body's own."""
_TAIL: Final = 1000


class Demands:
    """What one request asks for. None: that cannot be told for certain.

    `words` are those of the body, if it has no coding and they are known.
    """

    def __init__(self, body: bytes, content_encoding: str = "", words: Words | None = None) -> None:
        self._body = body
        self._encoding = content_encoding
        self._words = words if words is not None and words.body is body else Words(body)

    @cached_property
    def models(self) -> tuple[str, ...] | None:
        """Every model that it names: its own, those of its tools and those to fall back to."""
        is_alone = self._is_plain and not self._words.has(_ANOTHER_MODEL) and not self._words.has(_FALLBACKS)
        if is_alone and (model := model_in_front(self._body)):
            return (model,)
        asked = models_asked(self._body, content_encoding=self._encoding)
        return None if asked is None else tuple(asked)

    @cached_property
    def efforts(self) -> tuple[str, ...] | None:
        """Its effort, those of its turns, and those that it has where it may fall back to another model."""
        if self._is_plain and (glanced := self._effort_at_a_glance()):
            return (glanced,)
        if self._is_plain and len(self._body) > PARSE_LIMIT:
            return self._all_efforts()
        text = decoded(self._body, self._encoding)
        if not text.whole or len(text.data) > PARSE_LIMIT:
            return None
        try:
            return efforts_named(json.loads(text.data, object_pairs_hook=unambiguous))
        except (ValueError, RecursionError):
            return None

    @cached_property
    def _is_plain(self) -> bool:
        """Whether every name stands in it as it is."""
        if self._encoding or self._body[:1] != b"{" or b"\0" in self._body[:4]:
            return False
        return not (self._words.has(ESCAPE) and self._words.has(ESCAPED_NAME))

    def _all_efforts(self) -> tuple[str, ...] | None:
        """Of what is too long to be parsed all that are named anywhere in it: more than are in force, never less."""
        found = [*_EFFORT.finditer(self._body)]
        efforts = dict.fromkeys(each[1].decode() for each in found)
        if len(found) != self._body.count(_OUTPUT_CONFIG.begins) or not efforts.keys() <= set(EFFORTS):
            return None
        is_own = found and _LAST_MEMBERS.match(self._body, self._body.rfind(b",", 0, found[-1].start()))
        return tuple(efforts) if is_own else None

    def _effort_at_a_glance(self) -> str | None:
        """The effort where none is named, or where it is named once, at the body's end, as Claude Code does."""
        end = self._words.end_of(_OUTPUT_CONFIG)
        if end < 0:
            return DEFAULT
        if end < len(self._body) - _TAIL or self._body.find(_OUTPUT_CONFIG.begins, end) >= 0:
            return None
        comma = self._body.rfind(b",", 0, end)
        found = _LAST_MEMBERS.match(self._body, comma) if comma >= 0 else None
        effort = found[1].decode() if found else None
        return effort if effort in EFFORTS else None


def efforts_named(request: Any) -> tuple[str, ...] | None:
    """The efforts of a parsed request, itself and in its parts; None if one of them is none that there is."""
    if not isinstance(request, dict):
        return None
    parts = [each["output_config"] for each in model_parts(request) if "output_config" in each]
    found = [*_efforts_of_turns(effort_in(request.get("output_config")), request), *map(effort_in, parts)]
    return tuple(dict.fromkeys(each for each in found if each is not None)) if None not in found else None


def _efforts_of_turns(own: str | None, request: dict[str, Any]) -> list[str | None]:
    """Those that the answer may have: the request's own, until one of its messages says another one.

    That is in force at once where it follows what a person has said, else from the next time that a person says
    something, until another message changes it (platform.claude.com, "Per-message effort"). Where it is not certain
    which one is in force, all of them count.
    """
    now, later = [own], list[str | None]()
    is_asked = False
    for message in messages_of(request):
        match message.get("role"):
            case "user":
                is_asked = _has_input(message.get("content"))
                now, later = (later[-1:], []) if is_asked and later else (now, later)
            case "assistant":
                is_asked = False
        config = message.get("output_config")
        if config is None or config == {}:
            continue
        if config == {"effort": None}:
            now.append(own)
        elif is_asked and message.get("role") == "system":
            now = [effort_in(config)]
        else:
            later.append(effort_in(config))
    return [*now, *later]


def _has_input(content: object) -> bool:
    """Whether there is more in it than what tools have found."""
    if isinstance(content, str):
        return True
    blocks = content if isinstance(content, list) else []
    return any(not isinstance(block, dict) or block.get("type") != "tool_result" for block in blocks)


def effort_in(output_config: object) -> str | None:
    """The effort that this says; None if that is none which there is."""
    if output_config is None:
        return DEFAULT
    if not isinstance(output_config, dict):
        return None
    effort = output_config.get("effort")
    return DEFAULT if effort is None else effort if effort in EFFORTS else None


def up_to(effort: str) -> Sequence[str]:
    """This effort and all that are less."""
    return EFFORTS[: EFFORTS.index(effort) + 1]
