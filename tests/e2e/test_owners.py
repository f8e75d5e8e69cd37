"""What belongs to an account stays with it, and a client key reaches only what its own requests have made."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ccflare_core.config.location import Server
from database_kit import KEY_VARIABLE
from fake_upstream import FakeUpstream, Header, limited_5h, limited_for
from harness import Proxy, Reply, eventually, via_base_url
from rig import Rig
from workspace import Workspace

FILES, SKILLS, BATCHES, MESSAGES = "/v1/files", "/v1/skills", "/v1/messages/batches", "/v1/messages"
LIMITLESS: dict[str, Any] = {"ccflare_open_loopback": True, "ccflare_strategy": "round-robin"}


class Pool:
    """Two accounts with a workspace each, and clients that ask through one of the proxies."""

    def __init__(self, rig: Rig, keys: dict[str, str]) -> None:
        self.rig = rig
        self.keys = keys
        rig.fresh("a", "b")
        rig.change("b", priority=1)
        self.a, self.b = self.workspaces = (Workspace("a"), Workspace("b"))
        for workspace in self.workspaces:
            rig.upstream.always(workspace.answer, credential=rig.secret(workspace.name))
        eventually(lambda: [each["priority"] for each in rig.health().values()], lambda found: found == [1, 1])

    def ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        key: str = "",
        proxy: Proxy | None = None,
        extra: tuple[Header, ...] = (),
    ) -> Reply:
        """One request, as the client with this key or as a program of this machine without one."""
        credential = [(b"x-api-key", self.keys[key].encode())] if key else []
        headers = [(b"content-type", b"application/json"), *credential, *extra]
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        with via_base_url(proxy or self.rig.proxy) as client:
            return client.request(method, path, headers, body)

    def make(self, path: str = FILES, *, key: str = "", proxy: Proxy | None = None) -> str:
        """What a new thing of this place is called."""
        reply = self.ask("POST", path, {"requests": []}, key=key, proxy=proxy)
        assert reply.status == 200
        return str(reply.json()["id"])

    def make_in_message(self, *, stream: bool = False, key: str = "") -> Any:
        """What a message has made, as it stands in one that is not streamed."""
        reply = self.ask("POST", MESSAGES, message("make it", stream=stream), key=key)
        assert reply.status == 200
        if not stream:
            return reply.json()
        events = {each["type"]: each for each in reply.events()}
        return {**events["message_delta"]["delta"], "content": [events["content_block_start"]["content_block"]]}

    @property
    def asked(self) -> list[str]:
        return self.rig.asked

    def spend(self, name: str, until: float) -> None:
        """Have the account's window be spent, as its next message tells."""
        self.rig.script(name, limited_5h(until))
        for _ in range(2):
            self.ask("POST", MESSAGES, message("hello"))
        self.rig.wait_for_reason(name, "5h window spent")


def message(text: str = "hello", *blocks: dict[str, Any], stream: bool = False, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}, *blocks]
    said = {"model": "claude-opus-4-8", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    return {**said, "stream": stream, **more}


def file_block(id: str) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "file", "file_id": id}}


def output_of(message: Any) -> str:
    return str(message["content"][0]["content"]["content"][0]["file_id"])


