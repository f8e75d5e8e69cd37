"""To which account a request has to go because of what it names or lists, and whether its client may reach that.

Ask `step` before an account is taken, until it gives None. A client key reaches what its own requests have made, and
nothing else by its id: what another one's have made is not there for it, in the words that are also said of what nobody
knows. Administrators, and whoever needs no key, reach everything.
"""

from collections.abc import Callable, Sequence
from typing import Final

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.owners import Holding
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.accounts.states import AccountState
from ccflare_core.anthropic import answers
from ccflare_core.anthropic.answers import Answer, Bound
from ccflare_core.anthropic.ids import Id, Kind, Named
from ccflare_core.clients.guardrails import UNRULED, Ruling
from ccflare_core.clients.keys import ClientKey, Role
from ccflare_core.exchange.ownership import AGAIN_SECONDS, Ownership, Query, Search
from ccflare_core.exchange.steps import LOOK_SECONDS, Opening, Wait

_ABLE = frozenset({AccountState.SERVING, AccountState.REFRESHING})
NOT_FOUND = 404
PLURALS: Final = {Kind.FILE: "files", Kind.SKILL: "skills", Kind.BATCH: "batches"}


class Binding:
    """One request's. `request_id` is ours, for the answers."""

    def __init__(
        self,
        named: Named,
        opening: Opening,
        request_id: str,
        *,
        pool: AccountPool,
        ownership: Ownership,
        rules: Callable[[], Ruling] = lambda: UNRULED,
    ) -> None:
        self.account_id: str | None = None
        """The only account that will do; None: any."""
        self.why: Bound | None = None
        """What binds it to that one."""
        self.thread_account_id: str | None = None
        """The account that has the message thread which it goes on with; it is not bound to that one."""
        self._named = named
        self._opening = opening
        self._request_id = request_id
        self._pool = pool
        self._ownership = ownership
        self._rules = rules
        self._limited = key_of(opening)
        self._search: Search | None = None
        self._holdings: Query[Sequence[Holding]] | None = None
        self._thread = None if named.continues is None else Id(Kind.MESSAGE, named.continues)
        self._wanted = (*named.ids, *((self._thread,) if self._thread else ()))
        if opening.only_account:
            self.bind(
                pool.id_of(opening.only_account) or "", Bound("This request is to be served by", opening.only_account)
            )
        if opening.run is not None and opening.run.account_id is not None:
            self.bind(opening.run.account_id, Bound("This run is to be served by", opening.run.account))
        self._not_found_at: float | None = None
        self._is_settled = not (self._wanted or named.listed or named.problem)

    def bind(self, account_id: str, why: Bound) -> None:
        """Let it be this account, whatever it names."""
        self.account_id, self.why = account_id, why

    def step(self) -> Wait | Answer | None:
        """A wait for the database, or the answer that the client gets instead; None: go on."""
        if self._is_settled or not self._pool.accounts():  # whoever has no account passes with what is its own
            return None
        if self._not_found_at is None:
            # Nothing is told apart by how long it takes: what nobody knows is looked for once more.
            self._not_found_at = self._ownership.clock() + AGAIN_SECONDS
        if not self._is_known():
            return Wait(LOOK_SECONDS)
        step = self._decide_on_ids() or self._decide_on_thread()
        step = step or (self._decide_on_list() if self._named.listed else None)
        self._is_settled = step is None
        is_early = self._ownership.clock() < self._not_found_at
        return Wait(LOOK_SECONDS) if step is not None and step.status == NOT_FOUND and is_early else step

    def _is_known(self) -> bool:
        if self._wanted:
            self._search = self._search or self._ownership.search(self._wanted)
            if not self._search.is_done():
                return False
        if self._named.listed is not None:
            self._holdings = self._holdings or self._ownership.holdings(self._named.listed)
            return self._holdings.is_done()
        return True

    # By id

    def _decide_on_ids(self) -> Answer | None:
        if self._limited is not None and self._named.problem:
            return self._refuse(400, f"It cannot be told what this request names: {self._named.problem}.")
        accounts = {account.id: account for account in self._pool.accounts()}
        found = self._search.found if self._search else {}
        owned: dict[str, Id] = {}
        for each in self._named.ids:
            owner = found.get(each)
            if owner is not None and owner.account_id not in accounts:
                owner = None  # the account is removed, and what it had is out of reach
            is_lost = owner is None and each.kind is Kind.REQUEST and bool(accounts)
            if is_lost or (self._limited is not None and not self._may_reach(each, owner and owner.client)):
                return self._not_reached(each)
            if owner is not None:
                owned.setdefault(owner.account_id, each)
        return self._bind_to([(accounts[account_id], id) for account_id, id in owned.items()])

    def _may_reach(self, id: Id, client: str | None) -> bool:
        """Whether a limited client may; `client` is whose it is, None: nobody knows it."""
        if client is None:
            return id.kind is Kind.CREDIT  # it opens nothing, and the API says of itself that it is over
        return self._limited is not None and client == self._limited.id

    def _not_reached(self, id: Id) -> Answer:
        if self._search is not None and self._search.failed:
            message = f"It cannot be looked up at the moment whose {id.shown} is."
            return answers.error(503, message, request_id=self._request_id, retry_after=5)
        return self._refuse(404, f"Not found: {id.shown}")

    def _bind_to(self, owned: list[tuple[Account, Id]]) -> Answer | None:
        if len(owned) > 1:
            known = all(self._opening.may_hear_of(account.name) for account, _ in owned)
            each = [f"{id.shown} of account {account.name}" if known else id.shown for account, id in owned]
            return self._refuse(400, f"This request names {' and '.join(each)}: no account has both.")
        for account, id in owned:
            if not self._opening.may_use(account):
                who = "client key" if self._opening.run is None else "run"
                return self._refuse(403, f"This {who} may not use the account that has made {id.shown}.")
            self.account_id = account.id
            self.why = Bound(f"This request names {id.shown}, which", account.name, " has made")
        return None

    # A thread

    def _decide_on_thread(self) -> Answer | None:
        """Whose thread it goes on with. One that is another client's is not found, and then clients send everything."""
        if self._thread is None:
            return None
        owner = self._search.found.get(self._thread) if self._search else None
        if self._limited is not None and (owner is None or owner.client != self._limited.id):
            code = {"error_code": "thread_not_found"}
            message = f"Not found: {self._thread.shown}"
            return answers.error(404, message, request_id=self._request_id, is_final=True, details=code)
        self.thread_account_id = owner.account_id if owner else None
        return None

    # A list

    def _decide_on_list(self) -> Answer | None:
        kind = self._named.listed
        usable = [
            each for each in self._pool.accounts() if self._opening.may_use(each) and self._rules().may_use(each.name)
        ]
        if kind is None or self._holdings is None or not (usable or self._opening.account):
            return None
        stored = self._holdings.answer()
        if stored is None and self._limited is not None:
            message = "It cannot be looked up at the moment what the accounts have."
            return answers.error(503, message, request_id=self._request_id, retry_after=5)
        holdings = [*(stored or ()), *self._ownership.recent(kind)]
        account = self._choose(usable, holdings)
        if account is None:
            return self._refuse(
                400, f"x-ccflare-account names no account that is here for this client: {self._opening.account}."
            )
        if self._limited is not None and _has_others(account, holdings, self._limited):
            whose = f"Account {account.name}" if self._opening.may_hear_of(account.name) else "The account"
            return self._refuse(
                403,
                f"{whose} has {PLURALS[kind]} that this client key has not made, so its list is for administrators; "
                "each of your own can be asked for by its id.",
            )
        self.account_id, self.why = account.id, Bound(f"This request lists the {PLURALS[kind]} of", account.name)
        return None

    def _choose(self, usable: Sequence[Account], holdings: Sequence[Holding]) -> Account | None:
        """The account to list from: the one that is wished for, or has the caller's newest, or is first."""
        by_id = {account.id: account for account in usable}
        if self._opening.account:
            return next((each for each in usable if each.name == self._opening.account), None)
        if self.account_id is not None:
            return by_id.get(self.account_id)
        client = self._opening.client_key
        own = [each for each in holdings if each.account_id in by_id and client in (None, each.client)]
        if own:
            return by_id[max(own, key=lambda each: each.newest).account_id]
        able = [each.account for each in self._pool.status() if each.account.id in by_id and each.state in _ABLE]
        return (able or list(usable))[0]

    def _refuse(self, status: int, message: str) -> Answer:
        return answers.error(status, message, request_id=self._request_id, is_final=True)


def key_of(opening: Opening) -> ClientKey | None:
    """The client key, if it is one that reaches only what its own requests have made."""
    return opening.key if opening.key is not None and opening.key.role is not Role.ADMIN else None


def _has_others(account: Account, holdings: Sequence[Holding], key: ClientKey) -> bool:
    return any(each.account_id == account.id and each.client != key.id for each in holdings)
