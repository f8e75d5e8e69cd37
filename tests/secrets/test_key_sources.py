"""Where the wrapping key comes from: what is set but unusable stops, nothing is tried in its place."""

import base64
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_core.config.settings import Settings
from ccflare_core.errors import VaultError
from ccflare_core.secrets.key_sources import GivenKey, KeyFile, KeySource, choose, make, parse_key
from ccflare_core.secrets.os_keyring import SERVICE, OSKeyring
from ccflare_core.secrets.passphrase import Passphrase
from ccflare_core.secrets.references import read_secret
from database_kit import start_python

KEY, DATA = bytes(range(100, 132)), bytes(range(32))
CONTEXT = b"data key 1"
WORDS = "correct horse battery staple"


class FakeKeyring:
    """A keyring in memory, which may be slow, broken or forgetful."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.before: Callable[[], object] = lambda: None

    def get_password(self, service: str, username: str, /) -> str | None:
        self.before()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str, /) -> None:
        self.before()
        self.entries[service, username] = password


def settings(**values: object) -> Settings:
    return Settings.build({"ccflare_database": "/nowhere/ccflare.db", **values}, {})


# -- what all have in common


@pytest.fixture(params=["environment", "file", "passphrase", "keyring"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> KeySource:
    made: dict[str, Callable[[], KeySource]] = {
        "environment": lambda: GivenKey(KEY),
        "file": lambda: KeyFile(tmp_path / "ccflare.key"),
        "passphrase": lambda: Passphrase(WORDS),
        "keyring": lambda: OSKeyring(FakeKeyring()),
    }
    return made[request.param]()


def test_what_is_wrapped_unwraps_in_its_context_only(source: KeySource) -> None:
    wrapped = source.wrap(DATA, CONTEXT)
    assert source.unwrap(wrapped, CONTEXT) == DATA
    assert DATA not in wrapped
    with pytest.raises(VaultError):
        source.unwrap(wrapped, b"another")


def test_what_was_changed_or_cut_does_not_unwrap(source: KeySource) -> None:
    wrapped = source.wrap(DATA, CONTEXT)
    for bad in (wrapped[:-1], b"", wrapped[:-1] + bytes([wrapped[-1] ^ 1]), bytes([wrapped[0] ^ 1]) + wrapped[1:]):
        with pytest.raises(VaultError):
            source.unwrap(bad, CONTEXT)


def test_no_source_shows_its_secret(source: KeySource) -> None:
    source.wrap(DATA, CONTEXT)
    assert WORDS not in repr(source)
    assert KEY.hex() not in repr(source)


# -- the variable


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode(),
        base64.b64encode(KEY).decode().rstrip("=") + "\n",
    ],
)
def test_a_key_can_be_written_in_hex_and_base64(text: str) -> None:
    assert parse_key(text.strip()) == KEY


@pytest.mark.parametrize("text", ["", " ", "hunter2", KEY.hex()[:-2], KEY.hex() + "00", "é" * 43, "!" * 43])
def test_a_set_but_unusable_key_stops_and_is_not_quoted(text: str, tmp_path: Path) -> None:
    with pytest.raises(VaultError) as caught:
        choose(settings(), {"ccflare_ENCRYPTION_KEY": text})
    assert "ccflare_ENCRYPTION_KEY" in str(caught.value)
    assert not text.strip() or text not in str(caught.value)


# -- the file


def write_key_file(folder: Path, content: str) -> Path:
    key_file = folder / "ccflare.key"
    key_file.write_text(content)
    key_file.chmod(0o600)
    return key_file


def test_first_use_makes_a_private_key_and_the_second_finds_it(tmp_path: Path) -> None:
    key_file = tmp_path / "home" / "ccflare.key"
    wrapped = KeyFile(key_file).wrap(DATA, CONTEXT)
    assert KeyFile(key_file).unwrap(wrapped, CONTEXT) == DATA
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    assert list(key_file.parent.iterdir()) == [key_file]


def test_a_missing_key_file_is_not_made_anew_for_what_another_has_wrapped(tmp_path: Path) -> None:
    key_file = tmp_path / "ccflare.key"
    wrapped = KeyFile(key_file).wrap(DATA, CONTEXT)
    key_file.unlink()
    with pytest.raises(VaultError, match="is missing: bring it back"):
        KeyFile(key_file).unwrap(wrapped, CONTEXT)
    assert not key_file.exists()


def test_a_renewed_file_wraps_with_its_first_line_and_still_unwraps_the_rest(tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, f"# made today\n{KEY.hex()}\n\n")
    source = KeyFile(key_file)
    before = source.wrap(DATA, CONTEXT)
    source.renew()
    after = source.wrap(DATA, CONTEXT)
    assert before[:8] != after[:8]
    assert source.unwrap(before, CONTEXT) == source.unwrap(after, CONTEXT) == DATA
    assert key_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_file_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, KEY.hex())
    key_file.chmod(mode)
    with pytest.raises(VaultError, match="chmod 600"):
        KeyFile(key_file).wrap(DATA, CONTEXT)


@pytest.mark.parametrize("content", ["", "\n# nothing\n", KEY.hex()[:-1], f"{KEY.hex()}\nnot a key\n", "\xff"])
def test_a_damaged_key_file_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    key_file = write_key_file(tmp_path, content)
    with pytest.raises(VaultError) as caught:
        KeyFile(key_file).wrap(DATA, CONTEXT)
    assert str(key_file) in str(caught.value)
    assert KEY.hex()[:-1] not in str(caught.value)
    assert key_file.read_text() == content


def test_a_folder_in_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="cannot be used"):
        KeyFile(tmp_path).wrap(DATA, CONTEXT)


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from ccflare_core.secrets.key_sources import KeyFile; sys.stdin.read(1);"
        "print(KeyFile(pathlib.Path(sys.argv[1])).wrap(bytes(32), b'')[:8].hex())"
    )
    children = [start_python(program, tmp_path / "new" / "ccflare.key") for _ in range(4)]
    key_ids = {child.communicate("!", timeout=60)[0].strip() for child in children}
    assert key_ids == {KeyFile(tmp_path / "new" / "ccflare.key").wrap(DATA, b"")[:8].hex()}


# -- the passphrase


def test_another_passphrase_does_not_unwrap_and_is_not_quoted() -> None:
    wrapped = Passphrase(WORDS).wrap(DATA, CONTEXT)
    assert Passphrase(WORDS).unwrap(wrapped, CONTEXT) == DATA
    with pytest.raises(VaultError, match="is not the passphrase") as caught:
        Passphrase("correct horse battery stable").unwrap(wrapped, CONTEXT)
    assert "horse" not in str(caught.value)


def test_parameters_that_ask_for_too_much_are_refused_at_once() -> None:
    wrapped = Passphrase(WORDS).wrap(DATA, CONTEXT)
    greedy = wrapped[:16] + (2**31).to_bytes(4, "big") + wrapped[20:]
    for bad in (greedy, wrapped[:20] + b"\xff\xff" + wrapped[22:], wrapped[:16] + bytes(6) + wrapped[22:]):
        with pytest.raises(VaultError, match="more work"):
            Passphrase(WORDS).unwrap(bad, CONTEXT)


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(VaultError, match="too short"):
        choose(settings(), {"ccflare_PASSPHRASE": "hunter2"})


# -- the keyring


def test_a_keyring_that_waits_for_ever_stops_the_start_in_time() -> None:
    backend, never = FakeKeyring(), threading.Event()
    backend.before = never.wait
    with pytest.raises(VaultError, match="did not answer"):
        OSKeyring(backend, seconds=0.2).wrap(DATA, CONTEXT)
    never.set()


def test_a_keyring_that_fails_or_forgets_is_refused() -> None:
    backend = FakeKeyring()

    def fail() -> None:
        raise RuntimeError("secret inside")

    backend.before = fail
    with pytest.raises(VaultError, match=r"cannot be used \(RuntimeError\)"):
        OSKeyring(backend).wrap(DATA, CONTEXT)
    backend.before = backend.entries.clear
    with pytest.raises(VaultError, match="does not keep"):
        OSKeyring(backend).wrap(DATA, CONTEXT)


def test_a_keyring_is_found_again_and_its_entry_must_be_the_one() -> None:
    backend = FakeKeyring()
    wrapped = OSKeyring(backend).wrap(DATA, CONTEXT)
    assert OSKeyring(backend).unwrap(wrapped, CONTEXT) == DATA
    [(service, entry)] = backend.entries
    assert (service, entry) == (SERVICE, wrapped[:8].hex())
    backend.entries[service, entry] = "00" * 32
    with pytest.raises(VaultError, match="was changed"):
        OSKeyring(backend).unwrap(wrapped, CONTEXT)


# -- the choice


@pytest.mark.parametrize(
    ("values", "environ", "chosen"),
    [
        ({}, {}, "file"),
        ({}, {"ccflare_ENCRYPTION_KEY": KEY.hex()}, "environment"),
        ({}, {"ccflare_ENCRYPTION_KEY": KEY.hex(), "ccflare_PASSPHRASE": WORDS}, "passphrase"),
        ({"ccflare_pkcs11_module": "/lib.so"}, {"ccflare_PASSPHRASE": WORDS}, "pkcs11"),
        ({"ccflare_key_source": "file"}, {"ccflare_PASSPHRASE": WORDS}, "file"),
    ],
)
def test_the_first_that_is_configured_is_chosen(
    values: dict[str, object], environ: dict[str, str], chosen: str
) -> None:
    assert choose(settings(**values), environ).name == chosen


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("environment", "ccflare_ENCRYPTION_KEY is not set"),
        ("passphrase", "ccflare_PASSPHRASE is not set"),
        ("pkcs11", "ccflare_pkcs11_module"),
    ],
)
def test_a_named_source_that_is_not_configured_is_no_reason_to_take_another(name: str, tells: str) -> None:
    with pytest.raises(VaultError, match=tells):
        make(name, settings(), {})


# -- secrets that a variable leads to


def test_a_variable_can_lead_to_a_file_or_a_program(tmp_path: Path) -> None:
    file = write_key_file(tmp_path, f"{WORDS}\n")
    environ = {"A": f"file:{file}", "B": f"cmd:{sys.executable} -c 'print(\"{WORDS}\")'", "C": WORDS}
    assert [read_secret(environ, name) for name in "ABCD"] == [WORDS, WORDS, WORDS, None]


def test_a_program_that_a_variable_names_sees_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ccflare_ALERT_SECRET", WORDS)
    monkeypatch.setenv("OP_SESSION", "its own")

    seen = read_secret({"A": f"cmd:{sys.executable} -c 'import os; print(dict(os.environ))'"}, "A") or ""

    assert "its own" in seen
    assert "ccflare_" not in seen


def test_a_variable_that_names_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(VaultError, match="is not a plain file"):
        read_secret({"A": f"file:{tmp_path}/pipe"}, "A")


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("file:/no/such/file", "No such file"),
        ("cmd:/no/such/program", "cannot be run"),
        ("cmd:", "cannot be run"),
        ("cmd:'", "cannot be run"),
        (f"cmd:{sys.executable} -c 'import sys; sys.exit(\"sk-ant-leak\")'", "exit code 1"),
        (f"cmd:{sys.executable} -c ''", "no secret in it"),
        (f"cmd:{sys.executable} -c 'import os; os.write(1, b\"\\xff\")'", "not text"),
        ("", "no secret in it"),
    ],
)
def test_a_variable_that_leads_nowhere_stops(text: str, tells: str) -> None:
    with pytest.raises(VaultError, match=tells) as caught:
        read_secret({"ccflare_PASSPHRASE": text}, "ccflare_PASSPHRASE")
    assert "ccflare_PASSPHRASE" in str(caught.value)
    assert "leak" not in str(caught.value)


def test_a_secrets_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = write_key_file(tmp_path, WORDS)
    file.chmod(0o644)
    with pytest.raises(VaultError, match="chmod 600"):
        read_secret({"A": f"file:{file}"}, "A")
