"""The commands of mitmweb and the console tell of accounts and requests, and change accounts."""

import re
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from ccflare_core.clients.guardrail_files import parse
from ccflare_core.clients.guardrails import Ruling
from ccflare_core.errors import CCFlareError, NotFound
from ccflare_core.exchange.exchange import Exchange
from ccflare_mitm.inspector.commands import (
    MOST,
    AccountName,
    Commands,
    ConsoleAccounts,
    Doing,
    ExportFormat,
    SessionId,
)
from ccflare_mitm.inspector.export import Address, Exports
from exchange_kit import OK, OPUS, Bench, limited, refusal

pytestmark = pytest.mark.usefixtures("utc")
LINK = "http://127.0.0.1:8080/ccflare/"


class Desk:
    """The commands over a pool and a list of flows."""

    def __init__(self, accounts: str = "ab", link: str = "") -> None:
        self.bench = Bench(accounts)
        self.stories: dict[str, Exchange] = {}
        self.flows: list[http.HTTPFlow] = []
        self.changes: list[tuple[str, str, dict[str, Any]]] = []
        self.loads: list[float] = []
        self.exports = Exports(
            lambda flow: self.stories.get(flow.id),
            lambda: Address("http", "127.0.0.1", 8080),
            lambda flow, view: f"{view} of {flow.id}",
        )
        self.commands = Commands(
            ConsoleAccounts(self.bench.pool.status, self._change),
            lambda: self.flows,
            lambda flow: self.stories.get(flow.id),
            Doing(lambda flow, account: f"{flow.id} {account}", self.exports, self.loads.append),
            lambda: self.bench.clock.wall,
            lambda: link,
        )

    def _change(self, name: str, told: str, **fields: Any) -> None:
        self.changes.append((name, told, fields))

    def add(self, *replies: Any, session: str = "session-1") -> http.HTTPFlow:
        flow = tflow.tflow(resp=True)
        self.stories[flow.id] = self.bench.serve(*replies, facts=replace(OPUS, session_id=session))
        self.flows.append(flow)
        return flow


def test_accounts_are_told_with_their_states_and_windows() -> None:
    desk = Desk(link=LINK)
    desk.add(limited(22_800), OK)

    found = desk.commands.accounts()

    assert found.sentence == (f"max-a: cooling until 14:20: 5h window spent; max-b: serving. More at {LINK}")
    assert found.rows == [
        ("max-a", "cooling until 14:20: 5h window spent", "50", "0", "5h 100% until 14:20"),
        ("max-b", "serving", "50", "0", ""),
    ]


def test_no_account_is_told() -> None:
    assert Desk("").commands.accounts().sentence == "there is no account yet"


def test_requests_are_a_table_with_the_newest_first_and_the_flow_to_ask_about() -> None:
    desk = Desk()
    first, second = desk.add(OK), desk.add(refusal(404, "not_found_error"))
    desk.flows.insert(1, tflow.tflow())  # of which nothing is known

    found = desk.commands.requests()

    assert found.sentence == ("2 requests in the list: 1 ok, 1 upstream_error; $0.0129 as far as prices are known")
    assert found.rows == [
        ("08:00:00", "max-a ✗ not_found_error", "opus-4-8", "", "", "upstream_error", "0.0", f"@{second.id}"),
        ("08:00:00", "max-a", "opus-4-8", "1.2k→312", "$0.013", "ok", "0.0", f"@{first.id}"),
    ]
    assert all(len(row) == len(found.head) for row in found.rows)


def test_very_many_requests_are_cut_to_the_newest() -> None:
    desk = Desk("a")
    flow = desk.add(OK)
    desk.flows = [flow] * (MOST + 5)
    found = desk.commands.requests()
    assert len(found.rows) == MOST
    assert found.sentence.startswith(f"{MOST + 5} requests in the list: {MOST + 5} ok; ")


