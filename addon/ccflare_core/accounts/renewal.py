"""The renewal of a token, as an exchange and the pool see it; token_keeper.py does the work. Pure."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Renewal:
    """One refresh of an account's token, shared by all who wait for it. Look at it again until it is done."""

    done: bool = False
    ok: bool = False
    """Whether the account has another token now than before."""
    reason: str = ""
    """Why not."""

    def succeed(self) -> None:
        """The account has its new token."""
        self.done = self.ok = True

    def fail(self, reason: str) -> None:
        """It did not work out."""
        self.done, self.reason = True, reason


class Renewer(Protocol):
    """Who gets an account a new token. Neither waits nor raises."""

    def renew(self, account_id: str, *, rejected: str | None = None) -> Renewal:
        """Begin a refresh or join the one under way. `rejected` is the access token that upstream has just refused."""
        ...


class NoRenewer:
    """For those who have nobody to ask."""

    def renew(self, account_id: str, *, rejected: str | None = None) -> Renewal:
        """Always in vain."""
        return Renewal(done=True, reason="tokens are not refreshed here")
