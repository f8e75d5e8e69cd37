"""Client keys: what lets a client use this proxy, and how far. Not to be mixed up with the accounts' credentials."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase

from ccflare_core.text import composed

PREFIX = "ccf_"
SECRET_BYTES = 24
"""192 random bits: too many to guess, so that a plain keyed hash keeps them safe (OWASP ASVS 6.5.2 asks for 112)."""

_KEY = re.compile(r"ccf_[A-Za-z0-9_-]{22,128}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}", re.ASCII)


class Permission(StrEnum):
    """What a route asks of its caller."""

    DASHBOARD_VIEW = "dashboard.view"
    ACCOUNTS_MANAGE = "accounts.manage"
    LOGS_VIEW = "logs.view"
    API_REQUEST = "api.request"
    SESSION_VIEW = "session.view"
    """How a session stands; without DASHBOARD_VIEW one whose requests were all made with the same key."""


class Role(StrEnum):
    """What a key is for. A role has the permissions of `PERMISSIONS` and no others."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    CLIENT = "client"

    @property
    def permissions(self) -> frozenset[Permission]:
        """What a key with this role may do."""
        return PERMISSIONS[self]


PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: frozenset(Permission) - {Permission.API_REQUEST},
    Role.VIEWER: frozenset({Permission.DASHBOARD_VIEW, Permission.LOGS_VIEW, Permission.SESSION_VIEW}),
    Role.CLIENT: frozenset({Permission.API_REQUEST, Permission.SESSION_VIEW}),
}


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client's key as it stands in the database; its secret is not in it. Times are seconds since the epoch.

    A limit that is None does not limit, and neither does an empty tuple.
    """

    id: str
    name: str
    role: Role = Role.CLIENT
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    dollars_per_day: Decimal | None = None
    dollars_per_month: Decimal | None = None
    models: tuple[str, ...] = ()
    """Patterns as the shell's, such as `claude-haiku-*`."""
    accounts: tuple[str, ...] = ()
    """Names of the only accounts that it may use; patterns too."""
    not_accounts: tuple[str, ...] = ()
    """Names of accounts that it may not use, whatever `accounts` says; patterns too."""
    concurrency: int | None = None
    """How many requests it may have open at once."""
    low_priority: bool = False
    """Whether others go first when accounts are scarce."""
    record: str | None = None
    """How its exchanges are recorded: off, metadata, redacted or full; None: as everybody's."""
    stateful: bool = False
    """Whether it may use Managed Agents."""
    tunnels: bool = False
    """Whether it may open tunnels to other hosts than the upstream."""

    def is_valid(self, now: float) -> bool:
        """Whether it may be used at `now` (epoch seconds)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def may_use_model(self, model: str | None) -> bool:
        """Whether it may ask for this model. A key with a list may not ask for what names none."""
        return not self.models or (model is not None and _matches(model, self.models))

    def may_use_account(self, name: str) -> bool:
        """Whether an account of this name may serve it."""
        name = composed(name)
        return not _matches(name, self.not_accounts) and (not self.accounts or _matches(name, self.accounts))

    @property
    def sees_accounts(self) -> bool:
        """Whether its holder may be told of all accounts, and of what goes on with them and the upstream."""
        return Permission.DASHBOARD_VIEW in self.role.permissions

    def may_hear_of(self, account: str) -> bool:
        """Whether its holder may be told this account's name: if it is limited to that one, at least."""
        return self.sees_accounts or (bool(self.accounts) and self.may_use_account(account))

    @property
    def counts_models(self) -> bool:
        """Whether it has a limit that what a managed agent runs would not count for: nobody here sees that."""
        budgets = (self.tokens_per_day, self.dollars_per_day, self.dollars_per_month)
        return bool(self.models) or any(budget is not None for budget in budgets)

    def objection_to_stateful(self, account: str) -> str:
        """Why it may not use Managed Agents, which live in this account; "" if it may."""
        if not self.stateful:
            return "This client key may not use Managed Agents."
        if not self.may_use_account(account):
            return "This client key may not use the account that Managed Agents live in."
        if self.counts_models:
            return "This client key has a list of models or a budget, and what managed agents run is not seen here."
        return ""


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def new_secret() -> str:
    """A new key for a client, as the client presents it."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def is_key(text: str) -> bool:
    """Whether this has the form of a client key, right or wrong: what is none may be another service's credential."""
    return _KEY.fullmatch(text) is not None


def valid_key_name(name: str) -> bool:
    """Whether a key may be called this: 1-64 letters, digits and `_.@+-`, a letter or digit first."""
    return _NAME.fullmatch(name) is not None
