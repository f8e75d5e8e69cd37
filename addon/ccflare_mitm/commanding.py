"""What a person commands in mitmweb and the console, and what comes of it; `inspector/commands.py` has the words."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.log import ALERT

from ccflare_core.audit.entries import By
from ccflare_core.config.live import LiveSettings
from ccflare_core.errors import NotFound, StoreError
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.store.store import Store
from ccflare_core.text import some
from ccflare_mitm.background import once_done
from ccflare_mitm.builders.core import Accounts, Recording, Storage
from ccflare_mitm.host import listener
from ccflare_mitm.inspector import loading
from ccflare_mitm.inspector.answers import install
from ccflare_mitm.inspector.commands import Commands, ConsoleAccounts, Doing
from ccflare_mitm.inspector.export import Address, Exports
from ccflare_mitm.inspector.inspector import Inspector
from ccflare_mitm.inspector.replay import Replayer
from ccflare_mitm.pages.html import HOME

logger = logging.getLogger("ccflare")

CONSOLE = By("console")
"""Who gives commands inside of mitmproxy, as the audit log calls them."""


class Commanding:
    """See the module. `find` gives a flow's exchange; `start` begins a task of the app's."""

    def __init__(
        self,
        live: LiveSettings,
        storage: Storage,
        accounts: Accounts,
        recording: Recording,
        inspector: Inspector,
        replayer: Replayer,
        find: Callable[[http.HTTPFlow], Exchange | None],
        start: Callable[[str, Coroutine[Any, Any, None]], None],
    ) -> None:
        self._live = live
        self._storage = storage
        self._pool = accounts.pool
        self._wall = recording.exchanges.wall
        self._inspector = inspector
        self._replayer = replayer
        self._find = find
        self._start = start

    def install(self) -> None:
        """Give mitmproxy the commands."""
        accounts = ConsoleAccounts(self._pool.status, self._change_account)
        exports = Exports(self._find, self._address, self._inspector.text)
        exports.install()
        doing = Doing(self._replayer.replay, exports, self._load)
        commands = Commands(accounts, self._inspector.flows, self._find, doing, self._wall, self._pages)
        in_words = hasattr(ctx.master, "app")  # mitmweb, which shows an answer on one line
        install(ctx.master.commands, commands.all(), commands.words(), in_words=in_words)
        if self._inspector.has_list:
            ctx.master.commands.add("replay.client", self._replayer.press)

    def _change_account(self, name: str, told: str, **fields: object) -> None:
        """Change an account in the database, and then log that it is as `told`. Raises NotFound if there is none."""
        account_id = self._pool.id_of(name)
        if account_id is None:
            raise NotFound(f"There is no account called {name}; ccflare.accounts shows all.")

        def change(store: Store) -> None:
            with store.acting(CONSOLE):
                store.accounts.update(account_id, **fields)
            self._storage.news.accounts.send(store.accounts.all())

        once_done(
            self._storage.writer.call(change),
            asyncio.get_running_loop(),
            lambda: logger.log(ALERT, "%s %s", name, told),
            f"{name} stays as it was",
        )

    def _load(self, since: float) -> None:
        """Put what was recorded since then into the inspector's list, once it is read."""

        async def load() -> None:
            most = min(loading.MOST, self._live().inspector_flows)
            try:
                found = await self._storage.call(lambda store: loading.read(store, since, most))
            except StoreError as error:
                logger.warning("what was recorded cannot be loaded: %s", error)
                return
            number = self._inspector.adopt(found, self._live())
            logger.log(ALERT, "%s loaded", some(number, "recorded request"))

        self._start("load", load())

    def _address(self) -> Address:
        """Where clients of this machine reach the proxy."""
        host, _, port = listener.local_address().rpartition(":")
        return Address(self._live().own_scheme, host.strip("[]"), int(port))

    def _pages(self) -> str:
        """Where our own pages are."""
        return f"{self._live().own_scheme}://{listener.local_address()}{HOME}"
