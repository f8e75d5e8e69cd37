"""Sessions of browsers: when they end, that they open our pages alone, and that no cookie of ours goes further."""

import hmac
from dataclasses import replace

import pytest

from ccflare_core.clients.keys import Permission, Role
from ccflare_core.clients.sessions import (
    AHEAD_SECONDS,
    IDLE_SECONDS,
    LONGEST_SECONDS,
    RENEW_SECONDS,
    Sessions,
    cookie_of,
    identity_of,
    take_cookies,
)
from exchange_kit import EPOCH
from guard_kit import SECRET, a_key, ring_of, shown

VIEWER = a_key(role=Role.VIEWER)
NOW = EPOCH


def signed(text: bytes, key_id: str) -> bytes:
    """As any proxy with the data keys signs."""
    return hmac.digest(key_id.encode(), text, "sha256")


def following(*key_ids: str) -> Sessions:
    """The sessions of one of several proxies with these data keys, the newest first."""
    sessions = Sessions()
    sessions.follow(replace(ring_of(VIEWER, peppers=key_ids), sign=signed))
    return sessions


def test_a_session_is_found_by_its_cookie_and_by_no_other() -> None:
    sessions = Sessions()
    begun = sessions.begin(None, NOW)
    assert sessions.find([begun.cookie], NOW + 1) == begun.session
    assert sessions.find(["other", begun.cookie], NOW + 1) == begun.session
    assert sessions.find([begun.session.token], NOW + 1) is None
    assert sessions.find([], NOW + 1) is None


def test_a_session_is_one_for_every_proxy_with_the_key_also_after_a_rotation() -> None:
    begun = following("old").begin(shown(), NOW)
    assert following("old").find([begun.cookie], NOW) == begun.session
    assert following("new", "old").find([begun.cookie], NOW) == begun.session
    assert following("new").find([begun.cookie], NOW) is None
    assert Sessions().find([begun.cookie], NOW) is None


@pytest.mark.parametrize("place", range(3))
def test_a_cookie_that_was_changed_is_none(place: int) -> None:
    sessions = following("one")
    parts = sessions.begin(None, NOW).cookie.split(".")
    forged = Sessions().begin(None, NOW).cookie.split(".")
    assert sessions.find([".".join([*parts[:place], forged[place], *parts[place + 1 :]])], NOW) is None
    assert sessions.find([".".join([*parts[:place], "", *parts[place + 1 :]])], NOW) is None
    assert sessions.find([".".join([*parts[:place], "é", *parts[place + 1 :]])], NOW) is None
    assert sessions.find([".".join(parts) + "x" * 2_000], NOW) is None


def test_a_session_ends_when_it_is_idle() -> None:
    sessions = Sessions()
    session, cookie = sessions.begin(None, NOW)
    sessions.used(session, NOW + IDLE_SECONDS - 1)
    assert sessions.find([cookie], NOW + 2 * IDLE_SECONDS - 2) == session
    assert sessions.find([cookie], NOW + 2 * IDLE_SECONDS - 1) is None


def test_a_cookie_is_renewed_while_it_is_used_so_that_other_proxies_know_of_that() -> None:
    one, other = following("one"), following("one")
    session, cookie = one.begin(None, NOW)
    assert one.renewed(session, NOW + RENEW_SECONDS - 1) is None
    later = NOW + IDLE_SECONDS - 1

    renewed = one.renewed(session, later)

    assert renewed is not None
    found = other.find([renewed], later + IDLE_SECONDS - 1)
    assert found is not None
    assert (found.id, found.token, found.begun_at) == (session.id, session.token, NOW)
    assert other.find([cookie], later + IDLE_SECONDS - 1) is None


def test_a_session_ends_however_much_it_is_used() -> None:
    sessions = Sessions()
    session, cookie = sessions.begin(None, NOW)
    for seconds in range(0, int(LONGEST_SECONDS), 600):
        sessions.used(session, NOW + seconds)
    assert sessions.find([cookie], NOW + LONGEST_SECONDS - 1) == session
    assert sessions.find([cookie], NOW + LONGEST_SECONDS) is None


