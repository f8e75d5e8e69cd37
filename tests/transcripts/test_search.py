import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodies_kit import answer, request, turns
from ccflare_core.exchange.records import ExchangeStarted, Payload
from ccflare_core.secrets.key_sources import GivenKey
from ccflare_core.store.store import Store
from ccflare_core.transcripts.search import Hit, Query, Search

KEY = GivenKey(bytes(range(32)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "ccflare.db", KEY)
    yield store
    store.close()


def search(store: Store, text: str, **how: Any) -> list[Hit]:
    def moment(request_id: str) -> tuple[float, str | None]:
        [(at, session)] = store.query("SELECT timestamp, session_id FROM requests WHERE id = ?", (request_id,))
        return at / 1000, session

    return Search(store.transcripts, moment).run(
        Query(text, is_pattern=how.pop("regex", False)), **{"limit": 50, **how}
    )


def say(store: Store, number: int, *messages: tuple[str, object], said: str = "", session: str = "s-1") -> str:
    """A recorded request with these messages, and the answer; its id."""
    content = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
    name = f"req_{number:012x}"
    begun, payload = request(name, json.dumps(content, ensure_ascii=False).encode(), session)
    assert isinstance(begun, ExchangeStarted)
    records: list[Any] = [begun._replace(timestamp_ms=number * 1000), payload]
    if said:
        deltas = ({"type": "text_delta", "text": said[at : at + 3]} for at in range(0, len(said), 3))
        events = [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
        events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
        body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        records.append(Payload(name, "response", "text/event-stream", "", body, len(body), False, session))
    store.write(records)
    return name


LONG = "word " * 1000
"""Enough that a body is cut into blocks."""


def test_each_thing_said_is_found_once_where_it_was_said_first(store: Store) -> None:
    first = say(store, 1, ("user", f"Where is the Flux Capacitor? {LONG}"), said="In the boot.")
    say(store, 2, ("user", f"Where is the Flux Capacitor? {LONG}"), ("assistant", "In the boot."), ("user", "Thanks."))

    assert [(hit.request_id, hit.role, hit.at) for hit in search(store, "flux capacitor")] == [(first, "user", 1.0)]
    assert [(hit.request_id, hit.role) for hit in search(store, "in the boot")] == [(first, "assistant")]
    assert search(store, "no such words") == []


def test_the_latest_hits_come_first_and_as_many_as_asked_for(store: Store) -> None:
    names = [say(store, number, ("user", f"needle {number}")) for number in range(1, 6)]

    assert [hit.request_id for hit in search(store, "needle", limit=2)] == [names[4], names[3]]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("naïve CAFÉ – straße", "café"),
        ('say "cheese" now', '"CHEESE"'),
        ("a\\b\tc\nd", "B\tC"),
        ("漢字かな", "字か"),
        ("smile 😀 here", "😀 H"),
        ("the /etc/passwd file", "/ETC/passwd"),
        ("Kelvin \u212a sign", "kelvin k"),
    ],
)
@pytest.mark.parametrize("padding", ["", LONG])
def test_whatever_json_makes_of_it(store: Store, text: str, query: str, padding: str) -> None:
    say(store, 1, ("user", text + padding))

    (hit,) = search(store, query)

    assert (
        hit.text[hit.start : hit.end].lower() == query.lower() or hit.text[hit.start : hit.end].upper() == query.upper()
    )


def test_tools_are_a_role_of_their_own(store: Store) -> None:
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "grep needle *"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "needle in a.py"}
    say(store, 1, ("user", "find the needle"), ("assistant", [call]), ("user", [result]))

    assert {hit.kind for hit in search(store, "needle", role="tool")} == {"tool_use", "tool_result"}
    assert [hit.text for hit in search(store, "needle", role="user")] == ["find the needle"]


def test_one_session_alone(store: Store) -> None:
    say(store, 1, ("user", f"needle {LONG}"), session="s-1")
    say(store, 2, ("user", f"needle {LONG}"), session="s-2")

    assert [hit.session for hit in search(store, "needle", session="s-2")] == ["s-2"]
    assert [hit.session for hit in search(store, "needle")] == ["s-1"]


def test_only_requests_that_are_named_are_looked_through(store: Store) -> None:
    say(store, 1, ("user", f"needle {LONG}"))
    later = say(store, 2, ("user", f"needle {LONG}"), ("assistant", "Yes."), said="a needle")
    say(store, 3, ("user", "needle"), said="a needle")

    found = search(store, "needle", ids={later})

    assert [(hit.request_id, hit.role) for hit in found] == [(later, "user"), (later, "assistant")]
    assert search(store, "needle", ids=set()) == []


def test_a_pattern(store: Store) -> None:
    say(store, 1, ("user", f"error E1234 {LONG}"))

    (hit,) = search(store, r"e\d{4}", regex=True)

    assert hit.snippet[1] == "E1234"
    with pytest.raises(ValueError, match="unterminated"):
        Query("[", is_pattern=True)


@given(st.text(min_size=1, max_size=30), st.booleans())
def test_the_bait_never_hides_a_hit(text: str, ascii: bool) -> None:
    data = json.dumps({"text": f"before {text} after"}, ensure_ascii=ascii).encode("utf-8", "surrogatepass")

    for query in (text, text.upper(), text.lower()):
        if Query(query).find(text):
            assert Query(query).may_be_in(data)


def test_a_long_session_is_read_once_not_once_a_turn(store: Store) -> None:
    source = random.Random(7)
    bodies = list(turns(60, files=(10, 30)))
    for number, body in enumerate(bodies):
        name, said = f"req_{number:012x}", answer(source)
        begun, payload = request(name, body, "s-1")
        store.write([begun, payload, Payload(name, "response", "text/event-stream", "", said, len(said), False, "s-1")])
    wire = sum(map(len, bodies))

    began = time.process_time()
    found = search(store, "/src/17.py")
    took = time.process_time() - began

    assert [hit.kind for hit in found] == ["tool_use"]
    # 1 GB in 60 s on two cores, with room for a slow machine.
    assert took < 4 * wire / 1e9 * 60 + 2


def test_a_search_can_be_ended_while_it_reads_what_may_have_it(store: Store) -> None:
    for number in range(1, 4):
        say(store, number, ("user", f"{number} needle {LONG}"), said="Here is a needle.", session=f"s-{number}")
    told: list[int] = []
    looking = Search(store.transcripts, lambda _: (0.0, None), told.append)

    assert looking.run(Query("needle"), limit=50, role="system") == []

    read = told[told.index(max(told)) + 1 :]
    assert len(read) >= 6
    assert {*read} == {max(told)}
