"""How the reader of a message calls this program here: by its scripts in a clone, else by the one command `ccflare`.

And which program it is, to the letter.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parents[1]
"""Where the addon and its packages lie."""
_VERSION = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)
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


def is_clone() -> bool:
    """Whether this is a clone, and no installation."""
    return _SCRIPTS.is_dir()


def has_scripts() -> bool:
    """Whether its scripts are here, and it was not called by its name all the same."""
    return is_clone() and not Path(sys.argv[0]).stem.startswith("ccflare")


class Version(NamedTuple):
    """Of one installation: the number of its release, and what its files are, which differs from commit to commit."""

    number: str
    files: str

    def __str__(self) -> str:
        return f"{self.number} ({self.files})" if self.files else self.number

    @classmethod
    def of(cls, folder: Path = FOLDER) -> "Version":
        """That of the addon and its packages in `folder`. Raises OSError if there are none."""
        digest = hashlib.sha256()
        for path in [*sorted(folder.glob("ccflare*/**/*")), folder / "ccflare.py"]:
            if path.suffix in (".py", ".html", ".css", ".js"):
                name, content = path.relative_to(folder).as_posix(), path.read_bytes()
                digest.update(f"{name} {len(content)}\n".encode() + content)
        found = _VERSION.search((folder / "ccflare_core" / "__init__.py").read_text(encoding="utf-8"))
        return cls(found[1] if found else "?", digest.hexdigest()[:8])
