"""What SECURITY.md promises of keys and of what is sealed. Each name starts with the requirement that it proves."""

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccflare_core.anthropic.oauth import Mode, PendingLogin, Tokens
from ccflare_core.errors import VaultError
from ccflare_core.secrets.key_sources import SOURCES, GivenKey, KeyFile
from ccflare_core.secrets.vault import KEY_BYTES, Vault, key_id, place
from ccflare_core.store.resealing import CLEAR, drain
from ccflare_core.store.store import Store
from ccflare_core.transcripts import packing
from database_kit import KEY, NOW, SECRETS, an_account, open_store, payload, start_python, started
from fake_upstream import FakeUpstream
from harness import Proxy, StartProxy, claude_request, eventually, via_base_url

VERIFIER, STATE = "PLANTED-verifier-0123456789", "PLANTED-state-0123456789"
BODY = b'{"text": "PLANTED-body-0123456789"}'
PLANTED = (*(secret.encode() for secret in SECRETS), VERIFIER.encode(), STATE.encode(), b"PLANTED")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path)
    yield store
    store.close()


def fill(store: Store, bodies: int = 3) -> None:
    store.accounts.add(an_account())
    store.write([record for n in range(bodies) for record in (started(f"r{n}"), payload(f"r{n}", BODY))])


def raw(path: Path) -> bytes:
    """All bytes of the database and of its log."""
    files = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm"))
    return b"".join(file.read_bytes() for file in files if file.exists())


def bodies(store: Store) -> set[bytes]:
    keys = store.query("SELECT request_id, part FROM payloads")
    return {body.content for key in keys if (body := store.body(*key))}


# -- R15, R16: sealing


def test_r15_a_secret_opens_in_its_own_row_and_column_only(store: Store) -> None:
    store.accounts.add(an_account("a"))
    store.accounts.add(an_account("b"))
    sealed = store.query("SELECT access_token, refresh_token FROM accounts WHERE name = 'a'")[0]
    for column, value in (("access_token", sealed[1]), ("refresh_token", sealed[0])):
        store.query(f"UPDATE accounts SET {column} = ? WHERE name = 'a'", (value,))
        with pytest.raises(VaultError):
            store.accounts.by_name("a")
        store.query("UPDATE accounts SET access_token = ?, refresh_token = ? WHERE name = 'a'", sealed)
    store.query("UPDATE accounts SET access_token = ? WHERE name = 'b'", (sealed[0],))
    with pytest.raises(VaultError):
        store.accounts.by_name("b")


def test_r15_any_flipped_byte_keeps_it_shut_and_nonces_are_12_random_bytes() -> None:
    vault, where = Vault([bytes(range(32))]), place("accounts", "api_key", "1")
    sealed = vault.seal(b"secret", where)
    for position in range(len(sealed)):
        with pytest.raises(VaultError):
            vault.open(sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :], where)
    assert len({vault.seal(b"secret", where)[9:21] for _ in range(1000)}) == 1000
    assert len(sealed) == 9 + 12 + len(b"secret") + 16


def test_r16_each_value_names_its_key_and_the_key_lies_wrapped_beside_it(path: Path, store: Store) -> None:
    fill(store)
    assert store.keys is not None
    store.keys.rotate()
    newest, older = store.data_keys()
    assert store.value_counts() == {older.id: 6}
    for key in store.keys._keys.values():
        assert key not in raw(path)
        assert key_id(key).hex() in (newest.id, older.id)


def test_r16_each_purpose_has_a_key_of_its_own() -> None:
    vault = Vault([bytes(KEY_BYTES)])
    as_token, as_body = place("accounts", "api_key", "1"), place("payloads", "request", "1")
    key = vault._newest
    assert key.cipher(as_token) is not key.cipher(as_body)
    nonce = bytes(12)
    outputs = {key.cipher(where).encrypt(nonce, bytes(32), b"")[:32] for where in (as_token, as_body)}
    assert len(outputs | set(key.macs.values()) | {bytes(KEY_BYTES)}) == 2 + len(key.macs) + 1


# -- R17, R18: where the key comes from

