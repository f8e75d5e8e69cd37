"""The capture: what is kept of a body, and that its usage is read whether it was kept or not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.usage import Ending
from ccflare_core.exchange.capture import TICK, Capture
from exchange_kit import END, START

DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hello"}}\n\n'
STREAM = START + DELTA * 20 + END


def captured(chunks: list[bytes], limit: int, content_type: str = "text/event-stream") -> Capture:
    capture = Capture(limit)
    capture.start(content_type, "")
    for chunk in chunks:
        capture.add(chunk)
    return capture


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_a_body_within_the_limit_is_kept_whole() -> None:
    capture = captured([b"ab", b"c"], limit=3)

    assert (capture.body, capture.size, capture.truncated) == (b"abc", 3, False)


def test_a_longer_body_is_kept_up_to_the_limit_and_counted_in_full() -> None:
    capture = captured([b"ab", b"cd", b"ef"], limit=3)

    assert (capture.body, capture.size, capture.truncated) == (b"abc", 6, True)


def test_with_a_limit_of_zero_nothing_is_kept_and_the_usage_still_read() -> None:
    capture = captured([STREAM], limit=0)

    assert (capture.body, capture.truncated) == (b"", True)
    assert capture.read(cut=False).usage.output_tokens == 15


def test_no_body_at_all() -> None:
    capture = Capture(10)

    assert (capture.body, capture.size, capture.truncated) == (b"", 0, False)
    assert capture.read(cut=False).ending is Ending.COMPLETE


def test_a_body_that_was_cut_says_so() -> None:
    assert captured([START], limit=10_000).read(cut=True).ending is Ending.TRUNCATED
    assert captured([START], limit=10).read(cut=True).ending is Ending.TRUNCATED


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.integers(0, len(STREAM) + 10))
def test_any_pieces_and_any_limit_tell_the_same(cuts: list[int], limit: int) -> None:
    capture = captured(pieces(STREAM, cuts), limit)

    reading = capture.read(cut=False)

    assert (reading.usage.input_tokens, reading.usage.output_tokens, reading.ending) == (25, 15, Ending.COMPLETE)
    assert capture.body == STREAM[:limit]
    assert capture.size == len(STREAM)
    assert capture.truncated is (limit < len(STREAM))


def test_when_the_bytes_came_is_known_since_the_head() -> None:
    now = [100.0]
    capture = Capture(2, clock=lambda: now[0])
    now[0] = 101.0
    capture.start("text/event-stream", "")

    for seconds, chunk in ((0.5, b"ab"), (TICK / 2, b"c"), (1.0, b"de")):
        now[0] += seconds
        capture.add(chunk)

    sizes, times = zip(*capture.arrivals, strict=True)
    assert sizes == (3, 5)
    assert times == pytest.approx((0.5, 1.5), abs=TICK)


def test_so_many_moments_are_noted_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccflare_core.exchange.capture.MOMENTS", 2)
    now = iter(range(100))
    capture = Capture(0, clock=lambda: float(next(now)))

    for _ in range(5):
        capture.add(b"x")

    assert [size for size, _ in capture.arrivals] == [1, 2]
