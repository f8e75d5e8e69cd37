"""One refresh of one account's tokens, from the lease to the commit.

The order is what keeps a login alive. A refresh token can be spent once: a process that sends one again loses
the whole login, and so does one that loses the answer. So the lease comes first, what is stored is read under it, only
that is sent, and the answer is committed before anyone uses it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.successors import Pair, Successors
from ccflare_core.anthropic import oauth
from ccflare_core.anthropic.oauth import Tokens
from ccflare_core.errors import CCFlareError, StoreError, TokenError, TokenRejected, TokenUnavailable
from ccflare_core.http.messages import Request, Response

logger = logging.getLogger("ccflare")

T = TypeVar("T")

LEASE_SECONDS = 30.0
"""After how long another run's lease counts as abandoned; far longer than a refresh may take."""
UNHURRIED_SECONDS = 120.0
"""The same while the account has a good token: a run that was frozen when it had sent the refresh token may wake up and
read the answer, and to send that token once more would end the login.
"""
RENEWAL_SECONDS = 10.0
"""How often a lease is renewed while the provider's answer is waited for."""
ANSWER_SECONDS = 120.0
"""How long that may take: an answer that nobody reads is a lost login."""
PATIENCE_SECONDS = ANSWER_SECONDS + LEASE_SECONDS
"""How long to wait for others at most."""
_POLL_SECONDS = 0.25
_PROMPT_SECONDS = 10.0
"""How old a lease of ours may be when we hear of it. A process that was frozen meanwhile takes another one."""


class LeaseAttempt(NamedTuple):
    """What came of asking for a lease."""

    account: Account
    """As it is stored now."""
    is_mine: bool
    """Whether the asker holds the lease."""
    term: str
    """The lease's name. Each has a new one, also when the same run takes it again. "" while nobody can have one."""
    since: float
    """A moment, by the asker's clock, before which no other run can have seen this lease."""


class Logins(Protocol):
    """The stored tokens, and the leases on them: what `store.oauth_tokens` has."""

    def take_lease(
        self, account_id: str, owner: str, *, abandoned: str = "", clock: Callable[[], float] = time.monotonic
    ) -> LeaseAttempt | None:
        """Take the lease if it is free, and read the account; None if that is gone."""
        ...

    def renew_lease(self, account_id: str, owner: str) -> None:
        """Give the lease a new name, if the run still holds it: other runs see that this one is at work."""
        ...

    def release_lease(self, account_id: str, owner: str) -> None:
        """Give the lease back, if the run still holds it."""
        ...

    def save_tokens(self, account_id: str, owner: str, spent: str, tokens: Tokens) -> Account | None:
        """Store what the refresh token `spent` was exchanged for; the account as it is stored then."""
        ...

    def flag_login(self, account_id: str, owner: str, spent: str) -> Account | None:
        """Note that the provider has refused the refresh token `spent` for good."""
        ...

    def note_failure(self, account: Account, retry_at: float, reason: str) -> None:
        """Note why the account's token was not refreshed, and until when nobody tries it again."""
        ...


class LoginStore(Protocol):
    """A store, as far as a refresh needs one."""

    @property
    def logins(self) -> Logins:
        """Its tokens."""
        ...


