"""What the stream layer asks of the rest of the addon."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mitmproxy import http
from mitmproxy.connection import Client

from ccflare_core.anthropic.answers import Pieces
from ccflare_core.config.settings import Settings
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.story import Spooled
from ccflare_core.http.headers import Header
from ccflare_mitm.host.decisions import Decisions
from ccflare_mitm.host.messages import is_batch_upload, is_file_upload
from ccflare_mitm.wire.guarded_tunnel import Watched
from ccflare_mitm.wire.hooks import HookRunner
from ccflare_mitm.wire.upstream import UpstreamProof

BATCH_BYTES = 256 * 1024 * 1024
"""What a batch may have at the API."""


@dataclass(frozen=True, slots=True)
class Services:
    """See the module."""

    find: Callable[[http.HTTPFlow], Exchange | None]
    """The exchange of a flow; None if the gate has not let it in."""
    target: Callable[[Client], UpstreamTarget]
    """Where a credential goes, for a client of this ingress."""
    proof: UpstreamProof
    """Whether requests may be sent by a server connection."""
    settings: Callable[[], Settings]
    """The options as they are now."""
    claim: Callable[[http.Request], None]
    """Told of each request as it came, before mitmproxy puts the target's name in its Host."""
    unmask: Callable[[http.Request], tuple[Header, ...]]
    """A request's header fields as the client sent them; in its flow, credentials are blanked."""
    decisions: Decisions
    """Which of our own answers stand."""
    hooks: HookRunner
    watch: Callable[[Any], None]
    """Told of each HTTP layer of ours, to keep its deadlines."""
    tunnel: Callable[[http.HTTPFlow], Watched | None]
    """What is told of the tunnel that a CONNECT makes; None: it is not looked after."""
    let_go: Callable[[Client], None]
    """Told of a client whose connection is passed on unopened."""
    leave_unread: Callable[[Client, bool], None]
    """Has a client's connection not read for now (True), or read again."""

    is_stopping: Callable[[], bool]
    """Whether each client's connection is to end with the answer that it gets."""
    unsent_bytes: Callable[[Client, Any], int]
    """How much waits in a client's connection to a server."""
    open_spool: Callable[[Client], Spooled]
    """A place on the disk for the body that this client sends."""
    feed: Callable[[Any, Any, Pieces], None]
    """Has a stream of a layer told of each piece of an answer of ours as it comes."""

    @property
    def body_limit(self) -> int:
        """Bytes that a request body may have that is read before it is sent on."""
        return self.settings().body_limit_bytes

    def body_bounds(self, request: http.Request) -> "BodyBounds":
        """How large the body of this request may be."""
        settings = self.settings()
        if is_file_upload(request):
            return BodyBounds(settings.upload_limit_bytes, "ccflare_upload_limit_bytes")
        if is_batch_upload(request):
            limit = max(settings.body_limit_bytes, min(BATCH_BYTES, settings.upload_limit_bytes))
            return BodyBounds(limit, "ccflare_upload_limit_bytes")
        return BodyBounds(settings.body_limit_bytes, "ccflare_body_limit_bytes")


PAGE_BYTES = 64 * 1024
"""Of a body for a page of ours: they are forms."""


class BodyBounds(NamedTuple):
    """How many bytes a body may have, and by which option."""

    limit: int
    option: str

    @property
    def told(self) -> str:
        """What the client is told of a larger one."""
        return f"The request body is larger than the {self.limit} bytes that {self.option} allows."
