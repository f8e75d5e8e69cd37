"""Targets of tunnels: what the whole internet does not reach, and what an option lets through all the same."""

import pytest

from ccflare_core.http.addresses import Address
from ccflare_core.http.targets import TunnelTargets, are_targets, is_inside

INSIDE = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.1.1"),
    *("100.64.0.1", "100.127.255.254", "192.0.2.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "224.0.0.251"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "2002:a00:1::1", "2002:7f00:1::"),
    *("2001:0:a00:1::f5ff:fffe", "::ffff:0:7f00:1", "64:ff9b:1::a00:1"),
)
OUTSIDE = ("1.1.1.1", "160.79.104.10", "2606:4700::1111", "64:ff9b::101:101", "::ffff:0:808:808", "::ffff:8.8.8.8")


def parsed(text: str) -> Address:
    address = Address.parse(text)
    assert address is not None
    return address


def test_what_the_internet_does_not_reach_is_inside() -> None:
    assert [text for text in INSIDE if not is_inside(parsed(text))] == []
    assert [text for text in OUTSIDE if is_inside(parsed(text))] == []


def test_names_and_networks_may_be_reached() -> None:
    targets = TunnelTargets.parse("Git.example.lan, 10.1.0.0/16 ::ffff:10.2.0.1 fd00::/8")

    assert targets.have("git.example.lan", parsed("192.168.0.1"))
    assert targets.have("git.example.lan.", parsed("192.168.0.1"))
    assert targets.have("other.lan", parsed("10.1.2.3"))
    assert targets.have("other.lan", parsed("10.2.0.1"))
    assert targets.have("other.lan", parsed("fd00::1"))
    assert not targets.have("example.lan", parsed("192.168.0.1"))
    assert not targets.have("a.git.example.lan", parsed("10.3.0.1"))


@pytest.mark.parametrize("text", ["*.lan", "10.0.0.0/33", "127.1", "http://a", "a:80", "10.0.0.1/8", "1.2.3.4.5"])
def test_what_is_neither_is_refused(text: str) -> None:
    assert not are_targets(text)
