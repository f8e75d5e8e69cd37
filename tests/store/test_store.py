"""The store: values in, the same values out, all or nothing; and no secret in any file."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccflare_core.accounts.account import Kind
from ccflare_core.accounts.cooldowns import WHOLE, Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.verdicts import Scope
from ccflare_core.config.location import Location
from ccflare_core.db.models import TABLES
from ccflare_core.errors import AuditError, StoreError, VaultError
from ccflare_core.exchange.records import (
    AttentionNeeded,
    CooldownCleared,
    CooldownSet,
    ExchangeFinished,
    OrganizationLearned,
    OutcomeCorrected,
    TunnelEnded,
    TunnelOpened,
    WindowRead,
    storable,
)
from ccflare_core.secrets.key_sources import GivenKey
from ccflare_core.secrets.vault import Vault
from ccflare_core.store.store import Store
from ccflare_core.transcripts.read import Body
from database_kit import (
    NOW,
    SECRETS,
    WINDOWS,
    a_cooldown,
    an_account,
    attempt,
    count,
    exchange,
    open_store,
    payload,
    start_python,
    started,
)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def save_cooldowns(store: Store, *cooldowns: Cooldown) -> None:
    store.write([CooldownSet(cooldown) for cooldown in cooldowns])


def row(store: Store, table: str) -> dict[str, Any]:
    """The only row of a table."""
    (model,) = (model for model in TABLES if model._meta.table_name == table)
    names = list(model._meta.columns)
    (values,) = store.query(f"SELECT {', '.join(names)} FROM {table}")
    return dict(zip(names, values, strict=True))


# -- accounts


def test_secret_is_one_accounts(store: Store) -> None:
    account = an_account("a")
    store.accounts.add(account)
    for secret in ("access_token", "refresh_token", "api_key"):
        other = dataclasses.replace(an_account("b"), **{secret: getattr(account, secret)})
        with pytest.raises(StoreError, match="is that of the account a already"):
            store.accounts.add(other)
    assert store.accounts.all() == [account]


def test_organization_that_an_answer_names_is_kept_once(store: Store) -> None:
    store.accounts.add(an_account("a"))
    store.write([OrganizationLearned("id of a", "one"), OrganizationLearned("gone", "one")])
    store.write([OrganizationLearned("id of a", "two")])
    assert store.accounts.all()[0].organization_id == "one"


def test_accounts_come_back_as_they_went_in(store: Store) -> None:
    first, second = an_account("b", priority=1), an_account("a", priority=2)
    store.accounts.add(second)
    store.accounts.add(first)
    assert store.accounts.all() == [first, second]
    assert store.accounts.by_name("a") == second


def test_accounts_and_cooldowns_that_have_not_changed_are_not_made_anew(store: Store) -> None:
    for name in ("a", "b"):
        store.accounts.add(an_account(name))
        store.write([CooldownSet(a_cooldown(name))])
    before, rests = store.accounts.all(), store.limits.cooldowns()
    store.accounts.update(before[0].id, paused=True)
    store.write([CooldownSet(dataclasses.replace(a_cooldown("a"), failures=9))])

    (changed, same), (ended, rest) = store.accounts.all(), sorted(store.limits.cooldowns(), key=lambda c: c.account_id)

    assert changed == dataclasses.replace(before[0], paused=True)
    assert same is before[1]
    assert ended.failures == 9
    assert rest is next(each for each in rests if each.account_id == "b")


def test_an_api_key_account_has_no_token(store: Store) -> None:
    account = dataclasses.replace(
        an_account(), kind=Kind.API_KEY, access_token=None, refresh_token=None, expires_at=None
    )
    store.accounts.add(account)
    assert store.accounts.all() == [account]


def test_update_changes_only_what_it_names(store: Store) -> None:
    account = an_account()
    store.accounts.add(account)
    store.accounts.update(account.id, access_token="new", expires_at=NOW + 9, paused=True)
    changed = dataclasses.replace(account, access_token="new", expires_at=NOW + 9, paused=True)
    assert store.accounts.all() == [changed]


def test_names_are_unique(store: Store) -> None:
    store.accounts.add(an_account("a"))
    store.accounts.add(an_account("b"))
    with pytest.raises(StoreError, match="called a already"):
        store.accounts.add(dataclasses.replace(an_account("c"), id="other", name="a"))
    with pytest.raises(StoreError, match="called a already"):
        store.accounts.update("id of b", name="a")


def test_what_is_not_there_cannot_be_found_changed_or_removed(store: Store) -> None:
    with pytest.raises(StoreError, match="no account called x"):
        store.accounts.by_name("x")
    with pytest.raises(StoreError, match="no longer there"):
        store.accounts.update("x", paused=True)
    with pytest.raises(StoreError, match="no longer there"):
        store.accounts.remove("x")


@pytest.mark.parametrize("name", ["id", "colour"])
def test_update_refuses_what_is_no_field_to_change(name: str, store: Store) -> None:
    with pytest.raises(ValueError, match=name):
        store.accounts.update("id of max-1", **{name: "x"})


def test_removing_takes_the_cooldowns_and_readings_along_and_leaves_the_requests(store: Store) -> None:
    account = dataclasses.replace(an_account(), id="a")
    store.accounts.add(account)
    save_cooldowns(store, a_cooldown("a"), a_cooldown("b"))
    store.write(exchange("r1"))
    store.accounts.remove("a")
    assert [cooldown.account_id for cooldown in store.limits.cooldowns()] == ["b"]
    assert (store.limits.latest_windows(), count(store, "requests")) == ({}, 1)


def test_a_secret_of_another_key_names_the_account_and_not_the_secret(location: Location, store: Store) -> None:
    store.accounts.add(an_account())
    store.query("UPDATE accounts SET access_token = ?", (Vault([b"x" * 32]).seal(b"PLANTED", "here"),))
    with pytest.raises(VaultError, match="access_token of account max-1") as caught:
        store.accounts.all()
    assert "PLANTED" not in str(caught.value)


def test_another_key_opens_no_store(location: Location, store: Store) -> None:
    with pytest.raises(VaultError, match="ccflare_ENCRYPTION_KEY is not the key"):
        open_store(location, source=GivenKey(b"x" * 32))


def test_a_secret_moved_to_another_row_does_not_open(store: Store) -> None:
    store.accounts.add(an_account("a"))
    store.accounts.add(an_account("b"))
    sealed = store.query("SELECT api_key FROM accounts WHERE name = 'a'")[0][0]
    store.query("UPDATE accounts SET api_key = ? WHERE name = 'b'", (sealed,))
    with pytest.raises(VaultError, match="api_key of account b"):
        store.accounts.all()


def test_without_a_vault_secrets_are_neither_read_nor_written(location: Location, store: Store) -> None:
    store.accounts.add(an_account())
    blind = open_store(location, source=None)
    assert blind.accounts.all()[0].access_token is None
    with pytest.raises(VaultError):
        blind.accounts.add(an_account("b"))
    with pytest.raises(AuditError):
        blind.accounts.update("id of max-1", paused=True)
    assert store.accounts.all() == [an_account()]
    blind.close()


def test_no_file_ever_holds_a_secret(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    body = json.dumps({"text": SECRETS[0]}).encode()
    steps: tuple[Callable[[], None], ...] = (
        lambda: store.accounts.add(an_account()),
        lambda: store.write([started("r1"), payload("r1", body)]),
        lambda: store.accounts.update("id of max-1", access_token=SECRETS[0], refresh_token="PLANTED-again"),
        lambda: store.accounts.remove("id of max-1"),
    )
    for step in steps:
        step()
        files = [file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")]
        assert len(files) == 2
        assert not any(b"PLANTED" in content for content in files)
    store.close()


# -- cooldowns, windows, runs


def test_a_saved_cooldown_replaces_its_predecessor(store: Store) -> None:
    save_cooldowns(store, a_cooldown("a"), a_cooldown("a", "opus"), a_cooldown("b"))
    longer = a_cooldown("a", until=NOW + 600, failures=2)
    save_cooldowns(store, longer)
    store.limits.clear_cooldown("b", WHOLE)
    store.limits.clear_cooldown("nobody", WHOLE)
    assert sorted(store.limits.cooldowns(), key=lambda c: c.part) == [longer, a_cooldown("a", "opus")]


def test_cooldowns_in_a_batch_are_taken_in_order(store: Store) -> None:
    first, last = a_cooldown("a"), a_cooldown("a", failures=3)
    store.write([CooldownSet(first), CooldownCleared("a", WHOLE), CooldownSet(last), CooldownSet(a_cooldown("b"))])
    store.write([CooldownCleared("b", WHOLE)])
    assert store.limits.cooldowns() == [last]


def test_latest_window_of_each_name(store: Store) -> None:
    older, newer = Window("5h", "allowed", 0.25, NOW), Window("5h", None, 0.5, None)
    weekly = Window("7d", "rejected", 1.25, NOW + 0.5)
    store.write([WindowRead("a", at, window) for at, window in enumerate((older, weekly, newer))])
    store.write([WindowRead("b", 0, older)])
    assert store.limits.latest_windows() == {"a": (newer, weekly), "b": (older,)}


def test_tunnels_are_rows_that_end_and_are_deleted_by_age(store: Store) -> None:
    who = ("ck_1", "laptop", "127.0.0.1", "name.test", 443, "1.1.1.1")
    at = int(NOW * 1000)
    store.write([TunnelOpened("old", *who, "r", at - 2000), TunnelEnded("old", at - 1000, 7, 9, "closed")])
    store.write([TunnelOpened("cut", *who, "dead", at)])
    columns = "SELECT id, ended_at, sent_bytes, received_bytes, ended FROM tunnels ORDER BY opened_at"
    assert store.query(columns) == [("old", at - 1000, 7, 9, "closed"), ("cut", None, None, None, None)]

    close_dead_runs(store)
    assert store.history.delete_tunnels(NOW - 1) == 1

    assert store.query(columns) == [("cut", None, None, None, "the proxy died")]


def close_dead_runs(store: Store, *, alive: tuple[int, ...] = (), now: float = NOW) -> int:
    return store.runs.close_dead("host", lambda pid: pid in alive, now)


def outcomes(store: Store) -> dict[str, str | None]:
    return dict(store.query("SELECT id, outcome FROM requests"))


def test_open_exchanges_of_a_dead_process_have_crashed(store: Store) -> None:
    store.runs.start("dead", "host", 11)
    store.runs.start("live", "host", 22)
    store.runs.start("mine", "host", 33)
    store.write([started(run, run_id=run) for run in ("dead", "live", "mine", "never heard of")])
    store.write([ExchangeFinished("mine", "ok", True)])
    assert close_dead_runs(store, alive=(22,)) == 2
    assert outcomes(store) == {"dead": "crashed", "never heard of": "crashed", "live": None, "mine": "ok"}
    assert store.query("SELECT id FROM runs WHERE ended_at = heartbeat_at") == [("dead",)]


@pytest.mark.parametrize(("age", "crashed"), [(3599.0, 0), (3601.0, 1)])
def test_a_run_elsewhere_is_over_at_the_start_if_no_clock_can_be_so_wrong(
    age: float, crashed: int, store: Store
) -> None:
    store.runs.start("far", "another host", 11)
    store.runs.start("mine", "host", 33)
    store.write([started("r1", run_id="far")])
    assert close_dead_runs(store, alive=(11,), now=NOW + age) == crashed


def test_the_heartbeat_counts(location: Location, store: Store) -> None:
    store.runs.start("far", "another host", 11)
    store.write([started("r1", run_id="far")])
    later = open_store(location, now=NOW + 50)
    later.heartbeat("far")
    assert close_dead_runs(later, now=NOW + 3640) == 0
    later.runs.end("far")
    assert close_dead_runs(later, now=NOW + 3640) == 1
    later.close()


def test_an_exchange_that_lives_after_all_gets_its_true_outcome(store: Store) -> None:
    store.write([started("r1", run_id="gone")])
    close_dead_runs(store)
    store.write([ExchangeFinished("r1", "ok", True)])
    assert outcomes(store) == {"r1": "ok"}


# -- exchanges


def test_every_column_of_an_exchange_gets_its_own_value(store: Store) -> None:
    numbers = {name: 1000 + index for index, name in enumerate(ExchangeFinished._fields)}
    texts = {name: f"the {name}" for name, kind in ExchangeFinished.__annotations__.items() if "str" in str(kind)}
    truths = {"success": True, "stream": False, "estimated": True}
    finished = ExchangeFinished(**{**numbers, **texts, **truths, "id": "r1"})  # type: ignore[arg-type]
    store.write([started("r1"), finished])
    found = row(store, "requests")
    assert {name: found[name] for name in ExchangeFinished._fields} == finished._asdict()
    first = started("r1")
    names = set(first._fields) - {"timestamp_ms", "model", "session_id"}
    assert {name: found[name] for name in names} == {name: getattr(first, name) for name in names}
    assert found["timestamp"] == first.timestamp_ms


def test_an_open_exchange_has_no_outcome_and_an_end_keeps_model_and_session(store: Store) -> None:
    store.write([started("r1")])
    assert (row(store, "requests")["outcome"], row(store, "requests")["cost_usd"]) == (None, None)
    store.write([ExchangeFinished("r1", "ok", True)])
    assert (row(store, "requests")["model"], row(store, "requests")["session_id"]) == ("claude-opus-4-8", "s-1")


def test_an_attempt_keeps_its_windows(store: Store) -> None:
    store.write([started("r1"), attempt("r1")])
    found = row(store, "attempts")
    assert [Window(**window) for window in json.loads(found["windows"])] == list(WINDOWS)
    assert (found["number"], found["verdict"], found["duration_ms"]) == (1, "ok", 12.5)


def test_a_body_opens_again(store: Store) -> None:
    store.write([started("r1"), payload("r1", b"hello", part="response")])
    found = row(store, "payloads")
    assert store.body("r1", "response") == Body(b"hello", "application/json", "", truncated=False, size=5)
    assert store.transcripts.bodies("r1") == {"response": store.body("r1", "response")}
    assert (found["content_type"], found["size"], found["truncated"]) == ("application/json", 5, 0)


@settings(max_examples=8, deadline=None)
@given(size=st.integers(1, 300))
def test_batches_of_any_size_arrive_whole(size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = open_store(tmp_path_factory.mktemp("batch") / "ccflare.db")
    store.write([started(f"r{number}") for number in range(size)])
    assert {name for (name,) in store.query("SELECT id FROM requests")} == {f"r{n}" for n in range(size)}
    store.close()


def test_a_batch_is_written_whole_or_not_at_all(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.write([started("r1"), attempt("nobody")])
    assert count(store, "requests") == 0


def test_deleting_a_request_takes_its_attempts_and_bodies_along(store: Store) -> None:
    store.write(exchange("r1"))
    store.query("DELETE FROM requests")
    assert (count(store, "attempts"), count(store, "payloads")) == (0, 0)


def test_the_review_query_runs_as_it_was_written(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    store.write(exchange("r1"))
    store.query("UPDATE requests SET timestamp = strftime('%s','now') * 1000")
    sql = (
        "SELECT COUNT(*) as count, account_used FROM requests "
        "WHERE timestamp > strftime('%s','now','-1 hour') * 1000 GROUP BY account_used ORDER BY count DESC"
    )
    assert store.query(sql) == [(1, "a")]
    store.close()


@pytest.mark.parametrize("bad", ["\udc80 lone", "a\0b", "\ud83d"])
def test_text_that_no_database_takes_is_spelt_out(bad: str, store: Store) -> None:
    store.write([storable(started("r1", user_agent=bad))])
    assert row(store, "requests")["user_agent"].isprintable()


def test_numbers_that_no_database_takes_are_unknown(store: Store) -> None:
    finished = ExchangeFinished("r1", "ok", True, output_tokens=2**70, cost_usd=float("nan"))
    reading = WindowRead("a", 1, Window("5h", None, float("inf"), float("inf")))
    store.write([storable(record) for record in (started("r1"), finished, reading, CooldownSet(a_cooldown()))])
    assert row(store, "requests")["output_tokens"] is None
    assert row(store, "windows")["resets_at"] is None


# -- beside other processes


def test_changed_tells_of_other_processes_only(location: Location, store: Store) -> None:
    store.accounts.add(an_account())
    assert not store.changed()
    program = (
        "import sys, database_kit as kit; store = kit.open_store(sys.argv[1]);"
        "store.accounts.update('id of max-1', paused=True); store.close()"
    )
    start_python(program, location).communicate(timeout=60)
    assert (store.changed(), store.changed()) == (True, False)


def test_a_file_that_was_deleted_in_use_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ccflare.db")
    (tmp_path / "ccflare.db").unlink()
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.write([started("r1")])
    store.close()


def test_a_closed_store_says_so_and_closes_again(location: Location) -> None:
    store = open_store(location)
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.accounts.all()


# -- attention


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"paused": False}, None),
        ({"login_at": NOW}, None),
        ({"api_key": "sk-ant-api03-new"}, None),
        ({"paused": True}, "on hold"),
        ({"access_token": "new", "expires_at": NOW}, "on hold"),  # a refresh
        ({"priority": 3}, "on hold"),
    ],
)
def test_attention_ends_with_a_resume_or_a_login(store: Store, change: dict[str, Any], left: str | None) -> None:
    account = an_account("a")
    store.accounts.add(account)
    store.write([AttentionNeeded(account.id, "on hold")])
    assert store.has_changed_accounts

    store.accounts.update(account.id, **change)

    assert [account.attention for account in store.accounts.all()] == [left]


def test_attention_and_its_end_are_audited_once(store: Store) -> None:
    account = an_account("a")
    store.accounts.add(account)

    store.write([AttentionNeeded(account.id, "on hold"), AttentionNeeded(account.id, "disabled")])
    store.write([AttentionNeeded(account.id, "on hold")])
    store.accounts.update(account.id, paused=False)
    store.accounts.update(account.id, paused=False)

    found = [(row.action, row.actor, row.target, json.loads(row.detail)) for row in store.audit.rows_after(1, 9)]
    begun, resumed, again = found
    assert begun == ("account.attention", "proxy", account.name, {"id": account.id, "reason": "on hold"})
    assert resumed[0] == again[0] == "account.resume"
    assert resumed[3]["changes"]["attention"] == {"before": "on hold", "after": None}
    assert "attention" not in again[3]["changes"]


def test_attention_that_cannot_be_audited_is_not_kept_and_costs_no_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = an_account("a")
    store.accounts.add(account)

    def refuse(entry: object) -> None:
        raise AuditError("the chain is broken")

    monkeypatch.setattr(store.audit, "add", refuse)
    store.write([AttentionNeeded(account.id, "on hold"), CooldownSet(a_cooldown("a"))])

    assert [account.attention for account in store.accounts.all()] == [None]
    assert len(store.limits.cooldowns()) == 1


@pytest.mark.parametrize("part", [WHOLE, Part(Scope.PATH_CLASS, "files"), Part(Scope.MODE, "fast")])
def test_cooldown_of_any_part_is_kept_and_ended_by_itself(store: Store, part: Part) -> None:
    kept = replace(a_cooldown("a", "opus"), part=Part(Scope.BETA, part.name))
    cooldown = replace(a_cooldown("a"), part=part)
    store.write([CooldownSet(kept), CooldownSet(cooldown)])
    assert {each.part for each in store.limits.cooldowns()} == {kept.part, part}

    store.write([CooldownCleared("a", part)])

    assert store.limits.cooldowns() == [kept]


def test_outcome_is_corrected_in_the_same_batch_or_later(store: Store) -> None:
    correction = OutcomeCorrected("x", "upstream_error", "silent")
    store.write([*exchange("x"), correction, *exchange("y")])
    store.write([correction._replace(id="y"), correction._replace(id="never recorded")])

    found = store.query("SELECT id, outcome, error_message FROM requests ORDER BY id")
    assert found == [("x", "upstream_error", "silent"), ("y", "upstream_error", "silent")]
