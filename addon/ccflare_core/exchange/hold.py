"""A request's wait for an account: how long it may last, and how long it has. Pure."""

from ccflare_core.accounts.pool import Exhausted
from ccflare_core.exchange.collaborators import Collaborators
from ccflare_core.exchange.steps import Wait

POLL_SECONDS = 0.25
"""How long until a held request looks at the pool again, at most."""
LEAST_SECONDS = 0.02


class Hold:
    """The waits of one exchange, of which there are as many as it has attempts. Times are monotonic seconds."""

    def __init__(self, exchange_id: str, shared: Collaborators) -> None:
        self._id = exchange_id
        self._shared = shared
        self._until: float | None = None
        self._since: float | None = None

    def patience(self) -> float:
        """For how many seconds it may wait for one account where it could move to another one."""
        settings = self._shared.settings
        if not self._has_room():
            return 0.0
        return settings.hold_seconds if self._until is None else max(0.0, self._until - self._shared.clock())

    def wait_for(self, result: Exhausted) -> Wait | None:
        """How long to wait until the pool is asked again; None if that would last too long, or too many wait."""
        now = self._shared.clock()
        if self._until is None:
            self._until = now + self._shared.settings.hold_seconds
        is_soon = result.is_for_one or (result.wait is not None and now + result.wait <= self._until)
        if result.wait is None or not is_soon or not self._has_room():
            return None
        self._shared.held.add(self._id)
        self._since = now if self._since is None else self._since
        return Wait(min(max(result.wait, LEAST_SECONDS), POLL_SECONDS))

    def end(self) -> float:
        """It waits no longer; the seconds since it began to."""
        held = 0.0 if self._since is None else self._shared.clock() - self._since
        self._since = None
        self._shared.held.discard(self._id)
        return held

    def _has_room(self) -> bool:
        """Whether it may be among those that wait."""
        held = self._shared.held
        return self._id in held or len(held) < self._shared.settings.max_waiting
