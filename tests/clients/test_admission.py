"""What is asked of a connection and of a request before its key."""

from typing import Any

import pytest

from ccflare_core.clients.admission import Entrance
from ccflare_core.clients.browser import Asked
from ccflare_core.clients.rate_limits import Allowances
from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import Networks
from ccflare_core.http.origins import Origin


def settings(**options: Any) -> Settings:
    return Settings.build({f"ccflare_{name}": value for name, value in options.items()}, {"XDG_DATA_HOME": "/x"})


def entrance(**options: Any) -> Entrance:
    return Entrance(settings(**options), Allowances(lambda: 0.0, lambda: 0.0, print))


def status(entrance: Entrance, peer: str, *headers: tuple[bytes, bytes]) -> int | None:
    refusal = entrance.meet(peer, headers).refusal
    return refusal.status if refusal else None


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
def test_who_is_served(options: dict[str, Any], served: list[str], turned_away: list[str]) -> None:
    door = entrance(**options)
    assert [(peer, door.connected(peer), status(door, peer)) for peer in served] == [(p, None, None) for p in served]
    assert all(door.connected(peer) and status(door, peer) == 403 for peer in turned_away)


def test_the_lists_can_change_while_clients_are_connected() -> None:
    door = entrance(allow_remote=True)
    assert status(door, "10.9.8.7") is None

    door.change(settings(allow_remote=True, block_ips="10.0.0.0/8"))
    assert status(door, "10.9.8.7") == 403
    door.ban(Networks.parse("100.64.0.0/10"))
    assert (status(door, "10.9.8.7"), status(door, "100.64.1.1")) == (403, 403)
    door.change(settings(allow_remote=True))
    assert (status(door, "10.9.8.7"), status(door, "100.64.1.1")) == (None, 403)
    door.ban(Networks())
    assert status(door, "100.64.1.1") is None


def test_a_forwarded_client_is_asked_about_like_any_other() -> None:
    door = entrance(trusted_proxies="127.0.0.1", allow_ips="192.0.2.0/24")
    xff = b"x-forwarded-for"

    assert door.connected("127.0.0.1") is None
    assert status(door, "127.0.0.1", (xff, b"192.0.2.7")) is None
    assert status(door, "127.0.0.1", (xff, b"10.9.8.7")) == 403
    assert status(door, "127.0.0.1") == 403
    assert status(door, "127.0.0.1", (xff, b"192.0.2.7"), (b"forwarded", b"for=192.0.2.8")) == 400


def test_one_request_too_many_of_an_address() -> None:
    door = entrance(requests_per_minute_per_ip=2)
    assert [status(door, "127.0.0.1") for _ in range(3)] == [None, None, 429]
    assert status(door, "::1") is None


def test_one_open_request_too_many() -> None:
    door = entrance(max_requests=2)
    assert door.lack_of_room(2) is None
    refusal = door.lack_of_room(3)
    assert refusal is not None
    assert (refusal.status, refusal.retry_after) == (503, 1)


def test_a_page_of_elsewhere_is_refused() -> None:
    evil = Asked("POST", Origin("http", "127.0.0.1", 80), {"origin": "http://evil.com"})
    refusal = entrance().object_to(evil)
    assert refusal is not None
    assert refusal.status == 403
    assert entrance(allowed_origins="http://evil.com").object_to(evil) is None
