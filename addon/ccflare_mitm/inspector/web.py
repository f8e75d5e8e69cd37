"""Our handlers in mitmweb, behind its own login and its checks: each is derived from one of mitmweb's.

A text of ours is made in a thread, since on the event loop it would hold up every stream meanwhile. mitmproxy's own
views stay on the loop, where they have to be: what it keeps of the last body that it decoded is not made for threads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from mitmproxy import flowfilter, http
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.io import FlowWriter
from mitmproxy.tools.web import app
from mitmproxy.utils.strutils import cut_after_n_lines

from ccflare_mitm.inspector import hidden
from ccflare_mitm.inspector.audience import light
from ccflare_mitm.inspector.held import Held
from ccflare_mitm.inspector.own_pages import PATHS, OwnPage
from ccflare_mitm.inspector.page import STYLESHEET, extended, warn_of_page
from ccflare_mitm.inspector.views import has_conversation
from ccflare_mitm.pages.server import PageServer

_TEXTS = r"/flows/(?P<flow_id>[0-9a-f\-]+)/(?P<message>request|response)/content/(?P<content_view>[0-9a-zA-Z\-_%]+)"
_WITH_BODIES = (app.FlowHandler, app.DuplicateFlow, app.RevertFlow, app.FlowContent)
"""mitmweb's handlers that read a flow's bodies."""


def rules(
    views: Sequence[Contentview], styles: bytes, held: Held, pages: PageServer
) -> list[tuple[str, Any, dict[str, Any]]]:
    """The addresses that we answer. The first of the views is the one that is chosen by itself."""
    by_name = {view.name.lower(): view for view in views}
    return [
        (r"/", Index, {}),
        (STYLESHEET, Stylesheet, {"styles": styles}),
        (PATHS, OwnPage, {"pages": pages}),
        (r"/flows(?:\.json)?", Flows, {}),
        (r"/flows/dump", Dump, {"held": held}),
        (_TEXTS + r"(?:\.json)?", Text, {"held": held, "views": {"auto": views[0], **by_name}}),
        *((path, _opening(kind), {"held": held}) for path, kind in app.handlers if kind in _WITH_BODIES),
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


class Flows(app.Flows):
    """The list of flows, for which no body is hashed, nor fetched."""

    def get(self) -> None:
        """As mitmweb's own."""
        self.write([app.flow_to_json(light(flow)) for flow in self.view])


class Dump(app.DumpFlows):
    """The flows as a file, with the bodies that are in the database, fetched one after the other."""

    def initialize(self, held: Held) -> None:
        """tornado gives what the rule has."""
        self._held = held

    async def get(self) -> None:  # type: ignore[override]  # tornado awaits what it gets
        """As mitmweb's own."""
        try:
            is_wanted = flowfilter.parse(self.get_argument("filter", "~all"))
        except ValueError as error:
            raise app.APIError(400, "Invalid filter argument / regex") from error
        self.set_header("Content-Disposition", "attachment; filename=flows")
        self.set_header("Content-Type", "application/octet-stream")
        for flow in [each for each in self.view if is_wanted(each)]:
            if isinstance(flow, http.HTTPFlow):
                await self._held.bring_back(flow)
            file = BytesIO()
            FlowWriter(file).add(flow)
            self.write(file.getvalue())
            await self.flush()


class _Opening(app.RequestHandler):
    """Has a flow's bodies fetched before they are read."""

    def initialize(self, held: Held) -> None:
        """tornado gives what the rule has."""
        self._held = held

    async def prepare(self) -> None:
        """Without a login nothing is fetched. By the token in place of one, it is when it is read."""
        super().prepare()  # type: ignore[no-untyped-call]
        flow = self.view.get_by_id(str(self.path_kwargs["flow_id"])) if self.current_user else None
        if isinstance(flow, http.HTTPFlow):
            await self._held.bring_back(flow)


def _opening(kind: type[Any]) -> type[app.RequestHandler]:
    return type(kind.__name__, (_Opening, kind), {})


class Text(_Opening, app.FlowContentView):
    """The text of a request or an answer."""

    def initialize(self, held: Held, views: Mapping[str, Contentview]) -> None:  # type: ignore[override]
        """tornado gives what the rule has."""
        super().initialize(held)
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

    def message_to_json(self, view_name: str, message: Any, flow: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """As mitmweb's own, with what is to be known of the body beside the view's name."""
        told: dict[str, Any] = super().message_to_json(view_name, message, flow, *arguments, **named)
        if isinstance(flow, http.HTTPFlow) and isinstance(message, http.Message):
            note = self._held.note(flow, "request" if message is flow.request else "response")
            told["description"] = " ".join(filter(None, (told["description"], note)))
        return told
