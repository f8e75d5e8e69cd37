#!/bin/sh
# requests 2.32.5, httpx 0.28.1, Python's urllib: a proxy's address with a user and no password is read in three ways.
#
# Of http://label@proxy:8080 urllib and requests send no Proxy-Authorization at all, and say nothing of it: the user is
# dropped where there is no password. httpx sends label with an empty password. With http://label:@proxy:8080 urllib drops
# it still, and requests sends it. All three send what stands in http://label:-@proxy:8080. So a name in a proxy's address
# that is to tell its users apart needs some password beside it.
# Exits with 0 while this is so. Needs Python 3.10 or newer; PYTHON names another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check requests==2.32.5 httpx==0.28.1

cat >"$folder/look.py" <<'LOOK'
import base64
import http.server
import sys
import threading
import urllib.request

import httpx
import requests

came = []


class Proxy(http.server.BaseHTTPRequestHandler):
    """Notes what a client says of itself."""

    def do_GET(self):
        said = self.headers.get("Proxy-Authorization", "")
        came.append(base64.b64decode(said.partition(" ")[2]).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = "http://example.test/"


def by_urllib(proxy):
    urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy})).open(URL).close()


def by_requests(proxy):
    with requests.Session() as session:
        session.trust_env = False
        session.get(URL, proxies={"http": proxy})


def by_httpx(proxy):
    with httpx.Client(proxy=proxy, trust_env=False) as client:
        client.get(URL)


seen = {}
for user in ("label", "label:", "label:-"):
    for ask in (by_urllib, by_requests, by_httpx):
        ask(f"http://{user}@127.0.0.1:{server.server_port}")
    seen[user], came[:] = tuple(came), []
    print(f"{user}@: urllib {seen[user][0]!r}, requests {seen[user][1]!r}, httpx {seen[user][2]!r}")
expected = {
    "label": ("", "", "label:"),
    "label:": ("", "label:", "label:"),
    "label:-": ("label:-", "label:-", "label:-"),
}
sys.exit(seen != expected)
LOOK
"$folder/venv/bin/python" "$folder/look.py"
