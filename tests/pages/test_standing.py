"""Whether who was let in may stay: each way in, and each way in which that comes to an end."""

from dataclasses import replace

import pytest

from ccflare_core.clients.access import AccessLists
from ccflare_core.clients.authentication import LOCAL, OWNER, Authenticator, Identity, Principal
from ccflare_core.clients.keys import ClientKey, Permission, Role
from ccflare_core.clients.sessions import IDLE_SECONDS, LONGEST_SECONDS, Session, Sessions
from ccflare_core.http.addresses import Networks
from ccflare_mitm.pages.standing import Standing
from ccflare_mitm.pages.visit import WEB, Visit
from exchange_kit import EPOCH, Bench
from guard_kit import SECRET, a_key, an_authenticator, ring_of, shown

VIEW, READ = Permission.DASHBOARD_VIEW, Permission.LOGS_VIEW


class House:
    """A key of a viewer, and whatever else there is."""

    def __init__(self, *keys: ClientKey, open_loopback: bool = False) -> None:
        self.bench, self.sessions = Bench(), Sessions()
        self.access = AccessLists(self.bench.exchanges.settings)
        self.authenticator: Authenticator = an_authenticator(*keys, open_loopback=open_loopback)
        clock = self.bench.clock
        self.standing = Standing(self.authenticator, self.sessions, self.access, lambda: clock.wall)

    def may(self, visit: Visit, permission: Permission = VIEW) -> bool:
        return self.standing.may(visit, permission)


def came(principal: Principal | None, session: Session | None = None) -> Visit:
    return Visit(Identity(principal), "127.0.0.1", "/ccflare/test", session=session)


def of(key: ClientKey) -> Principal:
    return Principal(key, key.role.permissions, SECRET)


def test_a_keys_visitor_stays_for_what_its_role_may() -> None:
    key = a_key(role=Role.VIEWER)
    house = House(key)
    assert house.may(came(of(key)))
    assert not house.may(came(of(key)), Permission.ACCOUNTS_MANAGE)


@pytest.mark.parametrize(
    "now",
    [
        a_key(role=Role.VIEWER, revoked_at=EPOCH - 1),
        a_key(role=Role.VIEWER, expires_at=EPOCH - 1),
        a_key(role=Role.CLIENT),
    ],
    ids=["revoked", "expired", "another role"],
)
def test_a_keys_visitor_goes_with_the_key_and_with_its_role(now: ClientKey) -> None:
    key = a_key(role=Role.VIEWER)
    house = House(key)

    house.authenticator.replace(ring_of(now))

    assert not house.may(came(of(key)))


def test_a_visitor_of_this_machine_stays_until_there_is_a_key() -> None:
    house = House()
    assert house.may(came(LOCAL))

    house.authenticator.replace(ring_of(a_key()))

    assert not house.may(came(LOCAL))
    assert House(a_key(), open_loopback=True).may(came(LOCAL))


@pytest.mark.parametrize("whose", [None, shown()], ids=["of the owner's link", "of a key"])
def test_a_session_is_over_at_its_end(whose: bytes | None) -> None:
    house = House(a_key(role=Role.ADMIN))
    session = house.sessions.begin(whose, house.bench.clock.wall).session
    visit = came(None, session=session)
    assert house.may(visit, READ)

    house.sessions.end(session)

    assert not house.may(visit)


@pytest.mark.parametrize("seconds", [IDLE_SECONDS, LONGEST_SECONDS])
def test_a_session_is_over_after_its_time(seconds: float) -> None:
    house = House()
    session = house.sessions.begin(None, house.bench.clock.wall).session

    house.bench.clock.pass_(seconds)

    assert not house.may(came(OWNER, session=session))


def test_a_session_is_over_with_its_key() -> None:
    key = a_key(role=Role.ADMIN)
    house = House(key)
    session = house.sessions.begin(shown(), house.bench.clock.wall).session

    house.authenticator.replace(ring_of(replace(key, revoked_at=EPOCH - 1)))

    assert not house.may(came(of(key), session=session))


def test_an_address_that_is_blocked_is_served_no_longer() -> None:
    key = a_key(role=Role.VIEWER)
    house = House(key)

    house.access.ban(Networks.parse("127.0.0.1"))

    assert not house.may(came(of(key)))


def test_who_came_by_mitmweb_stays() -> None:
    house = House(a_key())
    assert house.may(replace(came(OWNER), by=WEB), READ)
    assert not house.may(came(OWNER))  # there is no other way to be the owner without a session


def test_who_was_nobody_does_not_stay() -> None:
    assert not House().may(came(None))
