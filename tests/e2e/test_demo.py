"""The demonstration: quick, successful, and gone afterwards."""

import subprocess
import sys
import time
from pathlib import Path

from harness import REPOSITORY


def test_the_demonstration_works_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "_demo.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 20
    assert "48 of 48 requests were answered with 200" in done.stdout
    assert "moved from max-1 (5h window spent" in done.stdout
    assert "100 % (48 of 48)" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).stdout == b""
