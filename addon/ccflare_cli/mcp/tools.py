"""The tools: what each takes, what it asks the API for, and how it tells that to a model. All of them only read."""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from ccflare_cli.console import Refused
from ccflare_cli.output import printable
from ccflare_core.reports.traffic import By
from ccflare_core.transcripts.search import ROLES

type Schema = dict[str, Any]
type Arguments = Mapping[str, str]

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
_CHARACTERS: Final = "20000"
_SUMS: Final = (
    *("requests", "ok", "input_tokens", "cache_read_tokens", "cache_creation_tokens", "output_tokens", "cost_usd"),
    *("requests_of_unknown_cost", "failovers"),
)
_LIMIT: Final = ("account", "window", "utilization", "resets_at", "forecast", "full_at", "per_hour", "turns_left")
_ACCOUNT: Final = ("name", "state", "available", "reason", "available_at", "requests_24h")


class Source(Protocol):
    """What the tools ask: see record.py."""

    async def get(self, path: str, **query: str) -> Any: ...


class Tool(NamedTuple):
    """A tool. `takes` has a schema for each argument; those in `needs` have to be there."""

    name: str
    title: str
    about: str
    takes: Mapping[str, Schema]
    needs: tuple[str, ...]
    answer: Callable[[Source, Arguments], Awaitable[str]]
    """What it tells; "" for nothing."""
    remedy: str
    """What to do where that is too long, as a sentence."""

    @property
    def schema(self) -> Schema:
        """What it takes."""
        properties = {name: dict(schema) for name, schema in self.takes.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.needs),
            "additionalProperties": False,
        }

    def read(self, given: Mapping[str, Any] | None) -> Arguments:
        """The arguments as the API takes them, which looks at their values. Raises Refused if they are others."""
        said = {name: value for name, value in (given or {}).items() if value is not None}
        if unknown := said.keys() - self.takes.keys():
            name = printable(min(unknown)[:40])
            raise Refused(f"{self.name} takes no {name}: it takes {', '.join(self.takes) or 'nothing'}.")
        if missing := [name for name in self.needs if name not in said]:
            raise Refused(f"{self.name} needs {missing[0]}.")
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}


async def _search(source: Source, given: Arguments) -> str:
    hits = (await source.get("/search", **given))["hits"]
    return "\n".join(line for hit in hits for line in _hit(hit))


def _hit(hit: Mapping[str, Any]) -> Iterator[str]:
    names = ("id", "session", "thread", "role", "kind")
    yield f"{hit['at']} {' '.join(f'{name}={hit[name]}' for name in names if hit[name])}"
    before, match, after = (" ".join(hit[part].split()) for part in ("before", "match", "after"))
    yield f"    {before} »{match}« {after}"


async def _show(source: Source, given: Arguments) -> str:
    query = dict(given)
    if not _ID.fullmatch(id_ := query.pop("id")):
        raise Refused("This is no request's id: search_conversations tells some.")
    told = await source.get(f"/requests/{id_}/conversation", characters=_CHARACTERS, **query)
    head = _line(told, ("id", "at", "session", "project", "model"))
    return "\n".join(filter(None, (head, told["missing"], told["text"])))


async def _usage(source: Source, given: Arguments) -> str:
    by = given.get("by", By.DAY.value)
    told = await source.get("/stats", **{"since": "7d", "limit": "100", **given, "by": by})
    groups = told["groups"]
    lines = [f"In all: {_line(told['total'], ('since', 'until', *_SUMS))}", f"By {by}:"]
    lines += [_line(group, (by, *_SUMS)) for group in groups]
    left = told["groups_in_all"] - len(groups)
    return "\n".join(lines + ([f"and {left} more"] if left else []))


async def _limits(source: Source, given: Arguments) -> str:
    accounts, windows = (await source.get("/accounts"))["accounts"], (await source.get("/windows"))["windows"]
    states, limits = (_line(each, _ACCOUNT) for each in accounts), (_line(each, _LIMIT) for each in windows)
    return "\n".join(["Accounts:", *states, "Their limits (a utilization of 1 is all of it):", *limits])


def _line(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """These fields as JSON, but for those that say nothing."""
    return json.dumps({name: row[name] for name in names if row[name] is not None}, ensure_ascii=False)


def _text(about: str) -> Schema:
    return {"type": "string", "description": about}


_SPLITS: Final = (By.DAY, By.PROJECT, By.MODEL, By.ACCOUNT, By.SESSION, By.AGENT, By.CLIENT, By.HOUR)
_WHEN: Final = "a span before now such as 24h or 7d, a moment in UTC such as 2026-11-24T14:20:00Z, or all"

TOOLS: Final = (
    Tool(
        "search_conversations",
        "Search conversations",
        "Find where a text was said in the recorded conversations with Claude, whatever its case, the latest first. "
        "Each hit has the id of its request, which show_conversation takes.",
        {
            "text": _text("the text to look for, as it stands there; no pattern"),
            "session": _text("only in this session: its id"),
            "role": {
                "type": "string",
                "enum": list(ROLES),
                "description": "only what this role said; calls and results of tools belong to tool",
            },
            "limit": {"type": "integer", "minimum": 1, "maximum": 100, "description": "at most so many (default: 20)"},
        },
        ("text",),
        _search,
        "Ask for fewer hits by limit, session or role.",
    ),
    Tool(
        "show_conversation",
        "Show a conversation",
        "What was said in one recorded request: the question first, then what came of it, the answer, and the turns "
        "before in brief.",
        {
            "id": _text("the request's id, as search_conversations tells it"),
            "all": {"type": "boolean", "description": "all turns in their order, from the first one on"},
        },
        ("id",),
        _show,
        "The script `show` has all of it, in a terminal.",
    ),
    Tool(
        "usage",
        "Usage and cost",
        "Requests, tokens and known cost (US dollars) of a period, in all and split by day, project or something else. "
        "Days and hours are in the proxy's own time.",
        {
            "since": _text(f"where the period begins: {_WHEN} (default: 7d)"),
            "until": _text(f"where it ends: {_WHEN} (default: now)"),
            "by": {
                "type": "string",
                "enum": [by.value for by in _SPLITS],
                "description": "by what it is split (default: day)",
            },
        },
        (),
        _usage,
        "Ask for a shorter period by since and until.",
    ),
    Tool(
        "limits",
        "Limits and forecast",
        "How full each account's limits are now, when they reset, and whether they will be full before that. Times are "
        "in UTC.",
        {},
        (),
        _limits,
        "The script `stats windows` has all of it, in a terminal.",
    ),
)
