#!/usr/bin/env python3
"""Keep the record small, sound and safe: clean-up, backup, check, export."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "addon"))

from ccflare_cli import run

if __name__ == "__main__":
    sys.exit(run("maintain"))
