#!/bin/sh
# opentelemetry-exporter-otlp-proto-http 1.45.2: a receiver that answers 307 gets nothing, and the export is a success.
#
# The exporter follows no redirect, and takes each status below 400 as a batch that has arrived. An endpoint that has
# moved (http to https, a path with or without a slash) therefore loses all spans, and neither the result of the export
# nor a line of the log tells of it. Whoever has to know lets a session of their own raise on a status from 300 on.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2

cat >"$folder/look.py" <<'LOOK'
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

asked, said = [], []


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append(self.path)
        self.send_response(200 if self.path == "/moved" else 307)
        self.send_header("Location", "/moved")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Lines(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


logging.getLogger("opentelemetry").addHandler(Lines())
server = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces", timeout=5)
with TracerProvider().get_tracer("example").start_as_current_span("example") as span:
    pass
result = exporter.export([span])
server.shutdown()
print(f"asked for {asked}; result {result.name}; log lines {said}")
sys.exit((asked, result, said) != (["/v1/traces"], SpanExportResult.SUCCESS, []))
LOOK
"$folder/venv/bin/python" "$folder/look.py"
