"""How tests start our programs: as `subprocess` does, but where nothing speaks against it by a fork.

See `fork_server.py`. What starts anew, as a user's does: the console, programs of another folder or Python, what is
given variables that Python, the C library or mitmproxy read at the start, and all but Linux.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
ADDON = str(REPOSITORY / "addon" / "ccflare.py")
_BIN = Path(sys.executable).parent
_PROGRAMS = ("mitmdump", "mitmweb")
_READ_AT_THE_START = ("PYTHON", "LC_", "LD_", "MALLOC_", "MITMPROXY_", "SSLKEYLOGFILE")
_HARMLESS = ("PYTHONUNBUFFERED",)
_LANG = os.environ.get("LANG", "C.UTF-8")


class _ForkServer:
    """The process that forks, for this one. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**kept, "PYTHONPATH": str(REPOSITORY / "addon"), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        atexit.register(self._close)

    def fork(self, order: Sequence[object], descriptors: Sequence[int]) -> int:
        """The id of the new process."""
        with self._lock:
            socket.send_fds(self._orders, [json.dumps(order).encode()], descriptors)
            if not (answer := self._orders.recv(4)):
                raise RuntimeError("the process that forks has ended")
        return int.from_bytes(answer, sys.byteorder)

    def _close(self) -> None:
        self._orders.close()
        self._process.wait(60)


_fork_server = cache(_ForkServer)


def _order(command: Sequence[str | Path], environment: Mapping[str, str] | None) -> list[object] | None:
    """What to fork: its words, whether it is a script of ours, its variables. None: it has to start anew."""
    words = [os.fspath(word) for word in command]
    variables = dict(os.environ if environment is None else environment)
    if sys.platform != "linux" or variables.get("LANG", _LANG) != _LANG:
        return None
    if any(name.startswith(_READ_AT_THE_START) and name not in _HARMLESS for name in variables):
        return None
    program = Path(words[0])
    if program.parent == _BIN and program.name in _PROGRAMS:
        others = [word for word in words if word.endswith("ccflare.py") and word != ADDON]
        return None if others else [words, False, variables]
    if words[0] == sys.executable and Path(words[1]).parent == SCRIPTS and words[1].endswith(".py"):
        return [words[1:], True, variables]
    return None


class Program(subprocess.Popen[Any]):
    """A `subprocess.Popen` whose process is forked, if it can be, from one that has imported what it needs."""

    _status: int | None = None
    """Where a forked one's exit status is told."""

    @property
    def is_forked(self) -> bool:
        """Else it has started anew."""
        return self._status is not None

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *others
    ) -> None:
        order = None if shell or preexec_fn or pass_fds or isinstance(args, str) else _order(args, env)
        if order is None:
            super()._execute_child(  # type: ignore[misc]
                *(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell),
                *others,
            )
            return
        stdin, _, _, stdout, _, stderr = pipes = others[:6]
        streams = [own if given == -1 else given for own, given in enumerate((stdin, stdout, stderr))]
        umask = os.umask(0)
        os.umask(umask)
        self._status, theirs = os.pipe()
        try:
            order += [os.fspath(cwd or Path.cwd()), umask, bool(others[11])]
            self.pid = _fork_server().fork(order, [*streams, theirs])
        finally:
            os.close(theirs)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, *others: Any, **more: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(*others, **more)  # type: ignore[misc, no-any-return]
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(blocking=False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if wait_flags & os.WNOHANG:
            told = select.poll()  # for a test with a thousand connections select() is too small
            told.register(self._status, select.POLLIN)
            if not told.poll(0):
                return 0, 0
        status = int.from_bytes(os.read(self._status, 4), sys.byteorder)
        os.close(self._status)
        return self.pid, status


def run(
    command: Sequence[str | Path],
    *,
    input: str | None = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **others: Any,
) -> "subprocess.CompletedProcess[Any]":
    """As `subprocess.run`, of a Program."""
    if input is not None:
        others["stdin"] = subprocess.PIPE
    if capture_output:
        others["stdout"] = others["stderr"] = subprocess.PIPE
    with Program(command, **others) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
