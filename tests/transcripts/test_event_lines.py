"""An event stream as lines: when each event came, what it says, and which are errors."""

import gzip
import io
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.transcripts.event_lines import LINES, event_lines
from corpus import COUNTS, ERROR, event, stream

PING = event({"type": "ping"})
WORDS = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Some\nwords. "}})


def told(body: bytes) -> list[str]:
    """What the lines say, without the times, of which there are none."""
    found = list(event_lines(body))
    assert all(line.startswith(f"{'–':>10} {'–':>10}  ") for line in found)
    return [line[23:] for line in found]


def arrivals(events: list[bytes], every: float = 0.1) -> list[tuple[int, float]]:
    return [(size, number * every) for number, size in enumerate(accumulate(map(len, events)), 1)]


def test_each_event_is_a_line_and_deltas_that_follow_each_other_are_one() -> None:
    command = '{"command": "echo \\"usage\\": {\\"output_tokens\\": 7}"}'
    assert told(b"".join(stream(COUNTS[0], "tool")))[:8] == [
        "message_start msg_01 claude-opus-4-8, input 12, output 1",
        "ping",
        "content_block_start 0 text",
        "content_block_delta 0 text_delta, 7 bytes: I look.",
        "content_block_stop 0",
        "content_block_start 1 tool_use Bash toolu_01",
        f"content_block_delta 1 input_json_delta × 3, 53 bytes: {command}",
        "content_block_stop 1",
    ]


def test_a_line_has_the_time_since_the_head_and_since_the_event_before() -> None:
    events = [PING, WORDS, WORDS, WORDS, PING]

    assert list(event_lines(b"".join(events), "", arrivals(events))) == [
        "   0.100 s   +0.100 s  ping",
        "   0.200 s   +0.100 s  content_block_delta 0 text_delta × 3, 36 bytes in 0.200 s: "
        "Some⏎words. Some⏎words. Some⏎words. ",
        "   0.500 s   +0.100 s  ping",
    ]


def test_times_are_right_in_a_compressed_stream_too() -> None:
    out, sizes = io.BytesIO(), []
    with gzip.GzipFile(fileobj=out, mode="wb") as packer:
        for number, each in enumerate((PING, WORDS, PING), 1):
            packer.write(each)
            packer.flush()
            sizes.append((out.tell(), number * 0.5))

    found = [line[:10].strip() for line in event_lines(out.getvalue(), "gzip", sizes)]

    assert found == ["0.500 s", "1.000 s", "1.500 s"]


def test_errors_are_marked() -> None:
    assert told(PING + ERROR)[1] == "✗ error overloaded_error: Overloaded"
    assert told(b"data: {oops\n\n") == ["✗ no event that can be read, 11 bytes: data: {oops"]


def test_a_stream_that_was_cut_shows_that_it_was() -> None:
    assert told(PING + WORDS[:40])[1].startswith("✗ no event that can be read, 40 bytes: ")


def test_line_ends_may_be_of_any_kind() -> None:
    assert told(PING.replace(b"\n", b"\r\n") + PING.replace(b"\n", b"\r")) == ["ping", "ping"]


def test_nothing_steers_a_terminal() -> None:
    bad = {"type": "\x1b[2J", "index": {"\u202e": 1}, "more": "\u200b"}
    (line,) = told(event(bad))
    assert line == '^[[2J {"index": {"<U+202E>": 1}, "more": "<U+200B>"}'


def test_a_very_long_stream_ends_with_a_word_of_that() -> None:
    found = list(event_lines((WORDS + PING) * LINES))
    assert len(found) == LINES + 1
    assert found[-1] == "… and more"


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "br", "zstd"]), st.booleans())
def test_any_bytes_are_taken(body: bytes, coding: str, is_timed: bool) -> None:
    list(event_lines(body, coding, [(10, 0.1), (5, 0.2)] if is_timed else ()))


@pytest.mark.parametrize("index", [None, "x", [[]], 10**300, True])
def test_any_index_is_taken(index: object) -> None:
    (line,) = told(event({"type": "content_block_stop", "index": index}))
    assert line.startswith("content_block_stop ")
