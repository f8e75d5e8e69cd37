"""Exports of a flow: commands that send it through the proxy once more, and texts to read.

A flow names the upstream and has no credential, so what mitmproxy makes of it by itself would be refused there.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mitmproxy import http
from mitmproxy.addons import export
from mitmproxy.flow import Flow

from ccflare_core.errors import StoreError
from ccflare_core.exchange.story import Story
from ccflare_core.secrets.redact import HIDDEN
from ccflare_mitm.inspector.stand_ins import StandIn

type Text = Callable[[Flow], str | bytes]

CLIENT_KEY = "YOUR-CLIENT-KEY"
"""Stands for what is in no flow."""


class Address(NamedTuple):
    """Where the proxy is reached."""

    scheme: str
    host: str
    port: int


class Exports:
    """The formats, by name. `read` gives a flow's text in the view of a name."""

    def __init__(
        self,
        find: Callable[[http.HTTPFlow], Story | None],
        address: Callable[[], Address],
        read: Callable[[http.HTTPFlow, str], str],
    ) -> None:
        self._find = find
        self._address = address
        self._commands: dict[str, Text] = {"curl": export.curl_command, "httpie": export.httpie_command}
        self._read = read

    @property
    def names(self) -> tuple[str, ...]:
        """What a flow can be exported as."""
        return (*self._commands, "conversation", "events")

    def install(self) -> None:
        """Have mitmproxy's own command, and mitmweb's menu, give these too."""
        for name in self._commands:
            export.formats[name] = partial(self._command, name)

    def export(self, flow: http.HTTPFlow, name: str) -> str:
        """The flow in this format. Raises StoreError if a part of it is not in memory."""
        if any(message is not None and isinstance(message.raw_content, StandIn) for message in _messages(flow)):
            raise StoreError("its body is not in memory: open the flow first")
        text = self._command(name, flow) if name in self._commands else self._read(flow, _VIEWS[name])
        return text if isinstance(text, str) else text.decode("utf-8", "replace")

    def _command(self, name: str, flow: Flow) -> str | bytes:
        story = self._find(flow) if isinstance(flow, http.HTTPFlow) else None
        if not isinstance(flow, http.HTTPFlow) or story is None:
            return self._commands[name](flow)
        return self._commands[name](toward_proxy(flow, self._address(), with_key=story.opening.key is not None))


_VIEWS = {"conversation": "Claude", "events": "Claude events"}


def toward_proxy(flow: http.HTTPFlow, address: Address, *, with_key: bool) -> http.HTTPFlow:
    """The request of the flow as it would be sent to the proxy by hand."""
    copy = http.HTTPFlow(flow.client_conn, flow.server_conn)
    copy.request = request = flow.request.copy()
    request.headers.fields = tuple(field for field in request.headers.fields if field[1] != HIDDEN)
    request.scheme, request.host, request.port = address
    request.headers.pop("host", None)
    if with_key:
        request.headers["x-api-key"] = CLIENT_KEY
    return copy


def _messages(flow: http.HTTPFlow) -> tuple[http.Message | None, ...]:
    return flow.request, flow.response
