"""How many connections without a key an address may have, how long each lasts, and who is not meant by that."""

import pytest

from ccflare_core.clients.strangers import (
    LINES_PER_MINUTE,
    MOST_OF_ADDRESS,
    PATIENCE_SECONDS,
    Strangers,
    room_for_all,
    share_of,
)
from ccflare_core.http.addresses import Address, Networks

FAR, OTHER, PROXY, HERE = map(Address.parse, ("203.0.113.5", "203.0.113.6", "10.0.0.1", "127.0.0.1"))
SHARE, ROOM = 3, 6


class Door:
    """Connections that are numbered as they come."""

    def __init__(self) -> None:
        self.now = 100.0
        self.strangers = Strangers(lambda: SHARE, lambda: Networks.parse("10.0.0.1"), lambda: self.now, lambda: ROOM)
        self._number = 0

    def arrive(self, peer: Address | None = FAR) -> str:
        """A new connection's name; "" if it is one too many."""
        self._number += 1
        return "" if self.strangers.arrives(f"c{self._number}", peer) else f"c{self._number}"


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.mark.parametrize(("connections", "share"), [(1, 1), (5, 1), (80, 10), (462, MOST_OF_ADDRESS), (10**9, 32)])
def test_share_is_a_part_of_all_connections(connections: int, share: int) -> None:
    assert share_of(connections) == share


def test_an_address_has_its_share_and_another_one_its_own(door: Door) -> None:
    assert [bool(door.arrive()) for _ in range(5)] == [True, True, True, False, False]
    assert door.arrive(OTHER)
    door.strangers.leaves("c1")
    assert [bool(door.arrive()) for _ in range(2)] == [True, False]


def test_many_addresses_together_leave_half_of_all_connections_to_others(door: Door) -> None:
    assert [room_for_all(connections) for connections in (1, 2, 80, 461)] == [1, 1, 40, 230]
    far = [Address.parse(f"203.0.113.{number}") for number in range(10, 20)]
    assert [bool(door.arrive(each)) for each in far] == [True] * ROOM + [False] * 4
    assert door.strangers.has_room(far[-1])  # it is not to blame
    assert door.arrive(HERE)
    door.strangers.identified("c1")
    assert door.arrive(far[-1])


def test_a_household_of_ipv6_is_one_address(door: Door) -> None:
    home = [Address.parse(f"2001:db8:0:7::{number:x}") for number in range(1, 5)]
    assert [bool(door.arrive(each)) for each in home] == [True, True, True, False]
    assert door.arrive(Address.parse("2001:db8:0:8::1"))


def test_who_was_identified_does_not_count_and_is_not_overdue(door: Door) -> None:
    for _ in range(10):
        door.strangers.identified(door.arrive())
    door.now += PATIENCE_SECONDS
    assert not any(door.strangers.is_overdue(f"c{number}") for number in range(1, 11))
    assert door.arrive()


def test_who_was_not_identified_in_time_is_overdue(door: Door) -> None:
    connection = door.arrive()
    door.now += PATIENCE_SECONDS - 0.01
    door.strangers.asks(connection, FAR, FAR)  # a page for everybody makes it no better known
    assert not door.strangers.is_overdue(connection)
    door.now += 0.01
    assert door.strangers.is_overdue(connection)


@pytest.mark.parametrize("peer", [HERE, Address.parse("::1"), PROXY])
def test_this_machine_and_trusted_proxies_have_neither_share_nor_end(door: Door, peer: Address | None) -> None:
    connections = [door.arrive(peer) for _ in range(10)]
    door.now += 1000
    assert all(connections)
    assert not any(map(door.strangers.is_overdue, connections))
    assert door.strangers.count == 0


def test_a_trusted_proxys_connection_counts_for_whom_it_names_last(door: Door) -> None:
    connections = [door.arrive(PROXY) for _ in range(SHARE)]
    for connection in connections:
        door.strangers.asks(connection, PROXY, FAR)
    assert not door.strangers.has_room(FAR)
    assert not door.arrive(FAR)  # and comes straight no more than by the proxy

    door.strangers.asks(connections[0], PROXY, OTHER)
    assert door.strangers.has_room(FAR)
    door.strangers.asks(connections[0], PROXY, FAR)
    door.strangers.identified(connections[1])
    door.strangers.asks(connections[2], PROXY, PROXY)
    door.now += 1000
    assert door.strangers.count == 1
    assert not any(map(door.strangers.is_overdue, connections))


def test_a_refusal_ends_the_connection_but_not_that_of_a_proxy_for_many(door: Door) -> None:
    for peer, ends in ((FAR, True), (HERE, True), (PROXY, False)):
        connection = door.arrive(peer)
        door.strangers.refused(connection, peer)
        assert door.strangers.is_refused(connection) is ends
        door.strangers.identified(connection)
        assert not door.strangers.is_refused(connection)


def test_one_too_many_ends_at_once_and_nothing_is_kept_of_who_left(door: Door) -> None:
    connection = door.arrive(PROXY)
    door.strangers.expel(connection)
    door.strangers.refused(connection, FAR)
    assert door.strangers.is_overdue(connection)
    door.strangers.leaves(connection)
    assert (door.strangers.is_overdue(connection), door.strangers.is_refused(connection)) == (False, False)


def test_lines_of_an_address_are_few_as_long_as_it_has_strangers(door: Door) -> None:
    def lines(address: Address | None) -> int:
        return sum(door.strangers.may_tell(address) for _ in range(100))

    assert lines(FAR) == 100
    door.arrive(FAR)
    assert lines(FAR) == LINES_PER_MINUTE
    assert lines(OTHER) == 100
    door.now += 60
    assert lines(FAR) == LINES_PER_MINUTE
    door.strangers.leaves("c1")
    assert lines(FAR) == 100
