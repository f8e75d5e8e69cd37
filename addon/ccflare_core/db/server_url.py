"""How to connect to a PostgreSQL server: its URL, and what is added to it, such as TLS with a verified certificate."""

import os
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ccflare_core.config.location import Server, is_url
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.http.origins import is_this_machine
from ccflare_core.secrets.references import read_secret

_CONNECTION: dict[str, str | int] = {
    "application_name": "ccflare",
    "connect_timeout": 5,
    # A server that is gone without a word is noticed within 25 s.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""What the URL may say otherwise."""


_VERIFYING = ("verify-ca", "verify-full")


def url_of(server: Server, option: str = "ccflare_database") -> str:
    """The URL to connect to, asked for anew each time: a program may give passwords that pass. Raises StoreError.

    `option` has named the server.
    """
    try:
        url = read_secret({option: server.text}, option) or ""
    except VaultError as error:
        raise StoreError(str(error)) from error
    if not is_url(url):
        raise StoreError("this leads to no postgresql:// URL (whose special characters must be percent-encoded)")
    return url


def parameters(url: str, environ: "os._Environ[str] | dict[str, str]") -> dict[str, Any]:
    """What to connect with. Off this machine that is TLS with a verified certificate, unless it is asked otherwise."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreError("PostgreSQL's library does not take this URL: see what may stand after its ?") from None
    found = {**_CONNECTION, **given, "client_encoding": "UTF8"}  # whatever PGCLIENTENCODING says
    if "sslmode" not in given and not environ.get("PGSSLMODE") and not _is_here(given, environ):
        found["sslmode"] = "verify-full"
        named = given.get("sslrootcert") or environ.get("PGSSLROOTCERT")
        if not named and not (Path.home() / ".postgresql" / "root.crt").exists():
            found["sslrootcert"] = "system"
    return found


def unverified_mode(server: Server) -> str | None:
    """The sslmode by which nobody can tell whether it is the right server; None if there is none, or it is here.

    Raises StoreError if the URL cannot be had.
    """
    found = parameters(url_of(server), os.environ)
    mode = str(found.get("sslmode") or os.environ.get("PGSSLMODE"))
    return None if _is_here(found, os.environ) or mode in _VERIFYING else mode


def _is_here(given: dict[str, Any], environ: "os._Environ[str] | dict[str, str]") -> bool:
    """Whether every host is a socket's folder or a loopback address."""
    hosts = str(given.get("hostaddr") or given.get("host") or environ.get("PGHOST") or "/")
    return all(_is_local(host) for host in hosts.split(","))


def _is_local(host: str) -> bool:
    return not host or host.startswith(("/", "@")) or is_this_machine(host)
