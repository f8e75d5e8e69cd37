"""AccountPool: which account serves the next request, which are cooling and until when, which session is whose.

All in memory and synchronous; only the event loop touches it. What has to outlive the process is handed
back by `report` for the caller to store, and comes in again through `restore`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.affinity import Held, Pins, key_of
from ccflare_core.accounts.cooldowns import UNCLAIMED, Cooldown, Moment, Part, Unavailable, parts_of
from ccflare_core.accounts.member import AccountStatus, PoolMember
from ccflare_core.accounts.peers import Peers
from ccflare_core.accounts.selection import Choice, choose
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Scope, Verdict
from ccflare_core.clients.guardrails import UNRULED, Patterns, Ruling
from ccflare_core.clients.keys import ClientKey
from ccflare_core.text import composed

__all__ = ["AccountPool", "AccountStatus", "Cooldown", "Exhausted", "Lease", "Report"]

_SHORTEST_WAIT = 0.01


@dataclass(slots=True, eq=False)
class Lease:
    """The right to send one request with one account. Give it back with `release`, however it ends."""

    account: Account
    choice: Choice
    facts: Facts
    started: float
    """Monotonic seconds."""
    member: PoolMember = field(repr=False)
    number: int = field(repr=False)
    open: bool = True


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No account can serve now, and why."""

    reasons: tuple[tuple[str, str, float | None], ...]
    """Each account's name, reason, and recovery in epoch seconds (None: not by itself)."""
    wait: float | None
    """Seconds to the earliest recovery; None if none comes by itself."""
    configured: bool
    """Whether there are any accounts at all."""
    is_for_one: bool = False
    """Whether another account could, but to wait for this one is better."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a verdict changed and the store should know; all empty when nothing did."""

    cooldowns: tuple[Cooldown, ...] = ()
    """New ones, and longer ones in place of those of the same part of the account."""
    cleared: tuple[tuple[str, Part], ...] = ()
    """The (account id, part) of cooldowns that a good answer ended."""
    windows: tuple[Window, ...] = ()
    """The windows that moved noticeably since they were last reported."""
    attention: str = ""
    """Why the account needs attention from now on, if it does."""
    held: Held | None = None
    """The session that the account holds from now on, or has held for so long that this is to be told again."""


_NOTHING = Report()

HAS_IT = "it has what the request names"
"""Why a request went to an account that it had to go to."""
_HAS_NOT = Unavailable("it has not what the request names", None)


def _stays_expired(account: Account) -> Unavailable:
    return Unavailable("refreshing: token expired", None)


def _is_not_refreshed(account: Account) -> bool:
    return False


def _goes_first(cooldown: Cooldown, now: float) -> bool:
    return True


def _asks_nobody(cooldown: Cooldown, now: float) -> None: ...


