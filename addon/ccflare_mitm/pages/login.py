"""The pages to log in and out by. In mitmweb there are none: its own login counts there."""

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.sessions import Begun, cookie_of
from ccflare_core.http.rejection import Rejection
from ccflare_mitm.pages import html
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.page import DO, READ, Page
from ccflare_mitm.pages.visit import Visit


async def log_in(admin: Admin, visit: Visit) -> Answer:
    """The form that takes a key; for a key, and for the owner's link, a session."""
    if visit.method in DO:
        form = visit.form
        return _begun(await admin.logins.by_key(form.get("key", "").strip(), visit), visit, form.get("next", ""))
    if visit.method == "GET" and (token := visit.asked("token")):
        return _begun(await admin.logins.by_link(token, visit), visit, html.HOME)
    return _form(visit)


async def log_out(admin: Admin, visit: Visit) -> Answer:
    """The session's end."""
    if visit.session is not None:
        await admin.logins.end(visit.session, visit)
    return html.see_other(html.LOGIN, cookie_of("", visit.port, tls=visit.is_tls))


def _begun(result: Begun | Rejection, visit: Visit, path: str) -> Answer:
    if isinstance(result, Rejection):
        return _form(visit, result)
    return html.see_other(html.own_path(path), cookie_of(result.cookie, visit.port, tls=visit.is_tls))


def _form(visit: Visit, rejection: Rejection | None = None) -> Answer:
    after = html.own_path(visit.form.get("next", "") or visit.asked("next"))
    wait = rejection.retry_after if rejection is not None else None
    headers = () if wait is None else ((b"retry-after", b"%d" % wait),)
    status = 200 if rejection is None else rejection.status
    problem = "" if rejection is None else rejection.message
    return html.page("login.html", visit, status=status, headers=headers, problem=problem, after=after)


def show_styles(admin: Admin, visit: Visit) -> Answer:
    """The stylesheet of all pages."""
    return html.file("pages.css", "text/css; charset=utf-8")


def show_script(admin: Admin, visit: Visit) -> Answer:
    """The script of all pages, which work without it."""
    return html.file("pages.js", "text/javascript; charset=utf-8")


PAGES = (
    Page(html.LOGIN, (*READ, *DO), None, log_in),
    Page(html.LOGOUT, DO, None, log_out),
    Page("/ccflare/pages.css", READ, None, show_styles),
    Page("/ccflare/pages.js", READ, None, show_script),
)
