"""What mitmweb and the console show of a flow: a comment, a marker, the body that streamed by; within bounds."""

from collections import deque
from typing import Any

from mitmproxy import ctx, http

from ccflare_core.exchange.log_line import comment
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story

SHOWN_BYTES = 1024 * 1024
"""How much of a streamed body a flow keeps for show; the database keeps more."""

FAILED_OVER, LIMITED, FAILED = ":twisted_rightwards_arrows:", ":hourglass:", ":x:"


class Inspector:
    """Annotates finished flows and keeps the list of them short."""

    def __init__(self) -> None:
        self._finished: deque[http.HTTPFlow] = deque()

    def show(self, flow: http.HTTPFlow, exchange: Story) -> None:
        """Show the exchange beside its flow."""
        flow.comment = comment(exchange)
        flow.marked = marker(exchange)
        response = flow.response
        if response is not None and response.raw_content is None:
            response.raw_content = exchange.capture.body[:SHOWN_BYTES]

    def bound(self, flow: http.HTTPFlow, most: int) -> None:
        """Count this flow as finished and let go of the oldest ones over `most`."""
        view: Any = ctx.master.addons.get("view")
        if view is None:
            return
        self._finished.append(flow)
        surplus = len(self._finished) - most
        if surplus > 0:
            view.remove([self._finished.popleft() for _ in range(surplus)])


def marker(exchange: Story) -> str:
    """The emoji in front of a flow: it failed, it met a limit, it moved to another account; none if all went well."""
    if exchange.outcome not in (Outcome.OK, Outcome.CLIENT_ABORT):
        return LIMITED if exchange.status in (429, 503, 529) else FAILED
    return FAILED_OVER if exchange.failovers else ""
