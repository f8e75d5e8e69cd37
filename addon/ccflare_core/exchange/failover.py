"""What to do next inside one exchange, verdict after verdict, until its answer goes to the client.

`Failover` is made per exchange and holds its counters; `RetryBudget` is shared by all of them. Neither waits,
sends or knows an account: the caller carries out the step and comes back with the next verdict.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ccflare_core.anthropic.verdicts import Kind, Scope, Verdict

MOST_ATTEMPTS = 20  # upstream requests for one exchange, whatever the verdicts are
OVERLOADED_RETRIES = 2  # in place: overload is upstream's state, another account meets the same
LONGEST_DELAY = 60.0


# Not NamedTuples: an empty one is false, and two of different types can be equal.
@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the answer to the client."""


@dataclass(frozen=True, slots=True)
class RetrySame:
    """Ask again with the same account after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class NextAccount:
    """Ask with another account. If none is free: the answer in hand goes out, or else our own refusal."""

    or_deliver: bool
    if_all_agree: bool = False
    """The answer in hand goes out only if every account that was asked has said the same."""


Step = Deliver | RetrySame | NextAccount

# These speak about one account or its credential. Any number of others may be asked, and the client does not
# see the answer: a 429 or 401 ends a Claude Code session that another account could have gone on with.
_OF_THE_ACCOUNT = frozenset(
    {
        Kind.WINDOW_SPENT,
        Kind.MODEL_BUCKET_SPENT,
        Kind.OUT_OF_CREDITS,
        Kind.ACCOUNT_DISABLED,
        Kind.OUT_OF_FUNDS,
        Kind.SPEND_LIMIT,
        Kind.CREDENTIAL_REJECTED,
        Kind.PERMISSION_DENIED,
        Kind.MODEL_UNAVAILABLE,
        Kind.BETA_UNAVAILABLE,
    }
)
# These speak about the request, our address or upstream itself. One other account is worth a try; a row of
# them would only carry the trouble through the pool.
_ONE_HOP = frozenset({Kind.BARE_429, Kind.SHORT_THROTTLE, Kind.OVERLOADED, Kind.REDIRECTED, Kind.BROKEN_OFF})


class Failover:
    """The steps of one exchange; make a new one for each."""

    def __init__(
        self, *, attempts: int, delay: float, backoff: float, random: Callable[[], float] = random.random
    ) -> None:
        """Retry in place up to `attempts` times after a failure: the first after about `delay` seconds, each
        next one after `backoff` times as long. `random` gives values from 0 to 1."""
        self._attempts = attempts
        self._delay = delay
        self._backoff = backoff
        self._random = random
        self._asked = 0
        self._hopped = False
        self._retries = 0  # in place, with this account
        self._wait = delay

    def after(self, verdict: Verdict) -> Step:
        """The step that follows this verdict. From the verdict number `MOST_ATTEMPTS` on it is `Deliver`."""
        self._asked += 1
        kind = verdict.kind
        if verdict.deliver or not verdict.may_retry or self._asked >= MOST_ATTEMPTS:
            return Deliver()
        if kind in _OF_THE_ACCOUNT:
            return self._move(or_deliver=False, if_all_agree=verdict.may_be_the_request)
        if kind in (Kind.UPSTREAM_FAILURE, Kind.PROXY_FAILURE):
            return self._retry_failure() if self._retries < self._attempts else self._move(or_deliver=True)
        if kind is Kind.OVERLOADED and self._retries < OVERLOADED_RETRIES:
            return self._retry(0.5 + self._random())
        if verdict.scope is Scope.WAY:
            return self._move(or_deliver=True)
        if kind in _ONE_HOP and not self._hopped:
            self._hopped = True
            return self._move(or_deliver=kind is not Kind.SHORT_THROTTLE)
        return Deliver()

    def _retry_failure(self) -> RetrySame:
        wait = min(self._wait, LONGEST_DELAY)
        self._wait = wait * self._backoff
        return self._retry(wait * (0.5 + 0.5 * self._random()))

    def _retry(self, delay: float) -> RetrySame:
        self._retries += 1
        return RetrySame(delay)

    def _move(self, *, or_deliver: bool, if_all_agree: bool = False) -> NextAccount:
        self._retries = 0
        self._wait = self._delay
        return NextAccount(or_deliver, if_all_agree)


def all_agree(verdicts: Sequence[Verdict]) -> bool:
    """Whether these refusals, one of each account, are one and the same: then they are about the request."""
    return all(verdict.may_be_the_request for verdict in verdicts) and len({(v.status, v.error) for v in verdicts}) == 1


class RetryBudget:
    """How many retries may be under way at once, so that a failing upstream does not get its load multiplied.

    Ask `allows` before a retry, then hold the budget (`with budget:`, or `take` and `give`) until the retry
    has its verdict.
    """

    def __init__(self, share: float = 0.2, minimum: int = 3) -> None:
        """At most `share` of the exchanges in flight, but always `minimum` of them."""
        self._share = share
        self._minimum = minimum
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<RetryBudget: {self._under_way} under way>"

    def allows(self, in_flight: int) -> bool:
        """Whether one more retry may start while `in_flight` exchanges are open, retried ones included."""
        return self._under_way < max(self._minimum, self._share * in_flight)

    def take(self) -> None:
        self._under_way += 1

    def give(self) -> None:
        self._under_way = max(0, self._under_way - 1)

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give()