def test_a_session_is_told_by_itself() -> None:
    desk = Desk()
    desk.add(OK, session="one-long-session")
    flow = desk.add(OK, session="another-session")
    assert [row[-1] for row in desk.commands.session(SessionId("another-session")).rows] == [f"@{flow.id}"]
    sessions = desk.commands.words()[1]
    assert sessions.completion(None, SessionId, "") == ["one-long-session", "another-session"]


def test_why_tells_the_choice_the_others_and_each_attempt() -> None:
    desk = Desk("abc")
    flow = desk.add(limited(22_800), OK)

    found = desk.commands.why(flow)

    assert found.rows[0][0] == "account"
    assert re.fullmatch(r"max-[abc] \(.+\)", found.rows[0][1])
    told = {row[0]: row[1] for row in found.rows}
    assert told["attempt 1"] == "max-a, 5h window spent until 14:20, 0.0 s"
    assert told["attempt 2"].endswith(", ok, 0.0 s")
    assert told["outcome"] == "ok"
    assert "max-a" in told
    assert found.sentence.startswith("account: max-")


def test_why_names_the_rules_that_the_request_had_to_keep_to() -> None:
    desk = Desk()
    flow = desk.add(OK)
    rules = parse(b"spare: {accounts: max-*, effort: high}\nnight: {prefer: max-b}", "rules.yaml").rules
    desk.stories[flow.id].ruled(Ruling(rules, frozenset({"night"})))

    told = {row[0]: row[1] for row in desk.commands.why(flow).rows}

    assert told["rule spare"] == "accounts: max-* only; effort: at most high"
    assert told["rule night"] == "first: max-b (it may not be meant for it, which cannot be told)"


@pytest.mark.parametrize("flow", [tflow.tflow(), tflow.ttcpflow()])
def test_why_says_so_of_a_flow_that_is_none_of_ours(flow: Any) -> None:
    with pytest.raises(NotFound, match="has no exchange of this flow"):
        Desk().commands.why(flow)


def test_accounts_are_changed() -> None:
    desk = Desk()
    name = AccountName("max-a")

    told = [desk.commands.pause(name), desk.commands.resume(name), desk.commands.priority(name, 7)]

    assert told == ["max-a is being paused", "max-a is being resumed", "max-a is being given the priority 7"]
    assert desk.changes == [
        ("max-a", "is paused", {"paused": True}),
        ("max-a", "is resumed", {"paused": False}),
        ("max-a", "has the priority 7", {"priority": 7}),
    ]


@pytest.mark.parametrize("number", [0, 100, -5])
def test_a_priority_out_of_range_is_refused(number: int) -> None:
    desk = Desk()
    with pytest.raises(CCFlareError, match=f"from 1 .first. to 99 .last., and not {number}"):
        desk.commands.priority(AccountName("max-a"), number)
    assert desk.changes == []


def test_names_are_such_that_mitmweb_calls_them() -> None:
    assert [name for name in Desk().commands.all() if not re.fullmatch("[a-z.]+", name)] == []


def test_a_flow_is_replayed_and_exported_elsewhere() -> None:
    desk = Desk()
    flow = desk.add(OK)
    assert desk.commands.replay(flow) == f"{flow.id} "
    assert desk.commands.replay(flow, AccountName("max-a")) == f"{flow.id} max-a"
    assert desk.commands.export(flow, ExportFormat("events")).text == f"Claude events of {flow.id}"
    assert desk.commands.words()[2].completion(None, ExportFormat, "") == ["curl", "httpie", "conversation", "events"]
    for command in (desk.commands.replay, lambda each: desk.commands.export(each, ExportFormat("curl"))):
        with pytest.raises(NotFound, match="no request"):
            command(tflow.ttcpflow())


def test_what_was_recorded_is_loaded_from_a_time_on() -> None:
    desk = Desk()
    assert desk.commands.load("2h") == "what was recorded in the last 2h is being loaded"
    assert desk.loads == [desk.bench.clock.wall - 7200]
    with pytest.raises(CCFlareError, match="is no time to go back"):
        desk.commands.load("yesterday")
    assert len(desk.loads) == 1
