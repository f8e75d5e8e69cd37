"""A running proxy that tells a webhook and a program what a person should hear of."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ccflare_cli.doctor import alert_checks
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from ccflare_core.writer.delivery import SIGNATURE, signature
from fake_upstream import FakeUpstream
from harness import Proxy, eventually

SECRET = "the secret of this test"
WRITE = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


@contextmanager
def a_receiver(taken: list[tuple[str | None, bytes]]) -> Iterator[str]:
    """The URL of a web server that keeps what it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.headers[SIGNATURE], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/alerts"
        server.shutdown()
        thread.join()


def test_account_that_needs_a_login_is_told_to_webhook_program_and_log(upstream: FakeUpstream, tmp_path: Path) -> None:
    taken: list[tuple[str | None, bytes]] = []
    script, told = tmp_path / "notify.py", tmp_path / "told"
    script.write_text(WRITE)
    with a_receiver(taken) as url:
        options: dict[str, Any] = {
            "ccflare_alert_webhook": url,
            "ccflare_alert_command": f"{sys.executable} {script} {told}",
            "ccflare_hold_seconds": 0,  # that no account is available is worth telling at the first look
        }
        proxy = Proxy(upstream, folder=tmp_path, environment={"ccflare_ALERT_SECRET": SECRET}, **options)
        proxy.add_tokens("max-1", "sk-ant-oat01-one")
        with closing(Store.open(proxy.database, KeyFile(proxy.database.with_suffix(".key")))) as store:
            store.accounts.update(store.accounts.by_name("max-1").id, needs_login=True)
        with proxy:
            proxy.wait_for_log("alert needs_login: max-1: ")
            eventually(lambda: told.exists() and told.read_text().count("\n") >= 2)
        config = tmp_path / "mitm-config.yaml"
        config.write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
        proxy._environment["ccflare_CONFIG_PATH"] = str(config)
        tested = proxy.run_script("doctor.py", "--only", "activity", "--test-alert", "--format", "json")

    alerts = [json.loads(line) for line in told.read_text().splitlines()]
    assert {(alert["state"], alert["cause"]) for alert in alerts} == {
        ("begins", "needs_login"),
        ("begins", "all_cooling"),
        ("test", "test"),
    }
    assert [json.loads(body) for _, body in taken] == alerts
    assert [signed for signed, _ in taken] == [signature(SECRET.encode(), body) for _, body in taken]
    assert [each["level"] for each in json.loads(tested) if each["check"] == alert_checks.CHECK] == ["ok", "ok"]
    assert "sk-ant" not in told.read_text() + proxy.log()
