"""A request for one of our pages, as the function that answers it sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ccflare_core.clients.authentication import Identity
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.sessions import Session
from ccflare_core.errors import CCFlareError
from ccflare_core.exchange.records import storable

MOST_PARAMETERS = 100
WEB = "mitmweb"
"""Who asks by mitmweb's own page, behind its login."""


class BadQuery(CCFlareError):
    """The query asks for something that there is not, or in words that nobody knows. It becomes a 400."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for one of our pages that has been admitted."""

    identity: Identity
    """Without a principal only where a page is for everybody."""
    address: str
    """Where the request comes from, for the audit log."""
    path: str
    """The path without its query."""
    name: str = ""
    """What stands in the path in the place of `{name}`."""
    code: str | None = field(default=None, repr=False)
    """The code of the second factor that came with it."""
    method: str = "GET"
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The header fields, by name in lower case; none of them holds a client key."""
    body: bytes = field(default=b"", repr=False)
    at: float = 0.0
    """When it came, in epoch seconds."""
    by: str = ""
    """Who asks, for the audit log, where that is nobody with a key."""
    session: Session | None = None
    """The session of a browser that it came in."""
    token: tuple[str, str] = field(default=("", ""), repr=False)
    """Name and value of the form field that shows that a page of ours asks."""
    port: int = 0
    """The port that it was sent to, as the client knows it: that of a reverse proxy in front, if there is one."""
    is_tls: bool = False

    @property
    def actor(self) -> str:
        """Who it is in the audit log; "" if nobody knows."""
        return self.identity.actor or self.by

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """What the query says, in its order and as it would be recorded. Raises BadQuery if that is too much."""
        try:
            said = parse_qsl(self.query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
        except ValueError:
            raise BadQuery(f"The query has more than {MOST_PARAMETERS} parameters.") from None
        return [(name, str(storable(value))) for name, value in said]

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form that was sent; of one that comes twice the last. What is no form has none."""
        try:
            return dict(parse_qsl(self.body.decode(), keep_blank_values=True, max_num_fields=MOST_PARAMETERS))
        except ValueError:
            return {}

    @property
    def is_browsers(self) -> bool:
        """Whether a person is to see the answer, and not a program."""
        return "text/html" in self.headers.get("accept", "")

    def asked(self, name: str, default: str = "") -> str:
        """The first parameter of this name in the query. Raises BadQuery as `parameters` does."""
        return next((value for key, value in self.parameters if key == name), default)

    def may(self, permission: Permission) -> bool:
        """Whether the client has this permission too."""
        return self.identity.principal is not None and self.identity.principal.may(permission)
