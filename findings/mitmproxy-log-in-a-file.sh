#!/bin/sh
# mitmproxy 12.3.1: what mitmdump logs into a file or a pipe is not there before 8 KiB have gathered or it ends.
#
# The log goes through print() on standard output without a flush, and Python holds back what does not go to a terminal.
# So `mitmdump > proxy.log` and a service's journal stay empty for hours on a quiet proxy, and a kill -9 loses what was
# logged. With PYTHONUNBUFFERED=1 each line is there at once.
# Exits with 0 while this is so. Needs Python 3.12; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mitmproxy==12.3.1

cat >"$folder/look.py" <<'LOOK'
import os
import pathlib
import socket
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])


def lines(**variables):
    """How many lines the log has while the proxy runs, and after it has ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [folder / "venv/bin/mitmdump", "--listen-host", "127.0.0.1", "-p", str(port)]
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        settings = ["--set", f"confdir={folder}"]
        process = subprocess.Popen([*command, *settings], stdout=out, env={**environment, **variables})
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(3)  # what it says of the connection has been logged by now
        running = len(log.read_text().splitlines())
    finally:
        process.terminate()
        process.wait(60)
    return running, len(log.read_text().splitlines())


seen = {"as it is": lines(), "with PYTHONUNBUFFERED=1": lines(PYTHONUNBUFFERED="1")}
for name, (running, ended) in seen.items():
    print(f"{name}: {running} lines while it runs, {ended} after it has ended")
(running, ended), (at_once, _) = seen.values()
sys.exit(not (running == 0 < ended and at_once > 0))
LOOK
"$folder/venv/bin/python" "$folder/look.py" "$folder"
