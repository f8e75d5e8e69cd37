"""The demonstration: successful, and gone afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY


def test_the_demonstration_works_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / "_demo.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        start_new_session=True,  # and so a process group, which all that it starts belongs to
    ) as demo:
        said, _ = demo.communicate(timeout=100)

    assert demo.returncode == 0, said
    assert "48 of 48 requests were answered with 200" in said
    assert "max-1: cooling until" in said
    assert "moved from max-1 (5h window spent" in said
    assert "100 % (48 of 48)" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)
