"""mitmweb's page with our stylesheet, a link to the dashboard and a line of ours; as it is if it is none we know."""

import html
import logging
from functools import cache
from pathlib import Path

logger = logging.getLogger("ccflare")

STYLESHEET = "/ccflare/inspector.css"
STYLES = Path(__file__).with_name("inspector.css")
_HEAD_END, _ROOT = b"</head>", b'<div id="mitmproxy">'
DASHBOARD = '<a href="/ccflare/">Dashboard</a>'
_LINK = f'<link rel="stylesheet" href="{STYLESHEET}">'.encode()


def extended(page: bytes, line: str = "") -> bytes | None:
    """mitmweb's page with our stylesheet, and over it a link to our pages and this line; None if there is no place.

    What is inside of mitmweb's own element is drawn anew all the time, so the line stands before it.
    """
    if page.count(_HEAD_END) != 1 or page.count(_ROOT) != 1:
        return None
    told = " · ".join(filter(None, (DASHBOARD, html.escape(line))))
    ours = f'<p id="ccflare">{told}</p>'.encode()
    return page.replace(_HEAD_END, _LINK + _HEAD_END).replace(_ROOT, ours + _ROOT)


@cache
def warn_of_page(why: str) -> None:
    """Say, once, that the page is as mitmproxy made it."""
    logger.warning("mitmweb's page is another one than ccflare knows, and is shown without its stylesheet: %s", why)
