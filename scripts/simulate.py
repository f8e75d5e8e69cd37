#!/usr/bin/env python3
"""Replay the recorded traffic with other accounts, rules or settings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "addon"))

from ccflare_cli import run

if __name__ == "__main__":
    sys.exit(run("simulate"))
