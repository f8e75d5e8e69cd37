"""A digest that is reckoned on from an earlier one is the same as one from the beginning."""

import hashlib

import pytest

from ccflare_core.transcripts.digests import digest, digest_on

BODY = bytes(range(256)) * 1000


@pytest.mark.parametrize("same", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000, len(BODY)])
def test_a_digest_goes_on_from_what_is_the_same(same: int) -> None:
    first = digest_on(BODY)
    body = BODY[:same] + b"something else" * 5000
    assert digest_on(body, first, same).digest == digest(body) == hashlib.sha256(body).digest()[:16]


def test_a_chain_of_digests_stays_right() -> None:
    body, known = b"", None
    for turn in range(20):
        longer = body + bytes([turn]) * 20_001
        known = digest_on(longer, known, len(body))
        body = longer
        assert known.digest == digest(body)


def test_a_shorter_body_goes_on_too() -> None:
    assert digest_on(BODY[:70_000], digest_on(BODY), 70_000).digest == digest(BODY[:70_000])
