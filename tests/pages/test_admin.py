"""The pages of our own: what they say of the pool, and that they hold no secret."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow, tutils

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.exchange.records import ExchangeStarted
from ccflare_core.exchange.steps import Outcome
from ccflare_core.reports.queries import Wanted
from ccflare_core.reports.traffic import Period
from ccflare_core.store.store import Store
from ccflare_core.text import to_ms
from exchange_kit import EPOCH, JSON, Bench, Reply, account, limited
from guard_kit import a_gate, an_admin
from history import History

SECRET = "sk-ant-secret"
USED = Reply(
    200,
    (
        *JSON,
        (b"anthropic-ratelimit-unified-5h-utilization", b"0.42"),
        (b"anthropic-ratelimit-unified-5h-status", b"allowed"),
        (b"anthropic-ratelimit-unified-5h-reset", b"1800003600"),
    ),
)


def answer(bench: Bench, path: str = "/ccflare/health", method: str = "GET") -> Reply:
    flow = tflow.tflow(req=tutils.treq(host="127.0.0.1", port=8080, path=path.encode(), method=method.encode()))
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    a_gate(bench).enter(flow)
    assert flow.response is not None
    return Reply(flow.response.status_code, flow.response.headers.fields, flow.response.content or b"")


def health(bench: Bench) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(answer(bench).body)
    return content


def test_health_of_a_pool_that_serves() -> None:
    bench = Bench("a")
    bench.serve(USED)
    exchange = bench.begin()
    exchange.next_step()

    told = health(bench)
    (told_of_account,) = told.pop("accounts")
    changes = {"changes": "polled", "changes_problem": None}
    telemetry = {"telemetry": "off", "telemetry_problem": None, "telemetry_lost": 0}
    rules = {"rules": 0, "rules_problem": None}
    who = {"proxy": "here:8080", "run": "run-1", "worker": None}
    assert told == {"status": "ok", "ready": True, "open_exchanges": 1, **who, **changes, **telemetry, **rules}
    assert (
        told_of_account.items()
        >= {
            "name": "max-a",
            "kind": "oauth",
            "priority": 50,
            "available": True,
            "reason": "serving",
            "available_at": None,
            "in_flight": 1,
        }.items()
    )
    assert told_of_account["windows"] == [
        {"name": "5h", "status": "allowed", "utilization": 0.42, "resets_at": "2027-01-15T09:00:00Z"}
    ]


def test_an_account_tells_how_long_its_token_and_its_login_last() -> None:
    bench = Bench("")
    bench.pool.replace_accounts([account("a", expires_at=EPOCH + 60, login_at=EPOCH, login_expires_at=EPOCH + 3600)])

    (told,) = health(bench)["accounts"]

    assert told["token"] == "of max-a"
    assert told["token_expires_at"] == "2027-01-15T08:01:00Z"
    assert (told["login_at"], told["login_expires_at"]) == ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z")
    assert told["warning"]


def test_a_resting_account_says_why_and_until_when() -> None:
    bench = Bench("a", hold_seconds=0)
    bench.serve(limited(3600))

    (told,) = health(bench)["accounts"]

    assert not told["available"]
    assert told["reason"].startswith("cooling until ")
    assert told["available_at"] == "2027-01-15T09:00:00Z"


@pytest.mark.parametrize("path", ["/ccflare/health", "/ccflare/ready"])
def test_no_page_holds_a_secret(path: str) -> None:
    bench = Bench("")
    oauth = account("a", access_token=f"{SECRET}-1", refresh_token=f"{SECRET}-2")
    bench.pool.replace_accounts([oauth, Account("k", "key", Kind.API_KEY, api_key=f"{SECRET}-3")])
    bench.begin(body=SECRET.encode()).next_step()

    told = answer(bench, path)

    assert SECRET not in repr(told)
    assert told.status == 200


@pytest.mark.parametrize(
    ("ids", "paused", "passthrough", "ready"),
    [
        ("a", False, "auto", True),
        ("a", True, "auto", False),
        ("a", True, "always", True),
        ("", False, "auto", True),
        ("", False, "never", False),
        ("", False, "always", True),
    ],
)
def test_ready_means_that_a_request_can_be_routed_now(ids: str, paused: bool, passthrough: str, ready: bool) -> None:
    bench = Bench("", passthrough=passthrough)
    bench.pool.replace_accounts([replace(account(id), paused=paused) for id in ids])

    assert health(bench)["ready"] is ready
    assert answer(bench, "/ccflare/ready").status == (200 if ready else 503)
    assert answer(bench, "/ccflare/health").status == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/ccflare/health?verbose", "GET", 200),
        ("/ccflare/health", "HEAD", 200),
        ("/ccflare/health", "POST", 405),
        ("/ccflare/nothing", "GET", 404),
        ("/ccflare/healthy", "GET", 404),
        ("/ccflare/accounts", "DELETE", 405),
        ("/ccflare/accounts", "GET", 200),
        ("/ccflare/accounts/max-a/pause", "GET", 403),
    ],
)
def test_which_pages_there_are(path: str, method: str, status: int) -> None:
    assert answer(Bench(), path, method).status == status


async def test_a_request_that_ends_while_the_record_is_read_is_told_with_its_end(tmp_path: Path) -> None:
    bench = Bench("a")
    exchange = bench.begin()
    with History(tmp_path / "ccflare.db") as history:
        started = ExchangeStarted(exchange.id, to_ms(EPOCH), "POST", "/v1/messages", "", "", None, "base", "run", None)
        history.store.write([started])

        async def read[T](function: Callable[[Store], T]) -> T:
            found = function(history.store)
            exchange.finish(Outcome.CLIENT_ABORT)
            return found

        admin, wanted = an_admin(bench, read=read), Wanted(model="claude-opus-4-8")
        (row,) = await admin.requests(Period(0, EPOCH + 9), 9, wanted, None, EPOCH)

    assert (row.id, row.model, row.outcome) == (exchange.id, "claude-opus-4-8", "client_abort")
