"""Where a request of Claude Code comes from: its directory, its project, what it is for. Pure, and never raises.

Claude Code tells its working directory in its system text, and since 2.1.330 in one of the first messages, whose role
is `system`. What a person typed, what a model said and what a tool has read stands in messages of other roles, which
are not looked at. All is found in the body's bytes, since parsing 500 kB would take 5 ms of the event loop, and this
takes 0.2 ms. What is found is a label for the record; nothing is ever opened by it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from ccflare_core.anthropic.routes import COUNT_TOKENS, MESSAGES
from ccflare_core.http.json_members import STRING_OR_BRACKET
from ccflare_core.http.sse import parse_json

CLAUDE_CODE = "claude-cli/"
"""How Claude Code's User-Agent begins, also under the agent SDK."""

_SYSTEM = (b'"system":[', b'"system":"', b'"system": [', b'"system": "')
_EARLY_MESSAGES = 6
"""Among so many messages the directory stands: in the second, and after a compaction in the fifth."""
_TOKEN_LIMIT, _MESSAGE_LIMIT = 20_000, 256 * 1024
_SAID_DIRECTORY = re.compile(r"orking directory: (.{1,2000})$", re.MULTILINE)
_TOLD = b"orking directory: "
_DIRECTORY = re.compile(rb'orking directory: ((?:[^"\\\x00-\x1f]|\\["\\/bft]|\\u[0-9a-fA-F]{4}){1,2000})(?:\\[nr]|")')
_DIRECTORY_LIMIT, _PROJECT_LIMIT = 500, 100
_CLASS_HEADERS = ("x-claude-code-request-class", "x-claude-1p-request-class")
_CLASS = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)
_AGENT_ID = re.compile(r"[\w.:@/-]{1,100}", re.ASCII)
_QUOTA = re.compile(rb'"max_tokens"\s*:\s*1[,}\s]')
_VERDICT_STOP = b'"stop_sequences":["</block>"]'
_SUBAGENT = b"cc_is_subagent=true"
_SMALL = 1000
_HEAD = 600
"""Bytes of the system text within which its first block ends, in which Claude Code tells of itself."""
_NO_TOOLS = b'"tools":[]'
_ASKED_TITLE = b'"title"'
"""The name of the one field that the answer is to have."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the request says of itself; None where it is silent."""

    working_directory: str | None = None
    project: str | None = None
    """The directory's own name."""
    request_class: str | None = None
    """`main`, `subagent`, `title`, `compaction`, `classifier` (may this tool run?), `auxiliary` and what else Claude
    Code calls it; `count_tokens`, `batch`, `quota`. The same by every ingress."""
    agent_id: str | None = None
    parent_agent_id: str | None = None
    """Which subagent asks, and which one has started it."""


def read_provenance(method: str, path: str, header: Callable[[str], str | None], body: bytes) -> Provenance:
    """The provenance of a request with this `path` (no query), header fields and undecoded body."""
    directory = project = None
    names_directory = (header("user-agent") or "").startswith(CLAUDE_CODE) and not header("content-encoding")
    # Once for both who need it, and for nobody else's body: that is a walk through all of it.
    system = system_text(body) if names_directory or path == MESSAGES else b""
    if names_directory:
        directory = working_directory(body, system)
        project = project_of(directory) if directory else None
    agent, parent = _agent(header("x-claude-code-agent-id")), _agent(header("x-claude-code-parent-agent-id"))
    return Provenance(directory, project, _class(method, path, header, body, system), agent, parent)


def _agent(told: str | None) -> str | None:
    return told if told and _AGENT_ID.fullmatch(told) else None


def system_text(body: bytes) -> bytes:
    """The body from where its system text begins, as JSON; empty if there is none.

    It stands behind the messages, so the last place that looks like it is taken. A quotation of it in a message does
    not look like it: its quotes are escaped.
    """
    likeliest, *others = _SYSTEM
    start = body.rfind(likeliest)
    low = start if start >= 0 else body.find(b'"system"')  # what stands before it need not be looked through again
    if low >= 0:
        start = max(start, *[body.rfind(mark, low) for mark in others])
    return body[start:] if start >= 0 else b""


def working_directory(body: bytes, system: bytes | None = None) -> str | None:
    """The directory that the system text or a message of the system's names: an absolute path that can be printed.

    `system` is the body's system text, where that is known already.
    """
    system = system_text(body) if system is None else system
    told = system.find(_TOLD)  # ten times as quick as the expression
    if told >= 0 and (found := _DIRECTORY.search(system, told)):
        try:
            return _as_directory(json.loads(b'"%s"' % found[1]))
        except ValueError:
            return None
    if not system and b'"system"' not in body:
        return None
    for text in _system_messages(body):
        if said := _SAID_DIRECTORY.search(text):
            return _as_directory(said[1])
    return None


def _as_directory(text: str) -> str | None:
    is_absolute = text.startswith(("/", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text) is not None
    return text if is_absolute and text.isprintable() and len(text) <= _DIRECTORY_LIMIT else None


def _system_messages(body: bytes) -> Iterator[str]:
    """The texts of those of the first messages whose own role is `system`."""
    for start, end in _early_messages(body):
        if end - start > _MESSAGE_LIMIT or body.find(b'"system"', start, end) < 0:
            continue
        message = parse_json(body[start:end])
        if isinstance(message, dict) and message.get("role") == "system":
            content = message.get("content")
            blocks = content if isinstance(content, list) else [{"text": content}]
            yield from (each["text"] for each in blocks if isinstance(each, dict) and isinstance(each.get("text"), str))


def _early_messages(body: bytes) -> Iterator[tuple[int, int]]:
    """From where to where the first members of the body's own list `messages` go."""
    depth = start = found = 0
    key_end, is_messages = -1, False
    for token in islice(STRING_OR_BRACKET.finditer(body), _TOKEN_LIMIT):
        mark = body[token.start()]
        if mark in b"{[":
            if depth == 1:
                is_messages = key_end >= 0 and body[key_end : token.start()].strip() == b":"
            elif depth == 2 and is_messages:
                start = token.start()
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth == 2 and is_messages:
                yield start, token.end()
                found += 1
            if found == _EARLY_MESSAGES or (depth == 1 and is_messages):
                return
        elif depth == 1:
            key_end = token.end() if token[0] == b'"messages"' else -1


def project_of(directory: str) -> str | None:
    """The last part of a path; None for a root."""
    name = re.split(r"[\\/]", directory.rstrip("\\/"))[-1]
    return name[:_PROJECT_LIMIT] if name and not name.endswith(":") else None


def _class(method: str, path: str, header: Callable[[str], str | None], body: bytes, system: bytes) -> str | None:
    if path == COUNT_TOKENS:
        return "count_tokens"
    if path.startswith("/v1/messages/batches"):
        return "batch"
    if path != MESSAGES or method != "POST":
        return None
    if len(body) < _SMALL and b'"quota"' in body and _QUOTA.search(body):
        return "quota"
    said = [word for name in _CLASS_HEADERS if (word := header(name)) and _CLASS.fullmatch(word)]
    told = said[0] if said else None
    tail = body[-2 * _SMALL :]
    if _VERDICT_STOP in tail and b'"tools":[' not in system:
        return "classifier"
    if _NO_TOOLS in tail and told in (None, "auxiliary"):
        return "title" if _ASKED_TITLE in tail else "auxiliary"
    if header("x-claude-code-compaction"):
        return "compaction"
    if told not in (None, "main"):
        return told
    return "subagent" if header("x-claude-code-agent-id") or _SUBAGENT in system[:_HEAD] else "main"
