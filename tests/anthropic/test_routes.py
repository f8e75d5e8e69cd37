"""Which way a request goes: what gets an account's credential by method and path, and that nothing like it does."""

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ccflare_core.anthropic.routes import API, OTHER_METHODS, PathClass, Route, Rule, classify, refuse, rule_of
from ccflare_core.http.headers import TARGET_BYTES
from ccflare_core.http.rejection import Rejection

METHODS = (*OTHER_METHODS, "TRACE", "CONNECT", "PROPFIND", "post", "Get", "")
POOLED = [rule for rule in API if rule.path_class in (PathClass.MODEL, PathClass.RESOURCE)]
MANAGED = [rule for rule in API if rule not in POOLED]
SHAPES = sorted({rule.shape for rule in POOLED})
MANAGED_SHAPES = sorted({rule.shape for rule in MANAGED})


def example(shape: str) -> str:
    return shape.replace("{id}", "msgbatch_01A")


@pytest.mark.parametrize(("method", "shape"), list(product(METHODS, SHAPES)))
def test_a_path_of_the_api_gets_an_account_for_its_own_methods_only(method: str, shape: str) -> None:
    allow = {allowed for rule in POOLED if rule.shape == shape for allowed in rule.methods}

    for query in ("", "?beta=true", "?x=/../%2f//"):
        route, refusal = classify(method, example(shape) + query), refuse(method, example(shape) + query)
        if method in allow:
            assert (route, refusal) == (Route.INFERENCE, None)
        else:
            assert route is Route.WRONG_METHOD
            assert refusal is not None
            assert (refusal.status, set(refusal.allow)) == (405, allow)
            assert refusal.message.startswith(f"{shape} takes ")


@pytest.mark.parametrize(("method", "shape"), list(product(METHODS, MANAGED_SHAPES)))
def test_a_path_of_managed_agents_gets_an_account_where_one_is_named(method: str, shape: str) -> None:
    rules = [rule for rule in MANAGED if rule.shape == shape]
    found = [rule.path_class for rule in rules if method in rule.methods]
    route = {PathClass.STATEFUL: Route.STATEFUL, PathClass.WORKER: Route.UPSTREAM}

    for query in ("", "?beta=true"):
        target = example(shape) + query
        assert classify(method, target, stateful=True) is (route[found[0]] if found else Route.WRONG_METHOD)
        refusal = refuse(method, target, stateful=True)
        assert (refusal is None) is bool(found)
        assert refusal is None or set(refusal.allow) == {allowed for rule in rules for allowed in rule.methods}


@pytest.mark.parametrize(("method", "shape"), list(product(OTHER_METHODS, MANAGED_SHAPES)))
def test_a_path_of_managed_agents_passes_as_any_other_where_none_is(method: str, shape: str) -> None:
    for path in (example(shape), example(shape) + "/", example(shape).upper()):
        assert classify(method, path) is Route.UPSTREAM
        assert refuse(method, path) is None


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/sessions/", "/v1/sessions"),
        ("/v1/Sessions/s_1/events", "/v1/sessions/{id}/events"),
        ("/v1/sessions/s_1/events%2Fstream", "malformed"),
        ("/v1/sessions/a%20b", "/v1/sessions/{id}"),
        ("/v1/environments/e_1/Work/poll", "/v1/environments/{id}/work/poll"),
        ("/v1/vaults/v;x/credentials", "/v1/vaults/{id}/credentials"),
    ],
)
def test_another_spelling_of_a_path_of_managed_agents_is_refused_where_an_account_is_named(
    path: str, meant: str
) -> None:
    refusal = refuse("GET", path, stateful=True)

    assert refusal is not None
    assert refusal.status == 400
    assert meant == "malformed" or refusal.message == f"This is another spelling of {meant}: send it exactly so."


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tunnels",
        "/v1/tunnels/t_1/reveal_token",
        "/v1/user_profiles/u_1",
        "/v1/organizations/users",
        "/v1/compliance/review/cases",
        "/v1/sessions/s_1/threads/t_1/events/stream",
        "/v1/agents/a_1/versions/1",
        "/v1/code/sessions",
        "/v1/session_ingress/session/s_1",
    ],
)
def test_what_is_no_managed_agents_passes_also_where_an_account_is_named(path: str) -> None:
    assert classify("GET", path, stateful=True) is Route.UPSTREAM
    assert rule_of("GET", path) is None