def error_of(reply: Reply) -> tuple[int, str, str]:
    error = reply.json()["error"]
    return reply.status, error["type"], error["message"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def bench(upstream: FakeUpstream) -> Iterator[tuple[Rig, dict[str, str]]]:
    with Rig.running(upstream, **LIMITLESS) as rig:
        add = rig.proxy.add_client_key
        keys = {"one": add("one"), "two": add("two"), "admin": add("admin", "--role", "admin"), "fenced": add("fenced")}
        yield rig, keys


@pytest.fixture
def pool(bench: tuple[Rig, dict[str, str]]) -> Pool:
    return Pool(*bench)


@pytest.fixture(scope="module")
def second(bench: tuple[Rig, dict[str, str]], upstream: FakeUpstream) -> Iterator[Proxy]:
    location = bench[0].proxy.location
    with Proxy(upstream, database=location, **{**LIMITLESS, "ccflare_hold_seconds": 60}) as proxy:
        yield proxy


@pytest.fixture
def other(pool: Pool, second: Proxy) -> Proxy:
    """A second proxy on the same database, which holds requests for a while. It knows this test's accounts."""
    eventually(lambda: pool.rig.health(second), lambda health: list(health) == ["a", "b"])
    return second


# -- its account


@pytest.mark.parametrize("path", [FILES, SKILLS, BATCHES])
def test_thing_is_asked_of_the_account_that_has_made_it(pool: Pool, path: str) -> None:
    made = [pool.make(path) for _ in range(2)]
    assert sorted(pool.asked) == ["a", "b"]
    owners = pool.asked

    for id, owner in [*zip(made, owners, strict=True)] * 2:
        assert pool.ask("GET", f"{path}/{id}").status == 200
        assert pool.asked[-1] == owner


def test_message_goes_to_the_account_that_has_its_file(pool: Pool) -> None:
    file = pool.make()
    owner = pool.asked[0]

    for _ in range(3):
        assert pool.ask("POST", MESSAGES, message("read it", file_block(file))).status == 200
    assert pool.asked == [owner] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_message_has_made_stays_with_its_account(pool: Pool, stream: bool) -> None:
    made = pool.make_in_message(stream=stream)
    owner = pool.asked[0]
    container, token = made["container"]["id"], made["stop_details"]["fallback_credit_token"]

    for more in ({"container": container}, {"container": {"id": container}}, {"fallback_credit_token": token}):
        for _ in range(2):
            assert pool.ask("POST", MESSAGES, message(**more)).status == 200
    assert pool.ask("GET", f"{FILES}/{output_of(made)}/content").status == 200
    assert pool.asked == [owner] * 8


def test_batch_goes_to_the_account_that_has_its_files(pool: Pool) -> None:
    file = pool.make()
    content = {"requests": [{"custom_id": "1", "params": message("x", file_block(file))}]}

    for _ in range(2):
        assert pool.ask("POST", BATCHES, content).status == 200
    assert len(set(pool.asked)) == 1


def test_what_the_results_of_a_batch_hand_out_stays_with_its_account(pool: Pool) -> None:
    batch = pool.make(BATCHES, key="one")
    line = json.loads(pool.ask("GET", f"{BATCHES}/{batch}/results", key="admin").body)
    container = line["result"]["message"]["container"]["id"]

    assert pool.ask("POST", MESSAGES, message(container=container), key="one").status == 200
    assert pool.ask("POST", MESSAGES, message(container=container), key="two").status == 404
    assert len(set(pool.asked)) == 1


def test_ids_in_the_words_of_a_conversation_name_nothing(pool: Pool) -> None:
    file = pool.make()
    told = f'Read {{"file_id": "{file}", "container": "container_x"}}'
    tool = {"type": "tool_use", "id": "t", "name": "drive", "input": {"file_id": "file_in_a_tool"}}

    for _ in range(4):
        assert pool.ask("POST", MESSAGES, message(told, tool), key="two").status == 200
    assert sorted(pool.asked[1:]) == ["a", "a", "b", "b"]


def test_ids_of_two_accounts_in_one_request_are_refused_by_name(pool: Pool) -> None:
    one, two = pool.make(), pool.make()
    names = [pool.rig.name(name) for name in pool.asked]

    reply = pool.ask("POST", MESSAGES, message("compare", file_block(one), file_block(two)))

    told = f"This request names {one} of account {names[0]} and {two} of account {names[1]}: no account has both."
    assert error_of(reply) == (400, "invalid_request_error", told)
    assert len(pool.asked) == 2


def test_spent_window_keeps_nobody_from_what_costs_no_quota(pool: Pool) -> None:
    file, batch = next((f, b) for f, b, owner in made_of(pool) if owner == "a")
    pool.spend("a", time.time() + 3600)
    before = len(pool.asked)

    for method, path in [("GET", FILES), ("GET", f"{FILES}/{file}"), ("GET", f"{BATCHES}/{batch}/results")]:
        extra = ((b"x-ccflare-account", pool.rig.name("a").encode()),)
        assert pool.ask(method, path, extra=extra).status == 200
    assert pool.ask("DELETE", f"{FILES}/{file}").status == 200
    assert pool.asked[before:] == ["a"] * 4
    assert "5h window spent" in pool.rig.health()["a"]["reason"]  # their success says nothing of the window


def fence(rig: Rig, key: str, account: str) -> None:
    """From now on this key may not use that account."""
    with rig.stored() as store:
        store.clients.change(key, not_accounts=(account,))


def made_of(pool: Pool, key: str = "") -> Iterator[tuple[str, str, str]]:
    """A file and a batch of each account in turn, and whose they are."""
    for _ in range(2):
        file = pool.make(key=key)
        owner = pool.asked[-1]
        workspace = pool.a if owner == "a" else pool.b
        while True:
            batch = pool.make(BATCHES)
            if batch in workspace.things:
                break
        yield file, batch, owner


def test_message_whose_account_cannot_serve_is_refused_with_a_time(pool: Pool) -> None:
    file = next(f for f, _, owner in made_of(pool) if owner == "a")
    pool.spend("a", time.time() + 3600)
    before = len(pool.asked)

    reply = pool.ask("POST", MESSAGES, message("read it", file_block(file)))

    error, name = reply.json()["error"], pool.rig.name("a")
    assert reply.status == 503
    assert error["message"].startswith(f"This request names {file}, which account {name} has made, and that")
    assert " It is back at " in error["message"]
    assert [each["name"] for each in error["accounts"]] == [name]
    assert 3000 < int(reply.header("retry-after") or 0) <= 3600
    assert len(pool.asked) == before


def test_message_waits_for_its_account_as_long_as_requests_are_held(pool: Pool, other: Proxy) -> None:
    file = next(f for f, _, owner in made_of(pool) if owner == "a")
    pool.rig.script("a", limited_for(2))
    reply = pool.ask("POST", MESSAGES, message("read it", file_block(file)), proxy=other)

    assert reply.status == 200
    assert pool.asked[-2:] == ["a", "a"]


# -- whose it is


USES = [
    ("GET", FILES + "/{}", None),
    ("GET", FILES + "/{}/content", None),
    ("DELETE", FILES + "/{}", None),
    ("POST", MESSAGES, "file"),
    ("POST", MESSAGES + "/count_tokens", "file"),
    ("POST", BATCHES, "batch"),
]


def body_for(shape: str | None, file: str) -> Any:
    if shape is None:
        return None
    said = message("read it", file_block(file))
    return said if shape == "file" else {"requests": [{"custom_id": "1", "params": said}]}


@pytest.mark.parametrize(("method", "path", "shape"), USES)
def test_client_key_does_not_reach_what_another_one_has_made(
    pool: Pool, method: str, path: str, shape: str | None
) -> None:
    file, unknown = pool.make(key="one"), "file_from_elsewhere"

    for id in (file, unknown):
        reply = pool.ask(method, path.format(id), body_for(shape, id), key="two")
        assert error_of(reply) == (404, "not_found_error", f"Not found: {id}")
        assert reply.header("x-should-retry") == "false"
    assert len(pool.asked) == 1

    assert pool.ask(method, path.format(file), body_for(shape, file), key="one").status == 200


@pytest.mark.parametrize("key", ["one", "admin", ""])
def test_maker_and_administrators_and_who_needs_no_key_reach_it(pool: Pool, key: str) -> None:
    file = pool.make(key="one")
    assert pool.ask("GET", f"{FILES}/{file}", key=key).status == 200
    assert len(set(pool.asked)) == 1


@pytest.mark.parametrize("path", [SKILLS, BATCHES])
def test_skills_and_batches_of_others_are_not_there(pool: Pool, path: str) -> None:
    id = pool.make(path, key="one")
    assert pool.ask("GET", f"{path}/{id}", key="two").status == 404
    assert pool.ask("DELETE", f"{path}/{id}", key="two").status == 404
    assert pool.ask("DELETE", f"{path}/{id}", key="one").status == 200


def test_containers_and_credit_tokens_of_others_are_not_there(pool: Pool) -> None:
    made = pool.make_in_message(key="one")
    container, token = made["container"]["id"], made["stop_details"]["fallback_credit_token"]
    sent = len(pool.asked)

    assert pool.ask("POST", MESSAGES, message(container=container), key="two").status == 404
    reply = pool.ask("POST", MESSAGES, message(fallback_credit_token=token), key="two")
    assert error_of(reply) == (404, "not_found_error", "Not found: fallback_credit_token")
    assert len(pool.asked) == sent
    assert pool.ask("POST", MESSAGES, message(container=container), key="one").status == 200
    assert pool.ask("POST", MESSAGES, message(fallback_credit_token="of no more use"), key="two").status == 200


def test_id_that_nobody_knows_goes_as_ever_where_nothing_is_limited(pool: Pool) -> None:
    reply = pool.ask("GET", f"{FILES}/file_from_elsewhere")
    assert reply.status == 404
    assert "has no file_from_elsewhere" in reply.json()["error"]["message"]  # the upstream's own


def test_what_was_made_before_is_learned_by_its_use(pool: Pool) -> None:
    file = pool.a.make("files")
    while pool.ask("POST", MESSAGES, message("read it", file_block(file))).status != 200:
        pass
    before = len(pool.asked)

    assert [pool.ask("GET", f"{FILES}/{file}").status for _ in range(3)] == [200] * 3
    assert pool.asked[before:] == ["a"] * 3
    assert pool.ask("GET", f"{FILES}/{file}", key="one").status == 404  # nobody's request has made it


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"m","messages":[{"role":"user","content":[{"source":{"file\u005fid":"%s"}}]}]}',
        rb'{"model":"m","messages":[{"role":"user","content":[{"source":{"file_id":"\u0066%s"}}]}]}',
        rb'{"model":"m","messages":[{"role":"user","content":[{"file_id":"x"}],"content":[{"file_id":"%s"}]}]}',
        rb'{"model":"m","container":"%s","container":null}',
    ],
)
def test_odd_spelling_of_an_id_reaches_no_more(pool: Pool, body: bytes) -> None:
    file = pool.make(key="one")
    text = file[1:] if b"u0066" in body else file

    reply = pool.ask("POST", MESSAGES, body.replace(b"%s", text.encode()), key="two")

    assert reply.status in (400, 404)
    assert len(pool.asked) == 1


