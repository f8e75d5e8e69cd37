"""Access: who may connect, and whose a forwarded request is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.access import Access, AccessLists, Caller
from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import THIS_MACHINE, Address, Networks, read_hop

PROXY = "10.0.0.9"
BEHIND_PROXY = Access(Networks.parse("0.0.0.0/0 ::/0"), trusted=Networks.parse("10.0.0.0/24"))


def forwarded(*values: str, name: str = "X-Forwarded-For", peer: str = PROXY) -> Caller:
    return BEHIND_PROXY.caller(peer, [(name.encode(), value.encode()) for value in values])


# -- who may connect


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may(peer: str) -> None:
    assert Access(THIS_MACHINE).admits(peer)


@pytest.mark.parametrize("peer", ["10.9.8.7", "100.64.1.1", "::ffff:10.0.0.1", "fe80::1%eth0", "", "nonsense"])
@pytest.mark.parametrize("access", [Access(THIS_MACHINE), Access(Networks(), everybody=False)])
def test_others_may_not(peer: str, access: Access) -> None:
    assert not access.admits(peer)


def test_a_block_wins() -> None:
    access = Access(Networks.parse("10.0.0.0/8"), blocked=Networks.parse("10.9.0.0/16"))

    assert access.admits("10.1.2.3")
    assert not access.admits("10.9.8.7")
    assert not access.admits("::ffff:10.9.8.7")
    assert not Access(Networks(), blocked=Networks.parse("10.9.8.7"), everybody=True).admits("10.9.8.7")


def test_a_trusted_proxy_may_connect_but_asks_for_nobody_by_itself() -> None:
    access = Access(Networks.parse("192.0.2.0/24"), trusted=Networks.parse(PROXY))

    assert access.admits(PROXY)
    assert not access.serves(access.caller(PROXY, []))
    assert access.serves(access.caller(PROXY, [(b"x-forwarded-for", b"192.0.2.7")]))
    assert not access.serves(access.caller(PROXY, [(b"x-forwarded-for", b"198.51.100.7")]))


# -- whose a request is


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1, 192.0.2.1", "192.0.2.1"),  # what stands left, the client wrote
        ("192.0.2.1, 10.0.0.3, 10.0.0.4", "192.0.2.1"),  # three of our proxies, one behind the other
        ("<script>, 192.0.2.1", "192.0.2.1"),
        ("10.0.0.3", "10.0.0.3"),  # the proxy's own monitoring
    ],
)
def test_the_rightmost_address_that_is_no_trusted_proxy_is_the_client(value: str, client: str) -> None:
    assert forwarded(value).text == client


@pytest.mark.parametrize(
    "value", ["", ",", "unknown", "192.0.2.1, _hidden", "192.0.2.1,", "300.1.1.1", "1.2.3.4:x", "[::1"]
)
def test_what_cannot_be_read_leaves_the_sockets_address(value: str) -> None:
    assert forwarded(value) == Caller(Address.parse(PROXY), PROXY, is_local=False)


def test_several_fields_are_one_list() -> None:
    assert forwarded("127.0.0.1", "192.0.2.1").text == "192.0.2.1"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ('For="[2001:db8::1]:80";proto=https;by=10.0.0.3', "2001:db8::1"),
        ("for=127.0.0.1, proto=http; for=192.0.2.1", "192.0.2.1"),
        ('for="127.0.0.1, for=192.0.2.1', "192.0.2.1"),
        ("for=unknown", PROXY),
        ("by=192.0.2.1", PROXY),
        ("for=192.0.2.1;for=127.0.0.1", PROXY),
    ],
)
def test_forwarded_is_read_too(value: str, client: str) -> None:
    assert forwarded(value, name="Forwarded").text == client


def test_nobody_is_believed_who_is_not_on_the_list() -> None:
    caller = forwarded("127.0.0.1", peer="198.51.100.9")

    assert caller == Caller(Address.parse("198.51.100.9"), "198.51.100.9", is_local=False)


@pytest.mark.parametrize(
    ("peer", "value", "client", "is_local"),
    [
        (PROXY, "127.0.0.1", PROXY, False),
        (PROXY, "::1", PROXY, False),
        (PROXY, "::ffff:127.0.0.1", PROXY, False),
        (PROXY, "127.8.8.8", PROXY, False),
        (PROXY, "192.0.2.1, 127.0.0.1", PROXY, False),  # its 127.0.0.1 is not the one on our list
        (PROXY, "127.0.0.1, 10.0.0.3", "10.0.0.3", False),
        (PROXY, "10.0.0.3, 127.0.0.1", PROXY, False),
        ("127.0.0.1", "127.0.0.1, 10.0.0.3", "10.0.0.3", False),  # ours is only the last of them
        ("127.0.0.1", "127.8.8.8", "127.8.8.8", True),
        ("::1", "127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.8.8.8, 127.0.0.1", "127.8.8.8", True),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1", False),
    ],
)
@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
def test_loopback_is_the_machine_of_whoever_names_it(
    name: str, peer: str, value: str, client: str, is_local: bool
) -> None:
    access = Access(Networks.parse("0.0.0.0/0"), trusted=Networks.parse("10.0.0.0/24 127.0.0.1 ::1"))
    written = [f"[{hop}]:1" if ":" in hop else hop for hop in value.split(", ")]
    hops = written if name == "X-Forwarded-For" else [f'for="{hop}"' for hop in written]

    caller = access.caller(peer, [(name.encode(), ", ".join(hops).encode())])

    assert (caller.text, caller.is_local) == (client, is_local)


addresses = st.sampled_from(["127.0.0.1", "::1", "127.8.8.8", "10.0.0.3", "192.0.2.1", "::ffff:127.0.0.1", "unknown"])


@given(st.lists(addresses, max_size=5), st.sampled_from([PROXY, "::ffff:10.0.0.9"]))
def test_nobody_behind_another_machine_is_local(hops: list[str], peer: str) -> None:
    access = Access(Networks.parse("0.0.0.0/0 ::/0"), trusted=Networks.parse("10.0.0.0/24 127.0.0.0/8 ::1"))

    caller = access.caller(peer, [(b"x-forwarded-for", ", ".join(hops).encode())])

    assert not caller.is_local
    assert not THIS_MACHINE.have(caller.address)


def test_two_headers_that_disagree_are_refused() -> None:
    def both(forwarded: bytes) -> Caller:
        return BEHIND_PROXY.caller(PROXY, [(b"X-Forwarded-For", b"192.0.2.1"), (b"Forwarded", forwarded)])

    assert both(b"for=192.0.2.1").text == "192.0.2.1"
    with pytest.raises(ValueError, match="name different clients"):
        both(b"for=127.0.0.1")


@pytest.mark.parametrize("sign", [b"X-Forwarded-For", b"Forwarded", b"Via", b"X-Real-IP", b"X-Forwarded-Proto"])
def test_who_came_through_something_unknown_is_not_of_this_machine(sign: bytes) -> None:
    access = Access(THIS_MACHINE)

    assert access.caller("127.0.0.1", [(b"host", b"x")]).is_local
    assert not access.caller("127.0.0.1", [(sign, b"127.0.0.1")]).is_local
    assert access.serves(access.caller("127.0.0.1", [(sign, b"127.0.0.1")]))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_makes_a_stranger_local(xff: str, forwarded: str) -> None:
    headers = [(b"x-forwarded-for", xff.encode()), (b"forwarded", forwarded.encode())]

    assert Access(THIS_MACHINE).caller("198.51.100.9", headers).text == "198.51.100.9"


@given(st.text(alphabet="0123456789abcdef.:[]%, ", max_size=40))
def test_no_hop_raises(text: str) -> None:
    read_hop(text)


# -- the lists as they are now


def settings(**options: Any) -> Settings:
    return Settings.build({f"ccflare_{name}": value for name, value in options.items()}, {"XDG_DATA_HOME": "/x"})


def serves(lists: AccessLists, peer: str) -> bool:
    """Whether a connection of this peer may stay, and a request on it is answered."""
    answered = lists.access.serves(lists.access.caller(peer, ()))
    assert answered is (lists.objection(peer) is None)
    return answered


@pytest.mark.parametrize(
    ("options", "served", "turned_away"),
    [
        ({}, ["127.0.0.1", "::1"], ["10.9.8.7", "100.64.1.1", "::ffff:10.0.0.1", "fe80::1%eth0"]),
        ({"allow_remote": True}, ["127.0.0.1", "10.9.8.7", "100.64.1.1", "fe80::1%eth0"], [""]),
        (
            {"allow_remote": True, "allow_ips": "10.0.0.0/8"},
            ["10.9.8.7", "::ffff:10.0.0.1"],
            ["127.0.0.1", "100.64.1.1"],
        ),
        ({"allow_remote": True, "block_ips": "100.64.0.0/10 fe80::/10"}, ["10.9.8.7"], ["100.64.1.1", "fe80::1%eth0"]),
        ({"block_ips": "127.0.0.0/8"}, ["::1"], ["127.0.0.1", "::ffff:127.0.0.1"]),
    ],
)
def test_lists_say_who_is_served(options: dict[str, Any], served: list[str], turned_away: list[str]) -> None:
    lists = AccessLists(settings(**options))
    assert [peer for peer in served if not serves(lists, peer)] == []
    assert [peer for peer in turned_away if serves(lists, peer)] == []


def test_lists_can_change_while_clients_are_connected() -> None:
    lists = AccessLists(settings(allow_remote=True))
    assert serves(lists, "10.9.8.7")

    lists.change(settings(allow_remote=True, block_ips="10.0.0.0/8"))
    assert not serves(lists, "10.9.8.7")
    lists.ban(Networks.parse("100.64.0.0/10"))
    assert (serves(lists, "10.9.8.7"), serves(lists, "100.64.1.1")) == (False, False)
    lists.change(settings(allow_remote=True))
    assert (serves(lists, "10.9.8.7"), serves(lists, "100.64.1.1")) == (True, False)
    lists.ban(Networks())
    assert serves(lists, "100.64.1.1")
