"""Paths that a wrong base URL or a wrong letter makes: each is answered with the mistake."""

import pytest

from ccflare_core.anthropic.routes import API, Route, classify, refuse, rule_of
from ccflare_core.http.rejection import Rejection

DOUBLED = "There is a /v1 too many in the path: a base URL ends behind host and port, without /v1."
IN_FRONT = "There is something in front of {} in the path: a base URL ends behind host and port."
LACKING = "The path lacks its /v1: the API has {}."
NEAREST = "The API has no such path; the nearest one is {}."
OUR_PAGES = "The proxy's own pages lie under /ccflare/, such as /ccflare/health."


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/v1/messages", DOUBLED),
        ("/v1/v1/messages/count_tokens", DOUBLED),
        ("/v1/v1/code/sessions", DOUBLED),
        ("/v1/v1", DOUBLED),
        ("/v1/v1/v1/models", DOUBLED),
        ("/V1/v1/messages", DOUBLED),
        ("/v1/%76%31/messages", DOUBLED),
        ("/v1/api/hello", DOUBLED),
        ("/v1/api/oauth/profile", DOUBLED),
        ("/v1/ccflare/health", DOUBLED),
        ("/x/v1/messages", IN_FRONT.format("/v1/messages")),
        ("/anthropic/v1/messages/batches/b_1/results", IN_FRONT.format("/v1/messages/batches/{id}/results")),
        ("/api/v1/models", IN_FRONT.format("/v1/models")),
        ("/v1/messages/v1/messages", IN_FRONT.format("/v1/messages")),
        ("/v1/messages/v1/messages/count_tokens", IN_FRONT.format("/v1/messages/count_tokens")),
        ("/a/b/v1/messages/", IN_FRONT.format("/v1/messages")),
        ("/messages", LACKING.format("/v1/messages")),
        ("/messages/count_tokens", LACKING.format("/v1/messages/count_tokens")),
        ("/models/claude-opus-4-8", LACKING.format("/v1/models/{id}")),
        ("/complete", LACKING.format("/v1/complete")),
        ("/v1/message", NEAREST.format("/v1/messages")),
        ("/v1/messagess", NEAREST.format("/v1/messages")),
        ("/v1/mesages", NEAREST.format("/v1/messages")),
        ("/v1/messgaes", NEAREST.format("/v1/messages")),
        ("/v2/messages", NEAREST.format("/v1/messages")),
        ("/v1/messages/count-tokens", NEAREST.format("/v1/messages/count_tokens")),
        ("/v1/message/batches/b_1/cancel", NEAREST.format("/v1/messages/batches/{id}/cancel")),
        ("/v1/file/file_1/content", NEAREST.format("/v1/files/{id}/content")),
        ("/v1/skill", NEAREST.format("/v1/skills")),
        ("/ccflare", OUR_PAGES),
        ("/CCFlare/health", OUR_PAGES),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("query", ["", "?beta=true"])
def test_a_near_miss_is_answered_with_its_mistake(method: str, path: str, sentence: str, query: str) -> None:
    assert classify(method, path + query) is Route.NEAR_MISS
    assert refuse(method, path + query) == Rejection(400, sentence, is_final=True)
    assert rule_of(method, path) is None


@pytest.mark.parametrize("path", ["//v1/messages", "/v1//messages", "//api/hello", "//ccflare/health", "///", "//"])
def test_an_empty_segment_is_named(path: str) -> None:
    assert classify("POST", path) is Route.MALFORMED
    assert refuse("POST", path) == Rejection(
        400, "There is an empty segment (//) in the path: a base URL ends without a slash.", is_final=True
    )


def test_a_worse_fault_beside_an_empty_segment_is_not_called_one() -> None:
    assert refuse("POST", "//v1/../messages") == Rejection(
        400, "The request's path has dot segments or encoded separators.", is_final=True
    )


@pytest.mark.parametrize("path", sorted({rule.shape.replace("{id}", "msgbatch_01A") for rule in API}))
def test_a_base_url_with_v1_is_a_near_miss_for_every_path_of_the_api(path: str) -> None:
    assert classify("GET", f"/v1{path}", stateful=True) is Route.NEAR_MISS
    assert classify("GET", path.removeprefix("/v1"), stateful=True) is Route.NEAR_MISS
    assert classify("GET", f"/proxy{path}", stateful=True) is Route.NEAR_MISS
