"""A conversation as people read it: the order, what is folded, what is named, and that no body is too much."""

import gzip
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.conversation import Request, Turn, read_answer, read_request
from ccflare_core.transcripts.passages import ROOM, TURNS, lines, sections_of, whole_of, within
from corpus import COUNTS, SSE, event, stream

JSON = "application/json"
REMINDER = "<system-reminder>\nDo not tell.\n</system-reminder>"


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def call(number: int, command: str = "ls") -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"command": command}}


def result(number: int, content: object = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"t{number}", "content": content, **more}


def asked(*turns: object, **more: Any) -> Request:
    """A request in which the user and the assistant speak by turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]
    return read_request(json.dumps({"model": "m", "messages": messages, **more}).encode())


def shown(request: Request, answer: Sequence[Turn] = (), *, unfolded: bool = False) -> str:
    return "\n".join(lines(sections_of(request, answer), unfolded=unfolded))


def told(*blocks: dict[str, Any]) -> str:
    """How the parts of a question are shown."""
    return shown(asked(list(blocks))).removeprefix("# user (the question)\n")


# --- the order --------------------------------------------------------------------------------------------------------


def test_the_question_comes_first_and_the_answer_next() -> None:
    request = asked("Earlier?", "Yes.", "How now?", system="Be brief.", tools=[{"name": "Bash"}])
    answer = read_answer(b"".join(stream(COUNTS[0], "text")), SSE)

    assert shown(request, answer).splitlines() == [
        "# user (the question)",
        "How now?",
        "",
        "# assistant (the answer)",
        "Hello, world.",
        "",
        "# system",
        "[text, 9 bytes: Be brief.]",
        "",
        "# tools",
        "[1 tool, 18 bytes: Bash]",
        "",
        "# user (before the question)",
        "Earlier?",
        "",
        "# assistant (before the question)",
        "Yes.",
    ]


def test_the_question_is_the_last_that_the_user_has_said_and_not_what_a_tool_gave() -> None:
    request = asked("How many?", [text("I look."), call(1)], [result(1, "three"), text(REMINDER)])

    assert shown(request).splitlines() == [
        "# user (the question)",
        "How many?",
        "",
        "# assistant (since the question)",
        "I look.",
        "",
        "[tool_use Bash t1, 11 bytes: command: ls]",
        "",
        "# user (since the question)",
        "[tool_result Bash t1, 5 bytes: three]",
        "[reminder, 14 bytes: Do not tell.]",
    ]


def test_turns_before_the_last_ones_are_counted() -> None:
    request = asked(*(f"turn {number}" for number in range(2 * TURNS + 1)))

    found = shown(request)

    assert f"# {TURNS} more turns before the question, 74 bytes\n" in found
    assert f"turn {TURNS - 1}\n" not in found
    assert f"turn {TURNS}\n" in found


def test_the_whole_is_all_turns_in_their_order() -> None:
    request = asked(
        *(f"turn {number}" for number in range(2 * TURNS + 1)), system="Be brief.", tools=[{"name": "Bash"}]
    )
    answer = read_answer(b"".join(stream(COUNTS[0], "text")), SSE)

    found = "\n".join(lines(whole_of(request, answer)))

    assert found.startswith(
        "# system\n[text, 9 bytes: Be brief.]\n\n# tools\n[1 tool, 18 bytes: Bash]\n\n# user\nturn 0"
    )
    assert found.endswith(f"# user (the question)\nturn {2 * TURNS}\n\n# assistant (the answer)\nHello, world.")
    assert found.count("turn ") == 2 * TURNS + 1


def test_an_error_is_a_section_of_its_own() -> None:
    error = read_answer(b'{"type":"error","error":{"type":"api_error","message":"Sorry."}}', JSON)
    assert shown(asked("Hi"), error).endswith("\n\n# error (the answer)\napi_error: Sorry.")


# --- what is folded, and what is named --------------------------------------------------------------------------------


def test_reminders_fold_and_what_is_around_them_does_not() -> None:
    found = told(text(f"Please\n{REMINDER}\nhelp."))
    assert found == "Please\n\n[reminder, 14 bytes: Do not tell.]\nhelp."


def test_what_is_folded_is_there_for_who_asks() -> None:
    request = asked([text(REMINDER + "Hi")], system="Be brief.")
    found = shown(request, unfolded=True)
    assert "[reminder, 14 bytes]\nDo not tell.\n\n[text]\nHi\n" in found
    assert "[text, 9 bytes]\nBe brief." in found


def test_a_calls_input_has_its_lines_apart() -> None:
    body = json.dumps({"content": [{**call(1), "input": {"path": "a", "text": "b\nc", "deep": [1, "\n"]}}]}).encode()
    found = shown(asked("Hi"), read_answer(body, JSON))
    assert found.endswith('[tool_use Bash t1]\npath: a\ntext:\nb\nc\ndeep:\n[\n  1,\n  "\\n"\n]')


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (result(1, "x" * 2100, is_error=True), f"[tool_result t1, 2.1 kB, an error: {'x' * 79}…]"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}, "image/png, 3 b"),
        ({"type": "image", "source": {"type": "url", "url": "https://a.b/c"}}, "[image, https://a.b/c]"),
        (
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "All."}},
            "[document, text/plain, 4 bytes, T: T All.]",
        ),
        (
            {
                "type": "document",
                "title": "T",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"},
            },
            "[document, application/pdf, 3 bytes, T]",
        ),
        (text("x", cache_control={"type": "ephemeral", "ttl": "1h"}), "x\n\n[cache_control 1h]"),
        (result(1, cache_control={"type": "ephemeral"}), "[tool_result t1, 4 bytes, cache_control 5m: done]"),
        ({"type": "thinking", "thinking": "Hm."}, "[thinking]\nHm."),
        ({"type": "redacted_thinking", "data": "xx"}, "[redacted_thinking]"),
        ({"type": "novelty", "value": 7}, '[novelty]\n{\n  "value": 7\n}'),
    ],
)
def test_each_kind_says_what_it_is(block: dict[str, Any], line: str) -> None:
    assert line in told(block)


def test_nothing_steers_a_terminal_or_hides() -> None:
    bad = "\x1b[2J\u202e\u200b"
    request = asked(
        [text(bad), {**call(1), "name": bad}, {"type": bad}, result(1, bad)],
        system=bad,
        tools=[{"name": bad}],
    )
    answer = read_answer(json.dumps({"role": bad, "content": [text(bad)]}).encode(), JSON)

    for unfolded in (False, True):
        found = shown(request, answer, unfolded=unfolded)
        assert not set(bad[0] + bad[4:]) & set(found)
        assert "^[[2J<U+202E><U+200B>" in found


# --- any body ---------------------------------------------------------------------------------------------------------


def test_no_part_takes_all_of_the_room() -> None:
    request = asked("x" * 900_000)
    answer = read_answer(json.dumps({"content": "y" * 900_000}).encode(), JSON)

    found = "\n".join(lines(within(sections_of(request, answer))))

    assert len(found) < 1.1 * ROOM
    assert found.count("x") == ROOM // 2
    assert found.count("y") > 0.9 * ROOM // 4
    assert "[and 834.5 kB more]" in found


def test_room_that_is_used_up_is_said() -> None:
    request = asked([result(number) for number in range(10_000)])
    found = list(lines(within(sections_of(request))))
    assert found[-1] == "[and more, for which there is no room here]"
    assert len(found) < ROOM / 50


def big_bodies() -> list[tuple[str, bytes, bytes]]:
    """A megabyte of each kind that there is, as a request and as an answer."""
    deltas = [
        event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Some words. "}})
    ]
    start = event({"type": "content_block_start", "index": 0, "content_block": text("")})
    history = [text(REMINDER * 100 + "words " * 2000)]
    many = [text("a")] * 30_000
    nested = [{**call(1), "input": {"list": [[1, {"a": "b"}]] * 60_000}}]
    return [
        ("stream", b"", start + b"".join(deltas * (1_000_000 // len(deltas[0])))),
        *(
            (name, json.dumps({"messages": [{"role": "user", "content": blocks}] * times}).encode(), b"")
            for name, blocks, times in (("history", history, 60), ("blocks", many, 1), ("calls", nested, 1))
        ),
        ("document", b"", json.dumps({"content": nested}).encode()),
        ("cut", b"", json.dumps({"content": nested}).encode()[:-200]),
    ]


@pytest.mark.parametrize(("name", "request_body", "answer"), big_bodies(), ids=lambda value: str(value)[:10])
def test_a_megabyte_takes_no_time_to_speak_of(name: str, request_body: bytes, answer: bytes) -> None:
    """A fifth of a second on a machine that does nothing else; the bound is for one that does."""
    kind = SSE if name == "stream" else JSON
    begun = time.process_time()
    found = list(lines(within(sections_of(read_request(request_body), read_answer(answer, kind)))))
    assert time.process_time() - begun < 2
    assert found


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(["", "gzip", "br", "zstd"]))
def test_any_bytes_are_shown(one: bytes, other: bytes, coding: str) -> None:
    for kind in (SSE, JSON):
        list(lines(within(sections_of(read_request(one, coding), read_answer(other, kind, coding)))))


@given(st.integers(0, 3000), st.booleans())
def test_what_was_cut_anywhere_is_shown(at: int, is_packed: bool) -> None:
    request = json.dumps({"messages": [{"role": "user", "content": [text("Hi"), call(1), result(1)]}]}).encode()
    answer = b"".join(stream(COUNTS[0], "tool"))
    pack, coding = (gzip.compress, "gzip") if is_packed else (bytes, "")
    sections = sections_of(read_request(pack(request)[:at], coding), read_answer(pack(answer)[:at], SSE, coding))
    list(lines(within(sections)))
