"""The database's side of a refresh: one lease at a time, and tokens that are swapped only for the ones they replace."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.token_refresh import LeaseAttempt
from ccflare_core.accounts.validity import Upkeep
from ccflare_core.anthropic.oauth import Owner, Tokens
from ccflare_core.config.location import Location
from ccflare_core.store.store import Store
from database_kit import NOW, SECRETS, an_account, open_store

ID = "id of max-1"
OLD = SECRETS[1]


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    store.accounts.add(an_account())
    yield store
    store.close()


def tokens(number: int = 1, refresh: str | None = "sk-ant-ort01-NEW") -> Tokens:
    return Tokens(f"sk-ant-oat01-NEW-{number}", refresh and f"{refresh}-{number}", NOW + 100 * number, NOW + 1e6)


def taken(store: Store, owner: str, **options: Any) -> LeaseAttempt:
    turn = store.logins.take_lease(ID, owner, **options)
    assert turn is not None
    return turn


def stored(store: Store) -> Account:
    return store.accounts.by_name("max-1")


# --- leases ---------------------------------------------------------------------------------------------------------


def test_refresh_tells_whose_login_it_is_once(store: Store) -> None:
    for person in ("first", "second"):
        spent = store.accounts.all()[0].refresh_token or ""
        owner = Owner(person, None, f"organization of {person}")
        store.logins.save_tokens(ID, "run-1", spent, Tokens(f"a-{person}", f"r-{person}", NOW + 60, owner=owner))

    (account,) = store.accounts.all()
    assert (account.access_token, account.refresh_token) == ("a-second", "r-second")
    assert (account.person_id, account.organization_id) == ("first", "organization of first")


def test_one_run_gets_the_lease_and_both_get_the_account(store: Store) -> None:
    mine, other = taken(store, "run-1"), taken(store, "run-2")

    assert (mine.is_mine, other.is_mine) == (True, False)
    assert mine.account == other.account == an_account()
    assert mine.term == other.term


def test_the_same_run_may_take_its_lease_again_under_a_new_name(store: Store) -> None:
    first, second = taken(store, "run-1"), taken(store, "run-1")

    assert second.is_mine
    assert first.term != second.term


def test_a_lease_that_was_given_back_is_free(store: Store) -> None:
    taken(store, "run-1")
    store.logins.release_lease(ID, "run-1")

    assert taken(store, "run-2").is_mine


def test_nobody_gives_back_the_lease_of_another_run(store: Store) -> None:
    taken(store, "run-1")
    store.logins.release_lease(ID, "run-2")

    assert not taken(store, "run-2").is_mine


def test_an_abandoned_lease_is_taken_over_but_only_the_very_one_that_was_watched(store: Store) -> None:
    watched = taken(store, "run-1").term
    renewed = taken(store, "run-1").term

    assert not taken(store, "run-2", abandoned=watched).is_mine
    assert taken(store, "run-2", abandoned=renewed).is_mine


def test_the_lease_of_a_run_that_is_over_is_free(store: Store) -> None:
    store.runs.start("run-1", "elsewhere", 1)
    taken(store, "run-1")
    assert not taken(store, "run-2").is_mine

    store.runs.end("run-1")

    assert taken(store, "run-2").is_mine


def test_no_lease_on_an_account_that_is_gone(store: Store) -> None:
    taken(store, "run-1")
    store.accounts.remove(ID)

    assert store.logins.take_lease(ID, "run-1") is None
    assert store.query("SELECT * FROM refresh_leases") == []


def test_of_many_connections_that_ask_at_once_one_gets_it(store: Store, location: Location) -> None:
    start, won = threading.Barrier(6), []

    def ask(owner: str) -> None:
        mine = open_store(location)
        start.wait(60)
        won.append(taken(mine, owner).is_mine)
        mine.close()

    threads = [threading.Thread(target=ask, args=(f"run-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(won) == [False] * 5 + [True]


# --- the swap -------------------------------------------------------------------------------------------------------


def test_new_tokens_take_the_place_of_the_spent_one_and_the_lease_ends(store: Store) -> None:
    taken(store, "run-1")

    after = store.logins.save_tokens(ID, "run-1", OLD, tokens())

    assert after == stored(store)
    assert (stored(store).access_token, stored(store).refresh_token) == ("sk-ant-oat01-NEW-1", "sk-ant-ort01-NEW-1")
    assert (stored(store).expires_at, stored(store).login_expires_at) == (NOW + 100, NOW + 1e6)
    assert taken(store, "run-2").is_mine


def test_a_late_answer_changes_nothing_and_is_shown_what_is_there(store: Store) -> None:
    store.logins.save_tokens(ID, "run-2", OLD, tokens(2))

    after = store.logins.save_tokens(ID, "run-1", OLD, tokens(1))

    assert after == stored(store)
    assert stored(store).access_token == "sk-ant-oat01-NEW-2"


def test_an_answer_without_a_refresh_token_keeps_the_old_one_and_the_end_of_the_login(store: Store) -> None:
    store.accounts.update(ID, login_expires_at=NOW + 5)

    store.logins.save_tokens(ID, "run-1", OLD, Tokens("sk-ant-oat01-NEW", None, NOW + 9))

    assert (stored(store).refresh_token, stored(store).login_expires_at) == (OLD, NOW + 5)


def test_a_login_in_between_wins_over_an_answer_and_over_a_refusal(store: Store) -> None:
    taken(store, "run-1")
    store.accounts.update(ID, access_token="oat-login", refresh_token="ort-login", needs_login=False)

    store.logins.save_tokens(ID, "run-1", OLD, tokens())
    store.logins.flag_login(ID, "run-1", OLD)

    assert (stored(store).access_token, stored(store).needs_login) == ("oat-login", False)


def test_a_refusal_of_the_stored_token_is_noted_and_the_next_tokens_undo_it(store: Store) -> None:
    after = store.logins.flag_login(ID, "run-1", OLD)
    assert after is not None
    assert after.needs_login

    store.logins.save_tokens(ID, "run-1", OLD, tokens())

    assert not stored(store).needs_login


def test_other_changes_leave_the_tokens_alone(store: Store) -> None:
    store.accounts.update(ID, paused=True, priority=3)
    store.logins.save_tokens(ID, "run-1", OLD, tokens())

    assert (stored(store).paused, stored(store).access_token) == (True, "sk-ant-oat01-NEW-1")


def test_a_row_from_before_the_digest_gets_one_when_it_is_leased(store: Store) -> None:
    store.query("UPDATE accounts SET refresh_digest = NULL RETURNING id")

    taken(store, "run-1")
    store.logins.save_tokens(ID, "run-1", OLD, tokens())

    assert stored(store).access_token == "sk-ant-oat01-NEW-1"


def test_an_account_that_was_removed_is_not_brought_back(store: Store) -> None:
    store.accounts.remove(ID)

    assert store.logins.save_tokens(ID, "run-1", OLD, tokens()) is None
    assert store.accounts.all() == []


def test_neither_the_database_nor_a_repr_shows_a_token(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    store.accounts.add(an_account())
    turn = taken(store, "run-1")
    store.logins.save_tokens(ID, "run-1", OLD, tokens())

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.close()

    assert b"sk-ant-o" not in kept
    assert "sk-ant-o" not in f"{turn!r} {tokens()!r}"


# --- for people -----------------------------------------------------------------------------------------------------


def test_whoever_asks_is_told_of_refreshes_and_failures(store: Store) -> None:
    assert store.logins.upkeep() == {ID: Upkeep(is_sealed=True, is_renewable=True)}
    store.runs.start("run-1", "host", 1)
    taken(store, "run-1")
    store.logins.note_failure(an_account(), NOW + 60, "busy")
    assert store.logins.upkeep() == {ID: Upkeep(refreshing=True, retry_at=NOW + 60, is_sealed=True, is_renewable=True)}


def test_a_dead_runs_lease_is_no_refresh(store: Store) -> None:
    store.runs.start("run-1", "host", 1)
    taken(store, "run-1")
    store.runs.end("run-1")
    assert store.logins.upkeep() == {ID: Upkeep(is_sealed=True, is_renewable=True)}


def test_a_failure_of_a_token_that_was_replaced_is_not_noted(store: Store) -> None:
    store.logins.note_failure(replace(an_account(), refresh_token="sk-ant-ort01-other"), NOW + 60, "busy")
    assert store.logins.upkeep() == {ID: Upkeep(is_sealed=True, is_renewable=True)}


def test_new_tokens_end_the_back_off(store: Store) -> None:
    store.logins.note_failure(an_account(), NOW + 60, "busy")
    store.logins.save_tokens(ID, "run-1", OLD, tokens())
    assert store.logins.upkeep() == {ID: Upkeep(is_sealed=True, is_renewable=True)}
