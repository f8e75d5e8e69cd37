"""Starts the proxy as several workers: what `scripts/run --workers N` becomes once all is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "addon"))

from ccflare_cli import run

if __name__ == "__main__":
    sys.argv[1:1] = ["proxy"]
    sys.exit(run("command"))
