"""What `ccflare` starts. A status line is asked for every few seconds, so for that next to nothing is imported."""

import os
import sys


def main() -> int:
    """Run what the words say and give its exit code."""
    if sys.argv[1:2] == ["statusline"] and "_ARGCOMPLETE" not in os.environ:
        from ccflare_cli.companion.statusline import main as show

        return show(sys.argv[2:])
    from ccflare_cli.command import main as run

    return run()
