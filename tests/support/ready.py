"""A mitmproxy script that tells when the proxy has started: when it has looked for errors for the last time."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from mitmproxy import ctx

FILE = Path("proxy.ready").absolute()


class Ready:
    """See the module: a file in the folder that the proxy was started in."""

    def running(self) -> None:
        self._task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        check: Any = ctx.master.addons.get("errorcheck")
        while check.logger in logging.getLogger().handlers:  # it is taken out when no error was found
            await asyncio.sleep(0.01)
        FILE.touch()


addons = [Ready()]
