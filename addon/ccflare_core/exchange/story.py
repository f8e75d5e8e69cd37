"""What is known of one exchange, for everybody to read: the record, the log line, the inspector, the limits.

Only the exchange itself (exchange.py) writes it, through the names with an underscore. Nothing is written any more
once it has ended.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from ccflare_core.accounts.pool import Lease
from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.anthropic.ids import NO_IDS
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.usage import Reading
from ccflare_core.clients.guardrails import UNRULED, Ruling
from ccflare_core.exchange.capture import Capture
from ccflare_core.exchange.counted import AS_RECORDED, Counted
from ccflare_core.exchange.steps import Attempt, Opening, Outcome, Ticket
from ccflare_core.text import to_ms


class Used(NamedTuple):
    """What an exchange has used, as far as its answer tells."""

    prices: PriceList
    """Those that were in force at its end."""
    reading: Reading | None = None
    cost: Decimal | None = None
    counted: Counted = AS_RECORDED


class Spooled(Protocol):
    """A body on the disk."""

    size: int
    trouble: str
    """Why it cannot be kept, as a sentence."""

    def add(self, data: bytes) -> bool:
        """Keep this part; whether more may come at once."""

    def finish(self) -> None:
        """That was all of it."""

    @property
    def is_written(self) -> bool:
        """Whether all of it is on the disk, or there is `trouble`."""

    def pieces(self) -> Iterator[bytes]:
        """The body. Waits for the disk, so it is for a thread. Raises StoreError."""

    def read(self, number: int) -> Future[bytes | None]:
        """One piece of it, None behind the last."""

    def close(self) -> None:
        """It is not needed any more."""


@dataclass(frozen=True, slots=True)
class End:
    """How an exchange ended. It is made once, so an exchange has exactly one outcome."""

    outcome: Outcome
    error: str | None
    duration: float
    """Seconds."""
    used: Used


class Story:
    """See the module. `started_at` is in epoch seconds."""

    def __init__(self, opening: Opening, capture: Capture, started_at: float) -> None:
        self.opening: Final = opening
        self.capture: Final = capture
        self.started_at: Final = started_at
        self.id: Final = f"req_{to_ms(started_at):012x}{secrets.token_hex(6)}"
        self._ticket = Ticket.NONE
        self._metered = False
        self._named = NO_IDS
        self._ruling = UNRULED
        self._facts = Facts(client=opening.client)
        self._request_body = b""
        self._request_encoding = ""
        self._is_streamed = False
        self._unkept_bytes = 0
        self._request_type = ""
        self._spool: Spooled | None = None
        self._provenance = Provenance()
        self._agent: str | None = None
        self._original_model: str | None = None
        self._lease: Lease | None = None
        self._choice_reason = ""
        self._attempts: tuple[Attempt, ...] = ()
        self._status: int | None = None
        self._upstream_request_id: str | None = None
        self._first_byte: float | None = None
        self._waited = 0.0
        self._end: End | None = None

    # The request

    @property
    def ticket(self) -> Ticket:
        """What it may send upstream."""
        return self._ticket

    @property
    def metered(self) -> bool:
        """Whether the answer can tell usage: only the inference paths' answers do."""
        return self._metered

    @property
    def is_stateful(self) -> bool:
        """Whether it is about Managed Agents, which live in one account.

        Their bodies are not kept: they carry credentials for other services.
        """
        return bool(self.opening.stateful_account)

    @property
    def ruling(self) -> Ruling:
        """The owner's rules that it has to keep to."""
        return self._ruling

    @property
    def continues(self) -> str | None:
        """The id of the message that it goes on from, if its conversation is in a thread of the upstream's."""
        return self._named.continues

    @property
    def facts(self) -> Facts:
        """What the request's body says."""
        return self._facts

    @property
    def request_body(self) -> bytes:
        """As it came; empty where the client's own credential is used."""
        return self._request_body

    @property
    def request_encoding(self) -> str:
        """The body's Content-Encoding."""
        return self._request_encoding

    @property
    def is_streamed(self) -> bool:
        """Whether the body goes upstream as it comes, so that nothing of it is kept."""
        return self._is_streamed

    @property
    def spool(self) -> Spooled | None:
        """The body, if it is on the disk."""
        return self._spool

    @property
    def unkept_bytes(self) -> int:
        """How large a body was that was not in memory, and so is not recorded."""
        return self._spool.size if self._spool is not None else self._unkept_bytes

    @property
    def request_type(self) -> str:
        """The Content-Type of such a body."""
        return self._request_type

    @property
    def provenance(self) -> Provenance:
        """Which project it comes from, and what for."""
        return self._provenance

    @property
    def project(self) -> str | None:
        """The project that it counts for: that of its run, else the one that it comes from."""
        run = self.opening.run
        return run.project if run is not None and run.project else self._provenance.project

    @property
    def agent(self) -> str | None:
        """The name of the agent whose request it is."""
        return self._agent

    @property
    def original_model(self) -> str | None:
        """What the client asked for, where an agent's definition or a rule has put another model in its place."""
        return self._original_model

    def stand_in(self, spelt: Callable[[str], str] = str) -> str:
        """What its model stands in for: `for reviewer in place of claude-opus-4-8`; "" if that was asked for."""
        if not self._original_model:
            return ""
        agent = f"for {self._agent} " if self._agent else ""
        return f"{agent}in place of {spelt(self._original_model)}"

    # The attempts

    @property
    def lease(self) -> Lease | None:
        """The account that serves it, or has."""
        return self._lease

    @property
    def choice_reason(self) -> str:
        """Why its first account was chosen."""
        return self._choice_reason

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All that have ended, in order."""
        return self._attempts

    @property
    def waited(self) -> float:
        """Seconds for which it was held, until an account was free."""
        return self._waited

    @property
    def failovers(self) -> int:
        """How often it moved to another account."""
        accounts = [attempt.account_id for attempt in self._attempts]
        return sum(a != b for a, b in itertools.pairwise(accounts))

    # The answer

    @property
    def status(self) -> int | None:
        """What the client got."""
        return self._status

    @property
    def upstream_request_id(self) -> str | None:
        """How the upstream calls it."""
        return self._upstream_request_id

    @property
    def first_byte(self) -> float | None:
        """Seconds from its start to the head of the answer."""
        return self._first_byte

    # Its end

    @property
    def outcome(self) -> Outcome | None:
        """None while it is open."""
        return self._end.outcome if self._end else None

    @property
    def error(self) -> str | None:
        """What went wrong, without secrets."""
        return self._end.error if self._end else None

    @property
    def duration(self) -> float:
        """Seconds from its start to its end; 0 while it is open."""
        return self._end.duration if self._end else 0.0

    @property
    def reading(self) -> Reading | None:
        """What the answer tells of its usage."""
        return self._end.used.reading if self._end else None

    @property
    def cost(self) -> Decimal | None:
        """Dollars; None if the price, or the usage, is unknown."""
        return self._end.used.cost if self._end else None

    @property
    def counted(self) -> Counted:
        """What a budget counts in place of the tokens and the cost."""
        return self._end.used.counted if self._end else AS_RECORDED

    @property
    def prices(self) -> PriceList | None:
        """The prices that its cost is of; None while it is open."""
        return self._end.used.prices if self._end else None
