"""Where a request of Claude Code comes from: its directory, its project, what it is for. Pure, and never raises.

Claude Code tells its working directory in its system text. What a person typed, or a tool has read, stands in the
messages, so only the system text is looked at: in the body's bytes, since parsing 500 kB would take 5 ms of the event
loop, and this takes 0.1 ms. What is found is a label for the record; nothing is ever opened by it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ccflare_core.anthropic.routes import COUNT_TOKENS

CLAUDE_CODE = "claude-cli/"
"""How Claude Code's User-Agent begins, also under the agent SDK."""

_SYSTEM = (b'"system":[', b'"system":"', b'"system": [', b'"system": "')
_DIRECTORY = re.compile(rb'orking directory: ((?:[^"\\\x00-\x1f]|\\["\\/bft]|\\u[0-9a-fA-F]{4}){1,2000})(?:\\[nr]|")')
_DIRECTORY_LIMIT, _PROJECT_LIMIT = 500, 100
_CLASS_HEADERS = ("x-claude-code-request-class", "x-claude-1p-request-class")
_CLASS = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)
_QUOTA = re.compile(rb'"max_tokens"\s*:\s*1[,}\s]')
_SMALL = 1000
_NO_TOOLS = b'"tools":[]'


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the request says of itself; None where it is silent."""

    working_directory: str | None = None
    project: str | None = None
    """The directory's own name."""
    request_class: str | None = None
    """`main`, `auxiliary` (titles, summaries) and what else Claude Code calls it; `count_tokens`, `batch`, `quota`."""


def read_provenance(method: str, path: str, header: Callable[[str], str | None], body: bytes) -> Provenance:
    """The provenance of a request with this `path` (no query), header fields and undecoded body."""
    directory = project = None
    if (header("user-agent") or "").startswith(CLAUDE_CODE) and not header("content-encoding"):
        directory = working_directory(body)
        project = project_of(directory) if directory else None
    return Provenance(directory, project, _class(method, path, header, body))


def system_text(body: bytes) -> bytes:
    """The body from where its system text begins, as JSON; empty if there is none.

    It stands behind the messages, so the last place that looks like it is taken. A quotation of it in a message does
    not look like it: its quotes are escaped.
    """
    start = -1
    for mark in _SYSTEM:  # the likeliest first: what stands before it need not be looked through again
        start = max(start, body.rfind(mark, start + 1))
    return body[start:] if start >= 0 else b""


def working_directory(body: bytes) -> str | None:
    """The directory that the system text names, if it is an absolute path of printable characters."""
    found = _DIRECTORY.search(system_text(body))
    if found is None:
        return None
    try:
        text = json.loads(b'"%s"' % found[1])
    except ValueError:
        return None
    is_absolute = text.startswith("/") or re.match(r"[A-Za-z]:[\\/]", text) is not None
    return text if is_absolute and text.isprintable() and len(text) <= _DIRECTORY_LIMIT else None


def project_of(directory: str) -> str | None:
    """The last part of a path; None for a root."""
    name = re.split(r"[\\/]", directory.rstrip("\\/"))[-1]
    return name[:_PROJECT_LIMIT] if name and not name.endswith(":") else None


def _class(method: str, path: str, header: Callable[[str], str | None], body: bytes) -> str | None:
    for name in _CLASS_HEADERS:
        if (told := header(name)) and _CLASS.fullmatch(told):
            return told
    if path == COUNT_TOKENS:
        return "count_tokens"
    if path.startswith("/v1/messages/batches"):
        return "batch"
    if path != "/v1/messages" or method != "POST":
        return None
    if len(body) < _SMALL and b'"quota"' in body and _QUOTA.search(body):
        return "quota"
    return "auxiliary" if _NO_TOOLS in body[-_SMALL:] else "main"
