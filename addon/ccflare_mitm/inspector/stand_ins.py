"""A body that is not in memory: what stands in its place says its length, and fetches it when it is opened.

mitmproxy reads `raw_content` for a body's length and hash, which a stand-in answers by itself, and calls `get_content`
or `get_state` for the body. So a message gets the class here that fetches it first.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from mitmproxy import flowfilter, http
from mitmproxy.coretypes.serializable import State

AWAY: Final = "This body is in ccflare's database, and comes back from there when it is opened."
GONE: Final = "This body is not in memory any more (ccflare_inspector_bytes), and was not recorded."

_searching: ContextVar[bool] = ContextVar("searching", default=False)


class StandIn(bytes):
    """As bytes it is a sentence, which says what it is; its length is that of the body.

    `fetch` puts the body in its place; once that was tried in vain, the sentence says why and there is no `fetch`.
    """

    size: int
    version: str
    """Another one for another body."""
    fetch: Callable[[], object] | None

    def __new__(
        cls, sentence: str, size: int, version: str = "", fetch: Callable[[], object] | None = None
    ) -> "StandIn":
        """`fetch` may take a while, as it asks the database."""
        made = super().__new__(cls, sentence.encode())
        made.size, made.version, made.fetch = size, version, fetch
        return made

    def __len__(self) -> int:
        return self.size

    @property
    def sentence(self) -> str:
        """What is to be said of the body."""
        return bytes(self).decode()


class _Fetching(http.Message):
    """A message whose body may have to be fetched."""

    def get_content(self, strict: bool = True) -> bytes | None:
        """The body, decoded; a search is told that there is none, since it would fetch every one."""
        if _searching.get() and isinstance(self.raw_content, StandIn):
            return None
        body = whole(self)
        return bytes(body) if isinstance(body, StandIn) else super().get_content(strict)

    def encode(self, encoding: str) -> None:
        """As mitmproxy's, which takes the body as it is. ValueError if there is none."""
        if isinstance(body := whole(self), StandIn):
            raise ValueError(body.sentence)
        super().encode(encoding)

    def get_state(self) -> State:
        """What is saved and copied; without a body, if there is none."""
        body = whole(self)
        state: dict[str, Any] = super().get_state()  # type: ignore[no-untyped-call]
        return {**state, "content": None} if isinstance(body, StandIn) else state


class _Request(_Fetching, http.Request):
    pass


class _Response(_Fetching, http.Response):
    pass


_FETCHING: dict[type[http.Message], type[http.Message]] = {http.Request: _Request, http.Response: _Response}


def stand_in(message: http.Message, one: StandIn) -> None:
    """Put it in the place of the message's body."""
    message.__class__ = _FETCHING.get(type(message), type(message))
    message.raw_content = one


def whole(message: http.Message) -> bytes | None:
    """The body as it was on the wire, fetched if need be, which may take a while; a StandIn if it cannot be."""
    if isinstance(body := message.raw_content, StandIn) and body.fetch is not None:
        body.fetch()
    return message.raw_content


def keep_searches_short() -> None:
    """Have mitmproxy's filters of bodies look at those alone that are in memory."""
    for kind in (flowfilter.FBod, flowfilter.FBodRequest, flowfilter.FBodResponse):
        kind.__call__ = _in_memory(kind.__call__)  # type: ignore[method-assign]


def _in_memory(matches: Callable[..., object]) -> Callable[..., object]:
    def search(*arguments: object) -> object:
        with _search():
            return matches(*arguments)

    return search


@contextlib.contextmanager
def _search() -> Iterator[None]:
    token = _searching.set(True)
    try:
        yield
    finally:
        _searching.reset(token)
