"""The vault: nothing opens with another key, at another place, or after a change; no key is ever shown."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ccflare_core
from ccflare_core.errors import VaultError
from ccflare_core.vault import KEY_VARIABLE, Vault, load_vault, place

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


# -- where the key comes from


@pytest.mark.parametrize(
    "text",
    [
        NEW.hex(),
        NEW.hex().upper(),
        base64.b64encode(NEW).decode(),
        base64.urlsafe_b64encode(bytes([255] * 32)).decode(),
        base64.b64encode(NEW).decode().rstrip("=") + "\n",
    ],
)
def test_key_from_the_environment(text: str, tmp_path: Path) -> None:
    vault = load_vault({KEY_VARIABLE: text}, tmp_path / "key")
    assert len(vault.key_id) == 16
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("text", ["", " ", "hunter2", NEW.hex()[:-2], NEW.hex() + "00", "é" * 43, "!" * 43])
def test_a_set_but_unusable_key_stops_and_is_not_quoted(text: str, tmp_path: Path) -> None:
    with pytest.raises(VaultError) as caught:
        load_vault({KEY_VARIABLE: text}, tmp_path / "key")
    assert KEY_VARIABLE in str(caught.value)
    assert not text.strip() or text not in str(caught.value)
    assert not (tmp_path / "key").exists()


def test_first_run_makes_a_private_key_and_the_second_finds_it(tmp_path: Path) -> None:
    key_file = tmp_path / "home" / "ccflare.key"
    first = load_vault({}, key_file)
    second = load_vault({}, key_file)
    assert second.open(first.seal(SECRET, HERE), HERE) == SECRET
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    assert list(key_file.parent.iterdir()) == [key_file]


def test_key_file_holds_a_ring_newest_first(tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, f"# made today\n{NEW.hex()}\n\n{OLD.hex()}\n")
    vault = load_vault({}, key_file)
    assert vault.key_id == Vault([NEW]).key_id
    assert vault.open(Vault([OLD]).seal(SECRET, HERE), HERE) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_file_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, NEW.hex())
    key_file.chmod(mode)
    with pytest.raises(VaultError, match="chmod 600"):
        load_vault({}, key_file)


@pytest.mark.parametrize("content", ["", "\n# nothing\n", NEW.hex()[:-1], f"{NEW.hex()}\nnot a key\n", "\xff"])
def test_a_damaged_key_file_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, content)
    with pytest.raises(VaultError) as caught:
        load_vault({}, key_file)
    assert str(key_file) in str(caught.value)
    assert NEW.hex()[:-1] not in str(caught.value)
    assert key_file.read_text() == content


def test_a_folder_in_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="cannot be used"):
        load_vault({}, tmp_path)


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    key_file = tmp_path / "new" / "ccflare.key"
    program = (
        "import sys, pathlib; from ccflare_core.vault import load_vault;"
        "sys.stdin.read(1); print(load_vault({}, pathlib.Path(sys.argv[1])).key_id)"
    )
    children = [start_python(program, str(key_file)) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("!")
        child.stdin.flush()
    key_ids = {child.communicate(timeout=30)[0].strip() for child in children}
    assert key_ids == {load_vault({}, key_file).key_id}


def write_key_file(folder: Path, content: str) -> Path:
    key_file = folder / "ccflare.key"
    key_file.write_text(content)
    key_file.chmod(0o600)
    return key_file


def start_python(program: str, *arguments: str) -> "subprocess.Popen[str]":
    addon = str(Path(str(ccflare_core.__path__[0])).parent)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": addon},
        text=True,
    )
