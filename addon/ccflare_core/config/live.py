"""The settings as they are now: the one way by which a change of the options reaches those who use them."""

from collections.abc import Callable
from typing import Any

from ccflare_core.config.settings import Settings


class LiveSettings:
    """Call it for the settings that hold now. What an option's change does to its user is in the table, `applies`.

    A user of many options gets this object and calls it, a user of one gets a `reader`, and one that works something
    out of them listens.
    """

    def __init__(self, settings: Settings) -> None:
        self._now = settings
        self._listeners: list[Callable[[Settings], object]] = []

    def __call__(self) -> Settings:
        return self._now

    def reader(self, name: str) -> Callable[[], Any]:
        """A function that gives one setting as it is then. Raises AttributeError at once if there is none such."""
        getattr(self._now, name)
        return lambda: getattr(self._now, name)

    def listen(self, listener: Callable[[Settings], object]) -> None:
        """Have `listener` called with the settings whenever they have changed."""
        self._listeners.append(listener)

    def change(self, settings: Settings) -> None:
        """Put these in the place of the ones before, and tell all listeners."""
        self._now = settings
        for listener in self._listeners:
            listener(settings)
