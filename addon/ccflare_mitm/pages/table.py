"""All pages of ours: the one list that the gate, mitmweb and the tests go by. What is not in it is not answered."""

from typing import NamedTuple
from urllib.parse import unquote

from ccflare_core.anthropic.routes import CONTROL_PREFIX
from ccflare_core.clients.keys import Permission
from ccflare_mitm.pages import journal, login, overview, requests, usage
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.api import document
from ccflare_mitm.pages.metrics import show_metrics
from ccflare_mitm.pages.page import DO, READ, Page

PAGES: tuple[Page, ...] = (
    Page("/ccflare/health", READ, None, Admin.show_health),
    Page("/ccflare/ready", READ, Permission.DASHBOARD_VIEW, Admin.show_ready),
    Page("/ccflare/accounts", READ, Permission.DASHBOARD_VIEW, Admin.show_accounts),
    Page("/ccflare/metrics", READ, Permission.DASHBOARD_VIEW, show_metrics),
    Page("/ccflare/accounts/{name}/pause", DO, Permission.ACCOUNTS_MANAGE, Admin.pause_account),
    Page("/ccflare/accounts/{name}/resume", DO, Permission.ACCOUNTS_MANAGE, Admin.resume_account),
    Page("/ccflare/clients/{name}/revoke", DO, Permission.ACCOUNTS_MANAGE, Admin.revoke_client),
    *login.PAGES,
    *document.PAGES,
    *overview.PAGES,
    *requests.PAGES,
    *usage.PAGES,
    *journal.PAGES,
)


class FoundPage(NamedTuple):
    """A page that a path means, and the name in the path, if it has one."""

    page: Page
    name: str


def find_page(path: str) -> FoundPage | None:
    """The page that a path (without a query) means; None if there is none."""
    if not path.startswith(CONTROL_PREFIX):
        return None
    for page in PAGES:
        if match := page.match(path):
            return FoundPage(page, unquote(match.groupdict().get("name", "")))
    return None
