"""How the reader of a message calls this program here: by its scripts in a clone, else by the one command `ccflare`."""

import sys
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
"""They are there in a clone alone."""


def typed(words: str) -> str:
    """`keys rotate` as it is typed here: `scripts/keys.py rotate`, or `ccflare keys rotate`. `proxy`: `scripts/run`."""
    if not has_scripts():
        return f"ccflare {words}"
    name, blank, rest = words.partition(" ")
    script = "run" if name == "proxy" else f"{name}.py"
    return f"scripts/{script}{blank}{rest}"


def with_extra(name: str) -> str:
    """How to install what an extra takes, as the end of a sentence."""
    if has_scripts():
        return f"`scripts/run --with {name}` installs it"
    return f"install ccflare with [{name}]"


def has_scripts() -> bool:
    """Whether its scripts are here, and it was not called by its name all the same."""
    return _SCRIPTS.is_dir() and not Path(sys.argv[0]).stem.startswith("ccflare")
