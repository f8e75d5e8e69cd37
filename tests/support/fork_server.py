"""One process that has imported what our programs import, and forks a child for each that a test starts.

Importing mitmproxy takes more than half of the time that a start takes, and it is the same each time. A child is
otherwise what the program would be: its arguments, variables, folder, streams, signals and exit are its own.
"""

import array
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ADDON = str(Path(__file__).resolve().parents[2] / "addon")
LARGEST = 1 << 20
"""Bytes of a request: an environment and a command line."""


class Job(NamedTuple):
    """What a child is to be."""

    argv: list[str]
    """As the program sees them: its own path first."""
    script: bool
    """A script of ours, else a program of mitmproxy's."""
    environment: dict[str, str]
    folder: str
    umask: int
    new_session: bool

    def run(self) -> None:
        """Be that program, to its end."""
        sys.argv = self.argv
        sys.path.remove(ADDON)
        if self.script:
            sys.path.insert(0, str(Path(self.argv[0]).parent))
            runpy.run_path(self.argv[0], run_name="__main__")
        else:
            from mitmproxy.tools import main

            sys.exit(getattr(main, Path(self.argv[0]).name)())

    def settle(self, streams: list[int]) -> None:
        """Take its place: session, folder, variables, streams."""
        if self.new_session:
            os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.chdir(self.folder)
        os.umask(self.umask)
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        tempfile.tempdir = None
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            for alias in (name, f"__{name}__"):
                setattr(sys, alias, _stream(number))


@cache
def _stream(number: int) -> io.TextIOWrapper:
    """A standard stream as Python makes it with PYTHONUNBUFFERED."""
    raw: Any = io.FileIO(number, "w" if number else "r", closefd=False)
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(
        raw if number else io.BufferedReader(raw),
        encoding="utf-8",
        errors=errors,
        line_buffering=number == 2,
        write_through=number > 0,
    )


def preload() -> None:
    """Import all that a program of ours may import, wherever the extras are there for it."""
    importlib.import_module("mitmproxy.tools.main")
    for name in ("mitmproxy.tools.dump", "mitmproxy.tools.web.master", "psycopg"):
        if find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    for name in ("ccflare_core", "ccflare_mitm", "ccflare_cli"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            with suppress(ImportError):
                importlib.import_module(module.name)


class Server:
    """Forks as it is told, and tells how each child ended: its status in four bytes on a pipe of the child's own."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._children: dict[int, int] = {}
        self._ended, wakeup = socket.socketpair()
        self._ended.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)  # a Ctrl-C is for the tests, which then go, and so does this

    def serve(self) -> Job | None:
        """What this process is to be, in each child; None when the tests have gone, and all children with them."""
        while True:
            ready, _, _ = select.select([self._orders, self._ended], [], [])
            if self._ended in ready:
                self._ended.recv(4096)
                self._reap()
            if self._orders in ready:
                message, descriptors, _, _ = socket.recv_fds(self._orders, LARGEST, 4)
                if not message:
                    break
                if job := self._fork(Job(*json.loads(message)), descriptors):
                    return job
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        return None

    def _fork(self, job: Job, descriptors: list[int]) -> Job | None:
        *streams, status = descriptors
        if pid := os.fork():
            self._children[pid] = status
            self._orders.send(array.array("i", [pid]).tobytes())
            for descriptor in streams:
                os.close(descriptor)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        job.settle(streams)
        for each in (*self._children.values(), *descriptors):
            os.close(each)
        for end in (self._orders, self._ended, self._wakeup):
            end.close()
        return job

    def _reap(self) -> None:
        for pid, status in list(self._children.items()):
            found, code = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._children[pid]
                with suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(status, array.array("i", [code]).tobytes())
                os.close(status)


if __name__ == "__main__":
    preload()
    gc.collect()
    gc.freeze()
    job = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if job is not None:
        job.run()
