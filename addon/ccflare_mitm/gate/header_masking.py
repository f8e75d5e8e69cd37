"""Header masking: no flow holds a client's credential, so mitmweb, dumps and HAR files cannot show one."""

from collections import defaultdict, deque
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.http.headers import Header
from ccflare_core.secrets.redact import HIDDEN, headers, is_secret


class HeaderMask:
    """Masks credentials in a request's header fields, and unmasks them for the copy that goes upstream."""

    def __init__(self) -> None:
        self._masked: WeakKeyDictionary[http.Request, tuple[Header, ...]] = WeakKeyDictionary()

    def mask(self, request: http.Request) -> None:
        """Blank the header fields that carry credentials. To be called when everything that reads them has done so."""
        fields = request.headers.fields
        secrets = tuple([field for field in fields if is_secret(field[0]) and field[1] != HIDDEN])
        if secrets:
            self._masked[request] = secrets
            request.headers.fields = headers(fields)

    def unmask(self, request: http.Request) -> tuple[Header, ...]:
        """The request's header fields as they came. What another addon has changed since stays changed."""
        waiting: dict[bytes, deque[bytes]] = defaultdict(deque)
        for name, value in self._masked.get(request, ()):
            waiting[name.lower()].append(value)
        fields = [
            (name, waiting[name.lower()].popleft()) if value == HIDDEN and waiting.get(name.lower()) else (name, value)
            for name, value in request.headers.fields
        ]
        return tuple(fields)
