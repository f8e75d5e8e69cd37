"""Runs of clients: what `ccflare run` has registered, and what a request in one may do. Pure.

A client says in the proxy's address which run it is in. That is a label and no secret: it never lets anybody in, and
only narrows what may be done, to an account or a budget. One that is not known is refused, so that a client which is
to be narrowed is never served without.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from secrets import token_hex

from ccflare_core.clients.keys import ClientKey
from ccflare_core.http.rejection import Rejection
from ccflare_core.program import typed

PREFIX = "run-"
_ID_BYTES = 12
"""96 random bits: nobody can guess one and use its budget up."""

BEAT_SECONDS = 60.0
LOST_SECONDS = 300.0
"""After so long without a sign of life nothing is served in a run until there is one: a machine may only have slept."""
OVER_SECONDS = 24 * 3600.0
"""After so long without one it is over: whoever has started it was killed."""
LONGEST_SECONDS = 30 * 24 * 3600.0

_SOON = 5
UNKNOWN_RUN = (
    f"The run in the proxy's address is not known here, or is over: start the client anew with `{typed('run')}`."
)


@dataclass(frozen=True, slots=True)
class ClientRun:
    """One run, with what it is narrowed to. Times are epoch seconds."""

    id: str
    created_at: float
    seen_at: float
    """When whoever has started it gave the last sign of life."""
    key_id: str | None = None
    """The client key that its requests count for; None: they come without one."""
    is_keyed: bool = False
    """Whether there is a temporary key for it."""
    account_id: str | None = None
    account: str = ""
    """The only account that may serve it, and the name that it had at the start."""
    project: str = ""
    tags: tuple[str, ...] = ()
    """Each as `name=value`; see tags.py."""
    dollars: Decimal | None = None
    """All that it may cost."""
    cost: Decimal = Decimal()
    """What it has cost so far by the record, but for what this proxy has counted itself."""

    @property
    def until(self) -> float:
        """When its temporary key ends in any case."""
        return self.created_at + LONGEST_SECONDS

    def is_lost(self, now: float) -> bool:
        """Whether there was no sign of life for too long."""
        return now - self.seen_at > LOST_SECONDS

    def objection_to_stateful(self, account: str) -> str:
        """Why Managed Agents, which live in this account, are not for it; "" if they are."""
        if self.account_id is not None and self.account != account:
            return "This run may not use the account that Managed Agents live in."
        return "This run has a budget, and what managed agents run is not seen here." if self.dollars else ""


def new_id() -> str:
    """An id for a run."""
    return f"{PREFIX}{token_hex(_ID_BYTES)}"


class ClientRuns:
    """The runs that go on, and what those with a budget have cost here. `warn` gets sentences for the log."""

    def __init__(self, warn: Callable[[str], None] = lambda sentence: None) -> None:
        self._runs: dict[str, ClientRun] = {}
        self._spent: dict[str, Decimal] = {}
        self._unpriced: set[str] = set()
        self._warn = warn

    def replace(self, runs: Iterable[ClientRun]) -> None:
        """Take these for the old ones. What each has cost here stays counted.

        Also that of one which is gone: a sign of life brings it back, as after a weekend's sleep.
        """
        self._runs = {run.id: run for run in runs}

    def find(self, label: str) -> ClientRun | None:
        """The run that a client says it is in."""
        return self._runs.get(label)

    def objection(self, run: ClientRun | None, key: ClientKey | None, now: float) -> Rejection | None:
        """Why nothing is served in this run to who asks with that key, or with none. `now` is in epoch seconds.

        The run of another one is as unknown as one that never was.
        """
        if run is None or run.key_id != (key.id if key else None):
            return Rejection(403, UNKNOWN_RUN, is_final=True, audit="an unknown run", is_recorded=False)
        if run.is_lost(now):
            message = f"The `{typed('run')}` that has started this client gives no sign of life."
            return Rejection(503, message, _SOON, is_recorded=False)
        return None

    def spent_up(self, run: ClientRun) -> Rejection | None:
        """Why a run whose budget is used up gets nothing more."""
        if run.dollars is None or run.cost + self._spent.get(run.id, 0) < run.dollars:
            return None
        on_top = " (exchanges without a known price come on top)" if run.id in self._unpriced else ""
        return Rejection(429, f"This run has used its budget of ${run.dollars:f}{on_top}.", is_final=True)

    def add(self, run: ClientRun, tokens: int | None, dollars: Decimal | None) -> None:
        """An exchange in it used that much (None: unknown)."""
        if run.dollars is None:
            return
        if dollars is not None:
            self._spent[run.id] = self._spent.get(run.id, Decimal()) + dollars
        elif tokens and run.id not in self._unpriced:
            self._unpriced.add(run.id)
            self._warn(
                f"{run.id} uses a model without a known price, which its budget does not see: add it with "
                "ccflare_prices"
            )
