"""mitmweb's page gets our stylesheet, and stays as it is if there is no place for it."""

from types import SimpleNamespace

import pytest

from ccflare_core.clients.totp import SecondFactor
from ccflare_mitm.inspector.inspector import extend_page
from ccflare_mitm.inspector.page import STYLES, STYLESHEET, with_stylesheet
from ccflare_mitm.pages.server import PageServer
from exchange_kit import Bench
from guard_kit import an_admin, forget

PAGES = PageServer(an_admin(Bench()), SecondFactor(lambda: 0.0, forget), None)


def test_the_stylesheet_is_the_last_in_the_head() -> None:
    page = b"<html><head><link href=a.css></head><body></body></html>"
    link = f'<link rel="stylesheet" href="{STYLESHEET}">'.encode()
    assert with_stylesheet(page) == page.replace(b"</head>", link + b"</head>")


def test_a_page_without_a_head_is_none_of_ours() -> None:
    assert with_stylesheet(b"<html><body></body></html>") is None


def test_a_program_without_a_page_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    extend_page(SimpleNamespace(), (), PAGES)
    assert caplog.text == ""


def test_a_page_of_another_make_is_left_as_it_is_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    extend_page(SimpleNamespace(app=object()), (), PAGES)
    assert "mitmweb's page is another one than ccflare knows" in caplog.text


def test_the_stylesheet_wraps_texts_and_puts_them_above_the_headers() -> None:
    styles = STYLES.read_text()
    for rule in ("white-space: pre-wrap", "overflow-wrap: anywhere", "min-height: 1.43em", "order: -1"):
        assert rule in styles
    assert "http" not in styles
