"""Where a database is: the path of an SQLite file, or a PostgreSQL server. Pure.

An option can be seen in mitmweb and in the process list, so a URL in it has no password. A URL with one stands in a
file or comes from a program, which the option names.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ccflare_core.errors import ConfigError

_SCHEMES = ("postgresql", "postgres")
_INDIRECT = ("file:", "cmd:")
_BAD = re.compile(r"[ #\\]|%(?![0-9A-Fa-f]{2})")
_PASSWORDS = frozenset({"password", "sslpassword"})

SERVER_FORM = "postgresql://USER@HOST/DATABASE without a password, or file:PATH or cmd:PROGRAM for a URL"
FORM = f"the path of a file, {SERVER_FORM}"


@dataclass(frozen=True, slots=True)
class Server:
    """A database on a PostgreSQL server. `text` is its URL without a password, or says where the URL is to be had."""

    text: str

    def __str__(self) -> str:
        return self.text


Location = Path | Server


def is_server(text: str) -> bool:
    """Whether `text` means a server and not a file."""
    return text.startswith((*(f"{scheme}:" for scheme in _SCHEMES), *_INDIRECT))


def is_location_of_server(text: str) -> bool:
    """Whether it is a URL without a password, or leads to a URL."""
    if text.startswith(_INDIRECT):
        return bool(text.partition(":")[2].strip())
    return is_url(text) and not has_password(text)


def is_url(text: str) -> bool:
    """Whether it is one of libpq's URLs (https://www.postgresql.org/docs/current/libpq-connect.html) with a database.

    A character that has a meaning in URLs must be percent-encoded: libpq would take half a password for a host, and
    name that in its errors.
    """
    try:
        parts = urlsplit(text)
        names = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        return False
    is_plain = text.isprintable() and not _BAD.search(text) and parts.netloc.count("@") <= 1
    has_name = parts.path.count("/") == 1 and len(parts.path) > 1
    return parts.scheme in _SCHEMES and f"{parts.scheme}://" in text and is_plain and (has_name or "dbname" in names)


def has_password(text: str) -> bool:
    """Whether a URL has one in it."""
    parts = urlsplit(text)
    user = parts.netloc.rpartition("@")[0]
    return ":" in user or any(name in _PASSWORDS for name, _ in parse_qsl(parts.query, keep_blank_values=True))


def parse(text: str) -> Location:
    """The location that an option's checked value means; a path is made absolute. Raises ConfigError for a bad ~."""
    if is_server(text):
        return Server(text)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError("ccflare_database: there is no home folder for it; give the path of a file") from error
