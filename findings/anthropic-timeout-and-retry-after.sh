#!/bin/sh
# anthropic 2.14.0 (Python): `timeout` does not bound the wait that an answer's Retry-After asks for.
#
# A client with timeout=1 and max_retries=1 that is told "429, Retry-After: 8" sleeps 8 seconds inside create() before it
# asks again. The timeout is that of each attempt; between two attempts only the server says how long, and any number of
# seconds up to 4,294,967 (49 days) is obeyed.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0

cat >"$folder/look.py" <<'LOOK'
import http.server
import sys
import threading
import time

import anthropic

WAIT = 8
ANSWER = b'{"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}'


class Limited(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.send_header("Retry-After", str(WAIT))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Limited)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
client = anthropic.Anthropic(api_key="not-a-key", base_url=url, timeout=1, max_retries=1)
begin = time.monotonic()
try:
    client.messages.create(model="some", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
except anthropic.RateLimitError:
    taken = time.monotonic() - begin
    print(f"timeout=1, Retry-After: {WAIT}: create() has raised after {taken:.1f} s")
    sys.exit(taken < WAIT)
sys.exit(1)
LOOK
"$folder/venv/bin/python" "$folder/look.py"