class Call(Protocol):
    """Runs a function on the store that writes, and gives its result."""

    def __call__(self, function: Callable[[LoginStore], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What came of it."""

    account: Account | None
    """As it stands now; None if it is gone."""
    news: str
    """For the log."""
    before: Account | None = None
    """As it was stored before, if that was not what the caller knew."""
    unsaved: Pair | None = None
    """What still has to be written."""


class Refresher:
    """Refreshes; knows nothing of when. `owner` is the id of this run."""

    def __init__(
        self,
        *,
        call: Call,
        send: Callable[[Request], Awaitable[Response]],
        endpoints: Callable[[], oauth.Endpoints],
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        renewal_seconds: float = RENEWAL_SECONDS,
    ) -> None:
        """`send` has to wait `ANSWER_SECONDS` for an answer."""
        self._renewal_seconds = renewal_seconds
        self.successors = Successors()
        """What is known of all refreshes, by whichever process."""
        self._call = call
        self._send = send
        self._endpoints = endpoints
        self._owner = owner
        self._clock = clock
        self._wall = wall
        self._sleep = sleep

    async def refresh(self, known: Account, rejected: str | None) -> Refreshed:
        """Get the account a token other than `known`'s (and than `rejected`, which upstream refused).

        Raises a CCFlareError if that did not work out this time: the provider could not be asked, the database could
        not be used, or another run is at it for too long.
        """
        turn = await self._take_turn(known, rejected)
        if turn is None:
            return Refreshed(None, "the account was removed")
        stored = turn.account
        if (newer := self.successors.newest(stored)) is not None:
            return await self._commit(stored, newer, "its newer token is written again")
        if stored.refresh_token is None or self._is_news(stored, known, rejected):
            if turn.is_mine:
                await self._give_back(stored.id)
            return Refreshed(stored, "another process or a login was faster")
        return await self._spend(stored, stored.refresh_token)

    async def save(self, pair: Pair) -> Account | None:
        """Write a pair that has waited. Returns the account as it is stored then; raises StoreError as before."""
        return await self._call(
            lambda store: store.logins.save_tokens(pair.account_id, self._owner, pair.spent, pair.tokens)
        )

    async def note_failure(self, account: Account, retry_at: float, reason: str) -> None:
        """Leave a note of a refresh that failed, if the database takes it."""
        with contextlib.suppress(CCFlareError):
            await self._call(lambda store: store.logins.note_failure(account, retry_at, reason))

    async def _take_turn(self, known: Account, rejected: str | None) -> LeaseAttempt | None:
        """The lease, or what somebody else has stored while we waited for it; None if the account is gone."""
        watched, abandoned = "", ""
        started = since = self._clock()
        while True:
            turn = await self._ask_for_lease(known.id, abandoned)
            now = self._clock()
            if turn is None or self._is_news(turn.account, known, rejected):
                return turn
            if turn.is_mine and now - turn.since < _PROMPT_SECONDS:
                return turn
            if now - started >= PATIENCE_SECONDS:
                raise TokenUnavailable("another process has been refreshing this token for too long")
            if turn.term != watched:
                watched, since = turn.term, now
            is_good = turn.account.token_problem(self._wall()) is None and turn.account.access_token != rejected
            abandoned = watched if now - since >= (UNHURRIED_SECONDS if is_good else LEASE_SECONDS) else ""
            await self._sleep(_POLL_SECONDS)

    def _ask_for_lease(self, account_id: str, abandoned: str) -> Awaitable[LeaseAttempt | None]:
        return self._call(
            lambda store: store.logins.take_lease(account_id, self._owner, abandoned=abandoned, clock=self._clock)
        )

    def _is_news(self, stored: Account, known: Account, rejected: str | None) -> bool:
        """Whether what is stored makes a refresh needless (or impossible)."""
        if not stored.is_renewable:
            return True
        is_usable = stored.token_problem(self._wall()) is None
        return is_usable and stored.access_token not in (known.access_token, rejected)

    async def _spend(self, account: Account, spent: str) -> Refreshed:
        try:
            request = replace(oauth.refresh_request(self._endpoints(), spent), proxy=account.proxy)
            answer = await self._answer(account.id, request)
            tokens = oauth.read_answer(
                answer.status, answer.content_type, answer.body, self._wall(), login_at=account.login_at
            )
        except TokenRejected as error:
            return await self._end_login(account, spent, str(error))
        except TokenError:
            await self._give_back(account.id)
            raise
        return await self._commit(account, Pair(account.id, spent, tokens))

    async def _answer(self, account_id: str, request: Request) -> Response:
        """The provider's answer. The lease is ours for as long as that takes."""
        sending = asyncio.ensure_future(self._send(request))
        try:
            while not (await asyncio.wait({sending}, timeout=self._renewal_seconds))[0]:
                with contextlib.suppress(CCFlareError):  # a database that is away for a moment must not cost the answer
                    await self._call(lambda store: store.logins.renew_lease(account_id, self._owner))
        except BaseException:
            sending.cancel()
            raise
        return sending.result()

    async def _commit(self, account: Account, pair: Pair, news: str = "refreshed") -> Refreshed:
        self.successors.note(account, pair.put_into(account))
        try:
            stored = await self.save(pair)
        except Exception as error:  # whatever it is: the provider has forgotten the old token already
            cause = str(error) if isinstance(error, CCFlareError) else type(error).__name__
            news = f"{news}, but that cannot be stored yet ({cause})"
            return Refreshed(pair.put_into(account), news, account, unsaved=pair)
        is_ours = stored is not None and stored.access_token == pair.tokens.access_token
        return Refreshed(stored, news if is_ours else "a login was faster", account)

    async def _end_login(self, account: Account, spent: str, why: str) -> Refreshed:
        try:
            flagged = await self._call(lambda store: store.logins.flag_login(account.id, self._owner, spent))
        except StoreError as error:  # the provider was asked, so the next try is not to come at once
            raise TokenUnavailable(f"{why}; that cannot be stored yet ({error})") from error
        return Refreshed(flagged, why, account)

    async def _give_back(self, account_id: str) -> None:
        try:
            await self._call(lambda store: store.logins.release_lease(account_id, self._owner))
        except CCFlareError as error:
            logger.debug("a refresh lease could not be given back: %s", error)
