"""What other proxies on the same database have learned of the accounts' limits since the last look.

A proxy's own pool is ahead of its rows, which take a moment to be written. So what this store has written itself is no
news: only the difference between what it knows of the tables, by reading or by writing, and what they hold now.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

from ccflare_core.accounts.cooldowns import Cooldown, Part
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.exchange.records import CooldownCleared, CooldownSet, Record, WindowRead
from ccflare_core.store.limits import Limits
from ccflare_core.text import to_ms


class Learned(NamedTuple):
    """News for the pool."""

    cooldowns: tuple[Cooldown, ...]
    over: tuple[Cooldown, ...]
    """Those that ended before their time."""
    windows: Mapping[str, tuple[Window, ...]]
    """Newer readings, by account id."""


class LimitsOfOthers:
    """A part of the store. It knows nothing of the tables, and reads nothing, before the first `look`."""

    def __init__(self, limits: Limits, snapshot: Callable[[], AbstractContextManager[None]]) -> None:
        self._limits = limits
        self._snapshot = snapshot
        self._known: dict[tuple[str, Part], Cooldown] | None = None
        self._newest = 0
        self._own: dict[tuple[str, str], int] = {}
        """When the last reading that this store has written was made, by account id and window."""

    def wrote(self, batch: Iterable[Record]) -> None:
        """This store has committed these records."""
        if self._known is None:
            return  # the first look finds them
        for record in batch:
            match record:
                case CooldownSet(cooldown):
                    stored = replace(cooldown, until=to_ms(cooldown.until) / 1000)
                    self._known[cooldown.account_id, cooldown.part] = stored
                case CooldownCleared(account_id, part):
                    self._known.pop((account_id, part), None)
                case WindowRead(account_id, at_ms, window):
                    self._own[account_id, window.name] = at_ms

    def look(self) -> Learned:
        """What has come since the last call; nothing at the first. Raises StoreError."""
        with self._snapshot():
            found = {(each.account_id, each.part): each for each in self._limits.cooldowns()}
            readings = [] if self._known is None else self._limits.readings_after(self._newest)
            newest = readings[-1].id if readings else self._limits.newest_reading()
        self._newest = newest  # not before all of it was read
        before, self._known = self._known, found
        if before is None:
            return Learned((), (), {})
        # Of several readings the last one written counts, whatever the clocks of their machines say.
        last = {(each.account_id, each.window.name): each for each in readings}
        windows: dict[str, tuple[Window, ...]] = {}
        for key, each in last.items():
            if each.at_ms != self._own.get(key):
                windows[each.account_id] = (*windows.get(each.account_id, ()), each.window)
        return Learned(
            tuple(each for key, each in found.items() if before.get(key) != each),
            tuple(each for key, each in before.items() if key not in found),
            windows,
        )
