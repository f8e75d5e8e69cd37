"""Whether mitmproxy has the addons that it had: for who looks something up among them and keeps it."""

from typing import Any


class AddonChanges:
    """Remembers the addons as they were when it was asked last.

    To walk through all of them, twenty-five and what is inside of them, takes fifty calls: too much for each request.
    """

    def __init__(self) -> None:
        self._chain: list[Any] | None = None
        self._count = 0
        self._scripts: list[Any] = []

    def are_there(self, manager: Any) -> bool:
        """Whether an addon came or went since, or a script was loaded again; so it is at first. `manager` has them."""
        loader = manager.lookup.get("scriptloader")
        scripts = [script.ns for script in loader.addons] if loader is not None else []
        # The manager makes a new list when an addon goes, and a longer one when one comes.
        if manager.chain is self._chain and len(manager.lookup) == self._count and scripts == self._scripts:
            return False
        self._chain, self._count, self._scripts = manager.chain, len(manager.lookup), scripts
        return True
