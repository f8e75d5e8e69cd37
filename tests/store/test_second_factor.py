"""The second factor in the database: sealed, confirmed before it counts, its codes good once in all processes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ccflare_core.clients.totp import STEP_SECONDS, Factor, Used, Wrong, check, code_at, step_at
from ccflare_core.config.location import Location
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.store.resealing import drain
from ccflare_core.store.store import Store
from database_kit import NOW, open_store


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def enabled(store: Store) -> list[str]:
    """Enable and confirm; the recovery codes."""
    codes = store.factors.confirm(code_at(store.factors.enable().seed, step_at(NOW)))
    assert codes is not None
    return codes


def factor(store: Store) -> Factor:
    found = store.factors.get()
    assert found is not None
    return found


def test_a_seed_counts_only_once_it_is_confirmed(store: Store) -> None:
    secret = store.factors.enable()
    assert not factor(store).is_confirmed
    assert store.factors.confirm("000000") is None
    assert not factor(store).is_confirmed

    codes = store.factors.confirm(code_at(secret.seed, step_at(NOW)))

    assert factor(store).is_confirmed
    assert factor(store).recovery == {secret.digest(code) for code in codes or ()}


def test_the_code_that_confirmed_it_is_used(store: Store) -> None:
    enabled(store)
    assert factor(store).last_step == step_at(NOW)


def test_a_seed_that_nobody_confirmed_can_be_replaced_and_one_in_use_cannot(store: Store) -> None:
    first = store.factors.enable()
    assert store.factors.enable() != first
    enabled(store)

    for change in (store.factors.enable, lambda: store.factors.confirm("1")):
        with pytest.raises(StoreError, match="enabled already"):
            change()


def test_what_a_wrong_try_changed_is_kept(store: Store) -> None:
    enabled(store)
    before = factor(store)

    assert store.factors.keep(Wrong(replace(before, failures=4, retry_at=NOW + 9), 9.0))

    assert factor(store) == replace(before, failures=4, retry_at=NOW + 9)


def test_a_code_is_used_once_whoever_asks(store: Store) -> None:
    """Two proxies on one database have read the same factor, and are shown the same code."""
    codes = enabled(store)
    before = factor(store)
    later = NOW + 3 * STEP_SECONDS
    for text in (code_at(before.secret.seed, step_at(later)), codes[0]):
        tried = check(before, text, later)
        assert isinstance(tried, Used)
        assert [store.factors.keep(tried), store.factors.keep(tried)] == [True, False]

    after = factor(store)
    assert (after.last_step, len(after.recovery)) == (step_at(later), 9)
    assert not store.factors.keep(Used(replace(before, last_step=after.last_step - 1)))
    assert factor(store).last_step == after.last_step


def test_a_recovery_code_is_gone_once_it_is_used(store: Store) -> None:
    codes = enabled(store)
    used = check(factor(store), codes[0], NOW)
    assert isinstance(used, Used)

    assert store.factors.keep(used)

    assert len(factor(store).recovery) == 9
    assert not isinstance(check(factor(store), codes[0], NOW), Used)


def test_new_recovery_codes_replace_the_old_ones(store: Store) -> None:
    old = enabled(store)
    new = store.factors.renew_recovery()
    assert not set(old) & set(new)
    assert factor(store).recovery == {factor(store).secret.digest(code) for code in new}


def test_a_try_on_a_factor_that_is_gone_changes_nothing(store: Store) -> None:
    enabled(store)
    gone = factor(store)
    store.factors.disable()
    assert store.factors.get() is None
    enabled(store)
    told = [action for (action,) in store.query("SELECT action FROM audit_log WHERE action LIKE 'mfa.%' ORDER BY id")]
    assert told == ["mfa.enable", "mfa.confirm", "mfa.disable", "mfa.enable", "mfa.confirm"]

    assert not store.factors.keep(Wrong(replace(gone, failures=7), 0.0))

    assert factor(store).failures == 0


def test_without_a_factor_there_is_nothing_to_change(store: Store) -> None:
    changes: list[Callable[[], object]] = [store.factors.disable, store.factors.renew_recovery]
    changes.append(lambda: store.factors.confirm("1"))
    for change in changes:
        with pytest.raises(StoreError, match="there is no second factor"):
            change()


def test_a_rotation_seals_the_seed_anew_and_recovery_codes_stay_good(store: Store) -> None:
    codes = enabled(store)
    assert store.keys is not None
    store.keys.rotate()
    assert drain(store.resealing().rewrap()) == 1
    store.keys.retire(store.keys.all()[1].id)

    assert isinstance(check(factor(store), codes[0], NOW), Used)


def test_no_key_no_seed(store: Store, location: Location) -> None:
    enabled(store)
    keyless = open_store(location, source=None)
    with pytest.raises(VaultError):
        keyless.factors.get()
    keyless.close()
