"""The lock file behind scripts/lock: every package of the program, its tests and its checks, with hashes.

    packages GROUP   print what GROUP ("run", or a dependency group) needs of it, for pip's --require-hashes
    check            say what in it does not fit pyproject.toml; without a network, and the same every day
    make             make it anew, with the newest versions that pyproject.toml allows, by uv

A version that is no longer the newest is no fault, so `check` finds nothing of that kind. `packages` runs in a new
environment with nothing installed: it needs the standard library only.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "scripts" / "constraints.txt"
GROUPS = ("test", "check")
"""What is locked beside the program and its extras. What makes the lock is not in it."""
HEAD = """\
# Every package of the program, its extras, tests and checks, with the hashes of its files. Made by scripts/lock, used
# by `scripts/run --locked` and CI. Where they come from is the machine's business.
"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Pinned(NamedTuple):
    """One package: its version, its lines for pip, and the names of the packages that need it."""

    name: str
    version: str
    lines: tuple[str, ...]
    needed_by: frozenset[str]


def name_of(requirement: str) -> str:
    """The name in a requirement, as all spellings of it are written here."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def read(text: str) -> dict[str, Pinned]:
    """The packages of a lock file, by name."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line and line[0] not in " #":
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
    return {pinned.name: pinned for pinned in map(_pinned, blocks)}


def _pinned(block: list[str]) -> Pinned:
    head = block[0]
    comments = (line.strip().removeprefix("#").strip().removeprefix("via").strip() for line in block if "#" in line)
    needed_by = frozenset(comment for comment in comments if _NAME.fullmatch(comment))
    lines = tuple(line for line in block if "#" not in line)
    return Pinned(name_of(head), head.partition("==")[2].split(" ")[0], lines, needed_by)


def closure(lock: dict[str, Pinned], roots: Iterable[str]) -> list[Pinned]:
    """What these packages need of the lock, themselves included."""
    found = {name for name in map(name_of, roots) if name in lock}
    while more := {each.name for each in lock.values() if each.needed_by & found} - found:
        found |= more
    return [pinned for name, pinned in lock.items() if name in found]


def requirements(project: dict[str, Any], groups: Collection[str], *, extras: bool) -> Iterator[str]:
    """What the program and these dependency groups ask for, and what builds it."""
    yield from project["build-system"]["requires"]
    yield from project["project"]["dependencies"]
    for packages in project["project"].get("optional-dependencies", {}).values() if extras else ():
        yield from packages
    for group in groups:
        yield from requirements_of_group(project, group)


def requirements_of_group(project: dict[str, Any], group: str) -> Iterator[str]:
    """What one group asks for."""
    for entry in project["dependency-groups"][group]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from requirements_of_group(project, entry["include-group"])


def problems(project: dict[str, Any], text: str) -> Iterator[str]:
    """What in the lock does not fit the project, a sentence each."""
    from packaging.requirements import Requirement

    lock = read(text)
    asked = [*requirements(project, GROUPS, extras=True)]
    for each in map(Requirement, asked):
        pinned = lock.get(name_of(each.name))
        if pinned is None:
            yield f"{each.name} is not in it"
        elif not each.specifier.contains(pinned.version, prereleases=True):
            yield f"{each.name} {pinned.version} is in it, and pyproject.toml asks for {each.specifier}"
    needed = {pinned.name for pinned in closure(lock, asked)}
    yield from (f"{name} is in it, and nothing needs it" for name in lock if name not in needed)
    yield from (f"{pinned.name} has no hash" for pinned in lock.values() if "--hash=" not in "".join(pinned.lines))
    if "://" in text or re.search(r"^\s*-", text.replace("    --hash=", ""), re.MULTILINE):
        yield "it says where packages come from"


def made(project: dict[str, Any]) -> str:
    """A new lock. Raises CalledProcessError if uv cannot make it."""
    floor = project["project"]["requires-python"].removeprefix(">=")
    groups = [word for group in GROUPS for word in ("--group", group)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", floor]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links", "--all-extras"]
    built_by = "\n".join(project["build-system"]["requires"])
    done = subprocess.run(  # noqa: S603
        [*command, *groups, str(ROOT / "pyproject.toml"), "-"],
        input=built_by,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    return HEAD + done.stdout


def main(arguments: list[str]) -> int:
    """Do what the module says, and give the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    match arguments:
        case ["packages", group]:
            asked = requirements(project, () if group == "run" else (group,), extras=False)
            lock = read(LOCK.read_text())
            print("\n".join(line for pinned in closure(lock, asked) for line in pinned.lines))
            return 0
        case ["check"]:
            found = [*problems(project, LOCK.read_text())]
            for problem in found:
                print(f"scripts/constraints.txt: {problem}; run scripts/lock")
            return 1 if found else 0
        case ["make"]:
            text = made(project)
            if found := [*problems(project, text)]:
                sys.exit(f"the new lock is not good: {found[0]}")
            LOCK.write_text(text)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
