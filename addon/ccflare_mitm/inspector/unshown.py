"""Lets the bodies of finished requests go at once where nobody shows them: in mitmdump, with no other addon.

A flow that is over lies in circles of references, so it keeps its body until Python looks for such; an idle proxy may
not for hours. What many large bodies have taken is given back to the system once no request is open.
"""

import asyncio
from collections.abc import Callable
from types import ModuleType

from mitmproxy import ctx, http
from mitmproxy.addonmanager import traverse

from ccflare_core.exchange.memory import MIB
from ccflare_core.process import give_back_memory
from ccflare_mitm.host.tuning import is_wanted

LEAST = 64 * 1024
"""Bytes of a body for which it is worth a look at the other addons."""
ENOUGH = 32 * MIB
"""Bytes of bodies for which it is worth to give memory back."""
PAUSE = 5.0
"""Seconds between two looks."""
_KEEPERS = ("hardump", "save_stream_file")
"""Options of mitmproxy's own addons that keep what has finished."""
_SHOWN = 2
"""From this `flow_detail` on more is printed of a request than a line."""


class Unshown:
    """See the module. `is_busy` tells whether a request is open."""

    def __init__(
        self,
        is_busy: Callable[[], bool],
        has_readers: Callable[[], bool] | None = None,
        give_back: Callable[[], object] = give_back_memory,
    ) -> None:
        self._is_busy = is_busy
        self._has_readers = has_readers or are_bodies_read
        self._give_back = give_back
        self._size = 0  # of what was let go since memory was last given back

    def finished(self, flow: http.HTTPFlow) -> None:
        """The request is over, and recorded as far as it is to be. Its answer may still be on the way to the client."""
        body = flow.request.raw_content
        if body is None or len(body) < LEAST or self._has_readers():
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


def are_bodies_read() -> bool:
    """Whether another addon may look at a flow that has finished."""
    is_printed = "flow_detail" in ctx.options and int(ctx.options.flow_detail) >= _SHOWN
    return is_printed or any(map(is_wanted, _KEEPERS)) or not all(map(_is_known, traverse(ctx.master.addons.chain)))


def _is_known(addon: object) -> bool:
    """Whether it is mitmproxy's own or ours, by where it was made."""
    if isinstance(addon, ModuleType):
        inside = getattr(addon, "addons", ())
        return bool(inside) and all(map(_is_known, inside))
    origin = type(addon)
    return origin.__module__.partition(".")[0] == "mitmproxy" or origin.__qualname__ == "CCFlare"