@pytest.mark.parametrize("rule", API, ids=str)
def test_each_rule_is_told_apart_from_all_others(rule: Rule) -> None:
    assert {rule_of(method, example(rule.shape)) for method in rule.methods} == {rule}


def test_a_resource_is_the_same_for_all_that_stands_below_it() -> None:
    resources = {rule.resource for rule in API if not rule.shape.startswith(("/v1/messages", "/v1/complete"))}

    assert {rule.resource for rule in API} == resources | {"messages", "count_tokens", "batches", "cache_touch"}
    for rule in API:
        if rule.resource in resources:
            assert rule.shape.split("/")[2] == rule.resource


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/claude-opus-4-8",
        "/v1/models/claude-2.1",
        "/v1/models/anthropic.claude-v2:1",
        "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/content",
        "/v1/skills/pptx/versions/1759178010641129",
        "/v1/models?limit=1000",
    ],
)
def test_ids_as_the_provider_makes_them_are_taken(target: str) -> None:
    assert classify("GET", target) is Route.INFERENCE


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/messages/other",
        "/v1/messages_of_another_kind",
        "/v1/me",
        "/v1/mcp",
        "/v1/filestore/files",
        "/v1/compliance/apps/chats",
        "/v1/privacy-consents",
        "/v1/models/a/b",
        "/v1/complete/x",
        "/v1/files/a/b",
        "/v1/messages/batches/a/b",
        "/v1/code/sessions",
        "/v1/mcp_servers",
        "/api/oauth/profile",
        "/api/claude_code/metrics",
        "/api/caf%C3%A9/%E2%82%AC",
        "/api/a%20b;c=1?x",
        "/v1/oauth/authorize",
        "/v1/organizations/api_keys",
        "/v1/agents",
        "/v1/sessions/sesn_1/events",
        "/v1/environments/env_1",
        "/v1/memory_stores",
        "/v1/vaults/vlt_1/credentials",
        "/v1/user_profiles",
        "/v1/chat/completions",
        "/api/v1",
        "/v1",
        "/v1/",
        "/model",
        "/v11/x",
        "/ccflarex",
    ],
)
def test_everything_else_passes_without_one(target: str) -> None:
    assert {classify(method, target) for method in OTHER_METHODS if method != "HEAD"} == {Route.UPSTREAM}
    assert refuse("POST", target) is None


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "post", ""])
@pytest.mark.parametrize("target", ["/", "/api/oauth/profile", "/v1/code/sessions?x", "/ccflare"])
def test_no_path_takes_an_odd_method(method: str, target: str) -> None:
    refusal = refuse(method, target)

    assert classify(method, target) is Route.WRONG_METHOD
    assert refusal is not None
    assert (refusal.status, refusal.allow) == (405, OTHER_METHODS)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "v1/messages",
        "http://host/v1/messages",
        "/v1/../v1/messages",
        "/v1/files/.",
        "/v1/files/..",
        "/v1/files/./x",
        "/v1/files/%2e%2E/x",
        "/v1/files/.%2e",
        "/v1/files/..;x/y",
        "/v1/files/%2fx",
        "/v1/files/%5cx",
        "/v1/files/x\\y",
        "/v1/files/x%00",
        "/v1/files/x\0",
        "/v1/files/x y",
        "/v1/files/x\r\n",
        "/v1//messages",
        "//host/v1/messages",
        "/v1/files/%zz",
        "/v1/files/%2",
        "/ccflare/../v1/messages",
        "/api/%252525252525252541",
        "/" + "x" * TARGET_BYTES,
    ],
)
@pytest.mark.parametrize("query", ["", "?beta=true"])
def test_what_can_be_read_in_two_ways_is_malformed(path: str, query: str) -> None:
    refusal = refuse("POST", path + query)

    assert classify("POST", path + query) is Route.MALFORMED
    assert refusal is not None
    assert refusal.status == 400


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/messages/", "/v1/messages"),
        ("/V1/messages", "/v1/messages"),
        ("/v1/meſſages", "/v1/messages"),
        ("/v1/messages;x", "/v1/messages"),
        ("/v1;a=b/messages", "/v1/messages"),
        ("/v1/messages.", "/v1/messages"),
        ("/v1/.messages", "/v1/messages"),
        ("/v1/messages#x", "/v1/messages"),
        ("/v1/messages%3Fbeta=true", "/v1/messages"),
        ("/v1/messages%3F/%252e%252e/x", "/v1/messages"),
        ("/v1/%6dessages", "/v1/messages"),
        ("/v1/%256dessages", "/v1/messages"),
        ("/v1/%25%36dessages", "/v1/messages"),
        ("/v1/messages%252f", "/v1/messages"),
        ("/v1%255cmessages", "/v1/messages"),
        ("/v1/messages%20", "/v1/messages"),
        ("/v1/mess%09ages", "/v1/messages"),
        ("/v1/messages%2500", "/v1/messages"),
        ("/v1/%252e%252e/messages", "/v1/messages"),
        ("/v1/x/%252e%252e/messages", "/v1/messages"),
        ("/v1/x/..%253bx/messages", "/v1/messages"),
        ("/x/%252e%252e/v1/messages", "/v1/messages"),
        ("/v1/messages/count_tokens/", "/v1/messages/count_tokens"),
        ("/v1/messages/batches/", "/v1/messages/batches"),
        ("/v1/Messages/batches/x/cancel", "/v1/messages/batches/{id}/cancel"),
        ("/v1/files/a%20b", "/v1/files/{id}"),
        ("/v1/files/..x", "/v1/files/{id}"),
        ("/v1/files/x.", "/v1/files/{id}"),
        ("/v1/files/%61", "/v1/files/{id}"),
        ("/v1/files/a,b", "/v1/files/{id}"),
        ("/v1/files/x/", "/v1/files/{id}"),
        ("/v1/models/claude-opus-4-8%5B1m%5D", "/v1/models/{id}"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "TRACE"])
