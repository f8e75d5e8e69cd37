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


def test_a_tag_never_goes_upstream_and_finds_what_was_said(rig: Rig) -> None:
    rig.ask()
    rig.ask(extra=((b"x-ccflare-tag", b"ticket=12, who=me"), (b"X-ccflare-Tag", b"step=1")))
    _, tagged = rig.rows(2)

    words = ("search.py", "say hello", "--session", rig.session, "--tag", "ticket=12", "--format", "json")
    hits = json.loads(rig.proxy.run_script(*words))
    listed = json.loads(rig.proxy.run_script("stats.py", "requests", "--tag", "step=1", "--format", "json"))
    shown = rig.proxy.run_script("show.py", tagged["id"])

    assert [hit["request_id"] for hit in hits] == [tagged["id"]]
    assert [(row["id"], row["tags"]) for row in listed] == [
        (tagged["id"], {"step": "1", "ticket": "12", "who": "me"}),
    ]
    assert "step=1, ticket=12, who=me" in shown
    assert [request.header("x-ccflare-tag") for request in rig.requests] == [None, None]


def test_a_tag_that_cannot_be_recorded_is_a_400_and_nothing_goes_upstream(rig: Rig) -> None:
    reply = rig.ask(extra=((b"x-ccflare-tag", b"Ticket=\x1b[2J"),))

    assert (reply.status, reply.header("x-should-retry"), rig.requests) == (400, "false", [])
    assert b"x-ccflare-tag takes name=value" in reply.body
    assert b"[2J" not in reply.body


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
