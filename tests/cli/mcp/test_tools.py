"""The tools: what they ask the API for, and what a model is told of it."""

from typing import Any

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.mcp.tools import TOOLS, Tool
from ccflare_mitm.pages.api.document import DOCUMENT

BY_NAME = {tool.name: tool for tool in TOOLS}
HIT = {
    "at": "2026-11-24T14:20:00Z",
    "id": "req_1",
    "session": "s-1",
    "thread": None,
    "role": "user",
    "kind": "text",
    "before": "a\n  b ",
    "match": "needle",
    "after": " c",
}
SUMS = {"requests": 3, "ok": 2, "cost_usd": 0.5, "latency_p50_seconds": 1.5} | dict.fromkeys(
    ("input_tokens", "cache_read_tokens", "cache_creation_tokens", "output_tokens", "failovers"), 7
)


class Source:
    """An API with these answers, by their paths, which keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def get(self, path: str, **query: str) -> Any:
        self.asked.append((path, query))
        return self._answers[path.rpartition("/")[2]]


async def told(name: str, source: Source, **given: object) -> str:
    tool = BY_NAME[name]
    return await tool.answer(source, tool.read(given))


async def test_a_search_is_two_lines_a_hit_with_the_id_that_the_next_tool_takes() -> None:
    source = Source(search={"hits": [HIT, {**HIT, "session": None}]})

    text = await told("search_conversations", source, text="needle", limit=2)

    assert text.splitlines()[:2] == [
        "2026-11-24T14:20:00Z id=req_1 session=s-1 role=user kind=text",
        "    a b »needle« c",
    ]
    assert source.asked == [("/search", {"text": "needle", "limit": "2"})]


async def test_a_conversation_is_its_facts_what_is_missing_and_its_text() -> None:
    facts = {"id": "req_1", "at": "2026-11-24T14:20:00Z", "session": None, "project": "shop", "model": "opus"}
    source = Source(conversation={**facts, "text": "# user\nWhy?", "missing": "Only the beginning is kept."})

    text = await told("show_conversation", source, id="req_1", all=True)

    assert text.splitlines() == [
        '{"id": "req_1", "at": "2026-11-24T14:20:00Z", "project": "shop", "model": "opus"}',
        *("Only the beginning is kept.", "# user", "Why?"),
    ]
    assert source.asked == [("/requests/req_1/conversation", {"characters": "20000", "all": "true"})]


@pytest.mark.parametrize("id_", ["..", "../stats?x=", "", "req 1", "ä", 7.5])
async def test_what_is_no_id_is_asked_of_nobody(id_: object) -> None:
    source = Source()

    with pytest.raises(Refused, match="no request's id"):
        await told("show_conversation", source, id=id_)

    assert source.asked == []


async def test_usage_is_the_sums_in_all_and_by_day_unless_something_else_is_asked_for() -> None:
    total = {**SUMS, "since": "2026-11-17T00:00:00Z", "until": "2026-11-24T00:00:00Z", "requests_of_unknown_cost": 0}
    group = {**SUMS, "requests_of_unknown_cost": None}
    source = Source(stats={"total": total, "groups": [{"day": "2026-11-23", **group}], "groups_in_all": 4})

    text = await told("usage", source)

    assert source.asked == [("/stats", {"since": "7d", "limit": "100", "by": "day"})]
    head, by, day, left = text.splitlines()
    assert head.startswith('In all: {"since": "2026-11-17T00:00:00Z",')
    assert (by, left) == ("By day:", "and 3 more")
    assert day.startswith('{"day": "2026-11-23", "requests": 3, "ok": 2, "input_tokens": 7,')
    assert "latency" not in text


async def test_usage_by_project_is_of_the_period_that_is_asked_for() -> None:
    total = {**SUMS, "since": None, "until": None, "requests_of_unknown_cost": 0}
    source = Source(stats={"total": total, "groups": [], "groups_in_all": 0})

    await told("usage", source, by="project", since="24h", until="1h")

    assert source.asked == [("/stats", {"since": "24h", "limit": "100", "by": "project", "until": "1h"})]


async def test_limits_have_the_accounts_states_and_the_forecast() -> None:
    account = {"name": "max-1", "state": "serving", "available": True, "requests_24h": 2, "token": "good"}
    limit = {"account": "max-1", "window": "5h", "utilization": 0.25, "forecast": "fills", "history": [1, 2]}
    blank = dict.fromkeys(("reason", "available_at", "resets_at", "full_at", "per_hour", "turns_left"))
    source = Source(accounts={"accounts": [{**blank, **account}]}, windows={"windows": [{**blank, **limit}]})

    text = await told("limits", source)

    assert text.splitlines()[1::2] == [
        '{"name": "max-1", "state": "serving", "available": true, "requests_24h": 2}',
        '{"account": "max-1", "window": "5h", "utilization": 0.25, "forecast": "fills"}',
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "search_conversations needs text."),
        ({"text": None}, "search_conversations needs text."),
        ({"text": "x", "regex": True}, "search_conversations takes no regex: it takes text, session, role, limit."),
    ],
)
def test_arguments_that_do_not_fit_are_a_sentence(given: dict[str, object], told: str) -> None:
    with pytest.raises(Refused) as caught:
        BY_NAME["search_conversations"].read(given)

    assert str(caught.value) == told


@pytest.mark.parametrize(("tool", "path"), [("search_conversations", "/search"), ("usage", "/stats")])
def test_arguments_are_those_of_the_api(tool: str, path: str) -> None:
    documented = {each["name"]: each["schema"] for each in DOCUMENT["paths"][path]["get"]["parameters"]}
    for name, schema in BY_NAME[tool].takes.items():
        of_api = documented[name]
        assert schema["type"] == of_api["type"]
        assert schema.get("maximum") == of_api.get("maximum")
        assert set(schema.get("enum", ())) <= set(of_api.get("enum", ()))


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_schemas_of_tools_take_nothing_but_what_they_name(tool: Tool) -> None:
    assert tool.schema["additionalProperties"] is False
    assert {*tool.schema["required"]} <= tool.schema["properties"].keys()
    assert all(each["description"] for each in tool.schema["properties"].values())