_UNUSABLE = {
    "environment": {"ccflare_ENCRYPTION_KEY": "deadbeef-too-short"},
    "passphrase": {"ccflare_PASSPHRASE": "hunter2"},
    "keyring": {"ccflare_KEY_SOURCE": "keyring", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"},
    "pkcs11": {"ccflare_PKCS11_MODULE": "/no/such/module.so", "ccflare_PKCS11_PIN": "1234-wrong"},
    "file": {"ccflare_KEY_SOURCE": "file"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_r17_what_is_set_but_unusable_stops_the_start_with_one_sentence(source: str, tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path, environment=_UNUSABLE[source])) as proxy:
        if source == "file":
            proxy.database.parent.mkdir(mode=0o700)
            proxy.database.with_suffix(".key").touch(0o644)
        with pytest.raises(RuntimeError, match="the proxy ended with 1"):
            proxy.start()
        [sentence] = [line for line in proxy.log().splitlines() if line.startswith("ccflare: ")]
    assert not any(value in proxy.log() for value in ("deadbeef", "hunter2", "1234-wrong"))
    assert "Traceback" not in proxy.log()
    assert sentence.count(":") >= 2  # what is wrong: what to do


def test_r18_the_first_run_makes_a_private_key_and_no_later_one_replaces_it(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path)) as proxy:
        proxy.add_api_key("one", SECRETS[2])
        key_file = proxy.database.with_suffix(".key")
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        key_file.unlink()
        with pytest.raises(RuntimeError, match="is missing: bring it back"):
            proxy.start()
        assert not key_file.exists()


# -- R19: plaintext of an import

_STOPPED = """
import os, pathlib, signal, sys
import database_kit as kit

def stopped(function):
    def call(*arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

left = [int(sys.argv[2])]
store = kit.open_store(pathlib.Path(sys.argv[1]))
store.vault.seal = stopped(store.vault.seal)
for _ in getattr(store.resealing(), sys.argv[3])():
    pass
print("done", flush=True)
"""


def kill_again_and_again(path: Path, work: str, step: int) -> int:
    """Start the work over and over, each time killed a little later, until it gets to its end; how often that was."""
    rounds = 1
    while True:
        child = start_python(_STOPPED, path, rounds * step, work)
        if child.communicate(timeout=60)[0] == "done\n":
            return rounds
        assert child.returncode == -9
        rounds += 1


def put_in_clear(path: Path, accounts: int) -> None:
    """As an import by SQL leaves it, without secure_delete."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA secure_delete = 0")
        row = database.execute("SELECT * FROM accounts").fetchone()
        names = [column[1] for column in database.execute("PRAGMA table_info(accounts)")]
        for n in range(accounts):
            values = dict(zip(names, row, strict=True)) | {"id": f"id {n}", "name": f"n-{n}"}
            values |= {"access_token": SECRETS[0] + "x" * n, "refresh_token": SECRETS[1].encode(), "api_key": None}
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO accounts ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        database.execute("UPDATE payloads SET body = ?, format = ?", (BODY, packing.CLEAR))
        database.commit()


def test_r19_plaintext_is_sealed_once_though_the_work_is_killed_at_any_row(path: Path, store: Store) -> None:
    fill(store, bodies=20)
    put_in_clear(path, accounts=40)
    assert PLANTED[0] in raw(path)
    assert kill_again_and_again(path, "seal_clear", 25) > 1
    assert store.scrub(whole=True)
    assert store.value_counts()[CLEAR] == 0
    assert {account.refresh_token for account in store.accounts.all()} == {SECRETS[1]}
    assert {len(account.access_token or "") for account in store.accounts.all()} == set(range(27, 67))
    assert bodies(store) == {BODY}
    assert [secret for secret in PLANTED if secret in raw(path)] == []


def test_r19_the_command_leaves_no_trace_in_the_files(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path)) as proxy:
        proxy.add_api_key("one", SECRETS[2])
        proxy.start()
        put_in_clear(proxy.database, accounts=50)
        proxy.wait_for_log("run `scripts/keys.py migrate-plaintext`")
        assert PLANTED[0] in raw(proxy.database)
        assert "Sealed 100 values" in proxy.run_script("keys.py", "migrate-plaintext")
        with via_base_url(proxy) as client:
            health = eventually(
                lambda: client.request("GET", "/ccflare/health").json(), lambda h: len(h["accounts"]) > 1
            )
        assert len(health["accounts"]) == 51
        assert [secret for secret in PLANTED if secret in raw(proxy.database)] == []


# -- R20: rotation


def test_r20_a_rewrap_that_is_killed_at_any_row_goes_on_and_loses_nothing(path: Path, store: Store) -> None:
    fill(store, bodies=130)
    assert store.keys is not None
    new = store.keys.rotate()
    assert kill_again_and_again(path, "rewrap", 17) > 1
    assert store.value_counts() == {new: 133}
    assert (store.accounts.all(), bodies(store)) == ([an_account()], {BODY})


def test_r20_keys_change_while_the_proxy_serves(upstream: FakeUpstream, start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream, accounts={"one": SECRETS[2]})

    def ask() -> None:
        with via_base_url(proxy) as client:
            assert client.request(*claude_request()).status == 200

    ask()
    [old] = proxy.rows("SELECT id FROM data_keys")
    eventually(lambda: proxy.rows("SELECT * FROM payloads"), lambda rows: len(rows) == 2)
    values = 1 + 2 + len(proxy.rows("SELECT id FROM blocks"))
    assert f"Sealed {values} values" in proxy.run_script("keys.py", "rotate")
    proxy.run_script("keys.py", "retire", old["id"])
    ask()
    proxy.rows("SELECT * FROM payloads", until=lambda rows: len(rows) == 4)
    proxy.run_script("keys.py", "change-source", "file")
    proxy.run_script("keys.py", "rotate")
    ask()
    [newest, _] = proxy.rows("SELECT id FROM data_keys ORDER BY number DESC")
    heads = proxy.rows("SELECT hex(substr(body, 2, 8)) AS head FROM payloads", until=lambda rows: len(rows) == 6)
    heads += proxy.rows("SELECT hex(substr(body, 2, 8)) AS head FROM blocks")
    assert {row["head"].lower() for row in heads} == {newest["id"]}
    assert "cannot" not in proxy.log()


def test_r20_no_write_path_leaves_a_secret_in_the_files(path: Path, store: Store) -> None:
    assert store.keys is not None
    keys, pending = store.keys, PendingLogin(VERIFIER, STATE, Mode.MAX, NOW)
    again = Tokens(SECRETS[0] + "2", SECRETS[1] + "2", NOW + 60)
    backup = path.with_name("restored.db")

    def save() -> None:
        store.logins.take_lease("id of max-1", "run-1")
        assert store.logins.save_tokens("id of max-1", "run-1", SECRETS[1], again)

    def restore() -> None:
        with contextlib.closing(sqlite3.connect(path)) as live, contextlib.closing(sqlite3.connect(backup)) as copy:
            live.backup(copy)
        with contextlib.closing(open_store(backup)) as restored:
            restored.accounts.update("id of max-1", api_key=SECRETS[2] + "3")

    steps: tuple[Callable[[], object], ...] = (
        lambda: store.accounts.add(an_account()),
        lambda: store.sessions.begin("max-1", pending),
        lambda: store.write([started("r1"), payload("r1", BODY)]),
        save,
        keys.rotate,
        lambda: store.accounts.update("id of max-1", access_token=SECRETS[0]),
        lambda: drain(store.resealing().rewrap()),
        lambda: keys.retire(store.data_keys()[-1].id),
        lambda: keys.change_source(GivenKey(b"n" * 32), is_known=False),
        lambda: keys.change_source(KEY, is_known=False),
        restore,
        lambda: drain(store.resealing().seal_clear()),
        lambda: store.accounts.remove("id of max-1"),
        store.scrub,
    )
    for number, step in enumerate(steps):
        step()
        files = raw(path) + raw(backup)
        assert [secret for secret in PLANTED if secret in files] == [], f"after step {number}"
        assert not any(key in files for key in keys._keys.values())


# -- R28, R52, R75


def test_r28_a_copy_of_the_database_is_worth_nothing_without_the_key(path: Path, store: Store) -> None:
    fill(store)
    store.scrub()
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    for stranger in (GivenKey(os.urandom(KEY_BYTES)), KeyFile(path.with_name("stranger.key"))):
        with pytest.raises(VaultError):
            open_store(copy, source=stranger)
    assert [secret for secret in PLANTED if secret in raw(copy)] == []
    with contextlib.closing(open_store(copy)) as restored:
        assert (restored.accounts.all(), bodies(restored)) == (store.accounts.all(), bodies(store))


def test_r52_key_file_and_database_are_the_owners_alone_after_every_command(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path)) as proxy:
        proxy.add_api_key("one", SECRETS[2])
        for command in (["rotate"], ["change-source", "file"], ["migrate-plaintext"]):
            proxy.run_script("keys.py", *command)
        folder = proxy.database.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        proxy.database.with_suffix(".key").chmod(0o640)
        with pytest.raises(RuntimeError, match="is open to other users: run `chmod 600"):
            proxy.start()


def test_r75_a_secret_manager_gives_the_key_and_nothing_is_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("ab" * 32)
    secret.chmod(0o600)
    for number, text in enumerate((f"file:{secret}", f"cmd:cat {secret}")):
        environment = {"ccflare_ENCRYPTION_KEY": text}
        with contextlib.closing(Proxy(folder=tmp_path / str(number), environment=environment)) as proxy:
            proxy.add_api_key("one", SECRETS[2])
            assert [row["source"] for row in proxy.rows("SELECT source FROM data_keys")] == ["environment"]
            assert not proxy.database.with_suffix(".key").exists()
