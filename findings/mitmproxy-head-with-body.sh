#!/bin/sh
# mitmproxy 12.3.1: an addon's response to a HEAD request goes out with its body.
#
# RFC 9110, 9.3.2: "the server MUST NOT send content in the response" to HEAD. Over HTTP/1.1 the bytes of the body stand
# where the next response is expected; over HTTP/2 a strict client (h2 is one) ends the connection. An addon that makes
# responses has to leave the body out itself. Exits with 0 while this is so. Needs Python 3.12; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mitmproxy==12.3.1

cat >"$folder/answer.py" <<'ADDON'
from mitmproxy import http


def request(flow):
    flow.response = http.Response.make(200, b"hello", {"content-type": "text/plain"})
ADDON

cat >"$folder/look.py" <<'LOOK'
import pathlib, socket, ssl, subprocess, sys, time
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.exceptions import InvalidBodyLengthError

folder = pathlib.Path(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
proxy = subprocess.Popen(
    [folder / "venv/bin/mitmdump", "-q", "-s", folder / "answer.py", "--set", f"confdir={folder}",
     "--set", "connection_strategy=lazy", "--listen-host", "127.0.0.1", "-p", str(port)],
    stderr=subprocess.DEVNULL)


def tunnel(protocol):
    for _ in range(300):
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=30)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    plain.sendall(b"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n")
    assert b" 200 " in plain.recv(4096)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    secured = context.wrap_socket(plain, server_hostname="example.test")
    assert secured.selected_alpn_protocol() == protocol
    return secured


def http1():
    client = tunnel("http/1.1")
    client.sendall(b"HEAD / HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n")
    received = b""
    while data := client.recv(4096):
        received += data
    return received.partition(b"\r\n\r\n")[2]


def http2():
    client, connection, body = tunnel("h2"), H2Connection(), b""
    connection.initiate_connection()
    fields = {":method": "HEAD", ":path": "/", ":scheme": "https", ":authority": "example.test"}
    connection.send_headers(1, list(fields.items()), end_stream=True)
    client.sendall(connection.data_to_send())
    while True:
        try:
            events = connection.receive_data(client.recv(4096))
        except InvalidBodyLengthError as error:
            return str(error)
        for event in events:
            if isinstance(event, DataReceived):
                body += event.data
            if isinstance(event, StreamEnded):
                return body
        client.sendall(connection.data_to_send())


try:
    seen = {"HTTP/1.1": http1(), "HTTP/2": http2()}
finally:
    proxy.terminate()
    proxy.wait(30)
print("mitmproxy 12.3.1, what a client gets behind the head of a response to HEAD:", seen)
sys.exit(seen != {"HTTP/1.1": b"hello", "HTTP/2": "InvalidBodyLengthError: Expected 0 bytes, received 5"})
LOOK
"$folder/venv/bin/python" "$folder/look.py" "$folder"
