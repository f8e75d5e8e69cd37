"""The API: its answers are those of the scripts, hold what the document says, and refuse what that does not allow."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccflare_cli import search, show
from ccflare_cli.accounts import main as accounts
from ccflare_cli.stats import main as stats
from ccflare_cli.stats.views import SPLITS
from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.authentication import LOCAL, Identity, Principal
from ccflare_core.clients.keys import ClientKey
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import Payload
from ccflare_core.reports.session_state import SessionState
from ccflare_core.reports.traffic import By, Period
from ccflare_core.store.store import Store
from ccflare_mitm.pages.api import conversations, endpoints
from ccflare_mitm.pages.api.document import DOCUMENT
from ccflare_mitm.pages.api.endpoint import PREFIX, READ_SECONDS
from ccflare_mitm.pages.api.endpoints import ENDPOINTS, _latest
from ccflare_mitm.pages.readers import Readers
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import Visit
from desk import Desk
from exchange_kit import Bench, account
from guard_kit import Actions, an_admin, forget
from history import KEY, NOON, History
from schema_check import mistakes

README = Path(__file__).resolve().parents[3] / "README.md"
NOBODY = Identity(None)
QUESTION = b'{"messages":[{"role":"user","content":"Why?"}]}'
ANSWER = b'{"type":"message","role":"assistant","content":[{"type":"text","text":"Because of the needle."}]}'


class House(NamedTuple):
    """A proxy without sockets, on a database with a past."""

    past: History
    server: PageServer
    actions: Actions

    async def answer(self, path: str, **query: object) -> Answer:
        return await self.answer_to(NOBODY, path, **query)

    async def answer_to(self, identity: Identity, path: str, **query: object) -> Answer:
        found = find_page(PREFIX + path)
        assert found is not None
        asked = urlencode({name: value for name, value in query.items() if value is not None}, doseq=True)
        visit = Visit(identity, "127.0.0.1", PREFIX + path, found.name, query=asked, at=NOON)
        answer = self.server.answer(found.page, visit)
        return answer if isinstance(answer, Answer) else await answer

    async def get(self, path: str, **query: object) -> Any:
        """A good answer, which has to be as the document says."""
        answer = await self.answer(path, **query)
        content = json.loads(answer.body)
        assert answer.status == 200, content
        assert [*mistakes(content, schema_of(path))] == []
        return content

    def script(self, *words: str) -> Any:
        """What a script gives to programs."""
        desk = Desk(environ={"ccflare_ENCRYPTION_KEY": bytes(range(32)).hex()})
        code = run_script(words[0], ["--database", str(self.past.location), *words[1:], "--format", "json"], desk)
        assert (code, desk.complained) == (0, "")
        return json.loads(desk.said)


def schema_of(path: str) -> dict[str, Any]:
    documented = path if path in DOCUMENT["paths"] else re.sub("^/requests/[^/]+", "/requests/{id}", path)
    responses = DOCUMENT["paths"][documented]["get"]["responses"]
    schema: dict[str, Any] = responses["200"]["content"]["application/json"]["schema"]
    return schema


def run_script(name: str, arguments: list[str], desk: Desk) -> int:
    main = {"accounts": accounts.main, "stats": stats.main, "show": show.main, "search": search.main}[name]
    return main(arguments, desk.console())


def a_past(path: Path) -> History:
    past = History(path)
    past.account("max-1")
    past.account("max-2", priority=10)
    past.window("max-1", "5h", 0.25, NOON + 3600)
    past.cooldown("max-2", NOON + 600, "5h window spent")
    tags = {"ticket": "ü 12", "who": "me"}
    served = past.exchange(NOON - 60, project="ccflare", tags=tags, input_tokens=10, output_tokens=5, cost_usd=0.25)
    past.attempt(served, NOON - 59, "max-1", "ok", "", 200)
    bodies = (("request", QUESTION), ("response", ANSWER))
    past.store.write(
        [Payload(served, part, "application/json", "", body, len(body), truncated=False) for part, body in bodies]
    )
    past.exchange(NOON - 50, "max-2", session="s 2/ä", key="laptop", response_time_ms=1500.0, first_byte_ms=200.0)
    past.exchange(NOON - 50, None, outcome="refused", status_code=503, session=None, model=None)
    past.exchange(NOON - 40, None, outcome=None)
    past.exchange(NOON - 30, None, path="/api/event_logging")
    past.exchange(NOON - 3 * 86_400, "removed")
    past.exchange(NOON - 9 * 86_400, "max-2", session="mine", key="laptop")
    return past


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    path = tmp_path_factory.mktemp("api") / "ccflare.db"
    bench, actions = Bench(""), Actions()
    bench.pool.replace_accounts([account("1"), account("2")])
    readers = Readers(lambda: Store.open(path, KEY, read_only=True))
    with a_past(path) as past:
        server = PageServer(an_admin(bench, actions, read=readers), SecondFactor(lambda: 0.0, forget), None)
        yield House(past, server, actions)
    readers.close()


async def test_accounts_are_those_of_the_script_and_what_they_do_now(house: House) -> None:
    told = (await house.get("/accounts"))["accounts"]
    listed = house.script("accounts", "list")
    # The script runs without the key, and so sees of a token only that there is one.
    assert [{name: row[name] for name in listed[0]} for row in told] == listed
    assert [(row["name"], row["state"], row["available"], row["in_flight"]) for row in told] == [
        ("max-2", "cooling", True, 0),
        ("max-1", "serving", True, 0),
    ]


async def test_requests_are_those_of_the_script(house: House) -> None:
    told = await house.get("/requests")
    assert told == {"requests": house.script("stats", "requests"), "next": None}
    assert len(told["requests"]) == 4
    everything = await house.get("/requests", since="all", others="true")
    assert everything["requests"] == house.script("stats", "requests", "--since", "all", "--all")


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ({"account": "max-2"}, 1),
        ({"session": "s 2/ä"}, 1),
        ({"client": "laptop"}, 1),
        ({"project": "ccflare"}, 1),
        ({"tag": "ticket=ü 12"}, 1),
        ({"tag": "ticket=u\u0308 12"}, 1),
        ({"tag": "ticket=12"}, 0),
        ({"model": "claude-opus-4-8"}, 3),
        ({"outcome": "open"}, 1),
        ({"outcome": "ok", "account": "max-1"}, 1),
        ({"since": "all"}, 6),
        ({"since": "45m"}, 4),
        ({"until": "1h"}, 0),
        ({"since": "1m", "until": "2m"}, 0),
        ({"since": "2099-02-30T00:00:00Z"}, 0),
    ],
    ids=str,
)
async def test_requests_are_those_that_are_asked_for(house: House, query: dict[str, object], number: int) -> None:
    assert len((await house.get("/requests", **query))["requests"]) == number


@pytest.mark.parametrize("path", ["/requests", "/sessions"])
@pytest.mark.parametrize("limit", [1, 2])
async def test_lists_go_on_where_they_were_cut(house: House, path: str, limit: int) -> None:
    name = path.removeprefix("/")
    whole = (await house.get(path, since="all"))[name]
    assert len(whole) > limit

    pages, following = list[list[object]](), None
    while not pages or following:
        told = await house.get(path, since="all", limit=limit, cursor=following)
        pages.append(told[name])
        following = told["next"]

    assert [row for page in pages for row in page] == whole
    assert {len(page) for page in pages[:-1]} == {limit}


async def test_a_request_has_its_conversation_as_the_script_shows_it_and_that_is_audited(house: House) -> None:
    (served,) = (await house.get("/requests", project="ccflare"))["requests"]
    house.actions.done.clear()

    told = await house.get(f"/requests/{served['id']}")

    assert told == house.script("show", served["id"])
    assert told.items() >= served.items()
    assert told["tags"] == {"ticket": "ü 12", "who": "me"}
    assert [part["text"] for turn in told["turns"] for part in turn["parts"]] == ["Why?"]
    assert house.actions.done == [("read", "conversation", served["id"], "")]


async def test_a_conversation_is_there_as_text_in_as_many_characters_as_are_asked_for(house: House) -> None:
    (served,) = (await house.get("/requests", project="ccflare"))["requests"]
    house.actions.done.clear()

    told = await house.get(f"/requests/{served['id']}/conversation")

    assert told["text"] == "# user (the question)\nWhy?\n\n# assistant (the answer)\nBecause of the needle."
    assert {name: told[name] for name in ("id", "at", "project")} == {n: served[n] for n in ("id", "at", "project")}
    assert house.actions.done == [("read", "conversation", served["id"], "")]
    cut = await house.get(f"/requests/{served['id']}/conversation", characters=1, all="true")
    assert "more" in cut["text"]
    assert "needle" not in cut["text"]


async def test_a_search_finds_what_the_script_finds_and_is_audited(house: House) -> None:
    house.actions.done.clear()

    (told,) = (await house.get("/search", text="THE NEEDLE", role="assistant"))["hits"]

    (found,) = house.script("search", "THE NEEDLE", "--role", "assistant")
    names = ("at", "id", "session", "thread", "role", "kind")
    assert {name: told[name] for name in names} == {name: found[name] for name in names}
    assert [told[part] for part in ("before", "match", "after")] == ["Because of ", "the needle", "."]
    assert house.actions.done == [("read", "search", "", "")]


@pytest.mark.parametrize("query", [{"role": "user"}, {"session": "another"}])
async def test_a_search_finds_only_what_is_asked_for(house: House, query: dict[str, object]) -> None:
    assert await house.get("/search", text="needle", **query) == {"hits": []}


async def test_a_search_without_a_text_says_what_it_wants_and_is_no_reading(house: House) -> None:
    house.actions.done.clear()

    answer = await house.answer("/search", session="s-1")

    assert (answer.status, house.actions.done) == (400, [])
    assert json.loads(answer.body)["error"]["message"] == "The query has no text: what to look for."


def test_a_search_ends_when_nobody_waits_for_it_any_more() -> None:
    times = iter([0.0, READ_SECONDS, READ_SECONDS + 1])
    look = conversations._in_time(lambda: next(times))

    look(1, 10)
    with pytest.raises(StoreError, match="takes too long"):
        look(2, 10)


async def test_searches_come_one_after_another_and_their_time_counts_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, most, timed = 0, 0, 0

    def in_time() -> Callable[[int, int], None]:
        nonlocal timed
        timed += 1
        return lambda done, total: None

    monkeypatch.setattr(conversations, "_in_time", in_time)

    async def read(function: Callable[[Store], Any]) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.01)
        reading -= 1
        return function(past.store)

    with a_past(tmp_path / "ccflare.db") as past:
        admin = an_admin(Bench(""), Actions(), read=read)
        house = House(past, PageServer(admin, SecondFactor(lambda: 0.0, forget), None), Actions())
        async with admin.searching:
            late = asyncio.ensure_future(house.answer("/search", text="needle"))
            while not timed:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert (late.done(), most, timed) == (False, 0, 1)
        answers = await asyncio.gather(late, *(house.answer("/search", text="needle") for _ in range(3)))

    assert ([answer.status for answer in answers], most) == ([200] * 4, 1)


@pytest.mark.parametrize("part", ["", "/conversation"])
@pytest.mark.parametrize("id_", ["req_none", "%00", "..", "a" * 300, "%F0%9F%98%80", "' OR 1=1"])
async def test_what_is_not_there_is_a_404_and_no_reading(house: House, id_: str, part: str) -> None:
    house.actions.done.clear()
    answer = await house.answer(f"/requests/{id_}{part}")
    assert (answer.status, house.actions.done) == (404, [])


async def test_a_session_stands_as_the_status_line_tells_it(house: House) -> None:
    answer = await house.answer_to(Identity(LOCAL), "/session/session-1")
    told = json.loads(answer.body)
    assert (answer.status, [*mistakes(told, schema_of("/session/{id}"))]) == (200, [])
    assert (told["session"], told["account"], told["accounts"], told["free"]) == ("session-1", "max-1", 2, 1)

    unknown = json.loads((await house.answer_to(Identity(LOCAL), "/session/none")).body)
    assert (unknown["account"], unknown["cost_usd"], unknown["accounts"]) == (None, None, 2)


@pytest.mark.parametrize(
    ("session", "key", "status"),
    [
        ("mine", "LAPTOP", 200),
        ("mine", "OTHER", 404),
        ("session-1", "LAPTOP", 404),
        ("none", "LAPTOP", 404),
    ],
)
async def test_a_session_is_told_to_the_key_that_has_made_it(house: House, session: str, key: str, status: int) -> None:
    client = ClientKey(key, key.lower())
    identity = Identity(Principal(client, client.role.permissions), key=client)

    assert (await house.answer_to(identity, f"/session/{session}")).status == status


async def test_a_client_hears_of_no_account_that_needs_somebody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SessionState("max-2", {}, 1, 2, None, 0, ("max-1 needs login",))
    monkeypatch.setattr(endpoints, "read_session", lambda *_: state)
    client = ClientKey("LAPTOP", "laptop")
    identity = Identity(Principal(client, client.role.permissions), key=client)

    told = [json.loads((await house.answer_to(who, "/session/mine")).body) for who in (Identity(LOCAL), identity)]

    assert [each["alerts"] for each in told] == [["max-1 needs login"], []]


@pytest.mark.parametrize("session", ["s%202%2F%C3%A4", "%00", "..", "a" * 101])
async def test_what_is_no_id_of_a_session_is_a_404(house: House, session: str) -> None:
    assert (await house.answer_to(Identity(LOCAL), f"/session/{session}")).status == 404


async def test_a_session_is_told_to_nobody_who_is_not_known(house: House) -> None:
    assert (await house.answer("/session/session-1")).status == 404


async def test_only_the_page_that_says_so_has_what_was_said(house: House) -> None:
    for endpoint in ENDPOINTS:
        if not (endpoint.tells_content or endpoint.tells_events):
            assert b"Why?" not in (await house.answer(endpoint.path)).body, endpoint.path


@pytest.mark.parametrize("by", [by for by in By if by is not By.MINUTE])  # of which there are too many in a week
async def test_stats_are_those_of_the_script(house: House, by: str) -> None:
    told = await house.get("/stats", since="7d", by=by)
    words = [f"{by}s"] if f"{by}s" in SPLITS else ["--by", by]
    said = house.script("stats", *words, "--since", "7d")
    rows = said if isinstance(said, list) else said[f"by_{by}"]
    without = {"latency_p50_seconds", "latency_p95_seconds", "first_byte_p50_seconds", "first_byte_p95_seconds"}
    kept = [name for name in rows[0] if by != "session" or name not in without]
    assert [{name: row[name] for name in kept} for row in told["groups"]] == [
        {name: row[name] for name in kept} for row in rows
    ]
    total = house.script("stats", "summary", "--since", "7d", "--all")["total"]
    assert told["total"] == total
    assert (total["requests"], total["other_requests"], told["groups_in_all"]) == (5, 1, len(rows))


@pytest.mark.parametrize(("by", "days"), [(By.MINUTE, 1), (By.FIVE_MINUTES, 5)])
def test_of_many_minutes_the_last_ones_are_read(by: By, days: int) -> None:
    ever = Period(0, NOON)

    assert _latest(ever, (by,)) == Period(NOON - days * 86_400, NOON)
    assert _latest(Period(NOON - 60, NOON), (by,)) == Period(NOON - 60, NOON)
    assert _latest(ever, (By.HOUR,)) == _latest(ever, ()) == ever


async def test_stats_are_cut_to_the_first_groups_and_the_last_hours(house: House) -> None:
    whole = await house.get("/stats", since="7d", by="day")
    cut = await house.get("/stats", since="7d", by="day", limit=1)
    assert (cut["groups"], cut["groups_in_all"]) == (whole["groups"][-1:], len(whole["groups"]))
    first = await house.get("/stats", since="7d", by="account", limit=1)
    assert first["groups"] == (await house.get("/stats", since="7d", by="account"))["groups"][:1]


async def test_windows_are_those_of_the_script(house: House) -> None:
    told = (await house.get("/windows"))["windows"]
    assert told == house.script("stats", "windows")
    assert [(row["account"], row["window"], row["utilization"]) for row in told] == [("max-1", "5h", 0.25)]


async def test_the_options_are_there_without_what_may_hold_a_password(house: House) -> None:
    told = {row["name"]: row for row in (await house.get("/config"))["options"]}
    assert told["ccflare_upstream"]["is_default"] is True
    assert [name for name, row in told.items() if row["value"] is None] == [
        name for name in told if name in ("ccflare_alert_webhook", "ccflare_alert_command", "ccflare_egress_proxy")
    ]


async def test_health_and_readiness_are_those_of_the_other_pages(house: House) -> None:
    told = await house.get("/health")
    assert told == await house.get("/ready")
    assert (told["status"], told["ready"], len(told["accounts"])) == ("ok", True, 2)


async def test_who_cannot_route_a_request_says_so_with_503() -> None:
    bench = Bench("", passthrough="never")
    page = find_page(f"{PREFIX}/ready")
    assert page is not None
    server = PageServer(an_admin(bench), SecondFactor(lambda: 0.0, forget), None)
    answer = server.answer(page.page, Visit(Identity(None), "127.0.0.1", f"{PREFIX}/ready"))
    told = answer if isinstance(answer, Answer) else await answer
    assert told.status == 503
    schema = DOCUMENT["paths"]["/ready"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert [*mistakes(json.loads(told.body), schema)] == []


# --- what the document says, and what is done -------------------------------------------------------------------------

GIVING_EVENTS = [endpoint.path for endpoint in ENDPOINTS if endpoint.tells_events]
OPERATIONS = {
    path: each["get"] for path, each in DOCUMENT["paths"].items() if "{" not in path and path not in GIVING_EVENTS
}
PARAMETERS = [(path, parameter) for path, operation in OPERATIONS.items() for parameter in operation["parameters"]]


def required(path: str) -> list[str]:
    """The parameters that have to be there."""
    return [each["name"] for each in OPERATIONS[path]["parameters"] if each["required"]]


def allowed(schema: dict[str, Any]) -> st.SearchStrategy[object]:
    """Values that a parameter may have."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("$", r"\Z"), fullmatch=False)
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if schema["type"] == "boolean":
        return st.sampled_from(["true", "false"])
    return st.text(min_size=schema["minLength"], max_size=schema["maxLength"])


