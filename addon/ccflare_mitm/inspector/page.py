"""mitmweb's page with our stylesheet and a line of ours. If it is another one than is known here, it stays as it is."""

import html
import logging
from functools import cache
from pathlib import Path

logger = logging.getLogger("ccflare")

STYLESHEET = "/ccflare/inspector.css"
STYLES = Path(__file__).with_name("inspector.css")
_HEAD_END, _ROOT = b"</head>", b'<div id="mitmproxy">'
_LINK = f'<link rel="stylesheet" href="{STYLESHEET}">'.encode()


def extended(page: bytes, line: str = "") -> bytes | None:
    """mitmweb's page with a link to our stylesheet, and this line over it; None if there is no place for them.

    What is inside of mitmweb's own element is drawn anew all the time, so the line stands before it.
    """
    if page.count(_HEAD_END) != 1 or page.count(_ROOT) != 1:
        return None
    told = f'<p id="ccflare">{html.escape(line)}</p>'.encode() if line else b""
    return page.replace(_HEAD_END, _LINK + _HEAD_END).replace(_ROOT, told + _ROOT)


@cache
def warn_of_page(why: str) -> None:
    """Say, once, that the page is as mitmproxy made it."""
    logger.warning("mitmweb's page is another one than ccflare knows, and is shown without its stylesheet: %s", why)
