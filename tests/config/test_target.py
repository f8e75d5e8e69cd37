"""Where a credential goes: what the owner's options make of it, and which certificate is the upstream's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.config.target import UpstreamTarget, parse_upstream
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.origins import Origin
from ccflare_core.http.pins import Pins

PIN = f"sha256/{'A' * 43}="
API = UpstreamTarget.of(Origin("https", "api.anthropic.com", 443), Pins())


def target(url: str, pins: str = "") -> UpstreamTarget:
    origin = Origin.parse(url.removesuffix("/"))
    assert origin is not None
    return UpstreamTarget.of(origin, Pins.parse(pins))


def test_the_target_is_what_the_options_say() -> None:
    made = UpstreamTarget.of(
        Origin("https", "api.example", 8443),
        Pins.parse(f"api.example={PIN},other.example=sha256/{'B' * 42}A="),
        EgressProxy(Origin("http", "proxy.example", 3128)),
        "/anthropic",
    )

    assert made == UpstreamTarget(
        scheme="https",
        address=("api.example", 8443),
        tls_name="api.example",
        alpn=(b"http/1.1",),
        egress_proxy=EgressProxy(Origin("http", "proxy.example", 3128)),
        pins=frozenset({PIN}),
        prefix="/anthropic",
    )


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("https://api.anthropic.com", ("https", "api.anthropic.com", 443), ""),
        ("https://gateway/anthropic", ("https", "gateway", 443), "/anthropic"),
        ("https://gateway:8443/llm/anthropic-v1/", ("https", "gateway", 8443), "/llm/anthropic-v1"),
        ("http://[::1]:80/a_b~c.d", ("http", "::1", 80), "/a_b~c.d"),
    ],
)
def test_the_upstream_may_have_a_path(text: str, origin: tuple[str, str, int], path: str) -> None:
    assert parse_upstream(text) == (origin, path)


@pytest.mark.parametrize(
    "path", ["a//b", "/a", "..", ".", "a/..", ".hidden", "%61", "a?b", "a#b", "a;b", "a b", "a\\b", "a/", "ä"]
)
def test_an_upstreams_path_is_read_by_all_servers_alike(path: str) -> None:
    assert parse_upstream(f"https://gateway/{path}/") is None


def test_an_accounts_own_proxy_is_on_its_way_alone() -> None:
    own = EgressProxy(Origin("http", "own.example", 3128))

    assert (API.by(own).egress_proxy, API.by(None)) == (own, API)
    assert API.by(own).way("https", API.address) == own
    assert API.by(own).way("http", API.address) is API.by(own).way("https", ("other.example", 443)) is None


def test_the_target_without_tls_asks_for_no_name() -> None:
    plain = target("http://127.0.0.1:8000")

    assert (plain.tls_name, plain.alpn, plain.authority) == ("", (), "127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.anthropic.com", "api.anthropic.com"),
        ("https://API.Anthropic.com:443/", "api.anthropic.com"),
        ("https://api.anthropic.com:80", "api.anthropic.com:80"),
        ("http://localhost:80", "localhost"),
        ("https://[::1]", "[::1]"),
        ("https://[::1]:8443", "[::1]:8443"),
    ],
)
def test_the_host_that_requests_say(url: str, host: str) -> None:
    assert target(url).authority == host


@pytest.mark.parametrize(
    ("address", "is_there"),
    [
        (("api.anthropic.com", 443), True),
        (("API.anthropic.COM", 443), True),
        (("api.anthropic.com", 443, 0, 0), True),
        (("api.anthropic.com", 80), False),
        (("api.anthropic.com.", 443), False),
        (("evil.example", 443), False),
        (None, False),
    ],
)
def test_an_address_is_the_targets_or_not(address: tuple[str | int, ...] | None, is_there: bool) -> None:
    assert API.is_at(address) is is_there


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("api.anthropic.com", True),
        ("API.Anthropic.com", True),
        ("*.anthropic.com", True),
        ("*.com", False),
        ("*", False),
        ("a*.anthropic.com", False),
        ("api.*.com", False),
        ("*.api.anthropic.com", False),
        ("anthropic.com", False),
        ("xapi.anthropic.com", False),
        ("api.anthropic.com.evil.example", False),
        ("api.anthropic.com\x00.evil.example", False),
        ("", False),
    ],
)
def test_a_certificates_name_is_the_targets_or_not(name: str, is_named: bool) -> None:
    assert API.is_named_by(["evil.example", name], []) is is_named


def test_a_star_takes_no_second_level() -> None:
    assert not target("https://example.com").is_named_by(["*.com"], [])
    assert not target("https://localhost").is_named_by(["*", "*.", "*.localhost"], [])


def test_an_address_is_carried_as_one() -> None:
    by_address = target("https://127.0.0.1:8443")

    assert by_address.is_named_by([], ["127.0.0.1"])
    assert not by_address.is_named_by(["127.0.0.1", "*.0.0.1"], ["127.0.0.2"])
    assert target("https://[::1]").is_named_by([], ["127.0.0.1", "0:0:0:0:0:0:0:1"])
    assert not API.is_named_by([], ["127.0.0.1"])


@given(st.text())
def test_no_other_text_names_the_target(text: str) -> None:
    assert API.is_named_by([text], []) is (text.lower() in ("api.anthropic.com", "*.anthropic.com"))


def test_pins_are_kept_by_one_of_them() -> None:
    pinned = target("https://api.example", f"api.example={PIN}")

    assert pinned.is_kept_by(["another", PIN])
    assert not pinned.is_kept_by([])
    assert API.is_kept_by([])
