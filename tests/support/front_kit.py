"""nginx and HAProxy in front of two proxies, set up by the very files that the README hands out."""

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from fake_upstream.certificates import Certificates, make_certificates
from harness import REPOSITORY, Port, RawClient, accepts, eventually, trusting

NGINX, HAPROXY = (shutil.which(name) or shutil.which(name, path="/usr/sbin") for name in ("nginx", "haproxy"))
ARE_HERE = NGINX is not None and HAPROXY is not None

_NGINX = """{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {recipe}
}}
"""
"""What stands around the recipe. All that is written is in a folder of the test's."""


class Place(NamedTuple):
    """What takes the place of the names in a recipe."""

    folder: Path
    port: int
    certificates: Certificates
    proxies: tuple[int, int]
    """Their ports."""
    key: str
    """That of a viewer."""
    has_pages: bool = False
    """Whether it hands on our own pages too, as the recipe says how."""


class Made(NamedTuple):
    """How to start it: a command, behind which the name of a file with this text comes."""

    command: list[str]
    text: str
    admin: Path | None = None
    """A socket at which it tells what it thinks of the proxies."""


class Front:
    """A running one, that speaks TLS."""

    def __init__(
        self, make: "Maker", folder: Path, proxies: tuple[int, int], key: str, *, has_pages: bool = False
    ) -> None:
        self._port = Port()
        self._ca_file = (certificates := make_certificates(folder)).ca_file
        command, text, self._admin = make(Place(folder, self._port.number, certificates, proxies, key, has_pages))
        settings, log = folder / "settings", folder / "log"
        settings.write_text(text)
        with log.open("wb") as out:
            self._process = subprocess.Popen([*command, str(settings)], cwd=folder, stdout=out, stderr=out)
        try:
            eventually(lambda: accepts(self._port.number) or self._process.poll() is not None)
            assert self._process.poll() is None, log.read_text()
        except BaseException:
            self.close()
            raise

    def client(self, source: str = "") -> RawClient:
        """A connection to it, from this address."""
        return RawClient("127.0.0.1", self._port.number, tls=trusting(self._ca_file), source=source)

    def trusts_both(self) -> bool:
        """Whether it would send requests to either proxy. One that asks nobody for health tries always."""
        if self._admin is None:
            return True
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._admin))
            admin.sendall(b"show stat\n")
            table = admin.makefile().read().lstrip("# ")
        rows = csv.DictReader(table.splitlines())
        states = [row["status"] for row in rows if row["pxname"] == "ccflare" and row["svname"] in ("one", "two")]
        return [state.startswith("UP") for state in states] == [True, True]

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(60)
        self._port.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def proxy_options() -> dict[str, Any]:
    """The options that the README gives to proxies behind a front; this machine stands for the clients' network."""
    section = (REPOSITORY / "README.md").read_text().partition("### Behind nginx or HAProxy\n")[2]
    block = section.partition("```yaml\n")[2].partition("```")[0]
    return dict(line.split(": ", 1) for line in filled(block, {"10.0.0.0/8": "127.0.0.0/8"}).splitlines())


def filled(text: str, changes: Mapping[str, str]) -> str:
    """The text with each of these in place of another; AssertionError if that one is not in it."""
    for old, new in changes.items():
        assert old in text, f"the recipe has no {old}"
        text = text.replace(old, new)
    return text


def recipe(name: str, changes: Mapping[str, str]) -> str:
    """A file that the README hands out."""
    return filled((REPOSITORY / "scripts" / name).read_text(), changes)


def nginx(place: Place) -> Made:
    """By scripts/nginx.conf. It asks nobody for health, so it has no key."""
    changes = {
        "listen 443": f"listen 127.0.0.1:{place.port}",
        "/etc/ssl/proxy.example.pem": str(place.certificates.chain_file),
        "/etc/ssl/proxy.example.key": str(place.certificates.key_file),
        "server 127.0.0.1:8080": f"server 127.0.0.1:{place.proxies[0]}",
        "server 127.0.0.1:8090": f"server 127.0.0.1:{place.proxies[1]}",
    }
    if place.has_pages:
        changes["    location /ccflare/ { return 403; }\n"] = ""
    user = "user root;" if os.geteuid() == 0 else ""  # its workers would be another, who may not into the folder
    text = _NGINX.format(user=user, folder=place.folder, recipe=recipe("nginx.conf", changes))
    return Made([str(NGINX), "-e", "stderr", "-p", str(place.folder), "-c"], text)


def haproxy(place: Place) -> Made:
    """By scripts/haproxy.cfg. It wants the certificate and its key in one file."""
    both = place.folder / "both.pem"
    both.touch(0o600)
    both.write_bytes(place.certificates.chain_file.read_bytes() + place.certificates.key_file.read_bytes())
    changes = {
        "bind :443": f"bind 127.0.0.1:{place.port}",
        "/etc/haproxy/proxy.example.pem": str(both),
        "server one 127.0.0.1:8080": f"server one 127.0.0.1:{place.proxies[0]}",
        "server two 127.0.0.1:8090": f"server two 127.0.0.1:{place.proxies[1]}",
        "Bearer KEY": f"Bearer {place.key}",
    }
    if place.has_pages:
        changes["    http-request deny if { path_beg /ccflare/ }\n"] = ""
    admin = place.folder / "admin"
    top = f"global\n    maxconn 200\n    stats socket {admin} mode 600\n"
    return Made([str(HAPROXY), "-db", "-f"], top + recipe("haproxy.cfg", changes), admin)


Maker = Callable[[Place], Made]
MAKERS: dict[str, Maker] = {"nginx": nginx, "haproxy": haproxy}