def test_id_in_a_body_that_is_too_long_to_be_parsed_counts_too(pool: Pool) -> None:
    file = pool.make(key="one")
    owner = pool.asked[0]
    content = message("x" * 5_000_000, file_block(file))

    assert pool.ask("POST", MESSAGES, content, key="two").status == 404
    assert [pool.ask("POST", MESSAGES, content, key="one").status for _ in range(2)] == [200, 200]
    assert pool.asked == [owner] * 3


def test_body_that_cannot_be_read_is_refused_to_who_may_not_reach_everything(pool: Pool) -> None:
    extra = ((b"content-encoding", b"gzip"),)
    reply = pool.ask("POST", MESSAGES, b"no gzip", key="two", extra=extra)
    told = "It cannot be told what this request names: its body cannot be decoded."
    assert error_of(reply) == (400, "invalid_request_error", told)
    assert pool.asked == []


def test_content_of_a_file_makes_nobody_an_owner(pool: Pool) -> None:
    foreign = pool.a.make("files")
    file = pool.make(key="two")
    for workspace in pool.workspaces:
        workspace.content = json.dumps({"type": "file", "id": foreign}).encode()

    assert pool.ask("GET", f"{FILES}/{file}/content", key="two").status == 200
    assert pool.ask("GET", f"{FILES}/{foreign}", key="two").status == 404


