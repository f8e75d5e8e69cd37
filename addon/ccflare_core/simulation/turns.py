"""A recorded request as the simulator replays it: when it came, from whom, how large it was, how it went. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Kind, Verdict, recorded

LIMITS = frozenset({Kind.WINDOW_SPENT, Kind.MODEL_BUCKET_SPENT})
"""What an account answers whose windows are full."""
_OF_THE_PROVIDER = frozenset(
    {
        *(Kind.BARE_429, Kind.OVERLOADED, Kind.UPSTREAM_FAILURE, Kind.CLIENT_ERROR, Kind.REDIRECTED),
        *(Kind.BROKEN_OFF, Kind.PROXY_FAILURE),
    }
)
"""What any account would have met at that time."""


class Weather(NamedTuple):
    """An attempt that failed for another reason than a full window, which an account meets again."""

    kind: Kind
    status: int
    reason: str
    account_id: str
    seconds: float
    """How long it took."""

    def concerns(self, account_id: str) -> bool:
        """Whether that account would have met it too."""
        return self.kind in _OF_THE_PROVIDER or account_id == self.account_id

    def verdict(self, now: float, facts: Facts) -> Verdict:
        """What it meant."""
        return recorded(self.kind, self.status, self.reason, now, facts)


class Tokens(NamedTuple):
    """The tokens of a request by kind, as they are priced."""

    input: int = 0
    output: int = 0
    written_5m: int = 0
    written_1h: int = 0
    read: int = 0

    @property
    def prefix(self) -> int:
        """What of the prompt is in the cache afterwards."""
        return self.written_5m + self.written_1h + self.read


NO_TOKENS = Tokens()


class Size(NamedTuple):
    """What a request used, and what of it was lost since another account had its session before."""

    tokens: Tokens = NO_TOKENS
    cost: float = 0.0
    """Both as they had been if none had."""
    output_share: float = 0.0
    """How much of the cost is that of the output, as a fraction."""
    lost_tokens: int = 0
    """Tokens that were written into the cache again."""
    lost_cost: float = 0.0
    lost_thinking: float = 0.0
    """The cost of the thinking which the other account keeps to itself."""
    moved: bool = False
    """Whether there was another one."""


class Turn(NamedTuple):
    """One recorded request. Times are epoch seconds, sizes tokens, costs list prices in USD."""

    id: str
    at: float
    method: str
    path: str
    facts: Facts
    head_seconds: float
    """From the start of the attempt that served it to its head."""
    seconds: float
    """And to its end."""
    tokens: Tokens = NO_TOKENS
    cost: float = 0.0
    output_share: float = 0.0
    lost_tokens: int = 0
    lost_cost: float = 0.0
    lost_thinking: float = 0.0
    moved: bool = False
    """These are its Size."""
    is_sized: bool = True
    """Whether it is known how large it was; otherwise its size is that of its session's last one, or of the others."""
    thinking: int = 0
    outcome: str = "ok"
    account_id: str | None = None
    waited: float = 0.0
    limits: int = 0
    """How many accounts answered it with a full window."""
    weather: tuple[Weather, ...] = ()
    is_repeat: bool = False
    """Whether it looks like a refused one that was sent again."""
    user_agent: str = ""
    agent: str | None = None
    project: str | None = None
    request_class: str | None = None
    key_id: str | None = None
    run_id: str | None = None
    is_in_thread: bool = False
    tags: Mapping[str, str] = MappingProxyType({})

    @property
    def thread(self) -> tuple[str | None, str | None, str | None]:
        """What has one cached prompt: a session's turns with one model, of one agent."""
        return self.facts.session_id, self.facts.model, self.agent


_SOME: Final = 64
"""So many values more are no reason to look for old ones."""


class Recent[Key, Value]:
    """Values by key that are forgotten when they were not set for so many seconds, or too many are newer."""

    def __init__(self, seconds: float, most: int = 20_000) -> None:
        self._seconds = seconds
        self._most = most
        self._known: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._forget_at = _SOME

    def get(self, key: Key, now: float) -> Value | None:
        """The value; None if there is none any more."""
        found = self._known.get(key)
        return None if found is None or now - found[0] > self._seconds else found[1]

    def put(self, key: Key, value: Value, now: float) -> None:
        """Set it."""
        known = self._known
        known[key] = now, value
        known.move_to_end(key)
        if len(known) >= self._forget_at:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget what is too old, and do that again when there is twice as much as is left."""
        known = self._known
        while known and (len(known) > self._most or now - next(iter(known.values()))[0] > self._seconds):
            known.popitem(last=False)
        self._forget_at = min(2 * len(known) + _SOME, self._most + 1)

    def pop(self, key: Key, now: float) -> Value | None:
        """The same, which is forgotten."""
        found = self.get(key, now)
        self._known.pop(key, None)
        return found
