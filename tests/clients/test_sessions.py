"""Sessions of browsers: when they end, that they open our pages alone, and that no cookie of ours goes further."""

import itertools

import pytest

from ccflare_core.clients.authentication import OWNER, Principal
from ccflare_core.clients.keys import Permission, Role
from ccflare_core.clients.sessions import (
    IDLE_SECONDS,
    LONGEST_SECONDS,
    Sessions,
    cookie_of,
    identity_of,
    take_cookies,
)
from exchange_kit import EPOCH
from guard_kit import SECRET, a_key, ring_of

VIEWER = a_key(role=Role.VIEWER)
PRINCIPAL = Principal(VIEWER, VIEWER.role.permissions, SECRET)


def principal_of(name: str) -> Principal:
    key = a_key(name, role=Role.VIEWER)
    return Principal(key, key.role.permissions, SECRET)


def some_sessions(most: int = 3) -> Sessions:
    numbers = itertools.count()
    return Sessions(lambda: f"secret-{next(numbers)}", most)


def test_a_session_is_found_by_its_cookie_and_by_no_other() -> None:
    sessions = some_sessions()
    begun = sessions.begin(OWNER, 0.0)
    assert sessions.find([begun.cookie], 1.0) is begun.session
    assert sessions.find(["other", begun.cookie], 1.0) is begun.session
    assert sessions.find([begun.session.token], 1.0) is None
    assert sessions.find([], 1.0) is None


def test_a_session_ends_when_it_is_idle() -> None:
    sessions = some_sessions()
    session, cookie = sessions.begin(OWNER, 0.0)
    sessions.used(session, IDLE_SECONDS - 1)
    assert sessions.find([cookie], 2 * IDLE_SECONDS - 2) is session
    assert sessions.find([cookie], 2 * IDLE_SECONDS - 1) is None


def test_a_session_ends_however_much_it_is_used() -> None:
    sessions = some_sessions()
    session, cookie = sessions.begin(OWNER, 0.0)
    for now in range(0, int(LONGEST_SECONDS), 600):
        sessions.used(session, float(now))
    assert sessions.find([cookie], LONGEST_SECONDS - 1) is session
    assert sessions.find([cookie], LONGEST_SECONDS) is None


def test_a_session_ends_with_the_logout() -> None:
    sessions = some_sessions()
    (session, cookie), other = sessions.begin(OWNER, 0.0), sessions.begin(OWNER, 0.0)
    sessions.end(session)
    assert sessions.find([cookie], 0.0) is None
    assert sessions.find([other.cookie], 0.0) is other.session


def test_sessions_are_few_and_the_least_used_one_gives_way() -> None:
    sessions = some_sessions(most=2)
    first, second = sessions.begin(OWNER, 0.0), sessions.begin(OWNER, 1.0)
    sessions.used(first.session, 2.0)
    sessions.begin(OWNER, 3.0)
    assert sessions.find([second.cookie], 3.0) is None
    assert sessions.find([first.cookie], 3.0) is first.session


def test_who_logs_in_again_and_again_ends_no_session_but_their_own() -> None:
    sessions = some_sessions(most=4)
    owners, others = sessions.begin(OWNER, 0.0), sessions.begin(principal_of("other"), 0.0)
    own = [sessions.begin(PRINCIPAL, 1.0) for _ in range(20)]
    for begun in (owners, others, *own[-2:]):
        assert sessions.find([begun.cookie], 2.0) is begun.session
    assert [sessions.find([begun.cookie], 2.0) for begun in own[:-2]] == [None] * 18


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
    session = some_sessions().begin(PRINCIPAL, 0.0).session
    principal = identity_of(session, ring, EPOCH).principal  # type: ignore[arg-type]
    assert (principal is not None and principal.may(Permission.LOGS_VIEW)) is may


def test_the_owners_session_sends_no_requests() -> None:
    principal = identity_of(some_sessions().begin(OWNER, 0.0).session, ring_of(VIEWER), EPOCH).principal
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


def test_no_repr_tells_a_secret() -> None:
    begun = some_sessions().begin(PRINCIPAL, 0.0)
    assert "secret-" not in repr(begun)
    assert SECRET not in repr(begun)
