"""Our pages, and mitmweb's, in a browser: what is seen, clicked and updated, by mouse and by keyboard."""

import os
import re
import time
from base64 import b32decode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, StorageState, expect

from browser_kit import DESK, PHONE, Scheme, chromium, keep, look_at, opened
from ccflare_core.accounts.account import Kind
from ccflare_core.clients.totp import code_at, step_at
from ccflare_core.config.options import ENCRYPTION_KEY
from ccflare_core.secrets.key_sources import GivenKey
from fake_upstream import Answer, FakeUpstream, Gate, allowed_headers, bad_request, limited_5h, sse, sse_answer
from harness import Proxy, claude_request, eventually, via_base_url
from history import History
from installed_kit import by_run

pytestmark = pytest.mark.timeout(300)

MINUTE, SECRET = 60.0, bytes(range(32))
LIMITED, FILLING = "sk-ant-oat01-limited", "sk-ant-oat01-filling"
SESSION = "0a0b0c0d-1111-4222-8333-0123456789ab"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """`scripts/run web` with one account that is spent, one that fills up, and one that nobody uses."""
    folder = tmp_path_factory.mktemp("proxy")
    environment = {ENCRYPTION_KEY: SECRET.hex()}
    proxy = Proxy(upstream, folder=folder, program="mitmweb", environment=environment, ccflare_hold_seconds=0)
    remember(proxy)
    by_run(proxy, folder, "web")
    upstream.always(limited_5h(time.time() + 90 * MINUTE), credential=LIMITED)
    upstream.always(lambda _: filling(), credential=FILLING)
    with proxy:
        with via_base_url(proxy) as client:
            for _ in range(3):
                assert client.request(*claude_request(session=SESSION)).status == 200
            upstream.answer(bad_request(), credential=FILLING)
            client.request(*claude_request(model="claude-sonnet-5"))
        proxy.rows("SELECT id FROM requests WHERE outcome IS NOT NULL", until=lambda rows: len(rows) > 40)
        yield proxy


def filling(**how: Any) -> Answer:
    """What max-2 answers: four fifths of its limit are used."""
    return sse(headers=allowed_headers(0.82), **how)