def not_allowed(schema: dict[str, Any]) -> st.SearchStrategy[object]:
    """Values that it may not have."""
    if schema["type"] == "integer":
        outside = st.integers(max_value=schema["minimum"] - 1) | st.integers(min_value=schema["maximum"] + 1)
        return outside | st.floats() | st.sampled_from(["", "1 ", "+1", "1e1", "\u0661", "0x1", "null"])
    long = st.text(min_size=schema.get("maxLength", 100) + 1, max_size=schema.get("maxLength", 100) + 9)
    if "enum" in schema or "pattern" in schema or schema["type"] == "boolean":
        return long | st.sampled_from(["", " ", "24h\n", "24H", "0h", "1-0", "TRUE", "Hour", "ok ", "-", "1-zz", "\0"])
    return long | st.just("")


@pytest.mark.parametrize("path", OPERATIONS)
@settings(max_examples=20)
@given(data=st.data())
async def test_all_that_the_document_allows_is_answered(house: House, path: str, data: st.DataObject) -> None:
    parameters = {each["name"]: each["schema"] for each in OPERATIONS[path]["parameters"]}
    needed = {name: allowed(schema) for name, schema in parameters.items() if name in required(path)}
    optional = {name: allowed(schema) for name, schema in parameters.items() if name not in needed}
    query = data.draw(st.fixed_dictionaries(needed, optional=optional))
    await house.get(path, **query)


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS, ids=[f"{path}-{each['name']}" for path, each in PARAMETERS])
@settings(max_examples=10)
@given(data=st.data())
async def test_what_the_document_does_not_allow_is_a_400(
    house: House, path: str, parameter: dict[str, Any], data: st.DataObject
) -> None:
    value = data.draw(not_allowed(parameter["schema"]))
    answer = await house.answer(path, **{parameter["name"]: value})
    content = json.loads(answer.body)
    assert answer.status == 400, (value, content)
    assert [*mistakes(content, DOCUMENT["components"]["schemas"]["Error"])] == []
    assert parameter["name"] in content["error"]["message"]


@pytest.mark.parametrize("path", OPERATIONS)
async def test_a_parameter_that_is_not_known_or_comes_twice_is_a_400(house: House, path: str) -> None:
    assert (await house.answer(path, limits=1)).status == 400
    for parameter in OPERATIONS[path]["parameters"][:1]:
        assert (await house.answer(path, **{parameter["name"]: ["24h", "24h"]})).status == 400


def test_every_endpoint_is_in_the_document_with_its_permission() -> None:
    for endpoint in ENDPOINTS:
        operation = DOCUMENT["paths"][endpoint.path.replace("{name}", "{id}")]["get"]
        assert str(endpoint.permission) in operation["description"]
        page = find_page(PREFIX + endpoint.path.replace("{name}", "x"))
        assert page is not None
        assert page.page.permission is endpoint.permission
    assert len({each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()}) == len(ENDPOINTS)


def test_the_readme_has_each_endpoint_with_its_permission() -> None:
    section = README.read_text().partition("\n## API\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `/") and "v1" not in line]
    told = {path: row[1].strip() for row in rows for path in re.findall(r"`(/[^`]+)`", row[0])}
    assert told == {each.path.replace("{name}", "{id}"): str(each.permission) for each in ENDPOINTS}
