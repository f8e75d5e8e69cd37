"""`scripts/search.py` on what a real proxy has recorded."""

import json
from collections.abc import Iterator

import pytest

from corpus import COUNTS, stream
from fake_upstream import FakeUpstream, sse_answer
from harness import claude_request
from rig import Rig


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with FakeUpstream() as upstream, Rig.running(upstream) as rig:
        yield rig


def test_what_was_asked_and_what_was_answered_is_found(rig: Rig) -> None:
    rig.script("a", sse_answer(*stream(COUNTS[0], "thinking")))
    with rig.client() as client:
        client.request(*claude_request(9000, session=rig.session))
    row = rig.row()

    asked = json.loads(rig.proxy.run_script("search.py", "SAY hello", "--format", "json"))
    thought = rig.proxy.run_script("search.py", "wants 99", "--role", "assistant", "--session", rig.session)

    assert [(hit["request_id"], hit["role"], hit["text"]) for hit in asked] == [(row["id"], "user", "Say hello.")]
    assert "The user »wants 99« tokens." in thought


def test_nothing_found_is_an_exit_code(rig: Rig) -> None:
    with pytest.raises(AssertionError):
        rig.proxy.run_script("search.py", "xyzzy-not-there")


def test_with_an_index_in_clear_it_finds_the_same() -> None:
    with FakeUpstream() as upstream, Rig.running(upstream, ccflare_search_index="plain") as rig:
        rig.fresh("a")
        rig.script("a", sse_answer(*stream(COUNTS[0], "thinking")))
        rig.ask()
        rig.proxy.rows("SELECT 1 FROM sqlite_master WHERE name = 'search_rows'", until=bool)
        rig.proxy.rows("SELECT 1 FROM search_rows WHERE state = 1", until=lambda rows: len(rows) == 2)

        found = json.loads(rig.proxy.run_script("search.py", "SAY hello", "--format", "json"))

    assert [hit["text"] for hit in found] == ["Say hello."]
