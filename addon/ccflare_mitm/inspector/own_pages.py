"""Our own pages in mitmweb, behind its login: who is in there may do all, and gives no key."""

import time
from typing import Any

from mitmproxy.tools.web import app

from ccflare_core.anthropic.answers import Answer, rejected
from ccflare_core.clients.authentication import OWNER, Identity
from ccflare_core.clients.checks import NO_PAGE, OTP
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.pages.html import HOME, LOGIN, LOGOUT, see_other
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.table import find_page
from ccflare_mitm.pages.visit import WEB, Visit

PATHS = r"/ccflare/.*"


class OwnPage(app.RequestHandler):
    """Each page of ours, as the proxy's port has it."""

    def initialize(self, pages: PageServer) -> None:
        """tornado gives what the rule has."""
        self._pages = pages

    async def get(self) -> None:
        """The page's answer."""
        answer = self._answer(self.request)
        self._send(answer if isinstance(answer, Answer) else await answer)

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

    def _send(self, answer: Answer) -> None:
        """Its own headers count, in the place of mitmweb's."""
        self.set_status(answer.status)
        for name, value in answer.headers:
            self.set_header(name.decode(), value.decode("latin-1"))
        self.finish(answer.body)