# -- lists


def test_list_comes_from_the_account_of_the_newest_or_the_one_that_is_named(pool: Pool) -> None:
    made = [pool.make() for _ in range(2)]
    newest = pool.asked[-1]

    for _ in range(2):
        assert [each["id"] for each in pool.ask("GET", FILES).json()["data"]] == [made[1]]
    assert pool.asked[2:] == [newest] * 2
    oldest = pool.asked[0]
    extra = ((b"x-ccflare-account", pool.rig.name(oldest).encode()),)
    assert [each["id"] for each in pool.ask("GET", FILES, extra=extra).json()["data"]] == [made[0]]
    assert pool.rig.requests[-1].header("x-ccflare-account") is None


def test_page_of_a_list_comes_from_the_account_of_the_page_before(pool: Pool) -> None:
    first = pool.make()
    pool.make()
    assert pool.ask("GET", f"{FILES}?after_id={first}").status == 200
    assert pool.asked[2] == pool.asked[0]
    assert pool.ask("GET", f"{FILES}?after_id={first}", key="one").status == 404


def test_list_of_nothing_comes_from_the_first_account(pool: Pool) -> None:
    pool.rig.change("a", priority=5)
    eventually(lambda: [each["priority"] for each in pool.rig.health().values()], lambda found: found == [1, 5])
    assert [pool.ask("GET", path).status for path in (FILES, SKILLS, BATCHES)] == [200] * 3
    assert pool.asked == ["b"] * 3


