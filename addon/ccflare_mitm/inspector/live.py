"""What a flow shows while it runs: its account and model from the lease on, and its answer as far as it has come.

The text is renewed only while somebody looks: our view is asked again after each update of a flow that is open in
mitmweb or the console, and of no other one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.exchange.story import Story
from ccflare_mitm.inspector.comment import Comments

SHOWN_BYTES = 1024 * 1024
"""How much of a streamed body a flow keeps for show; the database keeps more."""

PAUSE = 0.5
"""Seconds between two looks, and so between two updates of a flow."""

NOTHING_YET = b"\n"
"""Stands for an answer of which nothing has come: of an empty one mitmproxy says that there is none."""


@dataclass(slots=True)
class _Shown:
    """What was put into a flow."""

    size: int | None = None
    """How many bytes had passed when its answer's text was renewed; None: it has none of ours."""
    is_looked_at: bool = False


class Live:
    """Follows the flows that run. `find` knows their exchanges, `update` shows a flow's change."""

    def __init__(
        self,
        find: Callable[[http.HTTPFlow], Story | None],
        update: Callable[[http.HTTPFlow], object],
        comments: Comments,
    ) -> None:
        self._find = find
        self._update = update
        self._comments = comments
        self._running: WeakKeyDictionary[http.HTTPFlow, _Shown] = WeakKeyDictionary()

    async def run(self) -> None:
        """Look at them again and again."""
        while True:
            await asyncio.sleep(PAUSE)
            self.look()

    def follow(self, flow: http.HTTPFlow) -> None:
        """It runs from now on."""
        self._running[flow] = _Shown()

    def asked(self, flow: http.HTTPFlow) -> None:
        """Somebody looks at it. May be called in any thread."""
        if shown := self._running.get(flow):
            shown.is_looked_at = True

    def forget(self, flow: http.HTTPFlow) -> bool:
        """It is over; whether there is a beginning of its answer in it that was put there."""
        shown = self._running.pop(flow, None)
        return shown is not None and shown.size is not None

    def look(self) -> None:
        """Show what has changed."""
        for flow, shown in list(self._running.items()):
            if (story := self._find(flow)) is None or story.outcome is not None:
                continue
            is_told = story.lease is not None and self._comments.write(flow, story)
            if self._renew_body(flow, story, shown) or is_told:
                self._update(flow)

    def _renew_body(self, flow: http.HTTPFlow, story: Story, shown: _Shown) -> bool:
        """Whether there is more of the answer in the flow now."""
        response, capture = flow.response, story.capture
        if response is None or (response.raw_content is not None and shown.size is None):
            return False  # no head yet, or mitmproxy keeps the body
        is_first, is_full = shown.size is None, (shown.size or 0) >= SHOWN_BYTES
        if not is_first and (is_full or not shown.is_looked_at or shown.size == capture.size):
            return False
        shown.size, shown.is_looked_at = capture.size, False
        # Not `content`, whose setter changes the length that the head tells.
        response.raw_content = capture.body[:SHOWN_BYTES] or NOTHING_YET
        return True
