"""What there is to read in a content block, of every kind that the API has (anthropic 2.14.0). Pure, and never raises.

A kind that is not known here is shown as JSON, so that nothing is left out because it is new. What is only for the API
itself (signatures, what is encrypted) is left out of the kinds that are known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ccflare_core.text import size

Block = Mapping[str, Any]


class Part(NamedTuple):
    """A piece of a turn.

    `kind` is the API's own word: text, thinking, tool_use, tool_result, image and so on. `name` is a tool's name (one
    of an MCP server has the server's in front), `id` what connects its call with its result. `about` is what a file is
    in one line (kind, size, title), `cached` for how long the prompt's cache keeps all up to here: `5m`, `1h`.
    """

    kind: str
    text: str = ""
    name: str = ""
    id: str = ""
    is_error: bool = False
    about: str = ""
    cached: str = ""


LAID_OUT = 64 * 1024
"""Characters of JSON up to which its lines are set apart: that takes twenty times as long as to write it in one."""

DELTAS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
    "citations_delta": "",
    "signature_delta": "",
}
"""What adds to a block, and the field in which its text is; a citation is an object, a signature is not shown."""

_FILES: Final = frozenset({"image", "document"})
_SECRET: Final = frozenset({"signature", "encrypted_content", "encrypted_index", "encrypted_stdout"})
_DULL: Final = frozenset({"type", "cache_control"})


def parts(content: object) -> Iterator[Part]:
    """The parts of a message's content, which is a text or a list of blocks."""
    if isinstance(content, str):
        if content:
            yield Part("text", content)
        return
    for block in objects(content):
        kind = text_of(block.get("type")) or "?"
        id_ = text_of(block.get("id")) or text_of(block.get("tool_use_id"))
        about = _about(block) if kind in _FILES else ""
        yield Part(kind, shown(kind, block), _name(block), id_, block.get("is_error") is True, about, cached(block))


def cached(block: Block) -> str:
    """How long the prompt's cache keeps all up to this block; "" if nothing is said of that."""
    marker = object_of(block.get("cache_control"))
    return (text_of(marker.get("ttl")) or "5m") if marker else ""


def shown(kind: str, block: Block) -> str:
    """What there is to read in a content block of this kind."""
    try:
        return BLOCKS.get(kind, unknown)(block)
    except RecursionError:  # nested too deeply to be anything that was said
        return ""


def unknown(value: Block) -> str:
    """All of an object that nothing is known of."""
    return as_json({name: each for name, each in value.items() if name not in _DULL})


def citation(cited: Block) -> str:
    """What was cited, and from where."""
    names = ("title", "document_title", "url", "source", "file_id")
    where = ", ".join(dict.fromkeys(filter(None, (text_of(cited.get(name)) for name in names))))
    return f"[cited{f' from {where}' if where else ''}: {text_of(cited.get('cited_text'))}]"


def as_json(value: object) -> str:
    """JSON, with its lines apart unless it is long; "" for None."""
    if value is None:
        return ""
    try:
        text = json.dumps(value, ensure_ascii=False)
        return text if value in ({}, []) or len(text) > LAID_OUT else json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return ""


def text_of(value: object) -> str:
    """The value if it is a text, else ""."""
    return value if isinstance(value, str) else ""


def object_of(value: object) -> Block:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Block]:
    """The objects in a list; none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _name(block: Block) -> str:
    if "name" not in block and "mcp_server_name" not in block:
        return ""
    names = (text_of(block.get("server_name")) or text_of(block.get("mcp_server_name")), text_of(block.get("name")))
    return "/".join(filter(None, names))


def _lines(*texts: str) -> str:
    return "\n".join(filter(None, texts))


def _text(block: Block) -> str:
    text, citations = text_of(block.get("text")), objects(block.get("citations"))
    return _lines(text, *map(citation, citations)) if citations else text


def _document(block: Block) -> str:
    about = (text_of(block.get(name)) for name in ("title", "context"))
    return _lines(*about, _source(object_of(block.get("source"))))


def _source(source: Block) -> str:
    if where := text_of(source.get("url")) or text_of(source.get("file_id")):
        return where
    if source.get("type") == "content":
        return _result(source.get("content"))
    if text := text_of(source.get("text")) or (text_of(source.get("data")) if source.get("type") == "text" else ""):
        return text
    return f"[{text_of(source.get('media_type')) or 'file'}, {_bytes_in(source):,} bytes]"


def _bytes_in(source: Block) -> int:
    data = text_of(source.get("data"))
    return len(data) * 3 // 4 if source.get("type") == "base64" else len(data.encode("utf-8", "replace"))


def _about(block: Block) -> str:
    """What an image or a document is, in one line."""
    source = object_of(block.get("source"))
    where = text_of(source.get("url")) or text_of(source.get("file_id"))
    held = _bytes_in(source) or len(shown("document", {"source": source}).encode("utf-8", "replace"))
    told = (text_of(source.get("media_type")), where or size(held), text_of(block.get("title")))
    return ", ".join(filter(None, told))


def _found(block: Block) -> str:
    """A result of a search: what it is called, where it is, what it says."""
    where = text_of(block.get("url")) or text_of(block.get("source"))
    return _lines(text_of(block.get("title")), where, text_of(block.get("page_age")), _result(block.get("content")))


def _ran(block: Block) -> str:
    """What a program wrote, and how it ended."""
    code = block.get("return_code")
    ended = "" if code in (None, 0) else f"[return code {code}]"
    written = (text_of(block.get(name)) for name in ("stdout", "stderr"))
    return _lines(*written, ended, _result(block.get("content")))


def _listed(block: Block) -> str:
    return "\n".join(text_of(tool.get("name")) for tool in objects(block.get("tools")))


def _offered(block: Block) -> str:
    return _result(block.get("tool_references"))


def _compacted(block: Block) -> str:
    changes = block.get("tool_changes")
    return _lines(_result(block.get("content")), as_json(changes) if changes else "")


def _result(content: object) -> str:
    if isinstance(content, dict):
        return shown(text_of(content.get("type")), content)
    return "\n".join(part.text or f"[{part.kind}]" for part in parts(content))


def _known(block: Block) -> str:
    """All of it but what is only for the API."""
    return as_json({name: each for name, each in block.items() if name not in _DULL | _SECRET})


def _field(name: str) -> Callable[[Block], str]:
    return lambda block: text_of(block.get(name))


def _input(block: Block) -> str:
    return as_json(block.get("input"))


def _content(block: Block) -> str:
    return _result(block.get("content"))


BLOCKS: Final[Mapping[str, Callable[[Block], str]]] = {
    "text": _text,
    "thinking": _field("thinking"),
    "redacted_thinking": lambda _: "",
    "compaction": _compacted,
    "image": lambda block: _source(object_of(block.get("source"))),
    "document": _document,
    "search_result": _found,
    **dict.fromkeys(("tool_use", "server_tool_use", "mcp_tool_use"), _input),
    **dict.fromkeys(("tool_result", "mcp_tool_result", "web_search_tool_result", "web_fetch_tool_result"), _content),
    **dict.fromkeys(("advisor_tool_result", "tool_search_tool_result", "code_execution_tool_result"), _content),
    **dict.fromkeys(("bash_code_execution_tool_result", "text_editor_code_execution_tool_result"), _content),
    "mcp_tool_listing": _listed,
    **dict.fromkeys(("container_upload", "fallback", "tool_addition", "tool_removal"), _known),
    # What stands within results.
    "web_search_result": _found,
    "web_fetch_result": _found,
    "advisor_result": _text,
    "tool_search_tool_search_result": _offered,
    "tool_reference": _field("tool_name"),
    **dict.fromkeys(("code_execution_result", "bash_code_execution_result"), _ran),
    "encrypted_code_execution_result": _ran,
    "text_editor_code_execution_view_result": _field("content"),
}
"""How each kind is read."""
