#!/bin/sh
# mitmproxy 12.3.1: of eight HTTP/2 requests of one client to an HTTP/1.1 server, five are sent and three wait.
#
# Each stream of an HTTP/2 client gets a connection of its own to a server that speaks HTTP/1.1, and a client may have
# five connections to one address, for as long as they are open (a semaphore in proxy/server.py that no option sets).
# So the sixth request stands still until a connection ends, whatever the answers of the first five do meanwhile.
# Exits with 0 while this is so. Needs Python 3.12; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mitmproxy==12.3.1

cat >"$folder/look.py" <<'LOOK'
import pathlib, socket, ssl, subprocess, sys, threading, time
from h2.connection import H2Connection
from h2.events import StreamEnded

REQUESTS = 8
folder = pathlib.Path(sys.argv[1])
arrived, lock, five, go_on = [], threading.Lock(), threading.Event(), threading.Event()


def serve(client):
    """Answer every request with 204, the first ones not before `go_on`, and let the client close."""
    while client.recv(4096):
        with lock:
            arrived.append(client)
        if len(arrived) >= 5:
            five.set()
        go_on.wait(60)
        client.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)


def accept(server):
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(server,), daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
proxy = subprocess.Popen(
    [folder / "venv/bin/mitmdump", "-q", "--mode", f"reverse:http://127.0.0.1:{server.getsockname()[1]}",
     "--set", f"confdir={folder}", "--listen-host", "127.0.0.1", "-p", str(port)],
    stderr=subprocess.DEVNULL)
try:
    for _ in range(300):
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=60)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    client, connection, ended = context.wrap_socket(plain, server_hostname="localhost"), H2Connection(), 0
    connection.initiate_connection()
    for number in range(REQUESTS):
        fields = {":method": "GET", ":path": f"/{number}", ":scheme": "https", ":authority": "localhost"}
        connection.send_headers(2 * number + 1, list(fields.items()), end_stream=True)
    client.sendall(connection.data_to_send())
    assert five.wait(60)
    time.sleep(3)  # for a sixth, which does not come
    waiting = REQUESTS - len(arrived)
    go_on.set()
    while ended < REQUESTS:
        ended += sum(isinstance(event, StreamEnded) for event in connection.receive_data(client.recv(4096)))
        client.sendall(connection.data_to_send())
finally:
    proxy.terminate()
    proxy.wait(30)
print(f"mitmproxy 12.3.1: {REQUESTS - waiting} requests on as many connections, {waiting} waited; in the end {ended} answers")
sys.exit(waiting != 3)
LOOK
"$folder/venv/bin/python" "$folder/look.py" "$folder"
