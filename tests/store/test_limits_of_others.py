"""What one proxy learns of limits, as the others on its database see it: all of it once, and nothing of their own."""

import contextlib
from collections.abc import Iterator

import pytest

from ccflare_core.accounts.cooldowns import WHOLE
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import CooldownCleared, CooldownSet, WindowRead
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from database_kit import NOW, a_cooldown, an_account, open_store

NOTHING = Learned((), (), {})
FULL, EMPTY = Window("5h", "rejected", 1.0, NOW + 60), Window("5h", "allowed", 0.0, NOW + 18060)


@pytest.fixture
def two(location: Location) -> Iterator[tuple[Store, Store]]:
    with contextlib.closing(open_store(location)) as one, contextlib.closing(open_store(location)) as other:
        one.write([CooldownSet(a_cooldown("earlier")), WindowRead("earlier", 1, FULL)])
        assert other.limits_of_others.look() == NOTHING  # the start of a proxy reads all that there is
        yield one, other


def test_a_cooldown_of_another_is_told_once_and_so_is_its_end(two: tuple[Store, Store]) -> None:
    one, other = two
    cooldown = a_cooldown("a", "opus")
    one.write([CooldownSet(cooldown)])
    assert other.limits_of_others.look() == Learned((cooldown,), (), {})
    assert other.limits_of_others.look() == NOTHING
    one.write([CooldownCleared("a", cooldown.part)])
    assert other.limits_of_others.look() == Learned((), (cooldown,), {})
    assert other.limits_of_others.look() == NOTHING


def test_what_a_store_has_written_itself_is_no_news_to_it(two: tuple[Store, Store]) -> None:
    one, other = two
    own = a_cooldown("a", until=NOW + 60.00049)  # a row has milliseconds
    other.write([CooldownSet(own), WindowRead("a", 5, FULL)])
    one.write([WindowRead("b", 7, FULL)])
    assert other.limits_of_others.look() == Learned((), (), {"b": (FULL,)})
    other.write([CooldownCleared("a", WHOLE)])
    assert other.limits_of_others.look() == NOTHING


def test_the_end_of_an_own_cooldown_that_another_has_disproved_is_told(two: tuple[Store, Store]) -> None:
    one, other = two
    own = a_cooldown("a")
    other.write([CooldownSet(own)])
    one.write([CooldownCleared("a", WHOLE)])
    assert other.limits_of_others.look().over == (own,)


def test_of_readings_the_last_one_written_is_told_unless_it_is_an_own_one(two: tuple[Store, Store]) -> None:
    one, other = two
    other.write([WindowRead("a", 50, FULL)])
    one.write([WindowRead("a", 40, EMPTY), WindowRead("b", 40, FULL), WindowRead("b", 30, EMPTY)])  # its clock is late
    assert other.limits_of_others.look() == Learned((), (), {"a": (EMPTY,), "b": (EMPTY,)})
    one.write([WindowRead("a", 60, FULL)])
    other.write([WindowRead("a", 70, EMPTY)])
    assert other.limits_of_others.look() == NOTHING


def test_readings_go_on_after_those_of_a_removed_account_are_gone(two: tuple[Store, Store]) -> None:
    one, other = two
    one.accounts.add(account := an_account())
    one.write([WindowRead(account.id, at, FULL) for at in range(5)])
    other.limits_of_others.look()
    one.accounts.remove(account.id)
    assert other.limits_of_others.look() == NOTHING
    one.write([WindowRead("b", 9, FULL)])
    assert other.limits_of_others.look().windows == {"b": (FULL,)}
