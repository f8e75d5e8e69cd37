"""A user's home for the commands that look into it: empty but for mitmproxy's authority; and a proxy's answer."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccflare_core.store.client_keys import new_key
from database_kit import open_store
from harness import authority


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in this folder, for this process too."""
    monkeypatch.setenv("HOME", str(folder))
    for name in ("CLAUDE_CONFIG_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(authority(), folder / ".mitmproxy")
    return folder


def add_key(home: Path) -> str:
    """A client key in this home's database, which there may not have been."""
    store = open_store(home / "data" / "ccflare.db")
    try:
        return store.clients.add(new_key("laptop", 0.0))
    finally:
        store.close()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Host and port where every request gets this answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """It says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
