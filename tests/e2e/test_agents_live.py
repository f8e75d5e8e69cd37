"""An agent's requests get the model of its definition, and no other byte changes; the record says so."""

import json
from collections.abc import Iterator

import pytest

from fake_upstream import FakeUpstream, overloaded
from harness import ClaudeRequest, claude_request
from rig import Rig

PROMPT = "You review code with great care, line by line, and say what you have found."


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    definitions = tmp_path_factory.mktemp("agents") / "agents.yaml"
    definitions.write_text(json.dumps({"reviewer": {"prompt": PROMPT, "model": "claude-haiku-4-5"}}))
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_agents=definitions) as rig:
        yield rig


def asked_by(rig: Rig, prompt: str) -> ClaudeRequest:
    """A request with a directory and this prompt in its system text."""
    request = claude_request(4000, session=rig.session)
    text = f"{prompt}\\n<env>\\nWorking directory: /srv/shop\\n</env>Be concise".encode()
    return request._replace(body=request.body.replace(b"Be concise", text, 1))


def test_the_agents_model_is_all_that_changes(rig: Rig) -> None:
    request = asked_by(rig, PROMPT)
    with rig.client() as client:
        client.request(*request)

    (sent,) = rig.requests
    assert sent.body == request.body.replace(b"claude-opus-4-8", b"claude-haiku-4-5", 1)
    assert sent.header_values("content-length") == [str(len(sent.body))]
    row = rig.row()
    assert (row["agent"], row["model"], row["original_model"]) == ("reviewer", "claude-haiku-4-5", "claude-opus-4-8")
    assert (row["project"], row["working_directory"], row["request_class"]) == ("shop", "/srv/shop", "main")


def test_another_account_is_asked_for_the_same_model(rig: Rig) -> None:
    rig.script("a", always=overloaded())
    with rig.client() as client:
        client.request(*asked_by(rig, PROMPT))

    assert rig.asked[-1] == "b"
    assert {request.json()["model"] for request in rig.requests} == {"claude-haiku-4-5"}


def test_other_requests_go_out_as_they_came(rig: Rig) -> None:
    request = asked_by(rig, "You are somebody else, who has nothing to do with any review.")
    with rig.client() as client:
        client.request(*request)

    (sent,) = rig.requests
    assert sent.body == request.body
    row = rig.row()
    assert (row["agent"], row["model"], row["original_model"]) == (None, "claude-opus-4-8", None)
