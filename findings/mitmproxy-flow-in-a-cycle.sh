#!/bin/sh
# mitmproxy 12.3.1: a flow that is over stays in memory, with its bodies, until Python next collects garbage.
#
# A stream's layer keeps methods of itself as its state, so it is part of a circle of references, and the flow hangs on it.
# Here ten requests of 1 MB each are answered in mitmdump while collections are off: all ten flows are still there, with
# their bodies, though nobody can reach them and their connections are closed. One collection frees all. In a proxy that
# does little the next full collection may be hours away; an addon that wants the memory sooner has to take a body out of
# its flow (`flow.request.raw_content = None`) in its last hook.
# Exits with 0 while this is so. Needs Python 3.12; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mitmproxy==12.3.1

cat >"$folder/count.py" <<'ADDON'
import gc
import weakref

from mitmproxy import http

gc.disable()
flows = weakref.WeakSet()


def told():
    bodies = [len(flow.request.raw_content or b"") for flow in flows]
    return f"{len(bodies)} flows, {sum(bodies) // 1_000_000} MB"


def request(flow):
    if flow.request.path == "/count":
        before = told()
        gc.collect()
        flow.response = http.Response.make(200, f"{before}; {told()}")
    else:
        flows.add(flow)
        flow.response = http.Response.make(200, b"done")
ADDON

cat >"$folder/look.py" <<'LOOK'
import http.client, pathlib, socket, subprocess, sys, time

folder = pathlib.Path(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
proxy = subprocess.Popen(
    [folder / "venv/bin/mitmdump", "-q", "-s", folder / "count.py", "--set", f"confdir={folder}",
     "--listen-host", "127.0.0.1", "-p", str(port)],
    stderr=subprocess.DEVNULL)


def ask(path, body=b""):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("POST", f"http://example.test{path}", body, {"Connection": "close"})
    with client.getresponse() as response:
        told = response.read().decode()
    client.close()
    return told


try:
    for _ in range(300):
        try:
            ask("/", b"")
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    ask("/count")  # nothing from before counts
    for _ in range(10):
        ask("/", b"x" * 1_000_000)
    time.sleep(1)  # for the ends of the connections
    seen = ask("/count")
finally:
    proxy.terminate()
    proxy.wait(30)
print("mitmproxy 12.3.1, what is left of ten requests of 1 MB before and after a collection:", seen)
sys.exit(seen != "10 flows, 10 MB; 0 flows, 0 MB")
LOOK
"$folder/venv/bin/python" "$folder/look.py" "$folder"
