"""Our own pages in mitmweb, behind its login: who is in there may do all, and gives no key."""

import asyncio
import time
from typing import Any

from mitmproxy.tools.web import app
from tornado.iostream import StreamClosedError

from ccflare_core.anthropic.answers import Answer, Pieces, rejected
from ccflare_core.clients.authentication import OWNER, Identity
from ccflare_core.clients.checks import NO_PAGE, OTP
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.pages.html import HOME, LOGIN, LOGOUT, see_other
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import WEB, Visit

PATHS = r"/ccflare/.*"
STALL_SECONDS = 30.0
"""How long a piece of an answer may wait for a browser that takes nothing."""


class OwnPage(app.RequestHandler):
    """Each page of ours, as the proxy's port has it."""

    def initialize(self, pages: PageServer) -> None:
        """tornado gives what the rule has."""
        self._pages = pages
        self._pieces: Pieces | None = None

    async def get(self) -> None:
        """The page's answer."""
        found = self._answer(self.request)
        answer = found if isinstance(found, Answer) else await found
        self._begin(answer)
        if answer.pieces is not None and self.request.method != "HEAD":
            await self._pass_on(answer.pieces())
        self.finish()

    head = post = get

    def _answer(self, request: Any) -> Any:
        found = find_page(request.path)
        if found is None:
            return rejected(NO_PAGE)
        page, name = found
        if page.path in (LOGIN, LOGOUT):
            return see_other(HOME)  # here one has logged in already
        if request.method not in page.methods:
            return rejected(Rejection(405, f"This page takes {', '.join(page.methods)} only.", allow=page.methods))
        if page.permission is not None and not OWNER.may(page.permission):
            return rejected(Rejection(403, f"This needs the permission {page.permission}."))
        visit = Visit(
            Identity(OWNER),
            request.remote_ip,
            request.path,
            name,
            code=request.headers.get(OTP.decode()),
            method=request.method,
            query=request.query,
            headers={key.lower(): value for key, value in request.headers.items()},
            body=request.body,
            at=time.time(),  # noqa: TID251
            by=WEB,
            token=("_xsrf", self.xsrf_token.decode()),
        )
        return self._pages.answer(page, visit)

    def _begin(self, answer: Answer) -> None:
        """Its own headers count, in the place of mitmweb's."""
        self.set_status(answer.status)
        for name, value in answer.headers:
            self.set_header(name.decode(), value.decode("latin-1"))
        self.write(answer.body)

    async def _pass_on(self, pieces: Pieces) -> None:
        """Send each piece as it comes, until there are no more, or the browser leaves or takes nothing."""
        self._pieces = pieces
        try:
            await self.flush()
            async for piece in pieces:
                self.write(piece)
                async with asyncio.timeout(STALL_SECONDS):
                    await self.flush()
        except (StreamClosedError, TimeoutError):
            connection: Any = self.request.connection
            connection.stream.close()
        finally:
            pieces.close()

    def on_connection_close(self) -> None:
        """The browser has left."""
        if self._pieces is not None:
            self._pieces.close()
