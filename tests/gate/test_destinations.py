"""Destinations: all of a name's addresses count, the first is connected to, and none leads back here."""

import pytest

from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import Address
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.gate.destinations import Destinations, Target

OWN = Address.parse("203.0.113.5")
KNOWN = {
    "public.test": ("1.1.1.1", "8.8.8.8"),
    "inside.test": ("10.0.0.1",),
    "mixed.test": ("1.1.1.1", "127.0.0.1"),
    "own.test": ("203.0.113.5",),
    "empty.test": (),
}


class Resolver:
    """Knows a few names, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> tuple[Address, ...]:
        self.asked.append(host)
        if host not in KNOWN:
            raise OSError("no such name")
        return tuple(address for text in KNOWN[host] if (address := Address.parse(text)))


def a_place(resolver: Resolver, targets: str = "") -> Destinations:
    settings = Settings.build({"ccflare_tunnel_targets": targets}, {"XDG_DATA_HOME": "/x"})

    def is_own(address: Address) -> bool:
        return address == OWN or address.ip.is_loopback or address.ip.is_unspecified

    return Destinations(lambda: settings, lambda: {8080}, resolve=resolver, is_own=is_own)


def outcome(found: Target | Rejection) -> int | str:
    return found.status if isinstance(found, Rejection) else str(found.address)


@pytest.mark.parametrize(
    ("host", "port", "limited", "unlimited"),
    [
        ("public.test", 443, "1.1.1.1", "None"),
        ("inside.test", 443, 403, "None"),
        ("mixed.test", 443, 403, "None"),
        ("own.test", 443, 403, "None"),
        ("own.test", 8080, 508, 508),
        ("mixed.test", 8080, 508, 508),
        ("127.1", 8080, 508, 508),
        ("0.0.0.0", 8080, 508, 508),
        ("localhost", 8080, 508, 508),
        ("a.localhost", 8080, 508, 508),
        ("::ffff:127.0.0.1", 8080, 508, 508),
        ("::1", 443, 403, "None"),
        ("unknown.test", 443, 502, "None"),
        ("unknown.test", 8080, 502, "None"),
        ("empty.test", 443, 502, "None"),
        ("8.8.8.8", 443, "8.8.8.8", "None"),
    ],
)
async def test_where_a_tunnel_may_lead(host: str, port: int, limited: int | str, unlimited: int | str) -> None:
    place = a_place(Resolver())

    assert outcome(await place.find(host, port, is_limited=True, is_indirect=False)) == limited
    assert outcome(await place.find(host, port, is_limited=False, is_indirect=False)) == unlimited


async def test_a_name_is_looked_up_once_and_only_if_it_matters() -> None:
    place = a_place(resolver := Resolver())
    await place.find("public.test", 443, is_limited=True, is_indirect=False)
    await place.find("inside.test", 443, is_limited=False, is_indirect=False)
    assert not await place.comes_back("inside.test", 443)

    assert resolver.asked == ["public.test"]


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("inside.test", 443, "None"),
        ("10.0.0.1", 443, 403),
        ("0x7f.1", 443, 403),
        ("localhost", 443, 403),
        ("1.1.1.1", 443, "None"),
        ("127.0.0.1", 8080, 508),
    ],
)
async def test_behind_another_proxy_addresses_alone_are_looked_at(host: str, port: int, expected: int | str) -> None:
    place = a_place(resolver := Resolver())

    assert outcome(await place.find(host, port, is_limited=True, is_indirect=True)) == expected
    assert resolver.asked == []


@pytest.mark.parametrize("targets", ["inside.test", "10.0.0.0/8"])
async def test_what_the_option_names_may_be_reached(targets: str) -> None:
    place = a_place(Resolver(), targets)
    assert outcome(await place.find("inside.test", 443, is_limited=True, is_indirect=False)) == "10.0.0.1"


async def test_no_option_leads_back_here() -> None:
    place = a_place(Resolver(), "own.test 127.0.0.0/8")
    for host in ("own.test", "127.0.0.1"):
        assert outcome(await place.find(host, 8080, is_limited=True, is_indirect=False)) == 508
