"""The dashboard of two proxies in a browser: it shows both and what runs in both, and nothing of that for one alone."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, StorageState, expect

from browser_kit import DESK, PHONE, Scheme, chromium, look_at, opened
from fake_upstream import FakeUpstream, Gate, sse
from harness import Proxy, claude_request, eventually, via_base_url

pytestmark = pytest.mark.timeout(300)
ONE = "sk-ant-api03-one"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def session_of(proxy: Proxy, browser: Browser) -> StorageState:
    printed = proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}")
    with opened(browser, re.findall(r"http://\S+/ccflare/login\?token=\S+", printed)[-1]) as page:
        return page.context.storage_state()


def address(proxy: Proxy, path: str = "") -> str:
    return f"http://127.0.0.1:{proxy.port}/ccflare/{path}"


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_the_first_page_shows_both_proxies_and_what_runs_in_both(
    upstream: FakeUpstream, browser: Browser, tmp_path: Path, width: int, scheme: Scheme
) -> None:
    with ExitStack() as running:
        one = Proxy(upstream, folder=tmp_path / "one")
        one.add_api_key("max-1", ONE)
        running.enter_context(one)
        session = session_of(one, browser)
        with opened(browser, address(one), session, width=width, scheme=scheme) as page:
            expect(page.get_by_role("heading", name="Proxies")).to_have_count(0)
            two = running.enter_context(Proxy(upstream, folder=tmp_path / "two", database=one.location))
            expect(page.get_by_role("heading", name="Proxies")).to_be_visible()

            gate = Gate()
            upstream.answer(sse(gate=gate, gate_at=2), sse(gate=gate, gate_at=2))
            clients = [running.enter_context(via_base_url(proxy)) for proxy in (one, two)]
            for client in clients:
                client.send_request(*claude_request(2_000))
                client.read_head()
            rows = page.locator("#running tr")
            expect(rows).to_have_count(2)
            there = page.locator("#running tr", has_text=f":{two.port}")
            expect(there).to_contain_text("max-1")
            table = page.get_by_role("region", name="Proxies")
            for proxy in (one, two):
                expect(table.locator("tr", has_text=f":{proxy.port}")).to_contain_text("serving")
            expect(table.locator("tr", has_text="here")).to_contain_text(f":{one.port}")
            eventually(lambda: page.reload() and table.inner_text().count("serving") == 2)
            expect(rows).to_have_count(2)
            assert look_at(page, f"proxies-{width}-{scheme}") == []

            gate.open()

            expect(page.locator("#running")).to_have_text("Nothing.")
            two.stop()
            expect(table.locator("tr", has_text=f":{two.port}")).to_contain_text("ended")
            page.goto(address(one, "requests"))
            if width == DESK:
                for proxy in (one, two):
                    expect(page.locator("#list tr", has_text=f":{proxy.port}")).to_have_count(1)
            assert look_at(page, f"proxies-requests-{width}-{scheme}") == []
            page.locator("#list tbody a").first.click()
            expect(page.locator("dl.facts")).to_contain_text(f":{two.port}")
