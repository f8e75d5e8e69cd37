"""The commands `ccflare.…` of mitmweb and the console: what the accounts and the flows in the list are about.

They answer at once from what is in memory: a command that waited would hold up every stream.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http

from ccflare_core.accounts.member import AccountStatus
from ccflare_core.accounts.priority import FIRST, LAST
from ccflare_core.errors import NotFound, StoreError
from ccflare_core.exchange.log_line import money
from ccflare_core.exchange.story import Story
from ccflare_core.exchange.summary import attempt_line
from ccflare_core.text import local_time, some
from ccflare_core.transcripts.visible import visible
from ccflare_mitm.inspector.answers import Command, Table, Text, Words
from ccflare_mitm.inspector.comment import model_of, used, who
from ccflare_mitm.inspector.export import Exports
from ccflare_mitm.inspector.loading import seconds_of

MOST = 200
"""Requests in a table."""


class AccountName(str):
    """The name of an account."""

    __slots__ = ()


ANY_ACCOUNT = AccountName("")


class SessionId(str):
    """The id of a session that is in the list."""

    __slots__ = ()


class ConsoleAccounts(NamedTuple):
    """The accounts, as commands see and change them."""

    status: Callable[[], list[AccountStatus]]
    change: Callable[..., None]
    """Takes a name, what it is to be, in words, and the fields to change. What becomes of it is audited and logged."""


class ExportFormat(str):
    """What a flow can be exported as."""

    __slots__ = ()


class Doing(NamedTuple):
    """What is done with a flow elsewhere."""

    replay: Callable[[http.HTTPFlow, str], str]
    exports: Exports
    load: Callable[[float], object]
    """Puts what was recorded since then (epoch seconds) into the list."""


class Listed(NamedTuple):
    """A flow of the list, with its exchange."""

    flow: http.HTTPFlow
    story: Story


class Commands:
    """See the module. `flows` gives what is in the list, oldest first; `link` is where our pages are, or ""."""

    def __init__(
        self,
        accounts: ConsoleAccounts,
        flows: Callable[[], Iterable[http.HTTPFlow]],
        find: Callable[[http.HTTPFlow], Story | None],
        doing: Doing,
        wall: Callable[[], float],
        link: Callable[[], str],
    ) -> None:
        self._accounts = accounts
        self._flows = flows
        self._find = find
        self._doing = doing
        self._wall = wall
        self._link = link

    def all(self) -> dict[str, Command]:
        """The commands by their names, in which mitmweb allows letters and dots alone."""
        return {
            "ccflare.accounts": self.accounts,
            "ccflare.requests": self.requests,
            "ccflare.session": self.session,
            "ccflare.why": self.why,
            "ccflare.pause": self.pause,
            "ccflare.resume": self.resume,
            "ccflare.priority": self.priority,
            "ccflare.load": self.load,
            "ccflare.export": self.export,
            "ccflare.replay": self.replay,
        }

    def words(self) -> tuple[Words, ...]:
        """What their parameters may be."""
        names = Words(AccountName, "account", lambda: [each.account.name for each in self._accounts.status()])
        formats = Words(ExportFormat, "format", lambda: self._doing.exports.names)
        return names, Words(SessionId, "session", self._sessions), formats

    def accounts(self) -> Table:
        """Every account with what it is doing, how full its windows are, and when they are empty again."""
        found, now = self._accounts.status(), self._wall()
        told = "; ".join(f"{each.account.name}: {each.reason}" for each in found)
        head = ("account", "state", "priority", "in flight", "windows")
        return Table(self._linked(told or "there is no account yet"), head, [_account(each, now) for each in found])

    def requests(self) -> Table:
        """The requests in the list, the newest first: who served them, with what, for how much, and how it ended."""
        return self._table([*self._listed()])

    def session(self, session: SessionId) -> Table:
        """The same for one session."""
        return self._table([each for each in self._listed() if each.story.facts.session_id == session])

    def why(self, flow: mitmproxy_flow.Flow) -> Table:
        """Why this account has served the request, and not another one; and each attempt."""
        story = self._find(flow) if isinstance(flow, http.HTTPFlow) else None
        if story is None:
            raise NotFound("ccflare has no exchange of this flow: it did not let it in, or it is of an earlier run")
        rows = [*_reasons(story)]
        return Table(self._linked(visible("; ".join(": ".join(row) for row in rows))), ("what", "why"), rows)

    def pause(self, account: AccountName) -> str:
        """Take an account out of the pool until it is resumed."""
        self._accounts.change(account, "is paused", paused=True)
        return f"{account} is being paused"

    def resume(self, account: AccountName) -> str:
        """Put a paused account back into the pool."""
        self._accounts.change(account, "is resumed", paused=False)
        return f"{account} is being resumed"

    def priority(self, account: AccountName, priority: int) -> str:
        """Give an account a priority: 1 goes before all others, 99 behind them."""
        if not FIRST <= priority <= LAST:
            raise StoreError(f"a priority is a number from {FIRST} (first) to {LAST} (last), and not {priority}")
        self._accounts.change(account, f"has the priority {priority}", priority=priority)
        return f"{account} is being given the priority {priority}"

    def replay(self, flow: mitmproxy_flow.Flow, account: AccountName = ANY_ACCOUNT) -> str:
        """Send a request once more, with this account or any. The first time it says what that may cost."""
        if not isinstance(flow, http.HTTPFlow):
            raise NotFound("this flow has no request")
        return self._doing.replay(flow, account)

    def load(self, since: str) -> str:
        """Put recorded requests of earlier into the list: those of the last 30m, 6h or 2d, the newest 200 of them."""
        self._doing.load(self._wall() - seconds_of(since))
        return f"what was recorded in the last {since.strip()} is being loaded"

    def export(self, flow: mitmproxy_flow.Flow, format: ExportFormat) -> Text:
        """A request as a command for curl or httpie that sends it to this proxy, or its conversation or events."""
        if not isinstance(flow, http.HTTPFlow):
            raise NotFound("this flow has no request")
        return Text(self._doing.exports.export(flow, format))

    # Pieces

    def _listed(self) -> Iterator[Listed]:
        for flow in self._flows():
            if isinstance(flow, http.HTTPFlow) and (story := self._find(flow)) is not None:
                yield Listed(flow, story)

    def _sessions(self) -> list[str]:
        return [*dict.fromkeys(story.facts.session_id for _, story in self._listed() if story.facts.session_id)]

    def _table(self, found: list[Listed]) -> Table:
        """The newest of them first; the sentence is about all."""
        ends = Counter(str(story.outcome or "running") for _, story in found)
        costs = [story.cost for _, story in found if story.cost is not None]
        told = f"{some(len(found), 'request')} in the list: {', '.join(f'{n} {end}' for end, n in ends.items())}"
        told = f"{told}; {money(sum(costs, Decimal()))} as far as prices are known" if found else "no request yet"
        head = ("time", "account", "model", "tokens", "cost", "outcome", "seconds", "flow")
        now = self._wall()
        return Table(self._linked(told), head, [_request(each, now) for each in found[: -MOST - 1 : -1]])

    def _linked(self, sentence: str) -> str:
        link = self._link()
        return f"{sentence}. More at {link}" if link else sentence


def _account(status: AccountStatus, now: float) -> tuple[str, ...]:
    windows = (
        f"{window.name} {window.utilization:.0%}"
        + (f" until {local_time(window.resets_at, now)}" if window.resets_at else "")
        for window in status.windows
        if window.utilization
    )
    account = status.account
    return account.name, status.reason, str(account.priority), str(status.in_flight), ", ".join(windows)


def _request(listed: Listed, now: float) -> tuple[str, ...]:
    flow, story = listed
    tokens, cost = [*used(story), "", ""][:2]
    took = f"{story.duration:.1f}" if story.outcome else ""
    told = (local_time(story.started_at, now), who(story), model_of(story), tokens, cost)
    return *map(visible, told), str(story.outcome or "running"), took, f"@{flow.id}"


def _reasons(story: Story) -> Iterator[tuple[str, str]]:
    """What the choice was and why, what became of each attempt, and of the whole."""
    lease = story.lease
    yield "account", f"{lease.account.name if lease else 'none'} ({story.choice_reason or 'none was chosen'})"
    for name, why in lease.choice.considered if lease else ():
        if why and lease and name != lease.account.name:
            yield name, why
    for rule in story.ruling.rules:
        doubt = " (it may not be meant for it, which cannot be told)" if rule.name in story.ruling.doubtful else ""
        yield f"rule {rule.name}", f"{'; '.join(rule.effects)}{doubt}"
    for attempt in story.attempts:
        what, _, told = attempt_line(attempt).partition(": ")
        yield what, told
    yield "outcome", f"{story.outcome or 'running'}{f': {story.error}' if story.error else ''}"
