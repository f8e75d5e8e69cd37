"""A PostgreSQL server of the tests' own: a new cluster in a passing folder, with a schema for each test."""

import contextlib
import itertools
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ccflare_core.config.location import Server
from harness import Port, eventually

ROLE = "ccflare"
GUARDED, PASSWORD = "guarded", "PLANTED%password"
"""A role that the server lets in with its password alone."""

_RULES = f"""
host all {GUARDED} 127.0.0.1/32 scram-sha-256
host shut all 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
local all all trust
"""
_SETTINGS = ("fsync=off", "listen_addresses=127.0.0.1", "max_connections=40", "shared_buffers=16MB")


def _programs() -> Path | None:
    """The folder with the programs of the newest server that is installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


PROGRAMS = _programs()
IS_HERE = PROGRAMS is not None and find_spec("psycopg") is not None


def _other_user() -> dict[str, Any]:
    """As whom to run it: PostgreSQL refuses to be root."""
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


class Cluster:
    """A running server that keeps nothing past `close`."""

    def __init__(self) -> None:
        if PROGRAMS is None:
            raise RuntimeError("install PostgreSQL (the package `postgresql`)")
        self._programs = PROGRAMS
        self._resources = contextlib.ExitStack()
        self.folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="ccflare-pg-")))
        if user := _other_user():
            shutil.chown(self.folder, user["user"], user["group"])
        port = Port()
        self._resources.callback(port.release)
        self.port = port.number
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
            self.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        options = ["-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._run("initdb", "-D", self.folder / "data", *options)
        (self.folder / "data" / "pg_hba.conf").write_text(_RULES)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **_other_user())

    def start(self) -> None:
        """Return when it takes connections."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        command += ["-p", str(self.port), *(word for setting in _SETTINGS for word in ("-c", setting))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True, **_other_user()
            )
        eventually(self._is_ready, timeout=60)

    def _is_ready(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """End it at once, as a crash of the machine would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it and remove all that it has written."""
        self.stop()
        self._resources.close()

    def execute(self, sql: str, location: Server | None = None) -> list[Any]:
        """The rows of a statement, as the server's owner."""
        import psycopg

        with psycopg.connect((location or self.url()).text, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str = "postgres", *, user: str = ROLE, schema: str = "", port: int = 0) -> Server:
        """The location of a database, or of a schema in it; `port` is that of a relay in between."""
        options = f"?options=-csearch_path%3D{schema}" if schema else ""
        return Server(f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}{options}")

    def new(self) -> str:
        """The name of a new and empty schema, which costs a fraction of a database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return name


class Relay(threading.Thread):
    """Passes bytes between clients and a server until a client sends `cut_at`, whose answer never comes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_at = b""

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (data := source.recv(65_536)):
                        return
                    (server if source is client else client).sendall(data)
                    if source is client and self.cut_at and self.cut_at in data:
                        self.cut_at = b""
                        server.recv(65_536)  # it has acted
                        return

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


POOLER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
POOLER_IS_HERE = IS_HERE and POOLER is not None

_POOLER = """[databases]
* = host=127.0.0.1 port={server} user={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""


_pooled = itertools.count(1)


class Pooler:
    """PgBouncer in front of a cluster. With `size` 1 all its clients share one connection to a database."""

    def __init__(self, cluster: Cluster, mode: str, size: int = 1) -> None:
        if POOLER is None:
            raise RuntimeError("install PgBouncer (the package `pgbouncer`)")
        self._cluster = cluster
        port = Port()
        self._release = port.release
        self.port = port.number
        settings = cluster.folder / f"pooler-{self.port}.ini"
        settings.write_text(_POOLER.format(server=cluster.port, role=ROLE, port=self.port, mode=mode, size=size))
        settings.chmod(0o644)
        with (cluster.folder / "pooler.log").open("ab") as log:
            self._process = subprocess.Popen(
                [POOLER, str(settings)], stdout=log, stderr=log, cwd=cluster.folder, **_other_user()
            )
        try:
            eventually(self._is_ready)
        except BaseException:
            self.close()
            raise

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def new(self) -> Server:
        """The location of a new and empty database behind it: a schema takes a parameter that it does not pass on."""
        name = f"pooled_{next(_pooled)}"  # not of its port, which another one may have had before
        self._cluster.execute(f"CREATE DATABASE {name}")
        return self._cluster.url(name, port=self.port)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(20)
        self._release()
