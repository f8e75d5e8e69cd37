"""Every answer of the corpus, however it is cut and packed, is counted as the upstream has counted it."""

import gzip
import random
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import brotli
import pytest

import zstd_kit
from ccflare_core.anthropic.usage import Reading
from ccflare_core.exchange.capture import Capture
from corpus import COLUMNS, Case, cases

CASES = cases()
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=3),
    "zstd": zstd_kit.compress,
}


def read(case: Case, pieces: Iterable[bytes], coding: str = "", limit: int = 1_000_000) -> Reading:
    """What passes by on its way to the client, as the proxy reads it."""
    capture = Capture(limit)
    capture.start(case.content_type, coding)
    for piece in pieces:
        capture.add(piece)
    return capture.read(cut=case.cut)


def found(reading: Reading) -> dict[str, Any]:
    """The reading as a case tells it."""
    counts = {name: getattr(reading.usage, name) for name in COLUMNS}
    return {"columns": counts, "model": reading.model, "ending": reading.ending.value}


def expected(case: Case) -> dict[str, Any]:
    return {"columns": case.columns, "model": case.model, "ending": case.ending}


def pieces(body: bytes, seed: str) -> list[bytes]:
    """The body, cut at places that are the same in every run."""
    source = random.Random(seed)
    edges = sorted({0, len(body), *(source.randrange(len(body) + 1) for _ in range(source.randrange(1, 30)))})
    return [body[start:end] for start, end in pairwise(edges)]


def test_there_are_more_than_two_hundred_answers_and_no_two_are_the_same() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 200
    assert len({(case.content_type, case.body, case.cut) for case in CASES}) > 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_answer_is_counted_as_the_upstream_counted_it(case: Case) -> None:
    assert found(read(case, [case.body])) == expected(case)


@pytest.mark.parametrize("limit", [1_000_000, 100])
def test_however_it_is_cut(limit: int) -> None:
    for case in CASES:
        single = (case.body[at : at + 1] for at in range(min(len(case.body), 12_000)))
        rest = (case.body[12_000:],) if len(case.body) > 12_000 else ()
        assert found(read(case, [*single, *rest], limit=limit)) == expected(case), case.name
        assert found(read(case, pieces(case.body, case.name), limit=limit)) == expected(case), case.name


@pytest.mark.parametrize("coding", ENCODERS)
def test_however_it_is_packed(coding: str) -> None:
    for case in CASES:
        packed = ENCODERS[coding](case.body)
        assert found(read(case, [packed], coding)) == expected(case), case.name
        assert found(read(case, pieces(packed, case.name), coding)) == expected(case), case.name


def test_a_packed_answer_of_single_bytes() -> None:
    for number, case in enumerate(CASES):
        coding = list(ENCODERS)[number % len(ENCODERS)]
        packed = ENCODERS[coding](case.body)
        assert found(read(case, (packed[at : at + 1] for at in range(len(packed))), coding)) == expected(case), (
            case.name
        )
