"""Stored bodies: what goes in comes out, small and sealed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import Vault, place
from ccflare_core.transcripts.packing import decode, encode

VAULT = Vault([b"k" * 32])
HERE = place("payloads", "request", "r1")


@given(body=st.binary(max_size=2000))
def test_round_trip(body: bytes) -> None:
    [sealed] = encode([(body, HERE)], VAULT)
    assert decode(sealed, VAULT, HERE) == body


def test_is_compressed_and_sealed() -> None:
    body = b'{"text": "a planted secret"}' * 1000
    [sealed] = encode([(body, HERE)], VAULT)
    assert len(sealed) < len(body) / 50
    assert b"planted" not in sealed


def test_opens_only_at_its_place() -> None:
    [sealed] = encode([(b"body", HERE)], VAULT)
    with pytest.raises(VaultError):
        decode(sealed, VAULT, place("payloads", "response", "r1"))


def test_what_is_no_frame_is_a_vault_error() -> None:
    with pytest.raises(VaultError, match="unpacked"):
        decode(VAULT.seal(b"not zstd", HERE), VAULT, HERE)


def test_many_bodies_at_once_are_each_their_own() -> None:
    bodies = [(b"one", place("payloads", "request", "1")), (b"", HERE), (b"three" * 1000, HERE)]
    stored = encode(bodies, VAULT)
    assert [decode(sealed, VAULT, where) for sealed, (_, where) in zip(stored, bodies, strict=True)] == [
        body for body, _ in bodies
    ]


def test_nothing_makes_nothing() -> None:
    assert encode([], VAULT) == []
