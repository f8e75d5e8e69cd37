"""Looking up: every spelling of an address, and which ones are this machine's."""

import socket

import pytest

from ccflare_core.http.addresses import Address
from ccflare_mitm.host.look_up import is_own, numeric, resolve


def parsed(text: str) -> Address:
    address = Address.parse(text)
    assert address is not None
    return address


@pytest.mark.parametrize("spelling", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "::ffff:127.0.0.1"])
def test_an_address_is_one_in_every_spelling(spelling: str) -> None:
    assert numeric(spelling, 80) == (parsed("127.0.0.1"),)


@pytest.mark.parametrize("name", ["localhost", "example.com", "", "a" * 300, "\udcff", "ä.example"])
def test_a_name_is_no_address(name: str) -> None:
    assert numeric(name, 80) == ()


async def test_a_name_has_addresses() -> None:
    assert parsed("127.0.0.1") in await resolve("localhost", 80)


def test_the_machines_own_addresses_are_its_own() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        own = ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", probe.getsockname()[0]]
    assert [text for text in own if not is_own(parsed(text))] == []
    assert not is_own(parsed("192.0.2.1"))
    assert not is_own(parsed("2001:db8::1"))


@pytest.mark.parametrize("address", socket.gethostbyname_ex(socket.gethostname())[2])
def test_the_address_of_the_machines_name_is_its_own(address: str) -> None:
    assert is_own(parsed(address))
