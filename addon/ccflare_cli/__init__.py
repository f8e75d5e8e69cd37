"""The commands behind `scripts/`, and how they start whichever Python was asked to run them.

Nothing here is imported but the standard library, and the syntax is that of an old Python: this is what says
in one sentence that another Python is needed.
"""

import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 12)

ROOMS = ("accounts", "audit", "doctor", "keys", "maintain", "mcp", "simulate", "stats", "top")
COMPANION = ("completion", "connect", "env", "ready", "run", "service", "statusline")
MODULES = {room: f"ccflare_cli.{room}.main" for room in ROOMS}
MODULES.update({command: f"ccflare_cli.companion.{command}" for command in COMPANION})
"""Where the commands are that are in a room."""


def run(command: str) -> int:
    """Run a command of this package and give its exit code.

    If this Python is too old or lacks the packages, the process goes on as the one in `.venv`, if any.
    """
    try:
        if sys.version_info < OLDEST:
            return _elsewhere("this is Python {}.{}".format(*sys.version_info[:2]))
        try:
            module = importlib.import_module(MODULES.get(command, "ccflare_cli." + command))
        except ModuleNotFoundError as missing:
            if (missing.name or "").startswith("ccflare_c"):
                raise
            return _elsewhere(f"this Python has no package {missing.name}")
        return int(module.main())
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def _elsewhere(why: str) -> int:
    """Go on in the project's own environment. Returns only if there is none for this user, or this already is it."""
    environment = ROOT / ".venv"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # sys.prefix and not the executable's path: the environment's Python is a link to the system's.
    if os.access(str(python), os.X_OK) and Path(sys.prefix).resolve() != environment.resolve():
        os.execv(str(python), [str(python), *sys.argv])  # noqa: S606
    sys.stderr.write(
        "{}: {}; run scripts/run once, which prepares .venv, or install the project "
        "with Python {}.{} or newer.\n".format(Path(sys.argv[0]).name, why, *OLDEST)
    )
    return 1
