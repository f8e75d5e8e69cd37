"""`scripts/keys.py client`, as a person uses it."""

import contextlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.keys.main import main
from ccflare_core.clients.keys import ClientKey, Role, is_key
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from desk import Desk
from history import NOON

Run = Callable[..., Desk]
DAY = 86_400


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "ccflare.db"


@pytest.fixture
def run(database: Path) -> Run:
    def run(*argv: str, code: int = 0) -> Desk:
        desk = Desk()
        assert main(["client", *argv, "--database", str(database)], desk.console()) == code, desk.complained
        return desk

    return run


def stored(database: Path, name: str = "laptop") -> ClientKey:
    with contextlib.closing(Store.open(database, None, read_only=True)) as store:
        return store.clients.by_name(name)


def is_known(database: Path, secret: str) -> bool:
    with contextlib.closing(Store.open(database, KeyFile(database.with_suffix(".key")))) as store:
        return store.clients.ring().find(secret) is not None


def listed(run: Run, *argv: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("list", "--format", "json", *argv).said)
    return rows


def test_a_new_key_is_shown_once_and_alone_on_stdout(run: Run, database: Path) -> None:
    desk = run("add", "laptop")

    secret = desk.said.strip()
    assert is_key(secret)
    assert secret not in desk.complained
    assert "It is the first one" in desk.complained
    assert is_known(database, secret)
    assert "first one" not in run("add", "other").complained
    assert secret not in run("list").said


def test_a_name_that_is_a_secret_is_not_kept(run: Run, database: Path) -> None:
    secret = run("add", "laptop").said.strip()

    desk = run("add", secret, code=1)

    assert "has the form of a key or token" in desk.complained
    assert [key["name"] for key in listed(run)] == ["laptop"]


def test_everything_can_be_said_at_once(run: Run, database: Path) -> None:
    run(
        *("add", "laptop", "--role", "viewer", "--expires", "30d", "--requests-per-minute", "30"),
        *("--tokens-per-day", "2000000", "--dollars-per-day", "0.50", "--dollars-per-month", "10"),
        *("--models", "claude-haiku-*, claude-sonnet-5", "--accounts", "max-*", "--not-accounts", "max-2"),
        *("--concurrency", "2", "--low-priority", "--record", "metadata"),
    )

    key = stored(database)
    assert (key.role, key.created_at, key.expires_at) == (Role.VIEWER, NOON, NOON + 30 * DAY)
    assert (key.requests_per_minute, key.tokens_per_day, key.concurrency) == (30, 2_000_000, 2)
    assert (key.dollars_per_day, key.dollars_per_month) == (Decimal("0.5"), Decimal(10))
    assert (key.models, key.accounts) == (("claude-haiku-*", "claude-sonnet-5"), ("max-*",))
    assert (key.not_accounts, key.low_priority, key.record) == (("max-2",), True, "metadata")


def test_a_new_key_opens_no_tunnels_unless_that_is_said(run: Run, database: Path) -> None:
    assert "--tunnels allows them" in run("add", "laptop").complained
    assert not stored(database).tunnels

    run("change", "laptop", "--tunnels")

    assert stored(database).tunnels
    assert "tunnels" in run("list").said
    assert "--tunnels" not in run("add", "desktop", "--tunnels").complained


def test_a_change_can_take_limits_away(run: Run, database: Path) -> None:
    run("add", "laptop", "--expires", "1h", "--models", "x", "--low-priority", "--concurrency", "2", "--record", "off")
    nothing = ("--expires", "none", "--models", "none", "--low-priority", "no", "--record", "none")
    run("change", "laptop", *nothing, "--role", "admin")

    key = stored(database)
    assert (key.expires_at, key.models, key.low_priority, key.record) == (None, (), False, None)
    assert (key.concurrency, key.role) == (2, Role.ADMIN)


@pytest.mark.parametrize(
    "option", ["--accounts", "--models", "--not-accounts", "--expires", "--concurrency", "--record"]
)
def test_none_is_no_limit_that_a_new_key_could_have(run: Run, database: Path, option: str) -> None:
    desk = run("add", "laptop", option, "none", code=1)

    assert "leave an option out" in desk.complained
    assert not database.exists()


