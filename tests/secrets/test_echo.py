"""The credential that was sent, in what comes back."""

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zstd_kit
from ccflare_core.secrets.echo import DECODED_BYTES, Echo

SECRET = "sk-ant-api03-Echoed-0123456789"
PLAIN = SECRET.encode()
MASK = b"[redacted]" + b"*" * (len(SECRET) - 10)
CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd_kit.compress,
}


def test_it_does_not_show_the_secret() -> None:
    assert repr(Echo(SECRET)) == "Echo()"


def test_header_fields_lose_it_in_any_spelling_and_keep_their_length() -> None:
    fields = (
        (b"Location", b"https://a.example/?k=" + PLAIN + b"&again=" + PLAIN.lower() + b"."),
        (b"x-" + PLAIN.lower(), b"1"),
        (b"Server", b"a"),
    )

    (name, value), *others = Echo(SECRET).in_fields(fields)

    assert (name, value) == (b"Location", b"https://a.example/?k=" + MASK + b"&again=" + MASK + b".")
    assert others == [(b"Server", b"a")]


def test_header_fields_without_it_stay_the_same() -> None:
    fields = ((b"Server", PLAIN[:-1]), (b"Server", PLAIN[1:]))
    assert Echo(SECRET).in_fields(fields) == fields
    assert Echo(SECRET).in_fields(()) == ()


@given(
    st.lists(st.sampled_from([PLAIN, PLAIN[:9], PLAIN[9:], PLAIN[:1], b"sk-", b"x", b""]) | st.binary(max_size=9)),
    st.data(),
)
def test_a_body_that_passes_in_pieces_loses_it_wherever_it_was_cut(parts: list[bytes], data: st.DataObject) -> None:
    body, passed, echo, at = b"".join(parts), b"", Echo(SECRET), 0
    while at < len(body):
        size = data.draw(st.integers(1, len(body)))
        passed += echo.pass_on(body[at : at + size])
        assert len(passed) > min(at + size, len(body)) - len(PLAIN)  # no more waits than could be its beginning
        at += size
    passed += echo.rest()

    assert passed == body.replace(PLAIN, MASK)
    assert echo.rest() == b""


@pytest.mark.parametrize("coding", CODERS)
def test_an_encoded_body_is_decoded_only_if_it_has_the_secret(coding: str) -> None:
    clean = CODERS[coding](b'{"message":"no"}')

    assert Echo(SECRET).in_encoded(clean, coding) is clean
    assert Echo(SECRET).in_encoded(CODERS[coding](b'{"message":"%s"}' % PLAIN), coding) == b'{"message":"%s"}' % MASK


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"text", "gzip"),
        (b"text", "rot13"),
        (gzip.compress(b"text"), "gzip, gzip"),
        (gzip.compress(b"text") + PLAIN, "gzip"),
        (gzip.compress(bytes(DECODED_BYTES + 1)), "gzip"),
    ],
    ids=["corrupt", "unknown", "two", "behind its end", "too long"],
)
def test_an_encoded_body_that_cannot_be_searched_is_told_so(body: bytes, coding: str) -> None:
    assert Echo(SECRET).in_encoded(body, coding) is None