def test_another_spelling_of_a_path_of_the_api_is_refused(method: str, path: str, meant: str) -> None:
    refusal = refuse(method, path)

    assert classify(method, path) is Route.MISSPELT
    assert refusal == Rejection(400, f"This is another spelling of {meant}: send it exactly so.", is_final=True)


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("HEAD", "/", Route.PRECONNECT),
        ("HEAD", "/api/hello", Route.PRECONNECT),
        ("GET", "/", Route.UPSTREAM),
        ("GET", "/api/hello", Route.UPSTREAM),
        ("HEAD", "/v1/mcp_servers", Route.UPSTREAM),
        ("GET", "/ccflare/health?x", Route.CONTROL),
        ("POST", "/ccflare/", Route.CONTROL),
        ("TRACE", "/ccflare/health", Route.CONTROL),
    ],
)
def test_what_is_answered_here(method: str, target: str, route: Route) -> None:
    assert classify(method, target) is route


# --- what no spelling gets ------------------------------------------------------------------------------------------

CREDENTIAL_PATHS = st.builds(
    lambda shape, number: shape.replace("{id}", str(number)), st.sampled_from(SHAPES), st.integers(0, 10**6)
)
"""Ids are digits here, so that each other case is another spelling."""
BEFORE, AFTER = ("", ".", "/", "%2e/", "%252e/"), ("", ".", ";x", "%3Bx=1", "%253b", "/", "%2f", "%252F", "%20", "\t")


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """A path that gets a credential, and another spelling of it."""
    path = draw(CREDENTIAL_PATHS)
    segments = []
    for segment in path.split("/")[1:]:
        name = "".join(letter.swapcase() if draw(st.integers(0, 19)) == 0 else letter for letter in segment)
        segments.append(draw(st.sampled_from(BEFORE)) + name + draw(st.sampled_from(AFTER)))
    if draw(st.booleans()):
        segments[draw(st.integers(0, len(segments) - 1)) : 0] = ["x", draw(st.sampled_from(["..", "%252e%252e"]))]
    text = draw(st.sampled_from(["/", "/", "/", "\\"])).join(["", *segments])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(1, len(text) - 1))
        text = f"{text[:place]}%{ord(text[place]):02x}{text[place + 1 :]}"
    return path, text


