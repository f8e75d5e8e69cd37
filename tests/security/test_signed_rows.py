"""Who can write the database, and has not its key, gives himself nothing: on a running proxy, and on its next start.

The file is changed by SQL, as by whoever has got at it.
"""

import contextlib
import sqlite3
import time

import pytest

from ccflare_core.clients.keys import Role
from ccflare_core.clients.totp import code_at, step_at
from ccflare_core.db.models import ClientKeyRow
from ccflare_core.http.addresses import Network
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from fake_upstream import FakeUpstream
from harness import RawClient, StartProxy, Truncated, claude_request, eventually
from rig import Rig

COLUMNS = [name for name in ClientKeyRow._meta.sorted_field_names if name not in ("id", "name")]
VALUES = {"role": "admin", "models": '["*"]', "accounts": '["*"]', "not_accounts": '["x"]', "record": "off"}
"""What is written into a column; 9 into any other."""
STRANGER = "127.5.5.5"
BLOCK = f"block {STRANGER}/32 was removed outside of ccflare, and stays"


def attack(rig: Rig, *statements: str, values: tuple[object, ...] = ()) -> None:
    with contextlib.closing(sqlite3.connect(rig.proxy.database, isolation_level=None, timeout=20)) as connection:
        for statement in statements:
            connection.execute(statement, values if "?" in statement else ())


def added(store: Store, *names: str, role: Role = Role.CLIENT) -> dict[str, str]:
    return {name: store.clients.add(new_key(name, time.time(), role=role)) for name in names}


def ask(rig: Rig, key: str, source: str = "127.0.0.1") -> int:
    """What a client with this key gets; from an address of its own, since one that fails too often has to wait."""
    method, path, fields, body = claude_request(size=300)
    headers = [field for field in fields if field[0].lower() not in (b"authorization", b"x-api-key")]
    with RawClient("127.0.0.1", rig.proxy.port, source=source) as client:
        return client.request(method, path, [*headers, (b"x-api-key", key.encode())], body).status


def pause(rig: Rig, key: str, *code: str) -> int:
    """What an administrator with this key gets for a change, with this code or none."""
    headers = [(b"x-api-key", key.encode()), *((b"x-ccflare-otp", each.encode()) for each in code)]
    with rig.client() as client:
        return client.request("POST", f"/ccflare/accounts/{rig.name('a')}/pause", headers).status


def look(rig: Rig, *key: str) -> int:
    """What the accounts' page says to this key, or to none."""
    with rig.client() as client:
        return client.request("GET", "/ccflare/accounts", [(b"x-api-key", each.encode()) for each in key]).status


def is_hung_up_on(rig: Rig) -> bool:
    try:
        with RawClient("127.0.0.1", rig.proxy.port, source=STRANGER) as client:
            client.request("GET", "/ccflare/health")
    except (OSError, Truncated):
        return True
    return False


def warned(rig: Rig, text: str, after: int = 0) -> int:
    """Wait until the log says it, behind so many characters; how long the log is then."""
    return len(eventually(rig.proxy.log, lambda log: text in log[after:]))


@pytest.fixture
def rig(upstream: FakeUpstream, start_proxy: StartProxy) -> Rig:
    rig = Rig(start_proxy(upstream, ccflare_allow_ips="127.0.0.0/8"), upstream)
    rig.fresh("a")
    return rig


def test_r35_a_client_key_with_any_column_changed_put_in_or_removed_is_denied(rig: Rig) -> None:
    with rig.stored() as store:
        keys = added(store, *COLUMNS, "removed", "untouched")
    eventually(lambda: ask(rig, keys["untouched"]), lambda status: status == 200)
    assert ask(rig, keys["role"]) == 200

    for column in COLUMNS:
        value = VALUES.get(column, 9)
        attack(rig, f"UPDATE client_keys SET {column} = ? WHERE name = '{column}'", values=(value,))
    attack(
        rig,
        "DELETE FROM client_keys WHERE name = 'removed'",
        f"INSERT INTO client_keys (id, name, {', '.join(COLUMNS)}) "
        f"SELECT 'ck_planted', 'planted', {', '.join(COLUMNS)} FROM client_keys WHERE name = 'untouched'",
        "UPDATE client_keys SET role = 'admin' WHERE id = 'ck_planted'",
    )

    denied = [*COLUMNS, "removed"]
    eventually(lambda: ask(rig, keys["removed"]), lambda status: status == 401)
    found = {name: ask(rig, keys[name], f"127.7.7.{number}") for number, name in enumerate(denied, 1)}
    assert found == dict.fromkeys(denied, 401)
    assert (ask(rig, keys["untouched"]), look(rig, keys["untouched"])) == (200, 403)
    warned(rig, "client key planted was changed or put in outside of ccflare, so it is denied: revoke it")
    assert "outside of ccflare" in rig.proxy.start_script("audit.py", "verify").communicate(timeout=60)[1]


def test_r35_blocks_and_the_second_factor_stay_also_after_a_restart(rig: Rig) -> None:
    with rig.stored() as store:
        boss = added(store, "boss", role=Role.ADMIN)["boss"]
        store.blocklist.block(Network.parse(STRANGER))
    eventually(lambda: is_hung_up_on(rig), bool)
    for statement in ("confirmed_at = NULL", "last_step = 0", "failures = 1"):
        with rig.stored() as store:
            seed = store.factors.enable().seed
            assert store.factors.confirm(code_at(seed, step_at(time.time()) - 1)) is not None
        eventually(lambda: pause(rig, boss), lambda status: status == 403)
        attack(rig, f"UPDATE second_factor SET {statement}")
        assert pause(rig, boss, code_at(seed, step_at(time.time()))) == 403
        warned(rig, "second factor was changed or put in")
        assert pause(rig, boss) == 403
        with rig.stored() as store:
            store.factors.disable()

    with rig.stored() as store:
        assert store.factors.confirm(code_at(store.factors.enable().seed, step_at(time.time()) - 1)) is not None
    eventually(lambda: pause(rig, boss), lambda status: status == 403)
    attack(rig, "DELETE FROM second_factor", "DELETE FROM recovery_codes", "DELETE FROM blocked_addresses")

    told = warned(rig, BLOCK)
    assert (is_hung_up_on(rig), pause(rig, boss)) == (True, 403)
    rig.proxy.stop()
    rig.proxy.start()
    warned(rig, BLOCK, told)
    assert (is_hung_up_on(rig), pause(rig, boss), look(rig, boss)) == (True, 403, 200)


def test_r35_without_rows_of_client_keys_nobody_gets_in_without_one(rig: Rig) -> None:
    with rig.stored() as store:
        added(store, "laptop")
    eventually(lambda: look(rig), lambda status: status == 401)
    attack(rig, "DELETE FROM client_keys", "DELETE FROM row_signatures")
    warned(rig, "are not those that the audit log names")
    assert look(rig) == 401
    rig.proxy.stop()
    rig.proxy.start()
    assert look(rig) == 401
