"""mitmweb's page with our stylesheet. If it is another one than is known here, it is shown as it is, with a warning."""

import logging
from functools import cache
from pathlib import Path

logger = logging.getLogger("ccflare")

STYLESHEET = "/ccflare/inspector.css"
STYLES = Path(__file__).with_name("inspector.css")
_HEAD_END = b"</head>"
_LINK = f'<link rel="stylesheet" href="{STYLESHEET}">'.encode()


def with_stylesheet(page: bytes) -> bytes | None:
    """mitmweb's page with a link to our stylesheet; None if there is no place for it."""
    before, mark, after = page.partition(_HEAD_END)
    return b"".join((before, _LINK, mark, after)) if mark else None


@cache
def warn_of_page(why: str) -> None:
    """Say, once, that the page is as mitmproxy made it."""
    logger.warning("mitmweb's page is another one than ccflare knows, and is shown without its stylesheet: %s", why)