@given(spellings(), st.sampled_from(METHODS), st.sampled_from(["", "?beta=true"]))
def test_no_other_spelling_of_a_path_of_the_api_goes_anywhere(spelt: tuple[str, str], method: str, query: str) -> None:
    path, text = spelt
    assume(text != path)

    refusal = refuse(method, text + query)

    assert classify(method, text + query) in (Route.MISSPELT, Route.MALFORMED)
    assert refusal is not None
    assert refusal.status == 400
    assert rule_of(method, text) is None


PIECES = st.sampled_from(
    [
        *(piece for shape in (*SHAPES, *MANAGED_SHAPES) for piece in shape.split("/")),
        ".",
        "..",
        "%2e",
        "%2E.",
        "%2f",
        "%5C",
        "%00",
        "\\",
        "\0",
        "",
        "%",
        "x",
    ]
)
PATHS = st.builds(
    lambda start, segments: start + "/".join(segments),
    st.sampled_from(["", "/", "/v1/", "/v1/files/"]),
    st.lists(PIECES | st.text(max_size=4)),
)


@given(st.sampled_from(METHODS) | st.text(), PATHS | st.text(), st.text() | st.none())
def test_what_gets_a_credential_is_in_the_table(method: str, path: str, query: str | None) -> None:
    if classify(method, path if query is None else f"{path}?{query}") is not Route.INFERENCE:
        return

    segments = path.partition("?")[0].split("/")
    (rule,) = [
        r for r in POOLED if method in r.methods and len(r.shape.split("/")) == len(segments) and fits(r, segments)
    ]
    assert rule_of(method, "/".join(segments)) is rule


@given(st.sampled_from(METHODS) | st.text(), PATHS | st.text(), st.text() | st.none())
def test_what_gets_the_account_of_managed_agents_is_in_the_table(method: str, path: str, query: str | None) -> None:
    target = path if query is None else f"{path}?{query}"
    if classify(method, target, stateful=True) is not Route.STATEFUL:
        return

    segments = path.partition("?")[0].split("/")
    rules = [
        r for r in MANAGED if method in r.methods and len(r.shape.split("/")) == len(segments) and fits(r, segments)
    ]
    assert rules[0].path_class is PathClass.STATEFUL
    assert rule_of(method, "/".join(segments)) is rules[0]


def fits(rule: Rule, segments: list[str]) -> bool:
    """Whether each segment is the rule's own, or a plain id where it has one."""
    wanted = zip(rule.shape.split("/"), segments, strict=True)
    return all(is_plain(segment) if part == "{id}" else segment == part for part, segment in wanted)


def is_plain(segment: str) -> bool:
    is_ascii_name = segment.isascii() and all(letter.isalnum() or letter in "._:@-" for letter in segment)
    return is_ascii_name and segment == segment.strip(".:@-") != ""


@given(st.text(), st.text())
def test_any_text_has_a_route(method: str, target: str) -> None:
    assert classify(method, target) in Route
    assert refuse(method, target) is None or refuse(method, target).status in (400, 405)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "path", "runs"),
    [
        ("POST", "/v1/messages", True),
        ("POST", "/v1/messages/count_tokens", True),
        ("POST", "/v1/messages/batches", True),
        ("POST", "/v1/complete", True),
        ("GET", "/v1/messages/batches", False),
        ("POST", "/v1/messages/batches/b_1/cancel", False),
        ("GET", "/v1/models", False),
        ("POST", "/v1/files", False),
        ("POST", "/v1/messages/cache_touch", False),
    ],
)
def test_what_names_the_models_that_it_wants(method: str, path: str, runs: bool) -> None:
    rule = rule_of(method, path)

    assert rule is not None
    assert (rule.path_class is PathClass.MODEL) is runs
