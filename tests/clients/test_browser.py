"""What a browser is believed, and what it is told."""

from dataclasses import replace

import pytest

from ccflare_core.clients.browser import HSTS, Asked, may_share, objection, preflight, transport_security
from ccflare_core.http.origins import Origin, Origins, are_origins

SITES = Origins.parse("https://panel.example, http://localhost:3000")
EVIL = "http://evil.com"


def asked(host: str = "http://127.0.0.1:8080", method: str = "GET", **headers: str) -> Asked:
    site = Origin.parse(host)
    assert site is not None
    return Asked(method, site, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "host",
    ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080", "http://10.0.0.5", "https://panel.example"],
)
def test_our_names_are_addresses_loopback_names_and_those_of_allowed_origins(host: str) -> None:
    assert objection(asked(host), SITES) is None


@pytest.mark.parametrize("host", ["http://evil.com:8080", "http://localhost.evil.com", "http://127.0.0.1.evil.com"])
def test_a_name_that_dns_may_have_pointed_here_is_refused(host: str) -> None:
    assert objection(asked(host), SITES) == "This page is not served under that name."


def test_a_certificate_can_vouch_for_a_name() -> None:
    assert objection(replace(asked("https://api.anthropic.com"), is_vouched=True), SITES) is None


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "",
        "https://panel.example.evil.com",
        "http://panel.example",
        "http://127.0.0.1:3000",
        "http://[broken",
    ],
)
def test_a_page_of_another_origin_is_refused(method: str, origin: str) -> None:
    assert objection(asked(method=method, origin=origin), SITES) == "A web page of another site may not use this."


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8080", "https://panel.example", "https://PANEL.example:443", "http://localhost:3000"]
)
def test_our_own_page_and_those_on_the_list_may_ask(origin: str) -> None:
    assert objection(asked(method="POST", origin=origin, sec_fetch_site="cross-site"), SITES) is None


@pytest.mark.parametrize(
    ("fetch", "is_fine"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, True),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, False),
    ],
)
def test_from_elsewhere_only_a_link_leads_here(fetch: dict[str, str], is_fine: bool) -> None:
    assert (objection(asked(**fetch), SITES) is None) is is_fine


def test_a_link_changes_nothing() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert objection(asked(method="POST", **link), SITES) is not None


def test_an_answer_is_shared_with_exactly_the_asking_origin() -> None:
    headers = dict(may_share(asked(origin="https://panel.example"), SITES))

    assert headers[b"access-control-allow-origin"] == b"https://panel.example"
    assert headers[b"vary"] == b"Origin"
    assert b"access-control-allow-origin" not in dict(may_share(asked(origin=EVIL), SITES))
    assert may_share(asked(origin=EVIL), Origins()) == ()


def test_a_preflight_is_told_what_may_be_sent() -> None:
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "x-api-key, content-type"}
    headers = dict(preflight(asked(method="OPTIONS", origin="https://panel.example", **wanted), SITES))

    assert headers[b"access-control-allow-headers"] == b"x-api-key, content-type"
    assert b"POST" in headers[b"access-control-allow-methods"]


def test_no_line_break_gets_into_a_header() -> None:
    wanted = {"access_control_request_headers": "x\r\nset-cookie: y"}
    assert (
        dict(preflight(asked(origin="https://panel.example", **wanted), SITES))[b"access-control-allow-headers"] == b""
    )


@pytest.mark.parametrize(
    ("host", "has_it"),
    [
        ("https://panel.example", True),
        ("http://panel.example", False),
        ("https://localhost", False),
        ("https://10.0.0.5", False),
    ],
)
def test_only_a_name_of_its_own_is_bound_to_tls(host: str, has_it: bool) -> None:
    assert transport_security(asked(host)) == ((HSTS,) if has_it else ())


@pytest.mark.parametrize(
    "text", ["*", "https://*.example", "panel.example", "https://panel.example/x", "null", "ftp://x", "https://x:0"]
)
def test_only_whole_origins_can_be_allowed(text: str) -> None:
    assert not are_origins(text)
