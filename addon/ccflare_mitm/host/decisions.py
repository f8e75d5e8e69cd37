"""Our own answers, above all refusals: what we have said stands, whatever other addons put into the flow.

Addons share a flow, and the last to write into it would win. So an answer of ours is kept aside, and the stream layer
puts it back after every hook, before mitmproxy looks at the flow again. Only `flow.kill()` counts for more, which
answers nothing.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.anthropic.answers import Answer, Pieces
from ccflare_core.http.headers import Header
from ccflare_mitm.host.messages import make_response

COOKIE = b"set-cookie"


class Decisions:
    """The answers that were decided on, by their flows."""

    def __init__(self) -> None:
        self._of_flow: WeakKeyDictionary[http.HTTPFlow, http.Response] = WeakKeyDictionary()
        self._unshown: WeakKeyDictionary[http.HTTPFlow, tuple[Header, ...]] = WeakKeyDictionary()
        self._in_pieces: WeakKeyDictionary[http.HTTPFlow, Callable[[], Pieces]] = WeakKeyDictionary()

    def give(self, flow: http.HTTPFlow, answer: Answer, *, is_last: bool = False) -> None:
        """This is what the client gets, and nothing else. With its last answer an HTTP/1 connection ends."""
        cookies = tuple(field for field in answer.headers if field[0] == COOKIE)
        if cookies:
            self._unshown[flow] = cookies
            answer = answer._replace(headers=tuple(field for field in answer.headers if field[0] != COOKIE))
        if answer.pieces is not None and flow.request.method != "HEAD":
            self._in_pieces[flow] = answer.pieces
        response = make_response(answer)
        if is_last and not flow.request.is_http2:
            response.headers["connection"] = "close"
        self.keep(flow, response)

    def keep(self, flow: http.HTTPFlow, response: http.Response) -> None:
        """The same for an answer that is a response already."""
        if flow.request.method == "HEAD":
            response.raw_content = b""  # mitmproxy would send it over HTTP/2: an error that ends the connection
        self._of_flow[flow] = response.copy()
        flow.response = response

    def in_pieces(self, flow: http.HTTPFlow) -> Callable[[], Pieces] | None:
        """What makes the body of our answer, if that comes in pieces."""
        return self._in_pieces.get(flow)

    def unshown(self, flow: http.HTTPFlow) -> tuple[Header, ...]:
        """The cookies that go out with our answer, and into nothing that shows the flow."""
        return self._unshown.get(flow, ())

    def is_last(self, flow: http.HTTPFlow) -> bool:
        """Whether the connection ends with an answer that we have given."""
        decided = self._of_flow.get(flow)
        return decided is not None and decided.headers.get("connection") == "close"

    def uphold(self, flow: http.HTTPFlow) -> bool:
        """Put our answer back if there is one; whether there is."""
        if (decided := self._of_flow.get(flow)) is None:
            return False
        flow.response = decided.copy()
        flow.request.stream = False  # nothing of it goes anywhere
        return True
