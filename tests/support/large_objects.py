"""An addon for tests: the command `test.large` tells how many bytes the process has in large objects."""

import gc

from mitmproxy import command

LARGE = 1_000_000


class LargeObjects:
    """See the module."""

    @command.command("test.large")  # type: ignore[untyped-decorator]
    def large(self) -> str:
        """The sum of all bytes objects that are large, each counted once."""
        gc.collect()
        found = {
            id(each): len(each) for one in gc.get_objects() for each in gc.get_referents(one) if type(each) is bytes
        }
        return str(sum(size for size in found.values() if size >= LARGE))


addons = [LargeObjects()]
