#!/usr/bin/env python3
"""Print one line on a session, for Claude Code's status line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "addon"))

from ccflare_cli import run

if __name__ == "__main__":
    sys.exit(run("statusline"))
