"""Pages as HTML: templates that escape all that they are given, under a policy that lets nothing in from elsewhere."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ccflare_core.anthropic.answers import SECURITY, Answer
from ccflare_core.clients.keys import Permission
from ccflare_core.http.headers import Header
from ccflare_core.http.rejection import Rejection
from ccflare_core.program import typed
from ccflare_core.reports.figures import count, duration, moment, money, percent, short_model
from ccflare_core.transcripts.visible import visible
from ccflare_mitm.pages.visit import Visit

FILES = Path(__file__).with_name("files")
HOME, LOGIN, LOGOUT = "/ccflare/", "/ccflare/login", "/ccflare/logout"
POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_OWN = {
    b"content-security-policy": POLICY,
    # With `no-referrer` a browser says "Origin: null" when a form of ours is sent, as it does for a stranger's page.
    b"referrer-policy": b"strict-origin",
}
_HEADERS: tuple[Header, ...] = tuple((name, _OWN.get(name, value)) for name, value in SECURITY)


def _shown(value: object) -> object:
    """What a template shows of a value: characters that nobody sees, or that turn the text around, are told."""
    return visible(value) if type(value) is str else value  # and not one that is HTML already


TEMPLATES = Environment(
    loader=FileSystemLoader(FILES),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)


TEMPLATES.globals["typed"] = typed
TEMPLATES.filters |= {"count": count, "money": money, "duration": duration, "percent": percent, "model": short_model}


def page(template: str, visit: Visit, *, status: int = 200, headers: tuple[Header, ...] = (), **values: Any) -> Answer:
    """A template as the answer. Every one may use `visit`, and what it may do."""
    text = TEMPLATES.get_template(template).render(
        visit=visit,
        may_manage=visit.may(Permission.ACCOUNTS_MANAGE),
        may_read=visit.may(Permission.LOGS_VIEW),
        when=partial(moment, now=visit.at),
        **values,
    )
    return _answer(status, b"text/html; charset=utf-8", text.encode(errors="replace"), _HEADERS + headers)


async def long_page(template: str, visit: Visit, **values: Any) -> Answer:
    """The same, made in a thread: on the event loop it would hold up every stream meanwhile."""
    return await asyncio.to_thread(partial(page, template, visit, **values))


def refusal(rejection: Rejection, visit: Visit) -> Answer:
    """Why there is no such page for this visit, for a person."""
    wait = () if rejection.retry_after is None else ((b"retry-after", b"%d" % rejection.retry_after),)
    return page("refusal.html", visit, status=rejection.status, headers=wait, message=rejection.message)


def see_other(path: str, *headers: Header) -> Answer:
    """Go there, by a GET."""
    location = path.encode("ascii", "replace").translate(None, b"\r\n")
    return _answer(303, b"text/plain", b"", (*SECURITY, (b"location", location), *headers))


def to_login(path: str, query: str = "") -> Answer:
    """Log in first, and then go on to where one was going."""
    return see_other(f"{LOGIN}?{urlencode({'next': f'{path}?{query}' if query else path})}")


def own_path(path: str) -> str:
    """The path if it is one of our pages', else the first page: nobody is sent elsewhere by a link to us."""
    is_ours = path.startswith(HOME) and path.isascii() and path.isprintable() and "\\" not in path and ".." not in path
    return path if is_ours else HOME


def file(name: str, kind: str) -> Answer:
    """A stylesheet or script of ours. It is looked up again each time: a newer version may be here."""
    fields = tuple((key, b"no-cache" if key == b"cache-control" else value) for key, value in SECURITY)
    return _answer(200, kind.encode(), (FILES / name).read_bytes(), fields)


def _answer(status: int, kind: bytes, body: bytes, headers: tuple[Header, ...]) -> Answer:
    length = (b"content-length", b"%d" % len(body))
    return Answer(status, ((b"content-type", kind), length, *headers), body, "")
