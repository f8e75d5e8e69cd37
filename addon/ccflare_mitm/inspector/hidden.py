"""What is left out of the list of flows, unless a person has set `view_filter`: requests that no person has made.

mitmweb's page does not tell that an option of the server hides flows, so a line of ours does.
"""

from typing import Final

from mitmproxy import ctx, flowfilter, http

from ccflare_mitm.host.tuning import is_wanted

OPTION: Final = "view_filter"
_OURS = '~u "^[a-z]+://[^/]+/ccflare/"'
_PRECONNECTS = '(~m "^HEAD$" & ~u "^[a-z]+://[^/]+/(api/hello)?([?]|$)")'
_PROBES = '(~m "^GET$" & ~u "/v1/models$" & ~hq "^user-agent: ccflare-doctor")'
"""Those that are not for a page of ours. Only this one, so that nobody hides from the list under the doctor's name."""
FILTER: Final = f"!({_OURS} | {_PRECONNECTS} | {_PROBES})"

_LISTED: Final = flowfilter.parse(FILTER)


def is_poll(flow: http.HTTPFlow) -> bool:
    """Whether it is one that the filter leaves out."""
    return not _LISTED(flow)


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