def test_a_key_for_managed_agents_has_no_limit_that_they_would_pass_by(run: Run, database: Path) -> None:
    run("add", "laptop", "--stateful", "--requests-per-minute", "30")
    assert stored(database).stateful
    assert "30/min, managed agents" in run("list").said

    for limit in (("--models", "claude-haiku-*"), ("--tokens-per-day", "1"), ("--dollars-per-month", "1")):
        assert "no list of models" in run("change", "laptop", *limit, code=1).complained
        assert "no list of models" in run("add", "other", "--stateful", *limit, code=1).complained
    run("change", "laptop", "--stateful", "no", "--tokens-per-day", "1")
    assert (stored(database).stateful, stored(database).tokens_per_day) == (False, 1)


def test_a_rotated_key_has_a_new_secret(run: Run, database: Path) -> None:
    first = run("add", "laptop").said.strip()
    second = run("rotate", "laptop", "--grace", "1h").said.strip()
    assert is_known(database, first)
    desk = run("rotate", "laptop")
    assert "no longer" in desk.complained
    assert [is_known(database, secret) for secret in (first, second, desk.said.strip())] == [False, False, True]


def test_a_revoked_key_is_no_longer_listed_but_remembered(run: Run) -> None:
    run("add", "laptop")
    run("revoke", "laptop")

    assert "every" in run("list").said.lower()
    (row,) = listed(run, "--all")
    assert (row["name"], row["state"]) == ("laptop", "revoked")
    assert listed(run) == []


def test_the_list_tells_what_a_key_may(run: Run) -> None:
    assert "There is no client key" in run("list").said
    run("add", "laptop", "--dollars-per-day", "5", "--models", "claude-haiku-*", "--expires", "1d")
    shown = run("list").said
    assert "$5/day, models claude-haiku-*" in shown
    (row,) = listed(run)
    assert (row["dollars_per_day"], row["models"], row["requests"]) == (5.0, ["claude-haiku-*"], 0)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("revoke", "nobody"), "There are no client keys"),
        (("add", "laptop", "--expires", "2001-01-01"), "That time is over"),
        (("change", "laptop"), "Say what to change"),
    ],
)
def test_what_is_refused(run: Run, argv: tuple[str, ...], sentence: str) -> None:
    assert sentence in run(*argv, code=1).complained


@pytest.mark.parametrize(
    "argv",
    [
        ("add", "two words"),
        ("add", "x", "--expires", "soon"),
        ("add", "x", "--dollars-per-day", "-1"),
        ("add", "x", "--dollars-per-day", "NaN"),
        ("add", "x", "--models", "a,,b"),
        ("add", "x", "--record", "all"),
        ("add", "x", "--role", "root"),
        ("add", "x", "--concurrency", "0"),
        ("rotate", "x", "--grace", "-1h"),
        ("add", "x", "--low-priority", "maybe"),
    ],
)
def test_what_is_misuse(run: Run, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*argv)
    assert exit_.value.code == 2


def test_a_new_key_says_how_it_is_used(run: Run) -> None:
    told = run("add", "laptop").complained

    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_AUTH_TOKEN=KEY" in told
    assert "HTTPS_PROXY=http://key:KEY@127.0.0.1:8080" in told
    viewers = run("add", "boss", "--role", "viewer").complained
    assert "BASE_URL" not in viewers
    assert "http://127.0.0.1:8080/ccflare/login" in viewers


def test_what_is_told_of_a_new_key_has_tls_where_the_proxy_does(database: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("ccflare_client_tls: required\n")
    desk = Desk(environ={"ccflare_CONFIG_PATH": str(config)})

    assert main(["client", "add", "laptop", "--tunnels", "--database", str(database)], desk.console()) == 0

    assert "http://" not in desk.complained
    assert "HTTPS_PROXY=https://key:KEY@127.0.0.1:8080" in desk.complained


def test_who_revokes_the_last_key_that_is_served_hears_that_nobody_is(run: Run) -> None:
    for name, role in (("one", "client"), ("two", "client"), ("boss", "viewer")):
        run("add", name, "--role", role)

    assert run("revoke", "one").complained == ""
    told = run("revoke", "two").complained

    assert "nobody is served now" in told
    assert "ccflare_open_loopback" in told
