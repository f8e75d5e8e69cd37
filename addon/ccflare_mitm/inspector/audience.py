"""Whom mitmweb tells of flows: only browsers that look on, and without a hash of each body for every change.

mitmproxy makes a flow's JSON, with the SHA-256 of both bodies, at each of some six changes of it, whether anybody
looks on or not. The page uses that hash only to see that a body is another one now.
"""

import copy
from typing import Any, Final

from mitmproxy import http
from mitmproxy.flow import Flow
from mitmproxy.tools.web.app import ClientConnection

from ccflare_mitm.inspector.stand_ins import StandIn

_SIGNALS: Final = (("sig_view_add", "_sig_view_add"), ("sig_view_update", "_sig_view_update"))
"""mitmproxy's signals, and whom they tell."""


class Audience:
    """Stands between mitmweb's list of flows and its page. The signals do not keep it: whoever makes it has to."""

    def attend(self, master: Any) -> None:
        """Be told in mitmweb's place from now on."""
        theirs = [getattr(master, name) for _, name in _SIGNALS]
        signals = [getattr(master.view, name) for name, _ in _SIGNALS]
        for signal, told, ours in zip(signals, theirs, (self._added, self._updated), strict=True):
            signal.disconnect(told)
            signal.connect(ours)

    def _added(self, flow: Flow) -> None:
        if ClientConnection.connections:
            ClientConnection.broadcast_flow("flows/add", light(flow))

    def _updated(self, flow: Flow) -> None:
        if ClientConnection.connections:
            ClientConnection.broadcast_flow("flows/update", light(flow))


class _Light(http.Message):
    """A message that shows in the place of its body how long it is, and has the body only for who looks into it."""

    original: http.Message

    def get_content(self, strict: bool = True) -> bytes | None:
        """The body, for a filter."""
        return self.original.get_content(strict)


class _Request(_Light, http.Request):
    pass


class _Response(_Light, http.Response):
    pass


def light(flow: Flow) -> Flow:
    """The flow as mitmweb's page is told of it, whose bodies cost nothing."""
    if not isinstance(flow, http.HTTPFlow):
        return flow
    shown: Any = copy.copy(flow)
    shown.modified = flow.modified
    shown.request = _light(flow.request, _Request)
    shown.response = flow.response and _light(flow.response, _Response)
    return shown  # type: ignore[no-any-return]


def _light(message: http.Message, kind: type[_Light]) -> http.Message:
    shown: Any = copy.copy(message)
    shown.__class__, shown.original, shown.data = kind, message, copy.copy(message.data)
    body = message.raw_content
    if body is not None:
        # One that takes another's place is another object, as both are there at that moment.
        version = body.version if isinstance(body, StandIn) else str(id(body))
        shown.data.content = StandIn(f"{len(body)} {version}", len(body))
    return shown  # type: ignore[no-any-return]
