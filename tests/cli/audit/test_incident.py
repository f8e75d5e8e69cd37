"""`audit.py who-used` and `bundle`, `keys.py rotate-all`."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.audit import main as audit
from ccflare_cli.keys import main as keys
from ccflare_core.config.location import Location
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from desk import Desk
from history import KEY, NOON, History

HEX_KEY = bytes(range(32)).hex()
Run = Callable[..., Desk]


@pytest.fixture
def history(location: Location) -> Iterator[History]:
    """Two accounts with a past."""
    with History(location) as history:
        for name in ("max-1", "max-2"):
            history.account(name)
        history.exchange(NOON - 7200, "max-1")
        for minutes in (5, 10):
            history.exchange(NOON - 60 * minutes, "max-1", client="10.0.0.7")
        history.exchange(NOON - 60, "max-2")
        yield history


@pytest.fixture
def run(history: History, tmp_path: Path) -> Run:
    def run(*argv: str, code: int = 0, main: Callable[..., int] = audit.main) -> Desk:
        desk = Desk(environ={"ccflare_ENCRYPTION_KEY": HEX_KEY, "XDG_DATA_HOME": str(tmp_path)})
        assert main([*argv, "--database", str(history.location)], desk.console()) == code, desk.complained
        return desk

    return run


def uses(run: Run, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("who-used", *argv, "--format", "json").said)
    return found


def test_who_has_used_an_account_and_how_often(run: Run) -> None:
    found = {use["ip"]: use["requests"] for use in uses(run, "max-1")}
    assert found == {"127.0.0.1": 1, "10.0.0.7": 2}
    assert "10.0.0.7" in run("who-used", "max-1").said


def test_what_is_unknown_is_a_price_and_no_failure(run: Run, history: History) -> None:
    history.exchange(NOON - 30, "max-2", client="10.0.0.8", outcome="upstream_error")
    history.exchange(NOON - 30, "max-2", client="10.0.0.9", model="claude-new", output_tokens=7)

    costs = {use["ip"]: (use["cost_usd"], use["unknown_costs"]) for use in uses(run, "max-2")}

    assert (costs["10.0.0.8"], costs["10.0.0.9"]) == ((None, 0), (None, 1))
    failed, unpriced = (
        next(line for line in run("who-used", "max-2").said.splitlines() if ip in line)
        for ip in ("10.0.0.8", "10.0.0.9")
    )
    assert failed.endswith("$0.00")
    assert unpriced.endswith("?")


def test_only_the_period_counts(run: Run) -> None:
    assert [use["ip"] for use in uses(run, "max-1", "--between", "1h", "now")] == ["10.0.0.7"]
    assert [use["ip"] for use in uses(run, "max-1", "--between", "3h", "1h")] == ["127.0.0.1"]
    assert "earlier time first" in run("who-used", "max-1", "--between", "1h", "3h", code=1).complained


def test_an_account_that_was_only_tried_counts_and_one_that_is_gone_too(run: Run, history: History) -> None:
    request = history.exchange(NOON - 30, "max-2", client="10.0.0.9")
    history.attempt(request, NOON - 30, "max-1", "failure", "500", 500)
    assert "10.0.0.9" in {use["ip"] for use in uses(run, "max-1")}
    history.store.accounts.remove("MAX-1")
    assert "10.0.0.7" in {use["ip"] for use in uses(run, "max-1")}


def test_nobody(run: Run) -> None:
    assert uses(run, "no-such-account") == []
    assert "Nobody has used that account" in run("who-used", "no-such-account").said


def test_a_bundle_holds_what_is_known_and_no_secret(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "evidence.zip"
    said = run("bundle", str(file), "--between", "1h", "now").said

    assert sha256(file.read_bytes()).hexdigest() in said
    assert file.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts.pop("manifest.json"))
    assert manifest["sha256"] == {name: sha256(data).hexdigest() for name, data in parts.items()}
    assert manifest["audit_anchor"]
    assert [json.loads(line)["client_ip"] for line in parts["requests.jsonl"].splitlines()] == [
        *("10.0.0.7", "10.0.0.7", "127.0.0.1"),
    ]
    assert b"data.export" in parts["audit.jsonl"]
    assert not [name for name, data in parts.items() if b"token-of" in data]


def test_a_bundle_replaces_no_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "evidence.zip"
    file.write_text("mine")
    assert "there already" in run("bundle", str(file), code=1).complained
    assert file.read_text() == "mine"
    assert "cannot be written" in run("bundle", str(tmp_path / "none" / "evidence.zip"), code=1).complained


def test_everything_is_renewed_at_once(run: Run, history: History) -> None:
    old = history.store.clients.add(new_key("laptop", NOON))
    history.store.clients.add(new_key("gone", NOON))
    history.store.clients.revoke("gone")
    before = [key.id for key in history.store.data_keys()]
    assert "--yes" in run("rotate-all", code=1, main=keys.main).complained

    desk = run("rotate-all", "--yes", "--format", "json", main=keys.main)

    (renewed,) = json.loads(desk.said)
    assert renewed["name"] == "laptop"
    assert renewed["secret"] != old
    assert "accounts.py login max-1" in desk.complained
    with closing(Store.open(history.location, KEY)) as store:
        assert len(store.data_keys()) == 1
        assert store.data_keys()[0].id not in before
        assert [account.access_token for account in store.accounts.all()] == ["token-of-max-1", "token-of-max-2"]
        ring = store.clients.ring()
        assert ring.find(old) is None
        assert (found := ring.find(renewed["secret"])) is not None
        assert found.key.name == "laptop"
