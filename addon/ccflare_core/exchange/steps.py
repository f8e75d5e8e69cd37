"""The values that an exchange and the stream layer exchange: opening, steps, outcome. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from ccflare_core.accounts.account import Account, Credential
from ccflare_core.accounts.pool import Lease
from ccflare_core.accounts.renewal import Renewal
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.verdicts import Verdict
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.failover import Deliver
from ccflare_core.http.egress import EgressProxy
from ccflare_core.text import worded


class Outcome(StrEnum):
    """How an exchange ended. Each has exactly one."""

    OK = "ok"
    UPSTREAM_ERROR = "upstream_error"
    TRUNCATED = "truncated"
    CLIENT_ABORT = "client_abort"
    REFUSED = "refused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"

    @property
    def in_words(self) -> str:
        """For people: `upstream error`."""
        return worded(self.value)


class Ticket(StrEnum):
    """What an exchange may send upstream. Without one the wire sends nothing."""

    NONE = "none"
    LEASE = "lease"
    """With an account's credential, once the pool has leased one."""
    PASS = "pass"  # noqa: S105 - no password
    """As it came, with the client's own credential."""


class Send(NamedTuple):
    """Open an attempt: send the request, with this credential or (None) with the client's own."""

    credential: Credential | None
    proxy: EgressProxy | None = None
    """The account's own proxy; None: it goes as all others do."""


class Wait(NamedTuple):
    """Ask for the next step again after so many seconds."""

    seconds: float


LOOK_SECONDS: Final = 0.02
"""How long to wait until it is asked again whether another thread is done."""

type Step = Send | Wait | Answer | Deliver


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of an exchange once the request's head has arrived."""

    method: str
    path: str
    client: str
    """The peer's address."""
    door: str
    user_agent: str = ""
    key: ClientKey | None = None
    """The client key that asks; None: somebody of this machine without one."""
    query: str = ""
    api_version: str = ""
    betas: str = ""
    """With what it asks besides its body."""
    account: str = ""
    """The account that it wants a list from, by its name."""
    has_credential: bool = True
    """Whether the client sent a credential of its own, with which its request could pass."""
    stateful_account: str = ""
    """The name of the account that alone may serve it, if it is about Managed Agents."""
    only_account: str = ""
    """The name of the account that alone may serve it, since a person wants it so."""
    replay_of: str = ""
    """The id of the exchange whose request a person has sent again."""
    run: ClientRun | None = None
    """The run of a client that it is in."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The values of its tags and its run's, by their names."""
    traceparent: str = ""
    """Which trace of the client's it is in, as its header says it."""

    @property
    def client_key(self) -> str | None:
        """The id of the client key."""
        return self.key.id if self.key else None

    @property
    def sees_accounts(self) -> bool:
        """Whether its client may be told of all accounts: with a key that may look at them, or here without one."""
        return self.key is None or self.key.sees_accounts

    def may_use(self, account: Account) -> bool:
        """Whether its key and its run let it use this account."""
        if self.run is not None and self.run.account_id not in (None, account.id):
            return False
        return self.key is None or self.key.may_use_account(account.name)

    def may_hear_of(self, account: str) -> bool:
        """Whether its client may be told this account's name."""
        is_its_own = self.run is not None and self.run.account == account
        return self.key is None or is_its_own or self.key.may_hear_of(account)

    @property
    def record(self) -> str | None:
        """The mode beyond which the client's key lets nothing be recorded; None: as everybody's."""
        return self.key.record if self.key else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that went upstream, or could not, and what came of it."""

    number: int
    account_id: str
    account_name: str
    verdict: Verdict
    started_at: float
    duration: float
    waited: float = 0.0
    """Seconds for which the request was held before it, until an account was free."""


class PendingRenewal(NamedTuple):
    """An attempt whose token was refused, kept until it is known whether the account gets another one."""

    lease: Lease
    verdict: Verdict
    renewal: Renewal
    until: float
    """Monotonic seconds."""
    is_kept: bool
    """Whether the wire still has the refusal as a whole, so that it can be delivered."""
