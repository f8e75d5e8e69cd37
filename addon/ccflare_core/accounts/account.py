"""Accounts, their credentials, and the one place where a credential meets a request's headers."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from ccflare_core.accounts.priority import DEFAULT
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.headers import Header

OAUTH_BETA = b"oauth-2025-04-20"
"""Anthropic takes an OAuth token on the API only when this is among the `anthropic-beta` entries."""

_SECRET = re.compile(r"[\x21-\x7e]+")
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_BETA = b"anthropic-beta"


class Kind(StrEnum):
    """How an account proves itself upstream."""

    OAUTH = "oauth"
    API_KEY = "api_key"


_WORD = {Kind.OAUTH: "access token", Kind.API_KEY: "API key"}


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that is fit to stand in a header. Raises ValueError (never quoting it) when it is not."""

    kind: Kind
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        # Anything else could end the header line and smuggle another one, or is a paste gone wrong.
        if _SECRET.fullmatch(self.secret) is None:
            raise ValueError(f"the {_WORD[self.kind]} is empty or has characters that no header may hold")


@dataclass(frozen=True, slots=True)
class Account:
    """One Claude account as it stands in the database. Times are seconds since the epoch."""

    id: str
    name: str
    kind: Kind
    priority: int = DEFAULT
    """See priority.py."""
    paused: bool = False
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    """When the access token ends; None if nobody said."""
    created_at: float = 0.0
    login_at: float | None = None
    login_expires_at: float | None = None
    """When the OAuth login as a whole ends, however often its token was refreshed."""
    needs_login: bool = False
    proxy: EgressProxy | None = None
    """The proxy that its organization demands for all that is sent with it; None: it goes as all others do."""
    person_id: str | None = None
    """Who logged in first, by the provider's id; None if nobody said. See identity.py."""
    organization_id: str | None = None
    """And for which organization; also learned from answers."""
    attention: str | None = None
    """Why nothing is sent with it until somebody resumes it or logs in anew; None if nothing is."""

    def credential(self) -> Credential:
        """What to send upstream. Raises ValueError if there is none or it is unfit for a header."""
        secret = self.access_token if self.kind is Kind.OAUTH else self.api_key
        if secret is None:
            raise ValueError(f"account {self.name} has no {_WORD[self.kind]}")
        return Credential(self.kind, secret)

    @property
    def is_renewable(self) -> bool:
        """Whether a refresh token can get it another access token."""
        return self.kind is Kind.OAUTH and bool(self.refresh_token) and not self.needs_login

    def token_problem(self, now: float) -> str | None:
        """Why the credential cannot be used at `now` (epoch seconds), in a few words; None if it can."""
        if self.kind is Kind.API_KEY:
            return None if self.api_key else "no API key"
        if self.needs_login:
            return "needs login"
        if not self.access_token:
            return "no token"
        return "token expired" if self.expires_at is not None and self.expires_at <= now else None


def inject(headers: Sequence[Header], credential: Credential) -> tuple[Header, ...]:
    """The headers to send upstream: the client's credentials out, the account's in, all else as it came.

    The new header takes the place of the first one dropped, or the end. An OAuth token also gets its beta
    entry, once. `proxy-authorization` was meant for us and goes no further.
    """
    plan = _plan(tuple([name for name, _ in headers]))
    kept = list(itertools.compress(headers, plan.stays))
    secret = credential.secret.encode("ascii")
    if credential.kind is Kind.API_KEY:
        kept.insert(plan.place, (b"x-api-key", secret))
        return tuple(kept)
    # HTTP/2 allows lower-case names only (RFC 9113 section 8.2.1), so a list without capitals stays without.
    name = b"authorization" if plan.is_lower_case else b"Authorization"
    kept.insert(plan.place, (name, b"Bearer " + secret))
    return _with_oauth_beta(kept, plan.betas)


class _Plan(NamedTuple):
    """What becomes of fields with certain names when a credential is put in."""

    stays: tuple[bool, ...]
    place: int
    """Of the credential, among those that stay."""
    betas: tuple[int, ...]
    """The places of the beta entries beside it."""
    is_lower_case: bool


@lru_cache(512)
def _plan(names: tuple[bytes, ...]) -> _Plan:
    """Made once for a client, which sends the same names with every request."""
    plain = [name.strip().lower() for name in names]
    stays = [name not in _CREDENTIALS and name != b"proxy-authorization" for name in plain]
    first = next((at for at, name in enumerate(plain) if name in _CREDENTIALS), len(names))
    left = [name for name, is_left in zip(names, stays, strict=True) if is_left]
    left.insert(place := sum(stays[:first]), b"")
    betas = tuple(at for at, name in enumerate(left) if name.lower() == _BETA)
    return _Plan(tuple(stays), place, betas, is_lower_case=plain == list(names))


def _with_oauth_beta(headers: list[Header], found: Sequence[int]) -> tuple[Header, ...]:
    if not found:
        return (*headers, (_BETA, OAUTH_BETA))
    if OAUTH_BETA not in [entry.strip() for index in found for entry in headers[index][1].split(b",")]:
        name, value = headers[found[0]]
        headers[found[0]] = (name, value + b"," + OAUTH_BETA if value.strip() else OAUTH_BETA)
    return tuple(headers)
