"""What an endpoint of the API is: a path, a permission, what it takes, what it gives, and a function."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from ccflare_core.anthropic.answers import Answer, json_answer
from ccflare_core.clients.keys import Permission
from ccflare_core.errors import StoreError
from ccflare_core.reports.vocabulary import Schema
from ccflare_core.store.store import Store
from ccflare_mitm.pages.admin import Admin
from ccflare_mitm.pages.api.parameters import Asked, Parameter, read_query
from ccflare_mitm.pages.page import READ, Page
from ccflare_mitm.pages.visit import Visit

PREFIX: Final = "/ccflare/api/v1"
ID: Final = "^[A-Za-z0-9_-]{1,100}$"
"""What an id in a path looks like."""
READ_SECONDS = 30.0
"""How long an answer may take to be read from the database."""


class Call(NamedTuple):
    """A visit to an endpoint: who it is, and what its query says."""

    admin: Admin
    visit: Visit
    asked: Asked

    async def read[T](self, function: Callable[[Store], T]) -> T:
        """What the function gives, from the database, in a thread. Raises StoreError if that takes too long."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self.admin.read(function)
        except TimeoutError:
            raise StoreError("The database takes too long for this: ask for a shorter period.") from None


type Content = dict[str, Any] | Answer


class Endpoint(NamedTuple):
    """One endpoint. `path` goes on from PREFIX; `{name}` in it stands for an id. `gives` is the answer's schema."""

    path: str
    permission: Permission
    about: str
    gives: Schema
    function: Callable[[Call], Awaitable[Content]]
    takes: tuple[Parameter, ...] = ()
    statuses: tuple[int, ...] = (200,)
    """Those of answers that are no errors, and have the schema."""
    tells_content: bool = False
    """Whether what was said in conversations is in it."""
    tells_events: bool = False
    """Whether the answer is a stream of events; `gives` has a schema of the data of each then, by their names."""

    @property
    def page(self) -> Page:
        """The endpoint as one of all pages."""
        return Page(PREFIX + self.path, READ, self.permission, self._answer)

    async def _answer(self, admin: Admin, visit: Visit) -> Answer:
        content = await self.function(Call(admin, visit, read_query(visit.parameters, self.takes)))
        return content if isinstance(content, Answer) else json_answer(200, content)
