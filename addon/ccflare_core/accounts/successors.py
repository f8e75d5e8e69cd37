"""Which tokens took the place of which: so a database that has fallen behind gets the newest ones back.

A refresh token can be spent once, and to spend it again ends the login. A standby that takes the place of a database
server may have one that was spent already, because the last refresh had not reached it. Every proxy that has seen that
refresh knows what the token was exchanged for, and writes that in its place. This is right whatever the reason is for
which the database has the spent token: it is worth nothing any more.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from ccflare_core.accounts.account import Account
from ccflare_core.anthropic.oauth import Tokens

_REMEMBERED = 16
"""Refreshes of each account; more than any standby is behind."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Tokens that the provider gave and the database has not: this may be the only copy."""

    account_id: str
    spent: str = field(repr=False)
    """The refresh token that they were exchanged for."""
    tokens: Tokens

    def put_into(self, account: Account) -> Account:
        """The account with these tokens, unless it has got others meanwhile."""
        if account.refresh_token != self.spent:
            return account
        return replace(
            account,
            access_token=self.tokens.access_token,
            refresh_token=self.tokens.refresh_token or account.refresh_token,
            expires_at=self.tokens.expires_at,
            login_expires_at=self.tokens.login_expires_at or account.login_expires_at,
            needs_login=False,
        )


class Successors:
    """The refreshes of which this proxy knows. Nothing of it is stored, and nothing shown."""

    def __init__(self) -> None:
        self._by_spent: dict[str, OrderedDict[str, Tokens]] = {}

    def note(self, before: Account, after: Account) -> None:
        """Remember that a refresh has put the tokens of `after` in the place of those of `before`, if one has.

        A new login spends nothing: what it has replaced might be wanted back.
        """
        spent, refresh_token, access_token = before.refresh_token, after.refresh_token, after.access_token
        if spent is None or refresh_token in (None, spent) or access_token is None or after.expires_at is None:
            return
        if before.login_at != after.login_at or self.newest(after) is not None:
            return
        known = self._by_spent.setdefault(after.id, OrderedDict())
        known[spent] = Tokens(access_token, refresh_token, after.expires_at, after.login_expires_at)
        if len(known) > _REMEMBERED:
            known.popitem(last=False)

    def newest(self, stored: Account) -> Pair | None:
        """What to write in the place of the tokens of `stored`, if its refresh token is known to be spent."""
        known = self._by_spent.get(stored.id) or OrderedDict()
        spent, tokens = stored.refresh_token, None
        while spent is not None and (following := known.get(spent)) is not None:
            spent, tokens = following.refresh_token, following
        return None if tokens is None or stored.refresh_token is None else Pair(stored.id, stored.refresh_token, tokens)
