"""How many values a key has sealed: never counted too low, and at little cost."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.config.location import Location
from ccflare_core.errors import CCFlareError
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.sealed_counts import AHEAD, ROTATE_AT, sealed_counts
from ccflare_core.store.store import Store
from ccflare_core.writer.warnings import RateLimitedWarnings
from ccflare_core.writer.watch import Watch
from database_kit import an_account, open_store, payload, started

SEALER = """
import sys
from pathlib import Path

from database_kit import open_store, payload, started

store, number = open_store(Path(sys.argv[1])), 0
while True:
    number += 1
    store.write([started(f"r{number}"), payload(f"r{number}", b"body %d" % number)])
    print(sum(store.vault.sealed.values()), flush=True)
"""


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def vault(store: Store) -> Vault:
    assert store.vault is not None
    return store.vault


def counted(store: Store) -> int:
    return store.data_keys()[0].sealed


def seal(store: Store, first: int, number: int) -> None:
    """Record so many bodies, one transaction each."""
    for each in range(first, first + number):
        store.write([started(f"r{each}"), payload(f"r{each}", b"body %d" % each)])


def test_count_is_ahead_of_what_was_sealed_and_seldom_written(store: Store) -> None:
    assert counted(store) == 0
    seen = set()
    for each in range(40):
        seal(store, each, 1)
        seen.add(counted(store))
        assert counted(store) >= sum(vault(store).sealed.values()) > 0
    assert len(seen) == 1


def test_count_goes_on_where_it_ended(location: Location, store: Store) -> None:
    for _ in range(AHEAD + 5):
        vault(store).seal(b"x", "tests|body|1")
    store.accounts.add(an_account())
    before = counted(store)
    assert before >= 2 * AHEAD + 5
    other = open_store(location)
    seal(other, 1, 1)
    assert counted(store) == before + vault(other).sealed[vault(other).key_id] + AHEAD
    other.close()


def test_what_a_rolled_back_transaction_has_sealed_counts_with_the_next_one(store: Store) -> None:
    def fail() -> None:
        with store.audited("key.rewrap"):
            vault(store).seal(b"x", "tests|body|1")
            with store.audited("key.rewrap"):
                vault(store).seal(b"x", "tests|body|2")
            raise CCFlareError("it fails")

    for _ in range(3):
        with pytest.raises(CCFlareError):
            fail()
    assert counted(store) == 0
    store.note("data.read")
    assert counted(store) == 6 + AHEAD
    with pytest.raises(CCFlareError):
        fail()
    store.note("data.read")
    assert counted(store) == 6 + AHEAD  # for there is room in what was added


def test_each_key_has_its_own_count_and_takes_it_along(store: Store) -> None:
    store.accounts.add(an_account())
    old = store.data_keys()[0]
    assert store.keys is not None
    store.keys.rotate()
    new, again = store.data_keys()
    assert (again.id, again.sealed) == (old.id, old.sealed)
    assert new.sealed in (0, *range(1, 2 * AHEAD))
    list(store.resealing().rewrap())
    assert counted(store) >= 2
    store.keys.retire(old.id)
    assert set(sealed_counts(store._database)) == {new.id}


def test_kill_9_leaves_it_too_high_and_never_too_low(tmp_path: Path) -> None:
    path = tmp_path / "ccflare.db"
    support = Path(__file__).parents[1] / "support"
    addon = Path(__file__).parents[2] / "addon"
    code = f"import sys; sys.path[:0] = {[str(support), str(addon)]!r}\n{SEALER}"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as sealer:
        assert sealer.stdout is not None
        told = [int(sealer.stdout.readline()) for _ in range(20)]
        sealer.send_signal(signal.SIGKILL)
        told += [int(line) for line in sealer.stdout.read().split()]
    store = open_store(path)
    assert counted(store) >= max(told[-1], sum(store.value_counts().values()))
    store.close()


def test_rotation_is_advised_once_in_the_log_and_long_before_the_limit(store: Store) -> None:
    said: list[str] = []
    now = 0.0
    watch = Watch(store, lambda accounts: None, RateLimitedWarnings(said.append, lambda: now), lambda: now)
    store.accounts.add(an_account())
    watch.look()
    assert said == []
    store.query("UPDATE sealed_counts SET sealed = ?", (ROTATE_AT,))
    for _ in range(10):
        now += 100.0
        watch.look()
    assert said == [
        f"the data key {vault(store).key_id} has sealed {ROTATE_AT} values: run `scripts/keys.py rotate` soon"
    ]
