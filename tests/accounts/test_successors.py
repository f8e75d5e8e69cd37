"""A database that has fallen behind, as a standby may, gets the newest tokens back, and nobody spends the old ones."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.successors import Successors
from token_kit import Clock, Desk, Provider

COLUMNS = "access_token, refresh_token, refresh_digest, expires_at, login_at, login_expires_at, needs_login"
Row = tuple[Any, ...]


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def start(tmp_path: Path, provider: Provider) -> Iterator[Callable[[str], Desk]]:
    """Start a process on the test's one database, which has an account."""
    with contextlib.ExitStack() as running:
        clock = Clock()

        def start(owner: str) -> Desk:
            desk = Desk(tmp_path / "ccflare.db", provider, clock, owner=owner)
            running.callback(desk.store.close)
            if not desk.store.accounts.all():
                desk.store.accounts.add(provider.account("a", expires_in=-1))
            desk.look()
            return desk

        yield start


def remembered(desk: Desk) -> Row:
    """The tokens as the database has them, sealed."""
    return desk.store.query(f"SELECT {COLUMNS} FROM accounts")[0]


def fall_behind(desk: Desk, row: Row) -> None:
    """Put them back, as a standby that takes over does."""
    desk.store.query(f"UPDATE accounts SET ({COLUMNS}) = (?, ?, ?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize("mender", [0, 1])
async def test_whoever_has_seen_a_refresh_writes_its_tokens_again(
    mender: int, start: Callable[[str], Desk], provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy that has refreshed, or another one that has read it: one that lives is enough."""
    desks = [start("one"), start("two")]
    old = remembered(desks[0])
    assert (await desks[0].renew()).ok
    desks[1].look()
    newest = desks[0].stored()
    fall_behind(desks[0], old)

    desks[mender].look()
    assert desks[mender].known() == newest
    await desks[mender].tend()

    assert desks[0].stored() == newest
    assert caplog.text.count("the database has a token again that was spent already") == 1
    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)


async def test_nobody_who_knows_better_spends_what_a_lease_gives(
    start: Callable[[str], Desk], provider: Provider
) -> None:
    """The database has fallen behind, and the next refresh comes before anybody has looked."""
    desk = start("one")
    old = remembered(desk)
    assert (await desk.renew()).ok
    newest = desk.known()
    fall_behind(desk, old)

    assert (await desk.renew(rejected=newest.access_token)).reason == "its new token was refused too"
    desk.clock.pass_(3600)
    assert (await desk.renew()).ok

    assert (provider.logins.refreshes, provider.logins.reuses) == (1, 0)
    assert desk.stored() == newest
    desk.clock.pass_(3600)
    assert (await desk.renew(rejected=newest.access_token)).ok
    assert (provider.logins.refreshes, provider.logins.reuses) == (2, 0)


async def test_what_one_does_not_know_another_one_completes(start: Callable[[str], Desk], provider: Provider) -> None:
    one = start("one")
    oldest = remembered(one)
    assert (await one.renew()).ok
    two = start("two")
    assert (await two.renew(rejected=two.known().access_token)).ok
    newest = two.known()
    fall_behind(two, oldest)

    for desk in (one, two):
        desk.look()
        await desk.tend()
    two.look()

    assert (two.stored(), provider.logins.reuses) == (newest, 0)


def an_account(generation: int, **fields: Any) -> Account:
    account = Provider().account("a")
    return replace(account, access_token=f"access {generation}", refresh_token=f"refresh {generation}", **fields)


def test_what_a_login_has_replaced_may_come_back() -> None:
    successors = Successors()
    successors.note(an_account(1), an_account(2, login_at=1.0))
    assert successors.newest(an_account(1)) is None


def test_going_back_teaches_nothing() -> None:
    successors = Successors()
    for before, after in ((1, 2), (2, 1), (2, 3), (3, 1), (3, 2)):
        successors.note(an_account(before), an_account(after))
    found = successors.newest(an_account(1))
    assert found is not None
    assert (found.spent, found.tokens.refresh_token) == ("refresh 1", "refresh 3")
    assert successors.newest(an_account(3)) is None


def test_what_is_remembered_is_bounded_and_not_shown() -> None:
    successors = Successors()
    for generation in range(40):
        successors.note(an_account(generation), an_account(generation + 1))
    assert successors.newest(an_account(20)) is None
    pair = successors.newest(an_account(30))
    assert pair is not None
    assert pair.tokens.refresh_token == "refresh 40"
    assert "refresh" not in f"{successors!r} {pair!r}".replace("refresh_token", "")
