"""The dashboard's pages over a past: what they show, what they escape, and which queries they refuse."""

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.authentication import OWNER, Identity
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.reports.queries import Wanted
from ccflare_core.store.store import Store
from ccflare_mitm.pages.html import own_path
from ccflare_mitm.pages.overview import card
from ccflare_mitm.pages.readers import Readers
from ccflare_mitm.pages.requests import _wanted
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import Visit
from exchange_kit import REJECTED, START, STREAM, Bench
from guard_kit import an_admin, forget
from history import KEY, NOON, History

DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello there."}}\n\n'
)
ODD = "<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("past") / "ccflare.db"
    with History(path) as history:
        history.account("max-1")
        history.account("max-2")
        told: dict[str, Any] = {"output_tokens": 312, "cost_usd": 0.012, "tags": {"ticket": "a&b", "who": "<me>"}}
        history.exchange(NOON - 60, "max-1", model="claude-opus-4-8", **told)
        history.exchange(NOON - 50, "max-2", key=ODD, model=ODD, session="s2", failover_attempts=1)
        history.exchange(NOON - 40, None, outcome="refused", error_message=ODD, status_code=503)
        for number in range(120):
            history.exchange(NOON - 7200 - number, "max-1", session="many")
        for minutes in range(0, 70, 10):
            history.window("max-1", "5h", 0.3 + minutes / 100, NOON + 9000, at=NOON - 3600 + minutes * 60)
    return path


async def asked(path: Path, target: str, bench: Bench | None = None) -> Answer:
    """What a page answers to the owner's browser."""
    bench = bench or Bench("a")
    bench.pool.replace_accounts([Account("MAX-1", "max-1", Kind.API_KEY, api_key="sk-ant-api03-x")])
    readers = Readers(lambda: Store.open(path, KEY, read_only=True))
    server = PageServer(an_admin(bench, read=readers), SecondFactor(lambda: 0.0, forget), None)
    place, _, query = target.partition("?")
    found = find_page(place)
    assert found is not None
    visit = Visit(
        Identity(OWNER), "127.0.0.1", place, found.name, query=query, at=NOON, headers={"accept": "text/html"}
    )
    with contextlib.closing(readers):
        answer = server.answer(found.page, visit)
        return answer if isinstance(answer, Answer) else await answer


async def text(path: Path, target: str, bench: Bench | None = None) -> str:
    answer = await asked(path, target, bench)
    assert answer.status == 200, answer.body.decode()
    return answer.body.decode()


async def test_accounts_show_their_state_and_a_button(past: Path) -> None:
    shown = await text(past, "/ccflare/")
    assert 'action="/ccflare/accounts/max-1/pause"' in shown
    assert "serving" in shown
    assert "$0.0120" in shown


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [(Kind.OAUTH, "accounts.py login max-a"), (Kind.API_KEY, "accounts.py login max-a --mode console")],
)
def test_an_account_whose_credential_was_rejected_says_how_to_give_it_another(kind: Kind, remedy: str) -> None:
    bench = Bench("a")
    bench.serve(REJECTED)
    (status,) = bench.pool.status()
    status = replace(status, account=replace(status.account, kind=kind))

    assert card(status, {}, bench.clock.wall).remedy == f"scripts/{remedy}"
    assert card(replace(status, cooldowns=()), {}, bench.clock.wall).remedy == ""


@pytest.mark.parametrize("target", ["/ccflare/", "/ccflare/usage?since=24h"])
async def test_what_was_refused_stands_beside_the_share_that_was_successful(past: Path, target: str) -> None:
    assert "<dt>Successful</dt><dd>100 %</dd>" in (shown := await text(past, target))
    assert "<dt>Refused here</dt><dd>1</dd>" in shown


async def test_what_runs_now_is_shown_with_its_tokens_so_far(past: Path) -> None:
    bench = Bench("a")
    assert 'colspan="7">Nothing.' in await text(past, "/ccflare/", bench)
    exchange = bench.begin()
    exchange.next_step()
    exchange.delivering(200, STREAM)
    exchange.capture.add(START)
    exchange.capture.add(DELTA)

    shown = await text(past, "/ccflare/", bench)

    (row,) = re.findall(r'<tbody id="running"[^>]*>\s*<tr>(.*)</tr>\s*</tbody>', shown)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row)[:3] == ["max-1", "opus-4-8", "127.0.0.1"]
    assert row.endswith('<td class="n">25</td><td class="n">~4</td>')


@pytest.mark.parametrize("target", ["/ccflare/", "/ccflare/requests"])
async def test_a_request_that_runs_has_its_account_and_its_model_among_the_others(tmp_path: Path, target: str) -> None:
    bench = Bench("a")
    exchange = bench.begin()
    exchange.next_step()
    exchange.delivering(200, STREAM)
    exchange.capture.add(START)
    exchange.capture.add(DELTA)
    with History(tmp_path / "ccflare.db") as history:
        bench.exchanges.open[history.exchange(NOON - 1, model=None, outcome=None)] = exchange

    shown = await text(tmp_path / "ccflare.db", target, bench)

    last = shown[shown.rindex("<tbody>") :]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", last)
    assert cells[1:3] == ["max-a", "opus-4-8"]
    assert cells[5:9] == ["running", "25", "~4", "–"]


