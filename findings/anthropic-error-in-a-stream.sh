#!/bin/sh
# anthropic 2.14.0 (Python): an overload or a limit that comes in a stream is no OverloadedError or RateLimitError.
#
# The same error raises OverloadedError (529) or RateLimitError (429) where it is the answer's status. As an `error` event
# after the stream's head it raises plain APIStatusError with status_code 200: the class is chosen by the status of the
# head, not by the error's type, which only `error.body` still has. So `except anthropic.RateLimitError` passes it by.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0

cat >"$folder/look.py" <<'LOOK'
import http.server
import json
import sys
import threading

import anthropic

STATUS = {"overloaded_error": 529, "rate_limit_error": 429}
USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "some", "content": [], "usage": USAGE}


class Failing(http.server.BaseHTTPRequestHandler):
    """Answers with the error that the model is called, in a stream or as the status."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        failure = {"type": "error", "error": {"type": asked["model"], "message": "not now"}}
        status, kind, body = STATUS[asked["model"]], "application/json", json.dumps(failure)
        if asked.get("stream"):
            events = ({"type": "message_start", "message": MESSAGE}, failure)
            body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            status, kind = 200, "text/event-stream"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(api_key="not-a-key", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0)


def raised(error, stream):
    asked = {"model": error, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    try:
        for _ in client.messages.create(**asked, stream=stream):
            pass
    except anthropic.APIStatusError as problem:
        return type(problem).__name__, problem.status_code
    return None


seen = {error: (raised(error, False), raised(error, True)) for error in STATUS}
for error, (status, event) in seen.items():
    print(f"{error}: as the status {status}, in a stream {event}")
expected = {
    "overloaded_error": (("OverloadedError", 529), ("APIStatusError", 200)),
    "rate_limit_error": (("RateLimitError", 429), ("APIStatusError", 200)),
}
sys.exit(seen != expected)
LOOK
"$folder/venv/bin/python" "$folder/look.py"