class AccountPool:
    """The accounts and all that is known of them.

    `session_seconds` is how long a session stays with its account after its last request. Timers run on
    `clock` (monotonic); `wall` (epoch) is for times that come in or go out.
    """

    def __init__(
        self,
        *,
        strategy: str = "session",
        session_seconds: float = 18000.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # noqa: TID251
        max_sessions: int = 10_000,
        expired: Callable[[Account], Unavailable] = _stays_expired,
        is_refreshing: Callable[[Account], bool] = _is_not_refreshed,
        may_try: Callable[[Cooldown, float], bool] = _goes_first,
        claim: Callable[[Cooldown, float], object] = _asks_nobody,
    ) -> None:
        """`expired` is asked whenever an account whose token is over could have a new one.

        `is_refreshing` tells which accounts are shown as refreshing, and `may_try` whether a request may be the first
        one after a cooldown; `claim` asks for that.
        """
        self._strategy = strategy
        self._clock = clock
        self._wall = wall
        self._expired = expired
        self._is_refreshing = is_refreshing
        self._may_try = may_try
        self._claim = claim
        self._peers = Peers()
        self._members: dict[str, PoolMember] = {}
        self.max_sessions = max_sessions
        """How many sessions it remembers the accounts of."""
        self._pins = Pins(session_seconds, max_sessions)
        self._turn = 0
        self._leases = 0  # given out so far; a lease's number
        self._in_flight = 0

    def __repr__(self) -> str:
        """Every account with its states and load: no secret, and the same text for the same state."""
        return f"<AccountPool {'; '.join(str(status) for status in self.status()) or 'without accounts'}>"

    @property
    def in_flight(self) -> int:
        """How many leases are out."""
        return self._in_flight

    def replace_accounts(self, accounts: Iterable[Account]) -> tuple[tuple[str, Part], ...]:
        """Take these accounts for the old ones. What is known of an account stays while its id does.

        Returns the (account id, part) of cooldowns that are over because the credential is a new one.
        """
        members: dict[str, PoolMember] = {}
        cleared: list[tuple[str, Part]] = []
        for account in accounts:
            member = self._members.get(account.id)
            if member is None:
                member = PoolMember(account, self._expired, self._is_refreshing, self._may_try)
                member.elsewhere = self._peers.in_flight.get(account.id, 0)
            else:
                cleared += [(account.id, part) for part in member.change(account)]
            members[account.id] = member
        self._members = members
        return tuple(cleared)

    def change_account(self, account: Account) -> tuple[tuple[str, Part], ...]:
        """Take this account for the old one with its id, if there is one; otherwise as `replace_accounts`."""
        member = self._members.get(account.id)
        return tuple((account.id, part) for part in member.change(account)) if member else ()

    def accounts(self) -> list[Account]:
        """Every account, in the order of `replace_accounts`."""
        return [member.account for member in self._members.values()]

    def idle_accounts(self, seconds: float) -> list[Account]:
        """The OAuth accounts that could serve, or are only cooling, and have had no request for so long."""
        at = self._now()
        return [member.account for member in self._members.values() if member.is_idle(seconds, at)]

    def learn(self, account_id: str, windows: Iterable[Window]) -> Report:
        """Learn windows from elsewhere than an answer. They may end a cooldown, but begin none."""
        member, at = self._members.get(account_id), self._now()
        if member is None:
            return _NOTHING
        told = tuple(windows)
        cleared = member.clear_by_windows(told, at)
        return Report((), tuple((account_id, part) for part in cleared), member.learn(told, at))

    def restore(self, cooldowns: Iterable[Cooldown], windows: Mapping[str, tuple[Window, ...]]) -> None:
        """Take up what an earlier run, or another proxy, knows of the present accounts; what is over is left out."""
        at = self._now()
        for cooldown in cooldowns:
            if member := self._members.get(cooldown.account_id):
                member.restore(cooldown, at, self._leases)
        for account_id, known in windows.items():
            if member := self._members.get(account_id):
                member.learn(known, at)

    def adopt(self, sessions: Iterable[Held], *, are_new: bool = True) -> None:
        """Take up which accounts hold these sessions, in the order in which they were served.

        Whatever the clock of who has served them says, what is new was served just now.
        """
        at = self._now()
        for held in sessions:
            age = 0.0 if are_new else max(0.0, at.wall - held.served_at)
            self._pins.adopt(held.session, held.account_id, age, at.mono)

    def meet(self, peers: Peers) -> None:
        """Go by what the other proxies have in flight when accounts are chosen for new sessions."""
        self._peers = peers
        for account_id, member in self._members.items():
            member.elsewhere = peers.in_flight.get(account_id, 0)

    @property
    def has_peers(self) -> bool:
        """Whether there are other proxies on the database."""
        return self._peers.are_there

    def load(self) -> dict[str, int]:
        """How many requests of this proxy are in flight with each account that has any."""
        return {account_id: member.in_flight for account_id, member in self._members.items() if member.in_flight}

    def ending(self, seconds: float) -> list[Cooldown]:
        """The cooldowns that end so soon and that requests have had to do without."""
        at = self._now()
        return [each for member in self._members.values() for each in member.ending(seconds, at)]

    def is_tried(self, cooldown: Cooldown) -> bool | None:
        """Whether a request goes first after this cooldown just now; None if it is not the last word any more."""
        member = self._members.get(cooldown.account_id)
        return None if member is None else member.is_tried(cooldown, self._now())

    def forget(self, cooldowns: Iterable[Cooldown]) -> None:
        """End these where they are still the last word: the proxy that has them disproved has told so."""
        for cooldown in cooldowns:
            if member := self._members.get(cooldown.account_id):
                member.forget(cooldown)

    def id_of(self, name: str) -> str | None:
        """The id of the account of that name; None if there is none."""
        name = composed(name)
        return next((id for id, member in self._members.items() if member.account.name == name), None)

    def acquire(
        self,
        facts: Facts,
        *,
        exclude: frozenset[str] = frozenset(),
        key: ClientKey | None = None,
        ruling: Ruling = UNRULED,
        only: str | None = None,
        home: str | None = None,
        patience: float = 0.0,
    ) -> Lease | Exhausted:
        """A lease for this request, or why there is none.

        `exclude`: ids of accounts tried already. `key` is the client's, and `ruling` what the rules say of the request:
        some accounts may not be for it. `only`: the id of the one account that will do, since it has what the request
        names. `home`: the id of the one that has the thread which it goes on with, and is asked first. That one, or
        else its session's, is waited for if it is back in `patience` seconds.
        """
        at = self._now()
        parts = parts_of(facts)
        members = self._members.values()
        reasons = [
            _reserved(member, key, ruling, at, only)
            or member.unavailable(parts, at, exclude, spends=facts.spends, waits=True)
            for member in members
        ]
        if home in self._members and only is None and reasons[list(self._members).index(home)] is None:
            return self.acquire(facts, exclude=exclude, key=key, ruling=ruling, only=home)
        candidates = [member.candidate(why, at.mono) for member, why in zip(members, reasons, strict=True)]
        if order := ruling.order:
            candidates = [candidate.behind(_place(candidate.name, order)) for candidate in candidates]
        session = self._session_of(facts)
        pinned = self._pins.get(session, at.mono)
        own = home if home in self._members else pinned
        strategy = "session" if facts.ties_thinking else self._strategy
        if unclaimed := {each.id for each, why in zip(candidates, reasons, strict=True) if why is UNCLAIMED}:
            if None in reasons:  # it has somewhere else to go
                free = [each._replace(unavailable=None) if each.id in unclaimed else each for each in candidates]
                unclaimed &= {choose(free, strategy=strategy, pinned=pinned, turn=self._turn).account_id, own}
            self._claim_for(facts, at, unclaimed)
        if patience and own in self._members:
            why = reasons[list(self._members).index(own)]
            if why is not None and why.seconds is not None and why.seconds <= patience:
                return replace(self._exhausted(facts, at, exclude, key, ruling, own), is_for_one=True)
        choice = choose(candidates, strategy=strategy, pinned=pinned, turn=self._turn)
        if choice.account_id is None:
            return self._exhausted(facts, at, exclude, key, ruling, only)
        chosen = choice.account_id
        if only is not None:
            choice = choice._replace(reason=HAS_IT)
        elif chosen != pinned:
            self._turn = 1 + [candidate.id for candidate in candidates].index(chosen)
        if told := ruling.told:
            choice = choice._replace(reason=f"{choice.reason}, {told}")
        if facts.spends:
            self._pins.put(session, self._holder(pinned, chosen, at.wall), at.mono)
        return self._lease(self._members[chosen], choice, facts, at)

    def _claim_for(self, facts: Facts, at: Moment, ids: Set[str]) -> None:
        """Ask whether this request may go first at these accounts, which it would go to.

        At no others: this proxy would keep what it does not use from one that needs it.
        """
        for account_id in ids:
            if cooldown := self._members[account_id].unclaimed(parts_of(facts), at, spends=facts.spends):
                self._claim(cooldown, at.mono)

    def renewed(self, lease: Lease) -> Lease | None:
        """A lease with the account's present credential in place of this one; None if it cannot serve now."""
        self.release(lease)
        at, member, facts = self._now(), lease.member, lease.facts
        is_there = self._members.get(lease.account.id) is member
        if not is_there or member.unavailable(parts_of(facts), at, spends=facts.spends):
            return None
        return self._lease(member, lease.choice, lease.facts, at)

    def report(self, lease: Lease, verdict: Verdict) -> Report:
        """Learn from an upstream answer to `lease`. Returns what changed, for the store.

        Call it for the answer that ends the attempts on this account; those that are repeated in place
        need no report.
        """
        member, number = lease.member, lease.number
        if self._members.get(lease.account.id) is not member:
            return _NOTHING  # removed meanwhile
        at = self._now()
        parts, spends = parts_of(lease.facts), lease.facts.spends
        windows = member.learn(verdict.windows, at) if verdict.windows else ()
        cleared: list[Part] = []
        held: Held | None = None
        if verdict.ok:
            cleared = member.clear(number, parts, spends=spends)
            member.note_served(lease.facts.path_class, lease.account, at)
            if spends:
                # The session's prompt cache is here now, wherever it was before.
                held = self._hold(lease, at)
        cooldowns = member.cool(verdict, lease.account, number, lease.facts, at, self._leases)
        if verdict.scope is Scope.WAY:
            for other in self._on_the_same_way(lease.account):
                cooldowns += other.cool(verdict, other.account, number, lease.facts, at, self._leases)
        member.end_half_open(number, parts, at, spends=spends)
        attention = member.disable(verdict, lease.account)
        if not (cooldowns or cleared or windows or attention or held):
            return _NOTHING
        return Report(cooldowns, tuple((lease.account.id, name) for name in cleared), windows, attention, held)

    def _hold(self, lease: Lease, at: Moment) -> Held | None:
        """Pin the session to the account that has served it; what the store should know of that.

        Who has no session is known by an address alone, which may be that of a load balancer: nobody else's business.
        """
        session = self._session_of(lease.facts)
        is_told = self._pins.serve(session, lease.account.id, at.mono) and lease.facts.session_id
        return Held(session, lease.account.id, at.wall) if is_told else None

    def _on_the_same_way(self, account: Account) -> list[PoolMember]:
        """The others that go by the same proxy, or like it by the one that all others go by."""
        others = (member for id, member in self._members.items() if id != account.id)
        return [member for member in others if member.account.proxy == account.proxy]

    def has_another_way(
        self, lease: Lease, *, exclude: frozenset[str], key: ClientKey | None, ruling: Ruling = UNRULED
    ) -> bool:
        """Whether an account that goes by another proxy could serve the lease's request now."""
        at, facts = self._now(), lease.facts
        parts = parts_of(facts)
        return any(
            _reserved(member, key, ruling, at) is None
            and member.unavailable(parts, at, exclude, spends=facts.spends) is None
            for member in self._members.values()
            if member.account.proxy != lease.account.proxy
        )

    def learn_organization(self, lease: Lease, organization_id: str) -> bool:
        """Take note of the organization that answered this lease; whether it was not known before."""
        return lease.member.learn_organization(lease.account, organization_id)

    def take_back(self, cooldowns: Iterable[Cooldown]) -> Report:
        """Undo these cooldowns where they are still the last word: what they were for was the request's own fault."""
        found = [(each, self._members.get(each.account_id)) for each in cooldowns]
        return Report(
            cleared=tuple((each.account_id, each.part) for each, member in found if member and member.take_back(each))
        )

    def may_be_the_token(self, lease: Lease) -> bool:
        """Whether a 401 to this lease may be the fault of the account's token, so that another one might help."""
        return lease.member.may_be_the_token(lease.facts.path_class, self._now())

    def release(self, lease: Lease) -> None:
        """Give a lease back; a second time does nothing."""
        if lease.open:
            lease.open = False
            self._in_flight -= 1
            lease.member.release(lease.number)

    def status(self) -> list[AccountStatus]:
        """Each account as it stands, in the order of `replace_accounts`."""
        at = self._now()
        return [member.status(at) for member in self._members.values()]

    def _now(self) -> Moment:
        return Moment(self._clock(), self._wall())

    def _session_of(self, facts: Facts) -> str:
        return key_of(facts) if self._strategy == "session" or facts.ties_thinking else ""

    def _holder(self, pinned: str | None, chosen: str, wall: float) -> str:
        """Who holds the session now: its old account also while that one is cooling, so that it returns to it."""
        member = self._members.get(pinned) if pinned else None
        return pinned if pinned and member and not member.lasting_reason(wall) else chosen

    def _lease(self, member: PoolMember, choice: Choice, facts: Facts, at: Moment) -> Lease:
        self._leases += 1
        self._in_flight += 1
        member.acquire(self._leases, parts_of(facts), at, spends=facts.spends)
        return Lease(member.account, choice, facts, at.mono, member, self._leases)

    def _exhausted(
        self,
        facts: Facts,
        at: Moment,
        exclude: frozenset[str],
        key: ClientKey | None,
        ruling: Ruling,
        only: str | None,
    ) -> Exhausted:
        parts = parts_of(facts)
        members = [
            member for member in self._members.values() if _is_for(member, key) and only in (None, member.account.id)
        ]  # of others its client learns nothing
        found = [
            (
                s.account.name,
                _ruled_out(s, ruling)
                or s.unavailable(parts, at, exclude, spends=facts.spends, waits=True)
                or _reserved(s, key, ruling, at),
            )
            for s in members
        ]
        waits = [why.seconds for _, why in found if why is not None and why.seconds is not None]
        return Exhausted(
            reasons=tuple((name, why.reason, why.recovery(at.wall)) for name, why in found if why),
            wait=max(min(waits), _SHORTEST_WAIT) if waits else None,
            configured=bool(self._members),
        )


def _is_for(member: PoolMember, key: ClientKey | None) -> bool:
    return key is None or key.may_use_account(member.account.name)


def _ruled_out(member: PoolMember, ruling: Ruling) -> Unavailable | None:
    """Which rule keeps the request from this account."""
    rule = ruling.keeping_from(member.account.name)
    return None if rule is None else Unavailable(f"not by the rule {rule.name}", None)


def _place(account: str, order: Sequence[Patterns]) -> int:
    """Where an account stands in an order; behind it if it is not in it."""
    return next((place for place, pattern in enumerate(order) if pattern.have(account)), len(order))


def _reserved(
    member: PoolMember, key: ClientKey | None, ruling: Ruling, at: Moment, only: str | None = None
) -> Unavailable | None:
    """Why this account is not for this client, or this request; None if it is."""
    if only not in (None, member.account.id):
        return _HAS_NOT
    if key is not None and not _is_for(member, key):
        return Unavailable("not for this client key", None)
    if (ruled_out := _ruled_out(member, ruling)) is not None:
        return ruled_out
    return member.scarcity(at) if key is not None and key.low_priority else None
