"""Which ids a request names and an answer hands out: the API's own fields count, and nothing that is said."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.ids import (
    IDS_LIMIT,
    NO_IDS,
    Id,
    Kind,
    Named,
    deletes,
    hands_out,
    in_block,
    in_document,
    in_message,
    named_by,
)

FILE, OTHER = Id(Kind.FILE, "file_1"), Id(Kind.FILE, "file_2")
CONTAINER = Id(Kind.CONTAINER, "container_1")
SKILL = Id(Kind.SKILL, "skill_1")
MESSAGES = "/v1/messages"


def named(content: Any, *, path: str = MESSAGES, strict: bool = True, **more: Any) -> Named:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return named_by("POST", path, body, strict=strict, **more)


def saying(*blocks: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("method", "target", "ids"),
    [
        ("GET", "/v1/files/file_1", (FILE,)),
        ("DELETE", "/v1/files/file_1?beta=true", (FILE,)),
        ("GET", "/v1/files/file_1/content", (FILE,)),
        ("GET", "/v1/messages/batches/msgbatch_1/results", (Id(Kind.BATCH, "msgbatch_1"),)),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", (Id(Kind.BATCH, "msgbatch_1"),)),
        ("POST", "/v1/skills/skill_1/versions", (SKILL,)),
        ("GET", "/v1/skills/skill_1/versions/2/content", (SKILL,)),
        ("POST", "/v1/files", ()),
        ("GET", "/v1/models/claude-opus-5", ()),
    ],
)
def test_path_names_what_is_in_it(method: str, target: str, ids: tuple[Id, ...]) -> None:
    assert named_by(method, target, b'{"file_id":"file_2"}') == Named(ids)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/files", Named(listed=Kind.FILE)),
        ("/v1/skills?limit=5", Named(listed=Kind.SKILL)),
        ("/v1/messages/batches?after_id=msgbatch_1", Named((Id(Kind.BATCH, "msgbatch_1"),), listed=Kind.BATCH)),
        ("/v1/files?before_id=file%5F1", Named((FILE,), listed=Kind.FILE)),
    ],
)
def test_list_names_where_its_page_begins(target: str, expected: Named) -> None:
    assert named_by("GET", target, b"") == expected


IMAGE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}


@pytest.mark.parametrize(
    "content",
    [
        saying({"type": "container_upload", "file_id": "file_1"}),
        saying(IMAGE),
        saying({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}, IMAGE]}),
        saying({"type": "document", "source": {"type": "content", "content": [IMAGE]}}),
        saying(
            {
                "type": "bash_code_execution_tool_result",
                "content": {"type": "x", "content": [{"type": "bash_code_execution_output", "file_id": "file_1"}]},
            }
        ),
        {"requests": [{"custom_id": "1", "params": saying(IMAGE)}]},
    ],
)
def test_files_are_found_wherever_a_block_may_have_them(content: Any) -> None:
    assert named(content).ids == (FILE,)


def test_container_skills_and_credit_are_found() -> None:
    assert named({"container": "container_1"}).ids == (CONTAINER,)
    skills = [{"type": "custom", "skill_id": "skill_1"}, {"type": "anthropic", "skill_id": "pdf"}]
    assert named({"container": {"id": "container_1", "skills": skills}}).ids == (CONTAINER, SKILL)
    (one,) = named({"fallback_credit_token": "opaque"}).ids
    (two,) = named({"fallback_credit_token": {"token": "opaque", "mode": "strict"}}).ids
    assert one == two
    assert one.kind is Kind.CREDIT
    assert "opaque" not in str(one)
    assert one.shown == "fallback_credit_token"


SAID = json.dumps({"file_id": "file_1", "container": "container_1"})


@pytest.mark.parametrize(
    "content",
    [
        saying({"type": "text", "text": SAID}),
        {"model": "m", "messages": [{"role": "user", "content": SAID}], "system": SAID},
        saying({"type": "tool_use", "id": "t", "name": "n", "input": {"file_id": "file_1", "content": [IMAGE]}}),
        {**saying(), "tools": [{"name": "n", "input_schema": {"properties": {"file_id": {}, "container": {}}}}]},
        saying({"type": "tool_result", "tool_use_id": "t", "content": SAID}),
        {"container": None, "fallback_credit_token": None, "messages": None},
        {"container": 5, "messages": [[], "x", {"content": 5}, {"content": [5, {"source": "x"}]}]},
        ["file_id"],
    ],
)
def test_what_is_said_names_nothing(content: Any) -> None:
    assert named(content).ids == ()
    assert named(content).problem == ""


def test_thread_tells_what_it_goes_on_from_without_being_bound_by_it() -> None:
    begun = named({"thread": {"type": "create"}})
    gone_on = named({"thread": {"type": "continue", "previous_message_id": "msg_1"}})
    assert (begun.ids, begun.thread, begun.continues) == ((), True, None)
    assert (gone_on.ids, gone_on.thread, gone_on.continues) == ((), True, "msg_1")
    assert named({"diagnostics": {"previous_message_id": "msg_1"}}) == NO_IDS


# -- two readings


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (rb'{"container":"container_1"}'.replace(b"_", rb"\u005f", 1), (CONTAINER,)),
        (rb'{"\u0063ontainer":"container_1"}', (CONTAINER,)),
        ('{"container":"container_1"}'.encode("utf-16"), (CONTAINER,)),
        ('{"container":"container_1"}'.encode("utf-32-be"), (CONTAINER,)),
    ],
)
def test_odd_spelling_is_read(body: bytes, ids: tuple[Id, ...]) -> None:
    assert named(body).ids == ids


@pytest.mark.parametrize(
    "body", [b'{"container":"x","container":"y"}', b'{"container":"x"', b'{"container":"x"}' + b"[" * 100_000, b"\0{"]
)
def test_body_of_two_readings_or_none_has_a_problem(body: bytes) -> None:
    assert named(body).problem != ""


def test_coding_is_undone_or_a_problem() -> None:
    body = json.dumps({"container": "container_1"}).encode()
    assert named(gzip.compress(body), content_encoding="gzip").ids == (CONTAINER,)
    assert named(gzip.compress(body)[:-12], content_encoding="gzip").problem != ""
    assert named(body, content_encoding="snappy").problem != ""


def test_too_many_ids_are_a_problem() -> None:
    many = saying(*({"type": "container_upload", "file_id": f"file_{n}"} for n in range(IDS_LIMIT + 1)))
    assert named(many).problem != ""


LONG = "x" * 5_000_000
PIECES = 10 * 256 * 1024


def test_long_body_is_searched() -> None:
    assert named(saying({"type": "text", "text": LONG}, IMAGE)) == Named((FILE,))
    assert named({"container": {"id": "container_1"}, **saying({"text": LONG})}) == Named((CONTAINER,))
    assert named({**saying({"text": LONG + SAID})}) == NO_IDS


def test_long_body_is_searched_across_the_edges_of_its_pieces() -> None:
    for shift in range(0, 80, 3):
        text = "x" * (PIECES - shift)
        body = b'{"model":"%s","container":     "container_1","y":"%s"}' % (text.encode(), LONG.encode())
        assert named(body) == Named((CONTAINER,))


def test_file_may_be_named_any_number_of_times() -> None:
    many = saying(*({"type": "container_upload", "file_id": f"file_{n % 2 + 1}"} for n in range(2 * IDS_LIMIT)))
    assert named(many) == Named((FILE, OTHER))
    assert named({**many, "system": LONG}) == Named((FILE, OTHER))


def test_long_body_has_its_credit_too() -> None:
    (found,) = named({"fallback_credit_token": "opaque" * 100, **saying({"text": LONG})}).ids
    assert found in named({"fallback_credit_token": {"token": "opaque" * 100}}).ids


@pytest.mark.parametrize(
    "odd", [rb'{"file\u005fid":"file_1"}', rb'{"file_id":"file\u005f1"}', b'{"container":{"skills":[],"id":"x"}}']
)
def test_long_body_that_a_search_may_misread_has_a_problem(odd: bytes) -> None:
    body = json.dumps(saying({"text": LONG}, IMAGE))[:-1].encode() + b',"odd":' + odd + b"}"
    assert named(body).problem != ""


PLACES = [
    lambda id: saying({"type": "container_upload", "file_id": id}),
    lambda id: saying({"type": "image", "source": {"type": "file", "file_id": id}}),
    lambda id: saying({"type": "tool_result", "content": [{"type": "image", "source": {"file_id": id}}]}),
    lambda id: {"container": id},
    lambda id: {"container": {"skills": [], "id": id}},
    lambda id: {"container": {"skills": [{"skill_id": id, "type": "custom"}]}},
    lambda id: {"requests": [{"params": saying({"source": {"file_id": id}})}]},
]


@given(st.data())
def test_no_spelling_hides_an_id(data: st.DataObject) -> None:
    """However JSON lets one write it: with escapes, blanks, other codings, or beside other readings of the same."""
    content = data.draw(st.sampled_from(PLACES))("file_1")
    escaped = data.draw(st.sets(st.sampled_from("abcdefghijklmnopqrstuvwxyz_1"), max_size=6))
    style = data.draw(st.sampled_from(["%04x", "%04X"]))
    text = json.dumps(content, indent=data.draw(st.sampled_from([None, 0, 3])))
    text = "".join("\\u" + style % ord(each) if each in escaped else each for each in text)
    body = text.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])))

    found = named(body)

    assert found.problem or [each.text for each in found.ids] == ["file_1"]


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["file_id", "content", "source", "container", "id", "messages", "x"]), inner)
    ),
    max_leaves=30,
)


@given(values, st.booleans())
def test_anything_at_all_is_read(content: Any, strict: bool) -> None:
    found = named(content, strict=strict)
    assert all(each.text for each in found.ids)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read(body: bytes, strict: bool) -> None:
    named(body, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_body_that_names_nothing_is_not_parsed(strict: bool) -> None:
    assert named(b'{"this is no JSON, which nobody notices', strict=strict) == NO_IDS


# -- what is handed out


@pytest.mark.parametrize(
    ("method", "path", "kinds"),
    [
        ("POST", MESSAGES, {Kind.FILE, Kind.CONTAINER, Kind.CREDIT}),
        ("POST", "/v1/messages/count_tokens", set()),
        ("POST", "/v1/files", {Kind.FILE}),
        ("GET", "/v1/files", {Kind.FILE}),
        ("GET", "/v1/files/file_1", {Kind.FILE}),
        ("GET", "/v1/files/file_1/content", set()),
        ("DELETE", "/v1/files/file_1", set()),
        ("POST", "/v1/messages/batches", {Kind.BATCH}),
        ("GET", "/v1/messages/batches/b/results", {Kind.FILE, Kind.CONTAINER, Kind.CREDIT}),
        ("POST", "/v1/messages/batches/b/cancel", {Kind.BATCH}),
        ("GET", "/v1/skills/skill_1/versions", set()),
        ("GET", "/v1/models", set()),
    ],
)
def test_answers_hand_out_what_their_path_is_about(method: str, path: str, kinds: set[Kind]) -> None:
    assert hands_out(method, path) == kinds


def test_objects_and_lists_hand_out_their_ids() -> None:
    assert list(in_document({"type": "file", "id": "file_1"})) == [FILE]
    data = [{"type": "file", "id": "file_1"}, {"type": "file", "id": "file_2"}, {"type": "model", "id": "m"}, 5]
    assert list(in_document({"data": data})) == [FILE, OTHER]
    skills = [{"type": "skill", "id": "pdf", "source": "anthropic"}, {"type": "skill", "id": "skill_1"}]
    assert list(in_document({"data": skills})) == [SKILL]
    assert list(in_document({"type": "file", "id": "x" * 1000})) == []


def test_message_hands_out_its_container_its_credit_and_the_files_of_its_programs() -> None:
    output = {"type": "code_execution_output", "file_id": "file_1"}
    block = {"type": "code_execution_tool_result", "content": {"content": [output]}}
    message = {"container": {"id": "container_1"}, "stop_details": {"fallback_credit_token": "x"}, "content": [block]}
    assert [each.kind for each in in_message(message)] == [Kind.CONTAINER, Kind.CREDIT, Kind.FILE]
    assert list(in_block({**block, "type": "mcp_tool_result"})) == []
    assert list(in_block({"type": "tool_use", "input": {"content": [output]}})) == []


def test_deletion_is_of_the_whole_thing() -> None:
    assert deletes("DELETE", "/v1/files/file_1") == FILE
    assert deletes("DELETE", "/v1/skills/skill_1/versions/2") is None
    assert deletes("GET", "/v1/files/file_1") is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"request_id":"req_1"}', "req_1"),
        (b'{"request_id": ""}', ""),
        (b'{"request_id": 7}', ""),
        (b'{"request_id":"req_1","request_id":"req_2"}', ""),
        (b"{}", ""),
        (b"", ""),
        (b"[1]", ""),
        (b"\xff", ""),
        (b'{"request_id":"' + b"x" * 70_000 + b'"}', ""),
    ],
)
def test_touch_names_a_request_or_one_that_nobody_knows(body: bytes, text: str) -> None:
    assert named_by("POST", "/v1/messages/cache_touch", body) == Named((Id(Kind.REQUEST, text),))
