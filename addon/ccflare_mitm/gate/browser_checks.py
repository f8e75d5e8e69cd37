"""What browsers are told around all answers: which page may read one, and that our own pages want TLS (CORS, HSTS)."""

from collections.abc import Callable, Sequence

from mitmproxy import http

from ccflare_core.anthropic.answers import SECURITY, Answer
from ccflare_core.anthropic.routes import Route
from ccflare_core.clients import browser
from ccflare_core.clients.browser import Asked
from ccflare_core.config.settings import Settings
from ccflare_core.http.headers import Header
from ccflare_core.http.origins import Origin
from ccflare_mitm.gate.ingress import Names
from ccflare_mitm.host.messages import route_of


class BrowserChecks:
    """Adds to answers what browsers ask for. Which requests they may send is decided in `clients/checks.py`."""

    def __init__(self, names: Names, settings: Callable[[], Settings]) -> None:
        self._names = names
        self._settings = settings

    def allow(self, flow: http.HTTPFlow) -> Answer:
        """The answer to a browser's question whether its page may ask."""
        sites = self._settings().allowed_origins
        return Answer(204, (*SECURITY, *browser.preflight(self._asked(flow), sites)), b"", "")

    def share(self, flow: http.HTTPFlow) -> None:
        """The answer goes out now: say which page may read it, and that our own pages want TLS if they have it."""
        sites, tls = self._settings().allowed_origins, flow.client_conn.tls_established
        if flow.response is None or not (sites or tls):
            return
        asked = self._asked(flow)
        headers = browser.may_share(asked, sites)
        if tls and not asked.is_vouched and route_of(flow.request) is Route.CONTROL:
            headers += browser.transport_security(asked)
        if headers:
            flow.response.headers.fields = replaced(flow.response.headers.fields, headers)

    def _asked(self, flow: http.HTTPFlow) -> Asked:
        """What the request says of itself to whom a browser might be behind."""
        host, port = self._names.of(flow)
        tls = flow.client_conn.tls_established
        site = Origin("https" if tls else "http", host, port)
        return Asked(flow.request.method, site, flow.request.headers, tls and host == self._settings().upstream.host)


def replaced(fields: Sequence[Header], headers: Sequence[Header]) -> tuple[Header, ...]:
    """The fields with these headers in the place of any of the same names."""
    names = {name for name, _ in headers}
    return (*((name, value) for name, value in fields if name.lower() not in names), *headers)
