"""Our handlers in mitmweb, behind its own login and its checks: each is derived from one of mitmweb's.

A text of ours is made in a thread, since on the event loop it would hold up every stream meanwhile. mitmproxy's own
views stay on the loop, where they have to be: what it keeps of the last body that it decoded is not made for threads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.tools.web import app
from mitmproxy.utils.strutils import cut_after_n_lines

from ccflare_mitm.inspector import hidden
from ccflare_mitm.inspector.own_pages import PATHS, OwnPage
from ccflare_mitm.inspector.page import STYLESHEET, extended, warn_of_page
from ccflare_mitm.inspector.views import has_conversation
from ccflare_mitm.pages.server import PageServer

_TEXTS = r"/flows/(?P<flow_id>[0-9a-f\-]+)/(?P<message>request|response)/content/(?P<content_view>[0-9a-zA-Z\-_%]+)"


def rules(views: Sequence[Contentview], styles: bytes, pages: PageServer) -> list[tuple[str, Any, dict[str, Any]]]:
    """The addresses that we answer. The first of the views is the one that is chosen by itself."""
    by_name = {view.name.lower(): view for view in views}
    return [
        (r"/", Index, {}),
        (STYLESHEET, Stylesheet, {"styles": styles}),
        (PATHS, OwnPage, {"pages": pages}),
        (_TEXTS + r"(?:\.json)?", Text, {"views": {"auto": views[0], **by_name}}),
    ]


class Index(app.IndexHandler):
    """mitmweb's page, with our stylesheet and a line that says what is hidden."""

    def get(self) -> None:
        """The page, or the form to log in, which the base class gives."""
        page = self.render_string("../index.html")
        ours = extended(page, hidden.told())
        if ours is None:
            warn_of_page("its head, or the place of its contents, was not found")
        self.finish(ours or page)

    post = get


class Stylesheet(app.RequestHandler):
    """Our stylesheet."""

    def initialize(self, styles: bytes) -> None:
        """tornado gives what the rule has."""
        self._styles = styles

    def get(self) -> None:
        """It is looked up again each time, since a newer version may be here after a restart."""
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(self._styles)


class Text(app.FlowContentView):
    """The text of a request or an answer."""

    def initialize(self, views: Mapping[str, Contentview]) -> None:
        """tornado gives what the rule has."""
        self._views = views

    async def get(  # type: ignore[override]  # tornado awaits what it gets
        self, flow_id: str, message: str, content_view: str
    ) -> None:
        """As mitmweb's own, but for our views."""
        flow = self.flow
        part = getattr(flow, message, None)
        view = self._views.get(content_view.lower())
        if part is None or view is None or (content_view.lower() == "auto" and not has_conversation(flow, part)):
            super().get(flow_id, message, content_view)
            return
        text = await asyncio.to_thread(view.prettify, b"", Metadata(flow=flow, http_message=part))
        if lines := self.get_argument("lines", None):
            text = cut_after_n_lines(text, int(lines))
        highlight = view.syntax_highlight
        self.write({"text": text, "view_name": view.name, "syntax_highlight": highlight, "description": ""})
