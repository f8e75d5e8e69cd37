"""What is left out of the list of flows, unless a person has set `view_filter`: requests that no person has made.

mitmweb's page does not tell that an option of the server hides flows, so a line of ours does. The console shows the
filter at its foot, so it is short, and the flows are marked for it.
"""

from typing import Final

from mitmproxy import ctx, http

from ccflare_core.anthropic.routes import CONTROL_PREFIX
from ccflare_mitm.host.tuning import is_wanted

OPTION: Final = "view_filter"
_MARK: Final = "ccflare.poll"
FILTER: Final = f"!~meta {_MARK}"
_PRECONNECTS: Final = frozenset({"/", "/api/hello"})
_DOCTOR, _PROBED = "ccflare-doctor", "/v1/models"


def mark(flow: http.HTTPFlow) -> None:
    """Note that it is to be left out, if so. mitmproxy asks our hooks before its list does."""
    if is_poll(flow.request):
        flow.metadata[_MARK] = True


def is_marked(flow: http.HTTPFlow) -> bool:
    """Whether that was noted."""
    return _MARK in flow.metadata


def is_poll(request: http.Request) -> bool:
    """Whether it is for a page of ours, a preconnect, or a probe of the doctor's.

    Of its probes only the one that can do nothing, so that nobody hides from the list under the doctor's name.
    """
    path = request.path.partition("?")[0]
    if path.startswith(CONTROL_PREFIX) or (request.method == "HEAD" and path in _PRECONNECTS):
        return True
    return request.method == "GET" and path == _PROBED and request.headers.get("user-agent") == _DOCTOR


def hide() -> None:
    """Hide them in a program that has a list, if nobody has said what is to be in it."""
    if OPTION in ctx.options and not is_wanted(OPTION):
        ctx.options.update(**{OPTION: FILTER})


def told() -> str:
    """A sentence about what is hidden now; "" if nothing is."""
    wanted = getattr(ctx.options, OPTION) if OPTION in ctx.options else None
    if wanted == FILTER:
        return f"Health polls, preconnects and the doctor's probes are hidden (option {OPTION})."
    return f"Only flows that match {wanted} are shown (option {OPTION})." if wanted else ""
