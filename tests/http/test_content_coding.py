import bz2
import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zstd_kit
from ccflare_core.http import content_coding
from ccflare_core.http.content_coding import Decoder, Trouble


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("", bytes),
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd_kit.compress),
}
coding_names = pytest.mark.parametrize("name", CODINGS)
compressed_names = pytest.mark.parametrize("name", [name for name in CODINGS if name != "plain"])


def encode(name: str, data: bytes) -> tuple[str, bytes]:
    coding, compress = CODINGS[name]
    return coding, compress(data)


def in_slices(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def repetitive(size: int) -> bytes:
    seed = random.Random(1).randbytes(1000)
    return (seed * (size // 1000 + 1))[:size]


@coding_names
@given(data=st.binary(max_size=300), size=st.integers(1, 40))
def test_chunks_of_any_size_decode_to_the_same(name: str, data: bytes, size: int) -> None:
    coding, encoded = encode(name, data)
    decoder = Decoder(coding)

    decoded = b"".join(decoder.feed(chunk) for chunk in in_slices(encoded, size))

    assert decoded == data
    assert not decoder.broken


@coding_names
@pytest.mark.parametrize(
    "size", [content_coding.PIECE - 1, content_coding.PIECE, content_coding.PIECE + 1, 491_456, 3_000_000]
)
def test_a_long_body_comes_whole_in_one_chunk_or_many(name: str, size: int) -> None:
    data = repetitive(size)
    coding, encoded = encode(name, data)
    decoder = Decoder(coding)

    assert Decoder(coding).feed(encoded) == data
    assert b"".join(decoder.feed(chunk) for chunk in in_slices(encoded, 700)) == data


@compressed_names
def test_a_bomb_is_decoded_to_the_limit_and_no_further(name: str) -> None:
    coding, bomb = encode(name, bytes(30_000_000))
    decoder = Decoder(coding, limit=1_000_000)

    pieces = list(decoder.pieces(bomb))

    assert sum(map(len, pieces)) == 1_000_000
    assert decoder.trouble is Trouble.LIMIT
    assert decoder.feed(bomb) == b""


def test_a_zstd_frame_of_nothing_but_tiny_blocks_makes_no_big_piece() -> None:
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"a"  # one byte, repeated 131,072 times
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + block * 1000

    made = 0
    for piece in Decoder("zstd").pieces(frame):
        assert len(piece) <= 9 * 1024 * 1024
        made += len(piece)

    assert made == 64 * 1024 * 1024


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    compress, finish = zstd_kit.compressor(window_log=25)
    decoder = Decoder("zstd")

    decoder.feed(compress(bytes(100)) + finish())

    assert decoder.trouble is Trouble.CORRUPT


@coding_names
def test_exactly_the_limit_is_no_trouble(name: str) -> None:
    coding, encoded = encode(name, bytes(1000))

    assert limited(coding, encoded, 1000) == (bytes(1000), None)
    assert limited(coding, encoded, 999) == (bytes(999), Trouble.LIMIT)


def limited(coding: str, encoded: bytes, limit: int) -> tuple[bytes, Trouble | None]:
    decoder = Decoder(coding, limit)
    return decoder.feed(encoded), decoder.trouble


@compressed_names
def test_what_came_before_a_cut_is_kept(name: str) -> None:
    data = random.Random(2).randbytes(400_000)
    coding, encoded = encode(name, data)
    decoder = Decoder(coding)

    decoded = decoder.feed(encoded[: len(encoded) * 3 // 4])

    assert data.startswith(decoded)
    assert len(decoded) > len(data) // 3
    assert not decoder.broken


def test_zlib_holds_nothing_back_when_the_trailer_is_missing() -> None:
    for excess in range(1, 300, 7):
        data = bytes(content_coding.PIECE + excess)

        assert Decoder("deflate").feed(zlib.compress(data)[:-4]) == data


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_and_frames_may_follow_each_other(coding: str) -> None:
    encoded = encode(coding, b"one ")[1] + encode(coding, b"two")[1]

    assert Decoder(coding).feed(encoded) == b"one two"
    decoder = Decoder(coding)
    assert b"".join(decoder.feed(chunk) for chunk in in_slices(encoded, 1)) == b"one two"


@pytest.mark.parametrize("name", ["gzip", "deflate", "raw deflate", "br"])
def test_bytes_after_the_end_are_ignored(name: str) -> None:
    coding, encoded = encode(name, b"all")
    decoder = Decoder(coding)

    assert decoder.feed(encoded) + decoder.feed(b"\0\0 more") == b"all"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-gzip"])
@given(chunks=st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_never_raises(coding: str, chunks: list[bytes]) -> None:
    decoder = Decoder(coding, limit=1000)

    assert len(b"".join(map(decoder.feed, chunks))) <= 1000


@compressed_names
@given(st.data())
def test_a_changed_byte_never_raises(name: str, data: st.DataObject) -> None:
    coding, encoded = encode(name, b"some text, some more text " * 5)
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + bytes([encoded[at] ^ data.draw(st.integers(1, 255))]) + encoded[at + 1 :]

    assert len(Decoder(coding, limit=1000).feed(changed)) <= 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_in_another_coding_is_corrupt(coding: str) -> None:
    decoder = Decoder(coding)

    assert decoder.feed(b"\xff\xff plain text, not encoded at all") == b""
    assert decoder.trouble is Trouble.CORRUPT
    assert decoder.feed(encode(coding, b"too late")[1]) == b""


@pytest.mark.parametrize("coding", ["compress", "gzip, br", "\0"])
def test_an_unknown_coding_is_trouble_from_the_start(coding: str) -> None:
    decoder = Decoder(coding)

    assert decoder.trouble is Trouble.UNSUPPORTED
    assert decoder.feed(b"abc") == b""


@pytest.mark.parametrize("coding", ["GZIP", " gzip ", "x-gzip"])
def test_a_coding_is_known_in_every_spelling(coding: str) -> None:
    assert Decoder(coding).feed(gzip.compress(b"text")) == b"text"
    assert Decoder("Identity").feed(b"text") == b"text"


@pytest.mark.parametrize("step", [1, 10, 10_000])
def test_the_standard_librarys_kind_of_decompressor_serves_as_a_codec(step: int) -> None:
    data = repetitive(1_000_000)
    encoded = bz2.compress(data) + bz2.compress(b"second")
    codec = content_coding.Bounded(bz2.BZ2Decompressor)

    pieces = [piece for chunk in in_slices(encoded, step) for piece in codec(chunk)]

    assert b"".join(pieces) == data + b"second"
    assert max(map(len, pieces)) <= content_coding.PIECE
