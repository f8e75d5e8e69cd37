"""The vault: nothing opens with another key, at another place, or after a change; no key is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import Vault, place, unwrap_key, wrap_key

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
HERE = place("accounts", "refresh_token", "row-1")
SECRET = b"sk-ant-oat01-planted"


def test_seals_and_opens() -> None:
    vault = Vault([NEW])
    assert vault.open(vault.seal(SECRET, HERE), HERE) == SECRET


def test_same_secret_is_sealed_differently_each_time() -> None:
    vault = Vault([NEW])
    assert len({vault.seal(SECRET, HERE) for _ in range(50)}) == 50


def test_layout() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(SECRET, HERE)
    assert (sealed[:1], sealed[1:9].hex()) == (b"\x01", vault.key_id)
    assert len(sealed) == 1 + 8 + 12 + len(SECRET) + 16


@given(plain=st.binary(max_size=200), position=st.integers(min_value=0), flip=st.integers(1, 255))
def test_any_changed_byte_keeps_it_shut(plain: bytes, position: int, flip: int) -> None:
    vault = Vault([NEW])
    sealed = bytearray(vault.seal(plain, HERE))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(VaultError):
        vault.open(bytes(sealed), HERE)


@given(length=st.integers(0, 60))
def test_any_cut_keeps_it_shut(length: int) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(SECRET, HERE)
    with pytest.raises(VaultError):
        vault.open(sealed[: min(length, len(sealed) - 1)], HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        place("accounts", "access_token", "row-1"),
        place("accounts", "refresh_token", "row-2"),
        place("payloads", "refresh_token", "row-1"),
    ],
)
def test_does_not_open_elsewhere(elsewhere: str) -> None:
    vault = Vault([NEW])
    with pytest.raises(VaultError):
        vault.open(vault.seal(SECRET, HERE), elsewhere)


def test_every_failure_reads_alike() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(SECRET, HERE)
    bad = (Vault([OLD]).seal(SECRET, HERE), sealed[:-1], b"", b"\x02" + sealed[1:], sealed + b"x")
    messages = set()
    for value in bad:
        with pytest.raises(VaultError) as caught:
            vault.open(value, HERE)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_bar_in_a_row_id_makes_no_two_places_alike() -> None:
    assert place("a", "b", "c|d") == "a|b|c|d"
    with pytest.raises(ValueError):
        place("a", "b|c", "d")


def test_ring_opens_with_every_key_and_seals_with_the_newest() -> None:
    before = Vault([OLD]).seal(SECRET, HERE)
    ring = Vault([NEW, OLD])
    assert ring.open(before, HERE) == SECRET
    assert not ring.is_current(before)
    rewrapped = ring.rewrap(before, HERE)
    assert ring.is_current(rewrapped)
    assert Vault([NEW]).open(rewrapped, HERE) == SECRET


@pytest.mark.parametrize("keys", [[], [b"short"], [NEW, NEW + b"!"]])
def test_ring_needs_whole_keys(keys: list[bytes]) -> None:
    with pytest.raises(VaultError):
        Vault(keys)


def test_repr_shows_key_ids_only() -> None:
    shown = repr(Vault([NEW, OLD]))
    assert Vault([NEW]).key_id in shown
    assert Vault([OLD]).key_id in shown
    assert NEW.hex() not in shown
    assert repr(NEW) not in shown


def test_bodies_and_tokens_have_different_keys() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(SECRET, HERE)
    as_body = place("payloads", "request", "row-1")
    assert vault._newest.cipher(HERE) is not vault._newest.cipher(as_body)
    with pytest.raises(VaultError):
        vault.open(sealed, as_body)


def test_macs_differ_by_purpose_and_key_and_old_ones_stay_known() -> None:
    before = Vault([OLD])
    ring = Vault([NEW, OLD])
    assert ring.mac("pepper", b"x", before.key_id) == before.mac("pepper", b"x")
    assert len({ring.mac("pepper", b"x"), ring.mac("audit", b"x"), before.mac("pepper", b"x")}) == 3
    with pytest.raises(VaultError, match="retired"):
        Vault([NEW]).mac("pepper", b"x", before.key_id)


def test_an_unknown_key_is_looked_for_once() -> None:
    looks: list[str] = []

    def look() -> None:
        looks.append("look")
        late.replace([NEW, OLD])

    late = Vault([OLD], look)
    assert late.open(Vault([NEW]).seal(SECRET, HERE), HERE) == SECRET
    assert looks == ["look"]


def test_a_wrapped_key_opens_with_its_key_and_context_only() -> None:
    wrapped = wrap_key(OLD, NEW, b"context")
    assert unwrap_key(OLD, wrapped, b"context") == NEW
    for wrapping, value, context in ((NEW, wrapped, b"context"), (OLD, wrapped, b"other"), (OLD, b"", b"context")):
        with pytest.raises(VaultError):
            unwrap_key(wrapping, value, context)
