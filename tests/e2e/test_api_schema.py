"""Schemathesis at a running proxy: what it makes of the API's document is answered as that says, and so is what is not.

It is a program of its own with a group of its own (`pip install --group api`); without it this is left out. That no
page is served without a key is not its question: who asks too often is told so before (test_guard.py has that).
"""

import subprocess
import sys
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream
from harness import StartProxy, claude_request, via_base_url

PROGRAM = Path(sys.executable).with_name("schemathesis")


@pytest.mark.timeout(300)  # it asks some hundred times
def test_schemathesis_finds_nothing_in_the_api(upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(upstream, accounts={"one": "sk-ant-api03-one"})
    with via_base_url(proxy) as client:
        assert client.request(*claude_request(5000)).status == 200
    proxy.rows("SELECT id FROM requests WHERE outcome = 'ok'", until=bool)
    key = proxy.add_client_key("viewer", "--role", "viewer")
    document = f"http://127.0.0.1:{proxy.port}/ccflare/api/v1/openapi.json"

    words = (
        *("run", document, "--header", f"Authorization: Bearer {key}", "--exclude-checks", "ignored_auth"),
        *("--max-examples", "10", "--seed", "1", "--workers", "1", "--no-color"),
        *("--exclude-path", "/events"),  # which has no end
    )
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, cwd=tmp_path, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 12" in done.stdout
    assert "Traceback" not in proxy.log()
