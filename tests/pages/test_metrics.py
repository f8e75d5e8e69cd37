"""The page for Prometheus: it is whole with a database and without one, and needs a package that may not be there."""

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.clients.authentication import Identity
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.exchange.records import WindowRead
from ccflare_core.store.store import Store
from ccflare_mitm.pages import metrics
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.metrics import show_metrics
from ccflare_mitm.pages.readers import Readers
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import Visit
from database_kit import KEY, an_account, open_store
from exchange_kit import EPOCH, OK, Bench, limited
from exposition_check import Page, read_exposition
from guard_kit import an_admin, forget, no_store

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD, README = ROOT / "scripts" / "grafana-dashboard.json", ROOT / "README.md"
VISIT = Visit(Identity(None), "127.0.0.1", "/ccflare/metrics", at=EPOCH)
FULL_AT = "ccflare_account_window_exhaustion_timestamp_seconds"


@pytest.fixture
def filling(tmp_path: Path) -> Iterator[Readers]:
    """A database with an account whose window fills by a tenth an hour, and is at 90 %."""
    path = tmp_path / "ccflare.db"
    with contextlib.closing(open_store(path)) as store:
        account = an_account()
        store.accounts.add(account)
        for ago in range(60, -1, -1):
            reading = Window("5h", "allowed", 0.9 - ago / 600, EPOCH + 7200)
            store.write([WindowRead(account.id, round((EPOCH - 60 * ago) * 1000), reading)])
    readers = Readers(lambda: Store.open(path, KEY, read_only=True))
    yield readers
    readers.close()


async def scraped(admin: Admin) -> Page:
    answer = await show_metrics(admin, VISIT)
    assert (answer.status, dict(answer.headers)[b"cache-control"]) == (200, b"no-store")
    page = read_exposition(answer.body)
    assert page.mistakes == []
    return page


async def test_the_page_has_what_was_served_what_accounts_show_and_what_waits(filling: Readers) -> None:
    bench = Bench()
    admin = an_admin(bench, read=filling)
    bench.serve()
    bench.begin().next_step()

    page = await scraped(admin)

    assert page.value("ccflare_requests_total", account="max-a", model="claude-opus-4-8", outcome="ok") == 1
    assert page.value("ccflare_requests_open") == 1
    assert page.value("ccflare_account_requests_in_flight", account="max-a") == 1
    assert page.value("ccflare_writer_rows_waiting") == 0
    full_at = page.value(FULL_AT, account="max-1", window="5h")
    assert full_at is not None
    assert abs(full_at - (EPOCH + 3600)) < 1


async def test_without_a_database_only_the_forecasts_are_left_out() -> None:
    page = await scraped(an_admin(Bench()))
    assert page.value("ccflare_account_available", account="max-a", reason="") == 1
    assert FULL_AT in page.types
    assert [each for each in page.series if each.name == FULL_AT] == []


async def test_a_database_that_takes_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "READ_SECONDS", 0.01)

    is_over = threading.Event()

    def slow() -> Store:
        is_over.wait(60)
        return no_store()

    readers = Readers(slow)
    page = await scraped(an_admin(Bench(), read=readers))
    assert [each for each in page.series if each.name == FULL_AT] == []
    is_over.set()
    readers.close()


async def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.exposition", None)
    found = find_page("/ccflare/metrics")
    assert found is not None

    answer = PageServer(an_admin(Bench()), SecondFactor(lambda: 0.0, forget), None).answer(found.page, VISIT)

    told: Answer = answer if isinstance(answer, Answer) else await answer
    assert told.status == 501
    assert "scripts/run --with metrics" in json.loads(told.body)["error"]["message"]


def expressions() -> list[str]:
    """All that the dashboard asks Prometheus."""
    board = json.loads(DASHBOARD.read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*targets, *(each["definition"] for each in board["templating"]["list"] if "definition" in each)]


async def test_the_dashboard_asks_for_families_that_there_are_by_labels_that_they_have() -> None:
    bench = Bench()
    bench.serve(limited(), OK)
    page = await scraped(an_admin(bench))
    labels = {each.name: set(each.labels) | {"job", "instance"} for each in page.series}
    known = {*page.types, *labels}

    named = {name for text in expressions() for name in re.findall(r"\bccflare_\w+", text)}

    assert named <= known
    assert {
        family for family in page.types if family not in {re.sub("_(bucket|sum|count)$", "", n) for n in named}
    } == set()
    for text in expressions():
        (name,) = set(re.findall(r"\bccflare_\w+", text)) & labels.keys() or {""}
        grouped = {label for found in re.findall(r"by \(([^)]*)\)", text) for label in found.split(", ")}
        matched = set(re.findall(r"(\w+)(?:=~|!=|=)\"", text))
        assert not name or grouped | matched <= labels[name], text


def test_panels_of_the_dashboard_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = set(product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


async def test_the_readme_has_the_families_that_there_are_with_their_labels() -> None:
    bench = Bench()
    bench.serve(limited(), OK)
    page = await scraped(an_admin(bench))
    section = README.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]

    told = {name: set(re.findall(r"\w+", row[1])) for row in rows for name in re.findall(r"`(\w+)`", row[0])}

    assert {f"ccflare_{name}" for name in told} == page.types.keys()
    for each in page.series:
        family = re.sub(r"_(bucket|sum|count)$", "", each.name).removeprefix("ccflare_")
        assert set(each.labels) - {"le"} == told[family], family
