"""A page as a browser has made it: Chromium without a window."""

import subprocess
import tempfile

QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)


def page(address: str, seconds: float = 4) -> str:
    """The page's document after its scripts have run for so long, by a clock of their own."""
    with tempfile.TemporaryDirectory(prefix="ccflare-browser-", ignore_cleanup_errors=True) as folder:
        wait = f"--virtual-time-budget={seconds * 1000:.0f}"
        command = ["chromium", *QUIET, f"--user-data-dir={folder}", wait, "--dump-dom", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
