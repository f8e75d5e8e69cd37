"""The owner's links: good for one database, for some minutes, and made by nobody without the data key."""

import pytest

from ccflare_core.secrets.start_links import GOOD_SECONDS, link, new_token, read_token
from ccflare_core.secrets.vault import Vault

NOW = 1_800_000_000.0
OLD, NEW = b"o" * 32, b"n" * 32


def test_a_link_is_read_where_it_was_meant_for() -> None:
    vault = Vault([NEW])
    token = new_token(vault, NOW)
    found = read_token(vault, token, NOW + GOOD_SECONDS - 1)
    assert found is not None
    assert found.until == NOW + GOOD_SECONDS
    assert len(found.nonce) == 32
    assert token not in {new_token(vault, NOW) for _ in range(3)}


@pytest.mark.parametrize(
    ("ring", "after"),
    [([NEW], GOOD_SECONDS), ([OLD], 0)],
    ids=["too late", "another database's key"],
)
def test_a_link_is_good_for_nothing_else(ring: list[bytes], after: int) -> None:
    assert read_token(Vault(ring), new_token(Vault([NEW]), NOW), NOW + after) is None


def test_a_link_outlives_the_rotation_of_the_key() -> None:
    token = new_token(Vault([OLD]), NOW)
    assert read_token(Vault([NEW, OLD]), token, NOW) is not None


def test_a_link_that_was_changed_is_none() -> None:
    vault = Vault([NEW])
    key_id, until, nonce, mac = new_token(vault, NOW).split(".")
    changed = "A" if nonce[0] != "A" else "B"
    for parts in (
        (key_id, str(int(until) + 1), nonce, mac),
        (key_id, until, changed + nonce[1:], mac),
        (key_id, until, nonce, mac[:-4]),
        (key_id, until, nonce, ""),
        ("00", until, nonce, mac),
        ("zz", until, nonce, mac),
        (key_id, "soon", nonce, mac),
        (key_id, until, "é", mac),
        (key_id, until, nonce),
    ):
        assert read_token(vault, ".".join(parts), NOW) is None, parts


def test_the_address_has_the_token() -> None:
    assert link("http", "127.0.0.1:8080", "t") == "http://127.0.0.1:8080/ccflare/login?token=t"
