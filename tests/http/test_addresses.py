"""Addresses and networks are what they are, however they are written."""

import pytest

from ccflare_core.http.addresses import Address, Network, Networks, are_networks, source_of


def is_in(address: str, networks: str) -> bool:
    return Networks.parse(networks).have(Address.parse(address))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.9.8.7", "10.9.8.7"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("0:0:0:0:0:0:0:1", "::1"),
    ],
)
def test_an_address_is_what_it_is_however_it_is_written(text: str, address: str) -> None:
    assert str(Address.parse(text)) == address


@pytest.mark.parametrize(
    "text", ["", "10.1", "010.0.0.1", "0x7f.1", "localhost", "10.0.0.1%eth0", "fe80::1%", "1::2::3"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert Address.parse(text) is None


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.9.8.7", "10.0.0.0/8", True),
        ("11.0.0.1", "10.0.0.0/8", False),
        ("100.64.1.1", "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16", False),
        ("100.64.1.1", "100.64.0.0/10", True),
        ("::ffff:10.0.0.1", "10.0.0.0/8", True),
        ("10.0.0.1", "::ffff:10.0.0.0/104", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("fe80::1%eth0", "fe80::%eth0/64", True),
        ("fe80::1%eth1", "fe80::%eth0/64", False),
        ("fe80::1", "fe80::%eth0/64", False),
        ("10.0.0.1", "::/0", False),
        ("10.0.0.1", "", False),
    ],
)
def test_which_network_has_an_address(address: str, networks: str, expected: bool) -> None:
    assert is_in(address, networks) is expected


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "eth0", "10.0.0.0/8;::1", "10.0.0.1%x", "::%/64"]
)
def test_a_network_that_is_none_is_named(text: str) -> None:
    assert not are_networks(f"127.0.0.1, {text}")
    with pytest.raises(ValueError, match=r"has|is no address"):
        Network.parse(text)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "fe80::%eth0/64", "::1/128", "1.2.3.4/32"])
def test_a_network_reads_as_it_is_written(text: str) -> None:
    assert str(Network.parse(text)) == text


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_is_one_source(address: str, source: str) -> None:
    assert source_of(Address.parse(address)) == source
