#!/usr/bin/env python3
"""Answer a model that asks for your record, as an MCP server."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Without this folder: `import mcp` has to find the package of that name, and not this file.
sys.path[:] = [str(HERE.parent / "addon"), *(each for each in sys.path if Path(each).resolve() != HERE)]

from ccflare_cli import run

if __name__ == "__main__":
    sys.exit(run("mcp"))