def remember(proxy: Proxy) -> None:
    """Let max-2 have filled steadily for an hour, by a request every minute and a half."""
    began = time.time() - 60 * MINUTE
    proxy.database.parent.mkdir(parents=True, exist_ok=True)
    with History(proxy.location, GivenKey(SECRET)) as past:
        for priority, (name, token) in enumerate({"max-1": LIMITED, "max-2": FILLING}.items(), 1):
            past.account(name, access_token=token, expires_at=began + 600 * MINUTE, priority=priority)
        unused: dict[str, Any] = {"api_key": "sk-ant-api03-spare", "access_token": None, "expires_at": None}
        past.account("spare", kind=Kind.API_KEY, priority=90, **unused)
        for n in range(40):
            took: dict[str, Any] = {"response_time_ms": 2000.0 + 100 * n, "first_byte_ms": 400.0, "status_code": 200}
            used: dict[str, Any] = {"input_tokens": 300, "cache_read_input_tokens": 9000, "output_tokens": 200 + 20 * n}
            past.exchange(began + 1.5 * n * MINUTE, "max-2", project="website", cost_usd=0.03, **used, **took)
        for n in range(8):
            past.window("max-2", "5h", 0.1 + n / 10, began + 210 * MINUTE, at=began + 8 * n * MINUTE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def session(proxy: Proxy, browser: Browser) -> StorageState:
    """That of the proxy's owner, who came by a link."""
    printed = proxy.run_script("dashboard.py", "--address", f"127.0.0.1:{proxy.port}")
    with opened(browser, re.findall(r"http://\S+/ccflare/login\?token=\S+", printed)[-1]) as page:
        return page.context.storage_state()


def address(proxy: Proxy, path: str = "") -> str:
    """Of a page of ours."""
    return f"http://127.0.0.1:{proxy.port}/ccflare/{path}"


def told(page: Page, name: str) -> str:
    """What an account's card says."""
    return page.get_by_role("region", name=name, exact=True).inner_text()


# --- how they look ----------------------------------------------------------------------------------------------------

LOOKS: list[tuple[int, Scheme]] = [(DESK, "light"), (PHONE, "dark")]
if os.environ.get("CCFLARE_LONG_TESTS"):
    LOOKS += [(DESK, "dark"), (PHONE, "light")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_page_fits_its_window_and_can_be_read_by_everybody(
    proxy: Proxy, browser: Browser, session: StorageState, width: int, scheme: Scheme
) -> None:
    (moved,) = proxy.rows("SELECT id FROM requests WHERE outcome = 'ok' AND failover_attempts > 0 LIMIT 1")
    paths = {
        "accounts": "",
        "requests": f"requests?since=24h&session={SESSION}",
        "usage": "usage?since=1h",
        "request": f"requests/{moved['id']}",
        "journal": "journal",
    }
    found = []
    with opened(browser, address(proxy), session, width=width, scheme=scheme) as page:
        for name, path in paths.items():
            page.goto(address(proxy, path))
            found += look_at(page, f"{name}-{width}-{scheme}")
    with opened(browser, address(proxy, "login"), width=width, scheme=scheme) as page:
        found += look_at(page, f"login-{width}-{scheme}")

    assert found == []


# --- what they tell ---------------------------------------------------------------------------------------------------


def test_the_first_page_tells_who_is_limited_and_who_will_be(
    proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    with opened(browser, address(proxy), session) as page:
        limited, filling, unused = (told(page, name) for name in ("max-1", "max-2", "spare"))

    assert re.search(r"5h\s+101 %\s+resets ", limited)
    assert re.search(r"full at .*\d\d:\d\d, about \d+ turns left", filling)
    assert "No limits were read yet." in unused


def test_a_click_on_a_request_tells_who_served_it_why_for_how_much_and_what_was_said(
    proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    with opened(browser, address(proxy), session) as page:
        page.get_by_role("row").filter(has_text="moved").get_by_role("link").first.click()
        page.wait_for_url("**/ccflare/requests/*")
        shown = page.get_by_role("main").inner_text()
        page.get_by_role("link", name="All turns in their order").click()
        expect(page.get_by_role("heading", name="tools")).to_be_visible()
        page.go_back()
        page.get_by_role("link", name="Show in mitmweb").click()
        page.get_by_role("textbox").fill(proxy.web_token)
        page.get_by_role("textbox").press("Enter")
        expect(page.locator(".flow-table")).to_contain_text("max-1")

    for fact in ("max-2", "Why this account", "5h", "Cost", "$", "Say hello.", "the question"):
        assert fact in shown


def test_a_chart_of_an_hour_has_many_bars(proxy: Proxy, browser: Browser, session: StorageState) -> None:
    with opened(browser, address(proxy), session) as page:
        page.goto(address(proxy, "usage?since=1h"))
        chart = page.get_by_role("img", name="Requests from")
        assert chart.locator("rect").count() > 20
        page.get_by_text("The same as a table").click()
        expect(page.get_by_role("columnheader", name="Minute")).to_be_visible()


def test_a_telephone_shows_how_a_request_ended_and_what_it_cost_and_why_it_moved(
    proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    with opened(browser, address(proxy, f"requests?session={SESSION}"), session, width=PHONE) as page:
        moved = page.get_by_role("row").filter(has_text="moved")
        for shown in (moved.get_by_text("ok", exact=True), moved.get_by_text("$")):
            assert ends_at(shown) <= ends_at(page.locator(".scroll"))
        moved.get_by_role("link").first.click()
        assert ends_at(page.get_by_role("cell", name="window_spent")) <= ends_at(page.locator(".scroll"))


def ends_at(shown: Locator) -> float:
    """How far from the window's left edge, in pixels."""
    box = shown.bounding_box()
    assert box is not None
    return box["x"] + box["width"]


def test_filters_stand_in_the_address(proxy: Proxy, browser: Browser, session: StorageState) -> None:
    with opened(browser, address(proxy), session) as page:
        page.goto(address(proxy, "requests?since=24h"))
        page.get_by_label("Session").fill(SESSION)
        page.get_by_role("button", name="Show").click()
        page.wait_for_url(f"**session={SESSION}**")
        assert page.locator("tbody tr").count() == 3
        page.get_by_role("link", name="Clear").click()
        page.wait_for_url("**/ccflare/requests?since=24h")
        assert page.locator("tbody tr").count() > 40


def test_what_is_shown_renews_itself(
    upstream: FakeUpstream, proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    with opened(browser, address(proxy), session) as page:
        before = page.locator("#last tbody tr").first.inner_text()
        upstream.answer(filling(model="claude-haiku-4-5"), credential=FILLING)
        with via_base_url(proxy) as client:
            client.request(*claude_request(model="claude-haiku-4-5"))
        expect(page.locator("#last tbody tr").first).to_contain_text("haiku-4-5")
        assert page.locator("#last tbody tr").first.inner_text() != before


@pytest.mark.parametrize("door", ["proxy", "mitmweb"])
def test_what_runs_now_is_drawn_as_it_goes_with_its_tokens_so_far(
    upstream: FakeUpstream, proxy: Proxy, browser: Browser, session: StorageState, door: str
) -> None:
    begins, ends = Gate(), Gate()
    start, *rest = sse(6, input_tokens=1234, output_tokens=567).chunks
    upstream.answer(sse_answer(start, begins, *rest[:6], ends, *rest[6:]), credential=FILLING)
    web = f"http://127.0.0.1:{proxy.web_port}/ccflare/?token={proxy.web_token}"
    with ExitStack() as stack:
        page = stack.enter_context(opened(browser, web if door == "mitmweb" else address(proxy), session))
        running, last = page.locator("#running"), page.locator("#last tbody tr").first
        expect(running).to_have_text("Nothing.")
        page.evaluate("window.isTheSame = true")

        client = stack.enter_context(via_base_url(proxy))  # only now: it may not be silent for long
        client.send_request(*claude_request())

        expect(running).to_contain_text("opus-4-8")
        begins.open()
        expect(running).to_contain_text(re.compile(r"max-2.*1,234~\d+"))
        keep(page, f"running-{door}")
        ends.open()
        expect(running).to_have_text("Nothing.")
        expect(last).to_contain_text("567")
        assert page.evaluate("window.isTheSame"), "it was loaded again"
        client.read_head()
        assert b"message_stop" in client.read_body()


def test_a_page_that_is_told_nothing_asks_by_itself(
    upstream: FakeUpstream, proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    ends = Gate()
    upstream.answer(sse(input_tokens=4321, gate=ends, gate_at=3), credential=FILLING)
    with ExitStack() as stack:
        page = stack.enter_context(opened(browser, address(proxy), session))
        page.route("**/api/v1/events", lambda route: route.fulfill(status=204))  # as if too many looked on already
        page.reload()
        page.evaluate("window.isTheSame = true")
        client = stack.enter_context(via_base_url(proxy))
        client.send_request(*claude_request())
        expect(page.locator("#running")).to_contain_text("4,321")
        ends.open()
        client.read_head()
        client.read_body()
        assert page.evaluate("window.isTheSame")


def test_an_account_is_shown_as_it_is_now(proxy: Proxy, browser: Browser, session: StorageState) -> None:
    with opened(browser, address(proxy), session) as page:
        card = page.get_by_role("region", name="spare", exact=True)
        for verb, state in (("pause", "paused"), ("resume", "serving")):
            proxy.accounts(verb, "spare")
            expect(card).to_contain_text(state)


# --- what they do -----------------------------------------------------------------------------------------------------


def tab_to(page: Page, name: str) -> None:
    """Go on by the keyboard until the focus is on what has this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focus = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
        if focus == name:
            return
    raise AssertionError(f"the keyboard does not reach {name}")


def test_an_account_is_paused_and_resumed_by_the_keyboard_alone(
    proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    with opened(browser, address(proxy), session) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        keep(page, "focus")
        for verb, state in (("Pause", "paused"), ("Resume", "serving")):
            tab_to(page, f"{verb} spare")
            page.keyboard.press("Enter")
            expect(page.get_by_role("region", name="spare", exact=True)).to_contain_text(state)


def test_a_change_takes_a_code_where_there_is_a_second_factor(
    proxy: Proxy, browser: Browser, session: StorageState
) -> None:
    seed = re.findall(r"authenticator app: ([A-Z2-7 ]+)", proxy.run_script("keys.py", "mfa", "enable"))[0]
    confirmed = proxy.run_script("keys.py", "mfa", "confirm", stdin=code_at(base32(seed), step_at(time.time())))
    first, second, *_ = re.findall(r"^  (\S+)$", confirmed, re.MULTILINE)  # recovery codes: they go by no clock
    try:
        with opened(browser, address(proxy), session) as page:
            card = page.get_by_role("region", name="spare", exact=True)
            eventually(page.reload, lambda _: card.get_by_label("Code").is_visible())
            assert look_at(page, "second-factor") == []
            card.get_by_label("Code").fill("000000")
            card.get_by_label("Code").press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("type the next one")
            for code, verb, state in ((first, "Pause", "paused"), (second, "Resume", "serving")):
                page.goto(address(proxy))
                card.get_by_label("Code").fill(code)
                card.get_by_role("button", name=verb).click()
                expect(card).to_contain_text(state)
    finally:
        proxy.run_script("keys.py", "mfa", "disable")


def base32(text: str) -> bytes:
    """The seed that a person types."""
    plain = text.replace(" ", "")
    return b32decode(plain + "=" * (-len(plain) % 8))


def test_a_wrong_key_is_told_where_it_was_typed(proxy: Proxy, browser: Browser) -> None:
    with opened(browser, address(proxy, "login")) as page:
        page.keyboard.type("ccf_" + "w" * 32)  # the field has the focus
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("key")


# --- mitmweb ----------------------------------------------------------------------------------------------------------


def test_mitmweb_tells_in_its_list_what_became_of_a_request(proxy: Proxy, browser: Browser) -> None:
    with opened(browser, f"http://127.0.0.1:{proxy.web_port}/?token={proxy.web_token}") as page:
        expect(page.locator(".flow-table")).to_contain_text("max-1→max-2")
        page.get_by_role("link", name="Dashboard").click()
        expect(page.get_by_role("heading", name="Accounts")).to_be_visible()
        keep(page, "in-mitmweb")
