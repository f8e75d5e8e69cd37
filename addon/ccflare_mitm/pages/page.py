"""What a page is: a path, the methods and the permission that it takes, and a function that answers a visit."""

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ccflare_core.anthropic.answers import Answer
from ccflare_core.clients.keys import Permission
from ccflare_core.clients.request_head import PageAccess
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.visit import Visit

READ, DO = ("GET", "HEAD"), ("POST",)

type Handler = Callable[[Admin, Visit], Answer | Awaitable[Answer]]


class Page(NamedTuple):
    """One page: what it takes to get its answer. `permission` None is for everybody, also without a key.

    The function is called on the event loop, so it reads the database by `await admin.read(…)` alone.
    """

    path: str
    methods: tuple[str, ...]
    permission: Permission | None
    handler: Handler

    @property
    def access(self) -> PageAccess:
        """What it takes, for the gate."""
        return PageAccess(self.methods, self.permission)

    def match(self, path: str) -> re.Match[str] | None:
        """Whether a path means this page; `{name}` in ours stands for one segment of it."""
        pattern = re.escape(self.path).replace(re.escape("{name}"), "(?P<name>[^/]+)")
        return re.fullmatch(pattern, path)
