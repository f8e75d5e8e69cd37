"""Whose an account is at the provider: by its secret, by the person who logged in, by the organization. Pure.

The provider tells the ids of person and organization with the tokens of a login, and the organization's with every
answer. What nobody has told yet is unknown, and proves nothing.
"""

from collections import defaultdict
from collections.abc import Iterable

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.anthropic.oauth import Owner


def twin_by_secret(account: Account, others: Iterable[Account]) -> Account | None:
    """The other account that has a secret of this one's, if there is one: both are the same."""
    secrets = _secrets(account)
    return next((each for each in others if each.id != account.id and secrets & _secrets(each)), None)


def _secrets(account: Account) -> set[str]:
    return {each for each in (account.access_token, account.refresh_token, account.api_key) if each}


def is_anothers(account: Account, owner: Owner) -> bool:
    """Whether a login of `owner` is another one than the account's: another person, or another organization.

    An API key is its organization's, whoever of it has made the key.
    """
    pairs = [(account.organization_id, owner.organization_id)]
    if account.kind is Kind.OAUTH:
        pairs.append((account.person_id, owner.account_id))
    return any(known and told and known != told for known, told in pairs)


def twin_by_login(owner: Owner, others: Iterable[Account]) -> Account | None:
    """The account that a login of `owner` belongs to already, if it is known of one."""
    logins = (each for each in others if each.kind is Kind.OAUTH and each.person_id and not is_anothers(each, owner))
    return next((each for each in logins if each.person_id == owner.account_id), None)


def sharers(accounts: Iterable[Account]) -> list[tuple[Account, ...]]:
    """Accounts that have their limits in common, in groups of two and more.

    API keys of one organization have, and logins of one person in one organization. What a login and an API key use
    is counted apart.
    """
    groups: dict[tuple[str, ...], list[Account]] = defaultdict(list)
    for account in accounts:
        if account.kind is Kind.API_KEY and account.organization_id:
            groups[account.kind, account.organization_id].append(account)
        elif account.kind is Kind.OAUTH and account.person_id:
            groups[account.kind, account.person_id, account.organization_id or ""].append(account)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def shared_limits(group: tuple[Account, ...]) -> str:
    """`key-1 and key-2 are API keys of one organization, and share its limits`."""
    *names, last = [account.name for account in group]
    what = (
        "API keys of one organization, and share its" if group[0].kind is Kind.API_KEY else "one login, and share its"
    )
    return f"{', '.join(names)} and {last} are {what} limits"
