"""mitmweb's page gets our stylesheet and our line, and stays as it is if there is no place for it."""

from types import SimpleNamespace

import pytest

from ccflare_core.clients.totp import SecondFactor
from ccflare_mitm.inspector.inspector import extend_page
from ccflare_mitm.inspector.page import DASHBOARD, STYLES, STYLESHEET, extended
from ccflare_mitm.pages.server import PageServer
from exchange_kit import Bench
from guard_kit import an_admin, forget
from held_kit import held

PAGES = PageServer(an_admin(Bench()), SecondFactor(lambda: 0.0, forget), None)
PAGE = b'<html><head><link href=a.css></head><body><div id="mitmproxy"></div></body></html>'
LINK = f'<link rel="stylesheet" href="{STYLESHEET}">'.encode()


def test_the_stylesheet_is_the_last_in_the_head() -> None:
    page = extended(PAGE)
    assert page is not None
    assert LINK + b"</head>" in page


def test_the_dashboard_is_linked_whether_there_is_a_line_or_not() -> None:
    assert f'<p id="ccflare">{DASHBOARD}</p><div id="mitmproxy">'.encode() in (extended(PAGE) or b"")


def test_our_line_stands_before_the_element_that_is_drawn_anew() -> None:
    page = extended(PAGE, "a <b> is hidden")
    assert page is not None
    line = b'<p id="ccflare"><a href="/ccflare/">Dashboard</a> \xc2\xb7 a &lt;b&gt; is hidden</p>'
    assert b"<body>" + line + b'<div id="mitmproxy"></div>' in page


@pytest.mark.parametrize("mark", [b"</head>", b'<div id="mitmproxy">'])
def test_a_page_of_another_make_is_none_of_ours(mark: bytes) -> None:
    assert extended(PAGE.replace(mark, b"")) is None
    assert extended(PAGE.replace(mark, mark * 2)) is None


def test_a_program_without_a_page_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    extend_page(SimpleNamespace(), (), held(), PAGES)
    assert caplog.text == ""


def test_a_program_of_another_make_is_left_as_it_is_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    extend_page(SimpleNamespace(app=object()), (), held(), PAGES)
    assert "mitmweb's page is another one than ccflare knows" in caplog.text


def test_the_stylesheet_wraps_texts_and_puts_them_above_the_headers() -> None:
    styles = STYLES.read_text()
    for rule in ("white-space: pre-wrap", "overflow-wrap: anywhere", "min-height: 1.43em", "order: -1"):
        assert rule in styles
    assert "http" not in styles
