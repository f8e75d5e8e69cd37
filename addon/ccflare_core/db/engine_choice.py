"""Which engine a location takes."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ccflare_core.config.location import Location, Server
from ccflare_core.db import sqlite
from ccflare_core.db.announcements import Channel
from ccflare_core.db.engine import Engine
from ccflare_core.errors import StoreError
from ccflare_core.program import with_extra

if TYPE_CHECKING:
    from ccflare_core.db.announced import Hearing


def open_engine(location: Location, *, now_ms: int, read_only: bool = False) -> Engine:
    """The open database, which is made or brought up to date unless `read_only`. Raises StoreError."""
    if isinstance(location, Server):
        postgres = _postgres()
        opened = postgres.open_to_read(location) if read_only else postgres.open_to_write(location, now_ms)
    else:
        opened = sqlite.open_to_read(location) if read_only else sqlite.open_to_write(location, now_ms)
    engine: Engine = opened
    return engine


def is_frozen(location: Location) -> bool:
    """Whether it is a copy that nobody here can write. Raises StoreError if it cannot be read either."""
    return isinstance(location, Path) and location.exists() and sqlite.is_frozen(location)


def is_made(location: Location) -> bool:
    """Whether there is a database yet. Raises StoreError if a server cannot be asked."""
    return bool(_postgres().is_made(location)) if isinstance(location, Server) else location.exists()


def hear(server: Server, channel: Channel, option: str) -> "Hearing":
    """A connection that hears what is announced on the channel. Raises StoreError."""
    _postgres()
    from ccflare_core.db.announced import Hearing

    return Hearing(server, channel, option)


def unverified_mode(server: Server) -> str | None:
    """The sslmode that keeps a server from proving who it is, if one does. Raises StoreError."""
    _postgres()
    from ccflare_core.db import server_url

    return server_url.unverified_mode(server)


def _postgres() -> ModuleType:
    # Imported where it is used: a proxy with a file has no use for it, nor for its package.
    try:
        from ccflare_core.db import postgres
    except ImportError as error:
        raise StoreError(f"a PostgreSQL database needs psycopg: {with_extra('postgres')}") from error
    return postgres
