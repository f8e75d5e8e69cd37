"""`python tests/support/cluster_kit upstream|sessions` runs that part, with its job as JSON on standard input."""

import asyncio
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it was this folder, in which no package is found

from cluster_kit import sessions, upstream  # noqa: E402

ROLES = {"sessions": sessions.play, "upstream": upstream.serve}

asyncio.run(ROLES[sys.argv[1]](json.loads(sys.stdin.readline())))
