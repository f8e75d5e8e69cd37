"""Which way a request goes, and that no path which can be read in two ways ever gets a credential."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.routes import Route, classify, runs_model

RESOURCES = ("messages", "models", "files", "complete", "skills")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/messages",
        "/v1/messages?beta=true",
        "/v1/messages?x=/../%2f//",
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/messages/batches/msgbatch_01/results",
        "/v1/models",
        "/v1/models/claude-opus-4-8",
        "/v1/files/file_01/content",
        "/v1/complete",
        "/v1/skills/skill_01/versions/2",
        "/v1/files/a%20b",
        "/v1/files/..x/x..",
    ],
)
def test_inference_gets_an_account(target: str) -> None:
    assert classify("POST", target) is Route.INFERENCE


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/messages/",
        "/v1/messages/other",
        "/v1/messagesx",
        "/v1/modelsx",
        "/v1/complete/x",
        "/V1/messages",
        "/v1/messages;x",
        "/v1/messages#x",
        "/v1/code/sessions",
        "/v1/mcp_servers",
        "/api/oauth/profile",
        "/api/claude_code/metrics",
        "/ccflare",
        "/x/v1/messages",
    ],
)
def test_everything_else_passes_without_one(target: str) -> None:
    assert classify("POST", target) is Route.UPSTREAM


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
    ],
)
@pytest.mark.parametrize("query", ["", "?beta=true"])
def test_what_can_be_read_in_two_ways_is_malformed(path: str, query: str) -> None:
    assert classify("POST", path + query) is Route.MALFORMED


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("HEAD", "/", Route.PRECONNECT),
        ("HEAD", "/api/hello", Route.PRECONNECT),
        ("GET", "/", Route.UPSTREAM),
        ("GET", "/api/hello", Route.UPSTREAM),
        ("HEAD", "/v1/models", Route.INFERENCE),
        ("GET", "/ccflare/health?x", Route.CONTROL),
        ("POST", "/ccflare/", Route.CONTROL),
    ],
)
def test_what_is_answered_here(method: str, target: str, route: Route) -> None:
    assert classify(method, target) is route


SEGMENTS = st.sampled_from(
    [
        "v1",
        *RESOURCES,
        "batches",
        "count_tokens",
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
) | st.text(max_size=4)
PATHS = st.builds(
    lambda start, segments: start + "/".join(segments),
    st.sampled_from(["", "/", "/v1/", "/v1/files/"]),
    st.lists(SEGMENTS),
)


@given(st.sampled_from(["GET", "POST", "HEAD"]), PATHS | st.text(), st.text() | st.none())
def test_no_path_that_gets_a_credential_is_ambiguous_or_unlisted(method: str, path: str, query: str | None) -> None:
    if classify(method, path if query is None else f"{path}?{query}") is not Route.INFERENCE:
        return

    path = path.partition("?")[0]
    segments = path.split("/")
    decoded = [unquote(segment) for segment in segments]
    assert not {".", ".."} & {segment.partition(";")[0] for segment in decoded}
    assert not re.search(r"[/\\\0]", "".join(decoded))
    assert "" not in segments[1:-1]
    assert segments[:2] == ["", "v1"]
    assert segments[2] in RESOURCES
    if segments[2] in ("messages", "complete"):
        assert "/".join(segments[3:4]) in {"messages": ("", "count_tokens", "batches"), "complete": ("",)}[segments[2]]


@given(st.text(), st.text())
def test_any_text_has_a_route(method: str, target: str) -> None:
    assert classify(method, target) in Route


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
    ],
)
def test_what_names_the_models_that_it_wants(method: str, path: str, runs: bool) -> None:
    assert runs_model(method, path) is runs
