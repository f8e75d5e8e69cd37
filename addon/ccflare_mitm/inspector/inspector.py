"""What mitmweb and the console show of a flow: a comment, a marker, the body that streamed by, and views; in bounds."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mitmproxy import contentviews, ctx, hooks, http
from mitmproxy.contentviews import Contentview

from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story
from ccflare_mitm.inspector import hidden
from ccflare_mitm.inspector.comment import Comments
from ccflare_mitm.inspector.console import in_place
from ccflare_mitm.inspector.live import SHOWN_BYTES, Live
from ccflare_mitm.inspector.page import STYLES, warn_of_page
from ccflare_mitm.inspector.views import ConversationView, EventsView, Sources
from ccflare_mitm.pages.server import PageServer

FAILED_OVER, LIMITED, FAILED = ":twisted_rightwards_arrows:", ":hourglass:", ":x:"


class Inspector:
    """Annotates flows while they run and when they have finished, and keeps the list of them short."""

    def __init__(self, find: Callable[[http.HTTPFlow], Story | None]) -> None:
        """`find` knows the exchange of a flow."""
        self._comments = Comments()
        self.live = Live(find, renew, self._comments)
        self._find = find
        self._finished: tuple[deque[http.HTTPFlow], ...] = (deque(), deque())

    def open(self, pages: PageServer) -> None:
        """Give mitmproxy our views, and mitmweb what makes them readable, and our pages."""
        sources = Sources(self._find, self.live.asked)
        views = ConversationView(sources), EventsView(sources)
        for view in views:
            contentviews.add(view)
        hidden.hide()
        extend_page(ctx.master, views, pages)

    def follow(self, flow: http.HTTPFlow) -> None:
        """Show what becomes of this flow, if there is anything to show it in."""
        if _view() is not None:
            self.live.follow(flow)

    def show(self, flow: http.HTTPFlow, exchange: Story) -> None:
        """Show the exchange beside its flow, which has finished."""
        self._comments.write(flow, exchange)
        flow.marked = marker(exchange)
        is_beginning = self.live.forget(flow)
        response = flow.response
        if response is not None and (is_beginning or response.raw_content is None):
            response.raw_content = exchange.capture.body[:SHOWN_BYTES]

    def bound(self, flow: http.HTTPFlow, most: int) -> None:
        """Count this flow as finished and let go of the oldest ones over `most`; polls do not push others out."""
        view = _view()
        if view is None:
            return
        finished = self._finished[hidden.is_poll(flow)]
        finished.append(flow)
        surplus = len(finished) - most
        if surplus > 0:
            view.remove([finished.popleft() for _ in range(surplus)])


def _view() -> Any:
    """The list of flows that mitmweb and the console have; None in mitmdump."""
    return ctx.master.addons.get("view")


def renew(flow: http.HTTPFlow) -> None:
    """Let everybody who shows this flow know that it has changed."""
    in_place(ctx.master, lambda: ctx.master.addons.trigger(hooks.UpdateHook([flow])))


def extend_page(master: Any, views: Sequence[Contentview], pages: PageServer) -> None:
    """Put our handlers in front of mitmweb's own; nothing happens in mitmdump and the console.

    Nothing of this is needed to serve a request, so what does not fit is a warning.
    """
    if (application := getattr(master, "app", None)) is None:
        return
    try:
        from ccflare_mitm.inspector.web import rules  # which imports mitmweb

        application.add_handlers(r".*", rules(views, STYLES.read_bytes(), pages))
    except Exception as error:
        warn_of_page(str(error))


def marker(exchange: Story) -> str:
    """The emoji in front of a flow: it failed, it met a limit, it moved to another account; none if all went well."""
    if exchange.outcome not in (Outcome.OK, Outcome.CLIENT_ABORT):
        return LIMITED if exchange.status in (429, 503, 529) else FAILED
    return FAILED_OVER if exchange.failovers else ""
