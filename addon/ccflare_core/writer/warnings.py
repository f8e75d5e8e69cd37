"""Sentences from the writer's thread for the log, none of them over and over."""

import contextlib
from collections.abc import Callable

_WARN_SECONDS = 60.0


class RateLimitedWarnings:
    """Passes sentences on to the log, and the same complaint only once a minute."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._warned_at: dict[str, float] = {}

    def say(self, message: str) -> None:
        """Pass it on. Whatever the listener raises is its own affair."""
        with contextlib.suppress(Exception):
            self._tell(message)

    def warn(self, topic: str, message: str) -> bool:
        """Pass it on unless the topic had a message within the last minute; whether it was passed on."""
        now = self._clock()
        if now - self._warned_at.get(topic, float("-inf")) < _WARN_SECONDS:
            return False
        self._warned_at[topic] = now
        self.say(message)
        return True
