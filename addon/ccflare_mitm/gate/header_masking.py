"""Clients' credentials, kept out of their flows: mitmweb, dumps and HAR files show that there was one, no more."""

from collections import defaultdict, deque
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.http.headers import Header
from ccflare_core.secrets.redact import HIDDEN, headers, is_secret


class Veil:
    """Takes the secrets out of a request's head, and gives them back for the copy that goes out."""

    def __init__(self) -> None:
        self._hidden: WeakKeyDictionary[http.Request, tuple[Header, ...]] = WeakKeyDictionary()

    def hide(self, request: http.Request) -> None:
        """Blank the header fields that carry credentials. To be called once all that must be read was read."""
        fields = request.headers.fields
        secrets = tuple(field for field in fields if is_secret(field[0]) and field[1] != HIDDEN)
        if secrets:
            self._hidden[request] = secrets
            request.headers.fields = headers(fields)

    def reveal(self, request: http.Request) -> tuple[Header, ...]:
        """The request's header fields as they came. What somebody has changed since stays changed."""
        waiting: dict[bytes, deque[bytes]] = defaultdict(deque)
        for name, value in self._hidden.get(request, ()):
            waiting[name.lower()].append(value)
        return tuple(
            (name, waiting[name.lower()].popleft()) if value == HIDDEN and waiting.get(name.lower()) else (name, value)
            for name, value in request.headers.fields
        )