@pytest.mark.parametrize("target", ["/ccflare/", "/ccflare/requests", "/ccflare/usage?since=24h"])
async def test_what_clients_have_sent_is_escaped_and_made_visible(past: Path, target: str) -> None:
    shown = await text(past, target)
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;U+202E&gt;" in shown


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("since=1h", 3),
        ("since=1h&account=max-2", 1),
        ("since=1h&outcome=refused", 1),
        ("since=1h&session=s2", 1),
        ("since=1h&model=claude-opus-4-8", 2),
        ("since=1h&project=none", 0),
        ("since=1h&tag=ticket%3Da%26b", 1),
        ("since=1h&tag=ticket%3Da", 0),
    ],
)
async def test_requests_are_those_that_were_asked_for(past: Path, query: str, number: int) -> None:
    assert (await text(past, f"/ccflare/requests?{query}")).count('href="/ccflare/requests/request-') == number


async def test_a_long_list_goes_on_where_it_was_cut(past: Path) -> None:
    first = await text(past, "/ccflare/requests?session=many")
    older = first.partition('">Older ones')[0].rpartition('href="')[2].replace("&amp;", "&")
    rest = await text(past, older)
    numbers = [page.count('href="/ccflare/requests/request-') for page in (first, rest)]
    assert numbers == [100, 20]
    assert "Older ones" not in rest


@pytest.mark.parametrize(
    "query", ["since=ever", "outcome=good", "tag=ticket", "before=x", "before=12", f"model={'m' * 201}", "a=b&" * 101]
)
async def test_a_query_that_means_nothing_is_refused(past: Path, query: str) -> None:
    answer = await asked(past, f"/ccflare/requests?{query}")
    assert answer.status == 400
    assert b'role="alert"' in answer.body


async def test_a_request_that_is_not_there_is_not_found(past: Path) -> None:
    assert (await asked(past, "/ccflare/requests/req_none")).status == 404


async def test_tags_of_a_request_stand_in_the_list_and_lead_to_the_others_that_have_them(past: Path) -> None:
    assert "ticket=a&amp;b" in await text(past, "/ccflare/requests?since=1h")

    shown = await text(past, "/ccflare/requests/request-1")

    assert 'href="/ccflare/requests?tag=ticket%3Da%26b">ticket=a&amp;b</a>, <a href=' in shown
    assert ">who=&lt;me&gt;</a>" in shown


async def test_an_exchange_without_bodies_says_so(past: Path) -> None:
    shown = await text(past, "/ccflare/requests/request-1")
    assert "No body is kept of" in shown
    assert "312 out" in shown


@pytest.mark.parametrize(
    ("since", "step", "steps"),
    [("1h", "Minute", 61), ("6h", "5 minutes", 73), ("24h", "Hour", 25), ("7d", "Day", 8), ("30d", "Day", 31)],
)
async def test_usage_is_drawn_and_told(past: Path, since: str, step: str, steps: int) -> None:
    shown = await text(past, f"/ccflare/usage?since={since}")
    assert shown.count('<svg role="img" aria-label="') == 9
    assert "By project" in shown
    table = shown.partition("The same as a table")[2].partition("</details>")[0]
    assert f"<th>{step}</th>" in table
    assert table.count("<tr>") == 1 + steps


async def test_the_journal_shows_the_audit_log(past: Path) -> None:
    assert "account.add" in await text(past, "/ccflare/journal")


@pytest.mark.parametrize("target", ["/ccflare/", "/ccflare/pages.css", "/ccflare/pages.js", "/ccflare/login"])
async def test_every_page_has_a_policy_that_lets_nothing_in(past: Path, target: str) -> None:
    policies = [value for name, value in (await asked(past, target)).headers if name == b"content-security-policy"]
    assert len(policies) == 1
    assert policies[0].startswith(b"default-src 'none'")
    assert b"unsafe" not in policies[0]


async def test_a_form_of_ours_is_sent_with_its_origin_and_links_tell_no_path(past: Path) -> None:
    assert (b"referrer-policy", b"strict-origin") in (await asked(past, "/ccflare/")).headers


@pytest.mark.parametrize(
    "path", ["", "/", "//evil.example", "https://evil.example/ccflare/", "/ccflare/\\x", "/ccflare/é"]
)
def test_nobody_is_sent_elsewhere(path: str) -> None:
    assert own_path(path) == "/ccflare/"


def test_one_goes_on_to_where_one_was_going() -> None:
    assert own_path("/ccflare/requests?since=7d") == "/ccflare/requests?since=7d"


def test_filters_are_what_the_record_can_hold() -> None:
    visit = Visit(Identity(None), "127.0.0.1", "/ccflare/requests", query="tag=who%3Du%CC%88&model=a%00b")

    assert _wanted(visit) == Wanted(tag="who=ü", model="a\\0b")
