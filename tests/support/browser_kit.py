"""Pages in a browser: Debian's Chromium without a window, driven by Playwright, and axe-core to look at them.

Where `CCFLARE_SCREENSHOTS` names a folder, what was looked at is kept there.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, StorageState, expect, sync_playwright

DESK, PHONE = 1400, 390
"""Widths of a page."""
HEIGHT = 900
SLOW = 60_000
"""How long a change may take to be seen, in ms: it ends what would never come."""
type Scheme = Literal["light", "dark"]

_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
_REFUSED = re.compile(r"status of 40[13]")
_WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
_PUSHED_ASIDE = """[...document.querySelectorAll(".scroll:has(> .fits)")]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText.slice(0, 40))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Whoever has it runs no event loop of its own meanwhile."""
    expect.set_options(timeout=SLOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_QUIET)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    address: str,
    session: StorageState | None = None,
    *,
    width: int = DESK,
    scheme: Scheme = "light",
) -> Iterator[Page]:
    """A page in this session, or in a new one. What the browser complains of on our pages fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, storage_state=session
    )
    context.set_default_timeout(SLOW)
    page, complaints = context.new_page(), list[str]()

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and "/ccflare/" in page.url and not _REFUSED.search(message.text):
            complaints.append(f"{page.url}: {message.text}")

    page.on("console", hear)
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def look_at(page: Page, name: str) -> list[str]:
    """What is wrong with how a page looks: it or a table is wider than the window, or axe-core finds something."""
    keep(page, name)
    whole, seen = page.evaluate(_WIDTHS)
    too_wide = [f"{name} is {whole} px wide in a window of {seen} px"] if whole > seen else []
    too_wide += [f"{name}: the table that begins with {each!r} is too wide" for each in page.evaluate(_PUSHED_ASIDE)]
    return [*too_wide, *(f"{name}: {found}" for found in _violations(page))]


def _violations(page: Page) -> Sequence[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}, {each['help']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


def keep(page: Page, name: str) -> None:
    """A picture of all of the page, where somebody wants to see it."""
    if folder := os.environ.get("CCFLARE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
