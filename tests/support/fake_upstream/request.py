"""What was asked: one request as it came in."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Header = tuple[bytes, bytes]


@dataclass(slots=True, eq=False)
class Request:
    """One request as it came in; `aborted` and `finished` are filled in while it is answered."""

    method: str
    target: str
    headers: tuple[Header, ...] = field(repr=False)
    body: bytes = field(repr=False)
    authority: str
    credential: str
    connection: int
    protocol: str
    at: float = field(default_factory=time.monotonic)
    id: str = ""  # the `request-id` of the answer
    finished: bool = False  # the whole answer was handed over
    aborted: bool = False  # the client went away before that

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The target's query, the last value of each name."""
        return dict(parse_qsl(urlsplit(self.target).query))

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)


_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")


def credential_of(headers: Iterable[Header]) -> str:
    """The bearer token or API key among the headers, "" if there is none."""
    for name, value in headers:
        if len(name) in (9, 13) and name.lower() in _CREDENTIAL_HEADERS:
            text = value.decode("latin-1")
            return text[7:] if text[:7].lower() == "bearer " else text
    return ""
