"""Who gets a session, and how little who does not is told."""

from ccflare_core.clients.authentication import Identity
from ccflare_core.clients.keys import ClientKey, Role
from ccflare_core.clients.sessions import Begun, Sessions
from ccflare_core.clients.throttle import FREE
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.pages.logins import NO_KEY, NO_LINK, NOT_PERMITTED, Logins, is_forged
from ccflare_mitm.pages.visit import Visit
from exchange_kit import EPOCH
from guard_kit import SECRET, a_key, an_authenticator, shown, some_logins

VISIT = Visit(Identity(None), "127.0.0.1", "/ccflare/login", at=EPOCH)
LINKS = ("good",)


def logins_of(*keys: ClientKey) -> Logins:
    return some_logins(an_authenticator(*keys), Sessions(), LINKS)


async def test_a_key_that_may_see_the_dashboard_gets_a_session() -> None:
    logins = logins_of(a_key(role=Role.VIEWER))
    begun = await logins.by_key(SECRET, VISIT)
    assert isinstance(begun, Begun)
    assert begun.session.whose == shown().hex()
    assert logins.sessions.find([begun.cookie], EPOCH) == begun.session


async def test_other_keys_get_none() -> None:
    assert await logins_of(a_key(role=Role.CLIENT)).by_key(SECRET, VISIT) == NOT_PERMITTED
    for key in (a_key(role=Role.ADMIN, revoked_at=EPOCH - 1), a_key(role=Role.ADMIN, expires_at=EPOCH - 1)):
        assert await logins_of(key).by_key(SECRET, VISIT) == NO_KEY
    for typed in ("", "ccf_" + "w" * 32, "no key", SECRET + " "):
        assert await logins_of(a_key(role=Role.ADMIN)).by_key(typed, VISIT) == NO_KEY


async def test_who_fails_too_often_waits_and_a_right_key_passes() -> None:
    logins = logins_of(a_key(role=Role.ADMIN))
    seen = [await logins.by_key("wrong", VISIT) for _ in range(FREE + 1)]
    last = seen[-1]
    assert isinstance(last, Rejection)
    assert (last.status, (last.retry_after or 0) >= 1) == (429, True)
    assert isinstance(await logins.by_key(SECRET, VISIT), Begun)


async def test_a_link_is_good_once() -> None:
    logins = logins_of()
    assert isinstance(await logins.by_link("good", VISIT), Begun)
    assert await logins.by_link("good", VISIT) == NO_LINK
    assert await logins.by_link("other", VISIT) == NO_LINK


async def test_a_session_that_was_ended_is_none() -> None:
    logins = logins_of()
    begun = await logins.by_link("good", VISIT)
    assert isinstance(begun, Begun)
    await logins.end(begun.session, VISIT)
    assert logins.sessions.find([begun.cookie], EPOCH) is None


async def test_a_form_has_to_have_its_own_sessions_token() -> None:
    sessions = Sessions()
    mine, other = (sessions.begin(None, 0.0).session for _ in range(2))
    assert not is_forged(mine, mine.token)
    assert is_forged(mine, other.token)
    assert is_forged(mine, "")
    assert is_forged(mine, "é")
