"""What mitmweb and the console show of a flow: a comment, a marker, the body that streamed by, and views; in bounds."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from mitmproxy import contentviews, ctx, hooks, http
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.flow import Flow

from ccflare_core.config.settings import Settings
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_core.exchange.story import Story
from ccflare_core.http.origins import is_loopback
from ccflare_mitm.host.listener import web_address
from ccflare_mitm.inspector import hidden
from ccflare_mitm.inspector.comment import Comments
from ccflare_mitm.inspector.console import in_place
from ccflare_mitm.inspector.held import Held
from ccflare_mitm.inspector.live import Live
from ccflare_mitm.inspector.loading import Recorded, flow_of
from ccflare_mitm.inspector.page import STYLES, warn_of_page
from ccflare_mitm.inspector.stand_ins import keep_searches_short
from ccflare_mitm.inspector.views import ConversationView, EventsView, Sources
from ccflare_mitm.pages.server import PageServer
from ccflare_mitm.pages.visit import WEB, Visit

FAILED_OVER, LIMITED, FAILED = ":twisted_rightwards_arrows:", ":hourglass:", ":x:"


class Inspector:
    """Annotates flows while they run and when they have finished, and keeps the list of them short."""

    def __init__(self, find: Callable[[http.HTTPFlow], Story | None], held: Held) -> None:
        """`find` knows the exchange of a flow; `held` has the bodies of those that have finished."""
        self._comments = Comments()
        self.live = Live(find, renew, self._comments)
        self.held = held
        self._find = find
        self._finished: tuple[dict[str, http.HTTPFlow], ...] = ({}, {})
        self._views: Sequence[Contentview] = ()
        self._loaded: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        self._audience: object = None

    def open(self, pages: PageServer) -> None:
        """Give mitmproxy our views, and mitmweb what makes them readable, and our pages."""
        sources = Sources(self._find, self.live.asked, note=self.held.note, told=self._comments.told)
        self._views = views = ConversationView(sources), EventsView(sources)
        for view in views:
            contentviews.add(view)
        hidden.hide()
        keep_searches_short()
        if (listed := _view()) is not None:
            listed.sig_store_remove.connect(self._removed)
            listed.sig_store_refresh.connect(self._cleared)
        self._audience = extend_page(ctx.master, views, self.held, pages)
        pages.link_flows(self.link)

    def link(self, visit: Visit, request_id: str) -> str:
        """Where mitmweb shows this request; "" if it is not in its list, or if who asks is on another machine."""
        shown = (flow.id for flow in self.flows() if self._request_of(flow) == request_id)
        if not (address := web_address()) or (flow_id := next(shown, None)) is None:
            return ""
        path = f"/#/flows/{flow_id}/request"
        if visit.by == WEB:  # asked there, by whatever address
            return path
        return address + path if is_loopback(visit.address) else ""

    def _request_of(self, flow: http.HTTPFlow) -> str | None:
        story = self._find(flow)
        return self._loaded.get(flow) if story is None else story.id

    def text(self, flow: http.HTTPFlow, view: str) -> str:
        """What the view of this name shows of the flow's answer, or of its request while there is none."""
        shown = next(each for each in self._views if each.name == view)
        return shown.prettify(b"", Metadata(flow=flow, http_message=flow.response or flow.request))

    def follow(self, flow: http.HTTPFlow) -> None:
        """Show what becomes of this flow, if there is anything to show it in."""
        if _view() is not None:
            self.live.follow(flow)

    def show(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Show the exchange beside its flow, which has finished, and has its bodies from then on."""
        self._comments.write(flow, exchange)
        flow.marked = marker(exchange)
        is_beginning = self.live.forget(flow)
        response = flow.response
        if response is not None and (is_beginning or response.raw_content is None):
            response.raw_content = exchange.capture.body
        exchange.let_go()

    def arrives(self, flow: http.HTTPFlow) -> None:
        """Its head is here, and the list has it with the next hook."""
        if self.has_list:
            hidden.mark(flow)

    def say(self, flow: http.HTTPFlow, sentence: str) -> None:
        """Show a sentence where the list tells of this flow; "" takes it away."""
        if self._comments.say(flow, sentence):
            renew(flow)

    @property
    def has_list(self) -> bool:
        """Whether this program shows flows: mitmdump does not."""
        return _view() is not None

    def flows(self) -> Sequence[http.HTTPFlow]:
        """Those in the list, the oldest first; none in mitmdump."""
        view = _view()
        return () if view is None else list(view)

    def adopt(self, recorded: Sequence[Recorded], settings: Settings) -> int:
        """Put what was recorded into the list, but for what is there; how many that are."""
        view = _view()
        known = {self._request_of(flow) for flow in self.flows()} | {*self._loaded.values()}
        new = [each for each in recorded if each.row["id"] not in known] if view is not None else []
        for each in new:
            flow = flow_of(each, settings)
            self._comments.keep(flow)
            flow.marked = mark(each.row["outcome"], each.row["status_code"], each.row["failover_attempts"])
            self.held.promise(flow, each.row["id"], {part: head.size for part, head in each.bodies.items()})
            self._loaded[flow] = each.row["id"]
            view.add([flow])
            self._count(view, flow, settings.inspector_flows)
        return len(new)

    def is_loaded(self, flow: http.HTTPFlow) -> bool:
        """Whether it was made of the record, and did not run here."""
        return flow in self._loaded

    def bound(self, flow: http.HTTPFlow, most: int) -> None:
        """Count this flow as finished; let go of the oldest over `most`, and of bodies over their bound.

        Polls do not push others out.
        """
        view = _view()
        if view is None:
            return
        self._count(view, flow, most)
        self.held.hold(flow, self._find(flow))

    def _count(self, view: Any, flow: http.HTTPFlow, most: int) -> None:
        finished = self._finished[hidden.is_marked(flow)]
        finished[flow.id] = flow
        if (surplus := len(finished) - most) > 0:
            view.remove(list(finished.values())[:surplus])

    def _removed(self, flow: Flow) -> None:
        """It is in the list no more."""
        for finished in self._finished:
            finished.pop(flow.id, None)
        self.held.forget(flow.id)

    def _cleared(self) -> None:
        """Others may be gone too."""
        view = _view()
        for finished in self._finished:
            for flow in [each for each in finished.values() if view.get_by_id(each.id) is None]:
                self._removed(flow)


def _view() -> Any:
    """The list of flows that mitmweb and the console have; None in mitmdump."""
    return ctx.master.addons.get("view")


def renew(flow: http.HTTPFlow) -> None:
    """Let everybody who shows this flow know that it has changed."""
    in_place(ctx.master, lambda: ctx.master.addons.trigger(hooks.UpdateHook([flow])))


def extend_page(master: Any, views: Sequence[Contentview], held: Held, pages: PageServer) -> object:
    """Put our handlers in front of mitmweb's own; nothing happens in mitmdump and the console.

    Nothing of this is needed to serve a request, so what does not fit is a warning. What it returns is to be kept.
    """
    if (application := getattr(master, "app", None)) is None:
        return None
    try:
        from ccflare_mitm.inspector.audience import Audience  # which imports mitmweb
        from ccflare_mitm.inspector.web import rules

        application.add_handlers(r".*", rules(views, STYLES.read_bytes(), held, pages))
        audience = Audience()
        audience.attend(master)
        return audience
    except Exception as error:
        warn_of_page(str(error))
        return None


def marker(exchange: Story) -> str:
    """The emoji in front of a flow: it failed, it met a limit, it moved to another account; none if all went well."""
    return mark(exchange.outcome, exchange.status, exchange.failovers)


def mark(outcome: str | None, status: int | None, failovers: int) -> str:
    """The same for what ended like this."""
    if outcome not in (Outcome.OK, Outcome.CLIENT_ABORT):
        return LIMITED if status in (429, 503, 529) else FAILED
    return FAILED_OVER if failovers else ""
