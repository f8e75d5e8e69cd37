"""What stands before our own pages and around all answers: browsers are told apart, changes need the second factor."""

from collections.abc import Callable, Sequence
from math import ceil

from mitmproxy import http

from ccflare_core.anthropic.answers import SECURITY, Answer, error
from ccflare_core.anthropic.routes import Route
from ccflare_core.clients import browser
from ccflare_core.clients.admission import Entrance, Refusal
from ccflare_core.clients.browser import Asked
from ccflare_core.clients.totp import SecondFactor
from ccflare_core.http.headers import Header
from ccflare_core.http.origins import Origin
from ccflare_mitm.host.messages import route_of

OTP = "x-ccflare-otp"
"""The header that a code of the second factor comes in."""

PRECONNECTED = Answer(200, ((b"content-type", b"text/plain"), (b"content-length", b"0")), b"", "")


class Threshold:
    """What is asked and said of a request apart from whose it is."""

    def __init__(
        self,
        entrance: Entrance,
        factor: SecondFactor,
        *,
        named: Callable[[http.HTTPFlow], tuple[str, int]],
        upstream: Callable[[], Origin],
    ) -> None:
        """`named` gives the host and port that a request was sent to."""
        self._entrance = entrance
        self._factor = factor
        self._named = named
        self._upstream = upstream

    def answer(self, flow: http.HTTPFlow, route: Route) -> Answer | None:
        """The answer to what is answered whoever asks: a warm-up, a browser's question, a page of elsewhere."""
        if route is Route.PRECONNECT:
            return PRECONNECTED
        if route is Route.CONTROL:
            asked = self._asked(flow)
            if refusal := self._entrance.object_to(asked):
                return refused(refusal)
            return self._allow(asked) if asked.is_preflight else None
        if route is Route.WRONG_METHOD and flow.request.method == "OPTIONS" and self._entrance.sites:
            # A path of the API: all others take the method.
            asked = self._asked(flow)
            if asked.is_preflight and self._entrance.sites.have(asked.origin or ""):
                return self._allow(asked)
        return None

    def _allow(self, asked: Asked) -> Answer:
        """The answer to a browser's question whether its page may ask."""
        return Answer(204, (*SECURITY, *browser.preflight(asked, self._entrance.sites)), b"", "")

    async def second_factor(self, flow: http.HTTPFlow) -> Answer | None:
        """Why a request that changes something is not done, if so. A code that was good is used up by then."""
        if (wrong := await self._factor.admit(flow.request.headers.get(OTP))) is None:
            return None
        if wrong.retry_after > 0:
            message = "Too many wrong codes; wait before the next one."
            return refused(Refusal(429, message, ceil(wrong.retry_after), is_final=True))
        message = f"This needs a code of the second factor, in the header {OTP}; each is good once."
        answer = refused(Refusal(403, message))
        return answer._replace(headers=(*answer.headers, (OTP.encode(), b"required")))

    def share(self, flow: http.HTTPFlow) -> None:
        """The answer goes out now: say which page may read it, and that our own pages want TLS if they have it."""
        sites, tls = self._entrance.sites, flow.client_conn.tls_established
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
        host, port = self._named(flow)
        tls = flow.client_conn.tls_established
        site = Origin("https" if tls else "http", host, port)
        # The upstream's own name over TLS: nobody else has a certificate for it that the client takes.
        return Asked(flow.request.method, site, flow.request.headers, tls and host == self._upstream().host)


def refused(refusal: Refusal) -> Answer:
    """A refusal as an answer, for a request that has no exchange."""
    status, message, retry_after, is_final = refusal
    return error(status, message, retry_after=retry_after, is_final=is_final)


def replaced(fields: Sequence[Header], headers: Sequence[Header]) -> tuple[Header, ...]:
    """The fields with these headers in the place of any of the same names."""
    names = {name for name, _ in headers}
    return (*((name, value) for name, value in fields if name.lower() not in names), *headers)
