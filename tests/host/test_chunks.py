"""All chunks that are here as one: what they hold is what h11 reads out of them, and what h11 refuses is refused."""

import itertools

import h11
import pytest
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import example, given
from hypothesis import strategies as st

from ccflare_mitm.host.chunks import JoinedChunks, whole_chunks


def read(reader: ChunkedReader, reads: list[bytes]) -> tuple[bytes, object, int]:
    """The body, how it ended, and in how many pieces it came; as mitmproxy has it read."""
    buffer, body, pieces = ReceiveBuffer(), b"", 0
    for data in reads:
        buffer += data
        while True:
            try:
                event = reader(buffer)
            except h11.ProtocolError:
                return body, "refused", pieces
            if event is None:
                break
            if isinstance(event, h11.EndOfMessage):
                return body, (event.headers.raw_items(), bytes(buffer)), pieces
            body += event.data
            pieces += 1
    return body, None, pieces


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[start:end] for start, end in itertools.pairwise(bounds)]


LINE_ENDS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"", b" \r\n", b";x=1\r\n", b";\r\n", b"\r\n\r\n"])
SIZES = st.sampled_from(["%x"] * 10 + ["%X", "00%x", "0x%x", "+%x", " %x", "%x ", "%x_0", "-%x", "%021x"])
CHUNKS = st.lists(st.tuples(SIZES, LINE_ENDS, st.binary(min_size=1, max_size=20), LINE_ENDS), max_size=8)
ENDS = st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"", b"0\r\n", b"0\r\n\r\nHTTP/1.1 200 OK", b"\r\n"])


@given(chunks=CHUNKS, end=ENDS, places=st.lists(st.integers(0, 10_000), max_size=5))
@example(chunks=[("%x", b"\r\n", b"a\r\n0\r\n\r\n", b"\r\n")] * 3, end=b"0\r\n\r\n", places=[])
def test_the_body_and_its_end_are_those_that_h11_reads(
    chunks: list[tuple[str, bytes, bytes, bytes]], end: bytes, places: list[int]
) -> None:
    wire = b"".join((size % len(data)).encode() + first + data + last for size, first, data, last in chunks) + end
    reads = cut(wire, places)
    assert read(JoinedChunks(), reads)[:2] == read(ChunkedReader(), reads)[:2]


def test_a_read_of_many_chunks_is_one_piece() -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in range(1, 300))
    body, _, pieces = read(JoinedChunks(), [wire + b"0\r\n\r\n"])
    assert (len(body), pieces) == (sum(range(1, 300)), 1)


@pytest.mark.parametrize(
    ("data", "before", "parts", "end"),
    [
        (b"1\r\na\r\n2\r\nbc\r\n", b"", [b"a", b"bc"], 13),
        (b"\r\n1\r\na\r\n", b"\r\n", [b"a"], 8),
        (b"1\r\na\r\n0\r\n\r\n", b"", [b"a"], 6),
        (b"1\r\na\r\n2\r\nb", b"", [b"a"], 6),
        (b"1\r\na\r\n2;x\r\nbc\r\n", b"", [b"a"], 6),
        (b"1\r\nab\r\n", b"", [], 0),
        (b"x1\r\na\r\n", b"\r\n", [], 0),
        (b"", b"", [], 0),
    ],
)
def test_whole_chunks_end_before_what_is_not_plain(data: bytes, before: bytes, parts: list[bytes], end: int) -> None:
    assert whole_chunks(data, before) == (parts, end)
