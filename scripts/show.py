#!/usr/bin/env python3
"""Show a recorded request: its conversation, its exact bytes, or a command that repeats it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "addon"))

from ccflare_cli import run

if __name__ == "__main__":
    sys.exit(run("show"))