def test_list_of_an_account_that_is_not_there_is_refused(pool: Pool) -> None:
    extra = ((b"x-ccflare-account", b"nobody"),)
    told = "x-ccflare-account names no account that is here for this client: nobody."
    assert error_of(pool.ask("GET", FILES, extra=extra)) == (400, "invalid_request_error", told)


def test_list_is_for_administrators_once_there_is_something_of_others(pool: Pool) -> None:
    own = pool.make(key="one")
    name = pool.rig.name(pool.asked[0])
    extra = ((b"x-ccflare-account", name.encode()),)
    assert [each["id"] for each in pool.ask("GET", FILES, key="one").json()["data"]] == [own]

    reply = pool.ask("GET", FILES, key="two", extra=extra)

    told = (
        "The account has files that this client key has not made, so its list is for administrators; "
        "each of your own can be asked for by its id."
    )
    assert error_of(reply) == (403, "permission_error", told)
    assert len(pool.asked) == 2
    for key in ("one", "admin", ""):
        assert pool.ask("GET", FILES, key=key, extra=extra).status == 200


def test_list_that_shows_what_was_made_past_the_proxy_is_the_last_one(pool: Pool) -> None:
    foreign = pool.a.make("files")
    extra = ((b"x-ccflare-account", pool.rig.name("a").encode()),)

    assert [each["id"] for each in pool.ask("GET", FILES, key="one", extra=extra).json()["data"]] == [foreign]

    assert pool.ask("GET", FILES, key="one", extra=extra).status == 403
    assert pool.ask("GET", f"{FILES}/{foreign}", key="one").status == 404


# -- the end of it


def test_deleted_id_is_forgotten(pool: Pool) -> None:
    file = pool.make(key="one")
    known = "SELECT * FROM owners WHERE text = ?"
    pool.rig.proxy.rows(known, (file,), until=len)

    assert pool.ask("DELETE", f"{FILES}/{file}", key="one").status == 200

    pool.rig.proxy.rows(known, (file,), until=lambda rows: not rows)
    assert error_of(pool.ask("GET", f"{FILES}/{file}", key="one"))[2] == f"Not found: {file}"


def test_removed_account_takes_its_ids_along(pool: Pool) -> None:
    file = pool.make(key="one")
    name = pool.rig.name(pool.asked[0])
    pool.rig.proxy.rows("SELECT * FROM owners WHERE text = ?", (file,), until=len)

    pool.rig.proxy.accounts("remove", name, "--yes")

    eventually(lambda: name in [each["name"] for each in pool.rig.health().values()], lambda is_there: not is_there)
    assert pool.ask("GET", f"{FILES}/{file}", key="one").status == 404
    assert pool.rig.proxy.rows("SELECT * FROM owners WHERE text = ?", (file,)) == []