def test_a_session_of_a_proxy_whose_clock_was_ahead_does_not_outlive_the_others() -> None:
    begun = following("one").begin(shown(), NOW + AHEAD_SECONDS + 1)
    assert following("one").find([begun.cookie], NOW + 2) is not None
    assert following("one").find([begun.cookie], NOW) is None
    week = following("one").begin(None, NOW + 7 * 86_400)
    assert following("one").find([week.cookie], NOW) is None


def test_a_session_ends_with_the_logout_here_and_elsewhere() -> None:
    one, other = following("one"), following("one")
    (session, cookie), stays = one.begin(None, NOW), one.begin(None, NOW)
    one.end(session)
    other.take_ended({session.id})
    for sessions in (one, other):
        assert sessions.find([cookie], NOW) is None
        assert sessions.find([stays.cookie], NOW) == stays.session
    assert one.renewed(session, NOW + RENEW_SECONDS) is None


@pytest.mark.parametrize(
    ("ring", "may"),
    [
        (ring_of(VIEWER), True),
        (ring_of(a_key(role=Role.VIEWER, revoked_at=EPOCH - 1)), False),
        (ring_of(a_key(role=Role.VIEWER, expires_at=EPOCH - 1)), False),
        (ring_of(a_key("other", role=Role.ADMIN), secrets=("ccf_" + "o" * 32,)), False),
        (ring_of(a_key(role=Role.CLIENT)), False),
        (ring_of(), False),
    ],
)
def test_a_session_is_worth_what_its_key_is_now(ring: object, may: bool) -> None:
    session = Sessions().begin(shown(), NOW).session
    principal = identity_of(session, ring, EPOCH).principal  # type: ignore[arg-type]
    assert (principal is not None and principal.may(Permission.LOGS_VIEW)) is may


def test_the_owners_session_sends_no_requests() -> None:
    principal = identity_of(Sessions().begin(None, NOW).session, ring_of(VIEWER), EPOCH).principal
    assert principal is not None
    assert principal.permissions == set(Permission) - {Permission.API_REQUEST}


@pytest.mark.parametrize(
    ("fields", "found", "left"),
    [
        ([(b"Cookie", b"ccflare_session_8080=abc")], ("abc",), []),
        ([(b"cookie", b"a=1; ccflare_session_8080=abc;b=2")], ("abc",), [(b"cookie", b"a=1; b=2")]),
        ([(b"cookie", b"a=1"), (b"cookie", b"ccflare_session_8080=abc")], ("abc",), [(b"cookie", b"a=1")]),
        ([(b"cookie", b"ccflare_session_9090=abc; x=y")], (), [(b"cookie", b"x=y")]),
        ([(b"cookie", b"a=1;b=2 ;c")], (), [(b"cookie", b"a=1;b=2 ;c")]),
        ([(b"x-cookie", b"ccflare_session_8080=abc")], (), [(b"x-cookie", b"ccflare_session_8080=abc")]),
    ],
)
def test_our_cookies_are_taken_and_others_stay_as_they_are(
    fields: list[tuple[bytes, bytes]], found: tuple[str, ...], left: list[tuple[bytes, bytes]]
) -> None:
    assert take_cookies(fields, 8080) == (found, tuple(left))


def test_the_cookie_is_for_our_pages_and_no_script() -> None:
    text = "ccflare_session_8080=abc; Path=/ccflare/; HttpOnly; SameSite=Strict"
    assert cookie_of("abc", 8080, tls=False) == (b"set-cookie", text.encode())
    assert cookie_of("abc", 8080, tls=True) == (b"set-cookie", f"{text}; Secure".encode())
    assert cookie_of("", 8080, tls=False)[1].endswith(b"Max-Age=0")


def test_no_repr_tells_a_secret_and_no_cookie_has_a_key() -> None:
    begun = Sessions().begin(shown(), NOW)
    assert begun.session.token not in repr(begun)
    assert begun.cookie not in repr(begun)
    assert SECRET not in begun.cookie + repr(begun)
