"""`python tests/support/fake_upstream --port 0` runs it as a process."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it was this folder, in which no package is found

from fake_upstream.process import main  # noqa: E402

main()
