"""An addon for tests: its commands tell what the process has in memory, and which settings it goes on with."""

import gc
from typing import Any

from mitmproxy import command, ctx

LARGE = 1_000_000


class Process:
    """See the module."""

    @command.command("test.large")  # type: ignore[untyped-decorator]
    def large(self) -> str:
        """The sum of all bytes objects that are large, each counted once."""
        gc.collect()
        found = {
            id(each): len(each) for one in gc.get_objects() for each in gc.get_referents(one) if type(each) is bytes
        }
        return str(sum(size for size in found.values() if size >= LARGE))

    @command.command("test.setting")  # type: ignore[untyped-decorator]
    def setting(self, option: str) -> str:
        """The value that counts now: a change does once it is audited."""
        ccflare: Any = ctx.master.addons.get("ccflare")
        return str(getattr(ccflare._app.settings, option.removeprefix("ccflare_")))


addons = [Process()]
