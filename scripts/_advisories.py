"""The dependency audit behind scripts/check: known holes in the packages of this environment, by pip-audit.

The exit code is 1 if pip-audit found one. If it is not installed, finds no advisory feed or takes longer than it may,
that is a warning: no change should wait for somebody else's server.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SECONDS = 30.0


def main(seconds: float = SECONDS) -> int:
    """Look, say what was found, and give the exit code."""
    beside = Path(sys.executable).with_name("pip-audit")
    tool = str(beside) if beside.exists() else shutil.which("pip-audit")
    if tool is None:
        return warn("pip-audit is not installed (`pip install pip-audit`)")
    packages = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    said = run([tool, "--format", "json", "--progress-spinner", "off", "--path", str(packages)], seconds)
    if said is None:
        return warn(f"pip-audit took longer than {seconds:g} s")
    try:
        packages_found = json.loads(said)["dependencies"]
        if all(each.get("skip_reason") for each in packages_found):
            return warn("the feed knows none of the packages")
        holes = [(each["name"], each["version"], hole) for each in packages_found for hole in each.get("vulns", ())]
        told = [f"{name} {version}: {hole['id']}, {fixed(hole)}" for name, version, hole in holes]
    except (ValueError, KeyError, TypeError):
        return warn("no advisory feed was in reach")
    for line in told:
        print(line)
    return 1 if told else 0


def fixed(hole: dict[str, list[str]]) -> str:
    return f"mended in {', '.join(hole['fix_versions'])}" if hole.get("fix_versions") else "not mended yet"


def run(command: list[str], seconds: float) -> str | None:
    """What it prints; None if it takes longer, and then it is ended with all that it has started."""
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


def warn(why: str) -> int:
    print(f"warning: known holes in dependencies were not looked for: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS))
