"""The zstd libraries, as far as they are installed: what is written by any is read by all, and nothing else is."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.http import content_coding, zstd
from ccflare_core.http.zstd import LIBRARY, Standard, Zstandard, libraries

TEXT = b"a body that is kept " * 50

# TEXT and nothing, as zstandard 0.25.0 (libzstd 1.5.7) and backports.zstd 1.7.0 write them, the same bytes both.
WRITTEN = ("28b52ffd60e802dd0000a06120626f64792074686174206973206b657074200100a25f3599", "28b52ffd2000010000")

by_each_library = pytest.mark.parametrize("library", libraries(), ids=lambda library: type(library).__name__)
by_each_pair = pytest.mark.parametrize(("writer", "reader"), list(product(libraries(), repeat=2)))


@by_each_library
def test_blocks_of_a_database_are_read_whichever_library_wrote_them(library: Standard | Zstandard) -> None:
    assert library.decompress_all(map(bytes.fromhex, WRITTEN)) == [TEXT, b""]


@by_each_pair
@given(bodies=st.lists(st.binary(max_size=500), max_size=5), level=st.integers(1, 6))
def test_what_one_library_writes_the_other_reads(
    writer: Standard | Zstandard, reader: Standard | Zstandard, bodies: list[bytes], level: int
) -> None:
    assert reader.decompress_all(writer.compress_all(bodies, level)) == bodies


@by_each_library
def test_a_long_body_is_one_frame_that_says_how_long_it_is(library: Standard | Zstandard) -> None:
    body = bytes(range(256)) * 20_000

    [frame] = library.compress_all([body], 1)

    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    assert frame[4] >> 6 == 2  # four bytes of content size (RFC 8878, 3.1.1.1.1)
    assert len(body).to_bytes(4, "little") in frame[:16]
    assert library.decompress_all([frame]) == [body]


@by_each_library
def test_a_frame_that_is_not_whole_or_not_alone_is_refused(library: Standard | Zstandard) -> None:
    [frame] = library.compress_all([TEXT], 1)

    for bad in (b"", b"no frame", frame[:3], frame[:-1], frame + b"x", frame + frame, b"x" + frame):
        with pytest.raises(ValueError, match=r"\w"):
            library.decompress_all([bad])


@by_each_library
def test_a_stream_of_frames_is_read_in_steps_of_any_size(library: Standard | Zstandard) -> None:
    sent = b"".join(library.compress_all([TEXT, b"", b"more"], 1))

    for size in (1, 7, len(sent)):
        codec = content_coding.zstd_codec(library)
        pieces = [piece for at in range(0, len(sent), size) for piece in codec(sent[at : at + size])]
        assert b"".join(pieces) == TEXT + b"more"


@by_each_library
def test_a_bomb_comes_in_pieces_that_are_bounded(library: Standard | Zstandard) -> None:
    [bomb] = library.compress_all([bytes(64 * 1024 * 1024)], 1)

    codec = content_coding.zstd_codec(library)

    assert max(map(len, codec(bomb))) <= 9 * 1024 * 1024


def test_the_library_in_use_is_the_one_that_bounds_its_output_where_there_is_one() -> None:
    assert zstd.LIBRARY is LIBRARY
    assert isinstance(LIBRARY, Standard) or not any(isinstance(each, Standard) for each in libraries())
