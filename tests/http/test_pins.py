"""Pins: what they may say, which chains keep to them, and what is told about the others."""

import base64
import hashlib
import logging
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.oauth import Endpoints, refresh_request
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError, TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import NOT_PINNED, PinGuard, spki_pin
from ccflare_core.http.pins import Pins, are_pins, is_pin
from fake_upstream import TOKEN, FakeUpstream


def pin(text: str) -> str:
    return f"sha256/{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


A, B, C = pin("a"), pin("b"), pin("c")


# --- what is said -----------------------------------------------------------------------------------------------------


def test_several_pins_of_a_host_are_alternatives() -> None:
    pins = Pins.parse(f"api.example={A}, API.example={B},other.example={C},")

    assert pins.of_host == {"api.example": {A, B}, "other.example": {C}}
    assert pins.allow("api.example", [C, B])
    assert not pins.allow("API.example", [C])
    assert pins.allow("unpinned.example", [])
    assert pins.without_backup() == ["other.example"]


@pytest.mark.parametrize("text", ["api.example", "=x", f"={A}", "h=sha1/AAAA", "h=sha256/AAAA", f"h={A[:-1]}", f"{A}"])
def test_what_is_no_pin_is_refused(text: str) -> None:
    assert not are_pins(text)


@given(st.text())
def test_any_text_is_pins_or_not(text: str) -> None:
    assert are_pins(text) in (True, False)
    assert is_pin(text) in (True, False)


@given(st.binary(min_size=32, max_size=32))
def test_every_digest_makes_a_pin(digest: bytes) -> None:
    assert is_pin(f"sha256/{base64.b64encode(digest).decode()}")


def settings(pins: str, **more: str) -> Settings:
    return Settings.build({"ccflare_upstream_pins": pins, **more})


def test_pins_are_for_the_api_and_the_token_hosts() -> None:
    built = settings(f"api.anthropic.com={A},platform.claude.com={B}")

    assert built.upstream_pins.covers("api.anthropic.com")
    assert built.egress == {
        Origin("https", "api.anthropic.com", 443),
        Origin("https", "platform.claude.com", 443),
    }


def test_a_pin_for_a_host_that_is_never_asked_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"ccflare_upstream_pins: api\.antropic\.com: nothing is ever sent"):
        settings(f"api.antropic.com={A}")


def test_a_pin_for_a_host_without_tls_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1: it has no key without TLS"):
        settings(f"127.0.0.1={A}", ccflare_upstream="http://127.0.0.1:1")


# --- what is seen -----------------------------------------------------------------------------------------------------


class Guarded:
    """A guard with a clock of its own."""

    def __init__(self, *, enforced: bool) -> None:
        self.now = 0.0
        self.guard = PinGuard(lambda: Pins.parse(f"h={A}"), enforced=lambda: enforced, clock=lambda: self.now)


def reports(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in log.records if NOT_PINNED in record.message]


def test_a_chain_needs_one_pinned_key() -> None:
    guard = Guarded(enforced=True).guard

    assert guard.accepts("h", [C, A])
    assert not guard.accepts("h", [B, C])
    assert not guard.accepts("h", [])
    assert guard.accepts("other", [])


def test_report_only_lets_pass_and_tells_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(enforced=False)
    caplog.set_level(logging.WARNING)

    for guarded.now in (0.0, 1.0, 3599.0, 3601.0):
        assert guarded.guard.accepts("h", [B])

    assert len(reports(caplog)) == 2
    assert "used all the same" in reports(caplog)[0]


# --- our own client ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        yield upstream


def fetcher(server: FakeUpstream, pins: str, *, enforced: bool = True) -> Fetcher:
    guard = PinGuard(lambda: Pins.parse(pins), enforced=lambda: enforced)
    return Fetcher(ca_file=server.ca_file, pins=guard, total_seconds=5)


@pytest.mark.parametrize("which", ["chain_file", "ca_file"])
async def test_a_key_anywhere_in_the_verified_chain_will_do(server: FakeUpstream, which: str) -> None:
    certificate = x509.load_pem_x509_certificate(getattr(server, which).read_bytes())
    assert spki_pin(certificate) == spki_pin(certificate.public_bytes(Encoding.DER))
    request = refresh_request(Endpoints(token_url=server.url + TOKEN), "sk-ant-ort01-secret")

    await fetcher(server, f"localhost={A},localhost={spki_pin(certificate)}").send(request)

    assert len(server.requests) == 1


async def test_without_a_pinned_key_no_refresh_token_goes_out(server: FakeUpstream) -> None:
    request = refresh_request(Endpoints(token_url=server.url + TOKEN), "sk-ant-ort01-secret")

    with pytest.raises(TokenUnavailable, match=NOT_PINNED) as caught:
        await fetcher(server, f"localhost={A}").send(request)

    assert "secret" not in str(caught.value)
    assert server.requests == []
    await fetcher(server, f"localhost={A}", enforced=False).send(request)
    assert len(server.requests) == 1


async def test_a_pin_does_not_make_up_for_a_certificate_that_is_not_trusted(server: FakeUpstream) -> None:
    own = spki_pin(x509.load_pem_x509_certificate(server.chain_file.read_bytes()))
    guard = PinGuard(lambda: Pins.parse(f"localhost={own}"), enforced=lambda: True)

    with pytest.raises(TokenUnavailable, match="certificate that is not trusted"):
        await Fetcher(pins=guard).send(refresh_request(Endpoints(token_url=server.url + TOKEN), "x"))

    assert server.requests == []
