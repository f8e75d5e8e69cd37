"""What a prompt is made of: about how many tokens its system text, tools, files and each kind of history take. Pure.

It goes by the sizes of the parts, as prompt_size.py does, so only the parts' shares are worth much: what they come to
together is for who knows how many tokens the upstream has counted. Nothing here raises, whatever the bodies hold.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from ccflare_core.anthropic.blocks import Block, object_of, objects, text_of
from ccflare_core.anthropic.conversation import Turn
from ccflare_core.anthropic.prompt_size import BYTES_PER_TOKEN, estimated_tokens
from ccflare_core.http.sse import parse_json

PAGE_TOKENS: Final = 3_000
"""Of a PDF, with the picture that is made of each page: the upper end of what Anthropic's documentation tells."""
_PAGE_BYTES = 50_000
"""Of a PDF whose pages cannot be counted from without: a page of text has less, one of pictures more."""
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
_FILE_TOOLS: Final = frozenset({"Read", "NotebookRead", "read_file", "view", "view_file"})
"""Tools whose result is a file's text: Claude Code's, and what others mostly call theirs."""


class PromptPart(StrEnum):
    """A part of a prompt, by what could be done about it."""

    SYSTEM = "system"
    TOOLS = "tools"
    FILES = "files"
    """Images, documents, and what tools have read from files."""
    TOOL_RESULTS = "tool_results"
    TOOL_CALLS = "tool_calls"
    THINKING = "thinking"
    USER_TEXT = "user_text"
    """With what the client has put into it in the user's name."""
    ANSWERS = "answers"


type Sizes = Counter[PromptPart]


def sizes_of(body: bytes, names: dict[str, str]) -> Sizes:
    """About how many tokens each part of a request's decoded body has.

    `names` has the names of tools by the ids of their calls. Those that are called in the body are put into it.
    """
    content = object_of(parse_json(body))
    found: Sizes = Counter()
    _add(found, PromptPart.SYSTEM, content.get("system"))
    _add(found, PromptPart.TOOLS, content.get("tools"))
    for message in objects(content.get("messages")):
        role, said = text_of(message.get("role")), message.get("content")
        for block in [{"type": "text", "text": said}] if isinstance(said, str) else objects(said):
            if text_of(block.get("type")).endswith("tool_use"):
                names[text_of(block.get("id"))] = text_of(block.get("name"))
            part = _part(text_of(block.get("type")), role, names.get(text_of(block.get("tool_use_id")), ""))
            found[part] += _tokens(block)
    return +found


def sizes_of_answer(turns: Iterable[Turn], names: dict[str, str]) -> Sizes:
    """The same of an answer that the next part of its message thread goes on from, and does not repeat."""
    found: Sizes = Counter()
    for said in (part for turn in turns for part in turn.parts):
        if said.kind.endswith("tool_use"):
            names[said.id] = said.name
        found[_part(said.kind, "assistant", names.get(said.id, ""))] += _rounded(
            len(said.text.encode(errors="replace"))
        )
    return +found


def _part(kind: str, role: str, tool: str) -> PromptPart:
    if kind in ("image", "document", "container_upload") or (kind.endswith("tool_result") and tool in _FILE_TOOLS):
        return PromptPart.FILES
    if kind.endswith("tool_result") or kind == "search_result":
        return PromptPart.TOOL_RESULTS
    if kind.endswith("tool_use"):
        return PromptPart.TOOL_CALLS
    if kind.endswith("thinking"):
        return PromptPart.THINKING
    by_role = {"system": PromptPart.SYSTEM, "assistant": PromptPart.ANSWERS}
    return by_role.get(role, PromptPart.USER_TEXT)


def _add(found: Sizes, part: PromptPart, value: object) -> None:
    if value:
        found[part] += _rounded(len(_written(value)))


def _tokens(block: Block) -> int:
    source = object_of(block.get("source"))
    if block.get("type") == "document" and source.get("type") == "base64":
        return _pages(source) * PAGE_TOKENS
    if within := objects(block.get("content")):
        return sum(map(_tokens, within))
    written = _written(block)
    return max(1, estimated_tokens(written, len(written)))


def _pages(source: Mapping[str, object]) -> int:
    """Of a PDF in base64, as many as stand in it in plain sight; else by its size."""
    try:
        data = base64.b64decode(text_of(source.get("data")))
    except (ValueError, binascii.Error):
        return 1
    return len(_PAGE.findall(data)) or 1 + len(data) // _PAGE_BYTES


def _written(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    except (ValueError, RecursionError):
        return b""


def _rounded(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