# -- more than one process


def test_proxies_on_one_database_share_what_they_know(pool: Pool, other: Proxy) -> None:
    here, there = pool.make(key="one"), pool.make(key="one", proxy=other)
    owners = pool.asked
    other.rows("SELECT * FROM owners WHERE text IN (?, ?)", (here, there), until=lambda rows: len(rows) == 2)

    for id, owner, proxy in ((here, owners[0], other), (there, owners[1], None)):
        assert pool.ask("GET", f"{FILES}/{id}", key="two", proxy=proxy).status == 404
        assert [pool.ask("GET", f"{FILES}/{id}", key="one", proxy=proxy).status for _ in range(2)] == [200] * 2
        assert pool.asked[-2:] == [owner] * 2


def test_what_is_known_outlives_the_process(pool: Pool, other: Proxy) -> None:
    file = pool.make(key="one", proxy=other)
    other.stop()
    other.start()

    assert [pool.ask("GET", f"{FILES}/{file}", key="one", proxy=other).status for _ in range(3)] == [200] * 3
    assert len(set(pool.asked)) == 1


@pytest.mark.postgres
def test_proxies_on_a_server_share_what_they_know(upstream: FakeUpstream, server: Server) -> None:
    workspaces = {name: Workspace(name) for name in ("max-a", "max-b")}
    keyless: dict[str, Any] = {"database": server, "environment": KEY_VARIABLE, "ccflare_strategy": "round-robin"}
    here, there = Proxy(upstream, **keyless), Proxy(upstream, **keyless)
    for name, workspace in workspaces.items():
        here.add_api_key(name, f"sk-ant-api03-{name}")
        upstream.always(workspace.answer, credential=f"sk-ant-api03-{name}")
    with here, there:
        for asked, other in ((here, there), (there, here)):
            with via_base_url(asked) as client:
                file = client.request("POST", FILES, (), b"{}").json()["id"]
            other.rows("SELECT * FROM owners WHERE text = ?", (file,), until=len)
            for _ in range(2):
                with via_base_url(other) as client:
                    assert client.request("GET", f"{FILES}/{file}").status == 200
        with via_base_url(here) as client:
            assert client.request("DELETE", f"{FILES}/{file}").status == 200
        here.rows("SELECT * FROM owners WHERE text = ?", (file,), until=lambda rows: not rows)
        here.accounts("remove", "max-a", "--yes")
        assert {row["account_id"] for row in here.rows("SELECT * FROM owners")} <= ids_of(here, "max-b")


def ids_of(proxy: Proxy, name: str) -> set[str]:
    return {row["id"] for row in proxy.rows("SELECT id FROM accounts WHERE name = ?", (name,))}


def test_key_keeps_to_its_accounts_whatever_it_names(pool: Pool) -> None:
    file = next(f for f, _, owner in made_of(pool, key="fenced") if owner == "a")
    name = pool.rig.name("a")
    fence(pool.rig, "fenced", name)

    reply = eventually(lambda: pool.ask("GET", f"{FILES}/{file}", key="fenced"), lambda reply: reply.status != 200)
    told = f"This client key may not use the account that has made {file}."
    assert error_of(reply) == (403, "permission_error", told)
    extra = ((b"x-ccflare-account", name.encode()),)
    assert pool.ask("GET", FILES, key="fenced", extra=extra).status == 400


def test_upload_passes_byte_for_byte(pool: Pool) -> None:
    body = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + bytes(range(256)) * 8000 + b"\r\n--x--\r\n"
    extra = ((b"anthropic-beta", b"files-api-2025-04-14"),)
    assert pool.ask("POST", FILES, body, key="two", extra=extra).status == 200
    assert pool.rig.requests[-1].body == body
