"""Lets the bodies of finished requests go at once where nobody shows them: in mitmdump, if no other addon sees flows.

A flow that is over lies in circles of references, so it keeps its body until Python looks for such; an idle proxy may
not for hours. What many large bodies have taken is given back to the system once no request is open.
"""

import asyncio
from collections.abc import Callable
from types import ModuleType

from mitmproxy import ctx, hooks, http
from mitmproxy.addonmanager import traverse

from ccflare_core.exchange.memory import MIB
from ccflare_core.process import give_back_memory
from ccflare_mitm.host.addon_changes import AddonChanges
from ccflare_mitm.host.tuning import is_wanted

LEAST = 64 * 1024
"""Bytes of a body for which it is worth a look at the other addons."""
ENOUGH = 32 * MIB
"""Bytes of bodies for which it is worth to give memory back."""
PAUSE = 5.0
"""Seconds between two looks."""
_KEEPERS = ("hardump", "save_stream_file")
"""Options of mitmproxy's own addons that keep what has finished."""
_FILTER = "dumper_filter"
"""That of what is printed, which may be a word of the comment: `~comment opus`, `~marked`."""
_SHOWN = 2
"""From this `flow_detail` on more is printed of a request than a line."""
_OF_NO_FLOW = frozenset({"load", "configure", "running", "done"})
"""The hooks of an addon's own life."""


class Unshown:
    """See the module. `is_busy` tells whether a request is open."""

    def __init__(
        self,
        is_busy: Callable[[], bool],
        has_readers: Callable[[], bool] | None = None,
        give_back: Callable[[], object] = give_back_memory,
    ) -> None:
        self._is_busy = is_busy
        self.has_readers = has_readers or Readers()
        """Whether another addon may look at a flow that has finished."""
        self._give_back = give_back
        self._size = 0  # of what was let go since memory was last given back

    def finished(self, flow: http.HTTPFlow) -> None:
        """The request is over, and recorded as far as it is to be. Its answer may still be on the way to the client."""
        body = flow.request.raw_content
        if body is None or len(body) < LEAST or self.has_readers():
            return
        flow.request.raw_content = None
        self._size += len(body)

    async def run(self, seconds: float = PAUSE) -> None:
        """Give memory back again and again: not while a request would wait for it."""
        while True:
            await asyncio.sleep(seconds)
            if self._size >= ENOUGH and not self._is_busy():
                self._size = 0
                await asyncio.to_thread(self._give_back)


class Readers:
    """Tells whether another addon may look at a flow that has finished.

    It is asked at the end of each request, and who hears of flows is looked up again only when the addons are others.
    """

    def __init__(self) -> None:
        self._changes = AddonChanges()
        self._are_there = False

    def __call__(self) -> bool:
        """Whether there is one now."""
        detail = int(ctx.options.flow_detail) if "flow_detail" in ctx.options else 0
        is_printed = detail >= _SHOWN or (detail > 0 and bool(getattr(ctx.options, _FILTER)))
        if is_printed or any(map(is_wanted, _KEEPERS)):
            return True
        if self._changes.are_there(ctx.master.addons):
            self._are_there = not all(map(_is_harmless, traverse(ctx.master.addons.chain)))
        return self._are_there


def _is_harmless(addon: object) -> bool:
    """Whether it is mitmproxy's own or ours, by where it was made, or hears of nothing but its own life."""
    inside = getattr(addon, "addons", ()) if isinstance(addon, ModuleType) else ()
    if inside:
        return all(map(_is_harmless, inside))
    origin = type(addon)
    if origin.__module__.partition(".")[0] == "mitmproxy" or origin.__qualname__ == "CCFlare":
        return True
    return not any(hasattr(addon, hook) for hook in hooks.all_hooks.keys() - _OF_NO_FLOW)
