"""What the gate decides by: a request's head, and everything that changes between requests. Values only. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ccflare_core.clients.access import Access
from ccflare_core.clients.authentication import KeyRing, Principal
from ccflare_core.clients.client_runs import ClientRun, ClientRuns
from ccflare_core.clients.key_limits import Limited
from ccflare_core.clients.keys import ClientKey, Permission
from ccflare_core.clients.rate_limits import Moment
from ccflare_core.clients.sessions import Session, Sessions
from ccflare_core.config.settings import Settings
from ccflare_core.http.addresses import Address
from ccflare_core.http.headers import Header, Line
from ccflare_core.http.rejection import Rejection


class PageAccess(NamedTuple):
    """What it takes to get one of our own pages. `permission` None is for everybody, also without a key."""

    methods: tuple[str, ...]
    permission: Permission | None


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request as its head and its connection describe it. The client keys are taken out of its `fields`."""

    line: Line
    fields: tuple[Header, ...] = field(repr=False)
    presented: tuple[str, ...] = field(repr=False)
    """The client keys that came in the fields."""
    peer: str
    """The address at the other end of the socket."""
    host: str
    """The host that the client asked for, in lower case, with `port`."""
    port: int
    here: tuple[str, int]
    """The address and port of ours that the connection came to."""
    is_reverse: bool = False
    """Whether it came in reverse mode, where everything is meant for the upstream."""
    is_tls: bool = False
    is_connect: bool = False
    """Whether it asks for a tunnel."""
    tunnel: Principal | None = None
    """Who has opened the tunnel that it came through, if it came through one."""
    problem: str = ""
    """What mitmproxy has found wrong with it, and answers itself."""
    page: PageAccess | None = None
    """The page of ours that its path means, if there is one."""
    code: str | None = field(default=None, repr=False)
    """The code of the second factor that came with it."""
    sessions: tuple[str, ...] = field(default=(), repr=False)
    """Our own cookies that came with it, which are taken out of its `fields` too."""
    misplaced_key: str = ""
    """Where a client key stood that does not belong there, such as "the path"."""
    run: str = ""
    """The run that its client says it is in."""

    @property
    def method(self) -> str:
        """The method in capitals, however it was sent."""
        return self.line.method.decode(errors="surrogateescape").upper()

    @property
    def method_as_sent(self) -> str:
        """The method as it goes upstream."""
        return self.line.method.decode("latin-1")

    @property
    def path(self) -> str:
        """The path with its query."""
        return self.line.target.decode(errors="surrogateescape")


class Rates(Protocol):
    """Rate limits and budgets, to look at; see rate_limits.py."""

    def for_address(self, address: Address | None, per_minute: int, now: Moment) -> Rejection | None: ...
    def for_key(self, key: Limited, now: Moment, *, spends: bool = True) -> Rejection | None: ...


class Runs(Protocol):
    """The runs of clients that go on, to look at; see client_runs.py."""

    def find(self, label: str) -> ClientRun | None: ...
    def objection(self, run: ClientRun | None, key: ClientKey | None, now: float) -> Rejection | None: ...
    def spent_up(self, run: ClientRun) -> Rejection | None: ...


class LoggedIn(Protocol):
    """The sessions of browsers, to look at; see sessions.py."""

    def find(self, cookies: Sequence[str], now: float) -> Session | None: ...


class Waits(Protocol):
    """How long sources that fail to present a valid key have to wait, to look at; see throttle.py."""

    def wait(self, address: str, now: float) -> int: ...


@dataclass(frozen=True, slots=True)
class GateState:
    """Everything else that a decision depends on, as it is at one moment."""

    settings: Settings
    access: Access
    ring: KeyRing
    open_loopback: bool
    """Whether programs on this machine need no key even though there are some."""
    rates: Rates
    waits: Waits
    open_requests: int
    """Exchanges that have not ended."""
    audit_problem: str | None
    """Why no request is taken: nothing could be audited for too long."""
    needs_code: bool
    """Whether there is a second factor."""
    sessions: LoggedIn = field(default_factory=Sessions)
    runs: Runs = field(default_factory=ClientRuns)
    has_room: Callable[[Address | None], bool] = lambda address: True
    """Whether an address may have one more connection without a valid key."""
    own_names: frozenset[str] = frozenset()
    """This machine's own name, and those in certificates that are shown to clients."""
