#!/bin/sh
# mitmproxy 12.3.1: with a script that sets listen_port, mitmdump does not start while its default port is taken.
#
# The servers are set up, on every interface and port 8080, one turn of the event loop before scripts are loaded. What a
# script's `load` sets as listen_host and listen_port comes after that: the error of the first attempt is noted, and ends
# the start although nothing is to listen there. With the port on the command line the same script starts.
# Exits with 0 while this is so. Needs Python 3.12, and port 8080, free or taken; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mitmproxy==12.3.1

cat >"$folder/look.py" <<'LOOK'
import contextlib
import pathlib
import socket
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
script = folder / "elsewhere.py"
script.write_text(
    "from mitmproxy import ctx\n"
    "def load(loader):\n"
    f"    ctx.options.update(listen_host='127.0.0.1', listen_port={port})\n"
)


def listens():
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    return False


def starts(*arguments):
    """Whether it listens on the script's port."""
    command = [folder / "venv/bin/mitmdump", "-s", script, "--set", f"confdir={folder}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if process.poll() is not None:
                return False
            if listens():
                return True
            time.sleep(0.1)
        return False
    finally:
        process.terminate()
        process.wait(60)


with contextlib.ExitStack() as held:
    with contextlib.suppress(OSError):  # somebody else has it
        held.enter_context(socket.create_server(("", 8080)))
    seen = {"port set by the script": starts(), "port on the command line": starts("-p", str(port))}
for name, is_started in seen.items():
    print(f"8080 is taken, {name}: {'starts' if is_started else 'ends with an error'}")
sys.exit(list(seen.values()) != [False, True])
LOOK
"$folder/venv/bin/python" "$folder/look.py" "$folder"
