"""R30 on SoftHSM2: the wrapping key is made on a PKCS#11 token and cannot leave it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest

from ccflare_core.errors import VaultError
from ccflare_core.secrets.pkcs11 import LABEL, Token
from fake_upstream import FakeUpstream
from harness import Proxy, claude_request, via_base_url

PIN = "4711-planted"
DATA, CONTEXT = bytes(range(32)), b"data key 1"
KEY = "sk-ant-api03-hsm"


@pytest.fixture(scope="module")
def module() -> Path:
    """SoftHSM's library, where Debian, Fedora and Homebrew put it."""
    folders = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")
    found = [path for folder in folders for path in Path(folder).glob("**/libsofthsm2.so")]
    assert found, "install softhsm2"
    return found[0]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SoftHSM of this module's own, with one token. The library reads it once in a process."""
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    file = folder / "softhsm2.conf"
    file.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(file)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "ccflare", "--pin", PIN, "--so-pin", "so-pin"]
    subprocess.run(command, check=True, capture_output=True)
    yield file
    del os.environ["SOFTHSM2_CONF"]


@pytest.fixture
def token(module: Path, configuration: Path) -> Token:
    return Token(module, "ccflare", lambda: PIN)


def test_r30_the_token_wraps_and_unwraps_and_nothing_else_does(token: Token, module: Path) -> None:
    wrapped = token.wrap(DATA, CONTEXT)
    assert Token(module, "", lambda: PIN).unwrap(wrapped, CONTEXT) == DATA
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    for value, context in ((changed, CONTEXT), (wrapped, b"other"), (bytes(8) + wrapped[8:], CONTEXT), (b"", CONTEXT)):
        with pytest.raises(VaultError):
            token.unwrap(value, context)


def test_r30_the_key_cannot_leave_the_token(token: Token, module: Path) -> None:
    wrapped = token.wrap(DATA, CONTEXT)
    with pkcs11.lib(str(module)).get_token(token_label="ccflare").open(user_pin=PIN) as session:
        key = session.get_key(label=LABEL, id=wrapped[:8])
        assert key[pkcs11.Attribute.SENSITIVE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_r30_a_renewed_token_keeps_the_old_key(token: Token) -> None:
    before = token.wrap(DATA, CONTEXT)
    token.renew()
    after = token.wrap(DATA, CONTEXT)
    assert before[:8] != after[:8]
    assert token.unwrap(before, CONTEXT) == token.unwrap(after, CONTEXT) == DATA


def test_r30_a_wrong_pin_is_shown_once_and_never_quoted(token: Token, module: Path) -> None:
    asked: list[str] = []

    def wrong() -> str:
        asked.append("asked")
        return "0000-wrong"

    stranger = Token(module, "ccflare", wrong)
    for _ in range(5):
        with pytest.raises(VaultError, match="ccflare_PKCS11_PIN") as caught:
            stranger.wrap(DATA, CONTEXT)
        assert "0000" not in str(caught.value)
    assert asked == ["asked"]
    token.wrap(DATA, CONTEXT)


def test_r30_another_token_is_asked_for_by_name(module: Path, configuration: Path) -> None:
    with pytest.raises(VaultError, match="no token labelled other"):
        Token(module, "other", lambda: PIN).wrap(DATA, CONTEXT)


def test_r30_a_proxy_lives_on_a_token_and_not_without_it(
    upstream: FakeUpstream, module: Path, configuration: Path, tmp_path: Path
) -> None:
    environment = {
        "SOFTHSM2_CONF": str(configuration),
        "ccflare_PKCS11_MODULE": str(module),
        "ccflare_PKCS11_TOKEN": "ccflare",
        "ccflare_PKCS11_PIN": PIN,
    }
    with contextlib.closing(Proxy(upstream, folder=tmp_path, environment=environment)) as proxy:
        proxy.add_api_key("one", KEY)
        proxy.start()
        proxy.run_script("keys.py", "rotate")
        with via_base_url(proxy) as client:
            assert client.request(*claude_request()).status == 200
        proxy.rows("SELECT * FROM payloads", until=lambda rows: len(rows) == 2)
        assert {row["source"] for row in proxy.rows("SELECT source FROM data_keys")} == {"pkcs11"}
        assert upstream.requests[-1].credential == KEY
        assert proxy.stop() == 0
        assert PIN not in proxy.log()
    stolen = Proxy(folder=tmp_path / "stolen", database=proxy.database)
    told = pytest.raises(RuntimeError, match="wrapped by the key source pkcs11, but file is configured")
    with contextlib.closing(stolen), told:
        stolen.start()
