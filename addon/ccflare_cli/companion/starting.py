"""Starts the proxy in the background if none runs, as `scripts/run` would, and waits until it is up."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ccflare_cli.companion import readiness
from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.readiness import Answer
from ccflare_cli.console import Refused
from ccflare_core.files import make_private_folder

LOG = "proxy.log"
_LOCK = "proxy.lock"
_SECONDS = 180.0
_MOST_LOG_BYTES = 10 * 1024**2
_LAST_BYTES = 4096


class Started(NamedTuple):
    """A proxy that was started here."""

    process: subprocess.Popen[bytes]
    log: Path


_ask = partial(readiness.ask, is_closed=True)
"""By the page that tells as much as it may, and takes no key."""


def check_proxy(address: ProxyAddress) -> None:
    """Wait until the proxy at this address is up. Raises Refused if there is none, or it does not get so far."""
    answer = _ask(address)
    if answer is Answer.STARTING:
        answer = readiness.wait(partial(_ask, address), lambda: False, _SECONDS)
    if not answer.is_up:
        raise Refused(f"There is no proxy at {address.place}: {answer}.")


def ensure_proxy(
    address: ProxyAddress, folder: Path, command: Callable[[], Sequence[str]], environ: Mapping[str, str]
) -> Started | None:
    """Have a proxy at this address; what was started for that, None if one was there. Raises Refused.

    It goes on when this process ends. Its log and a lock, so that two do not start it at once, are in `folder`.
    """
    if _ask(address) is not Answer.NOTHING:
        check_proxy(address)
        return None
    try:
        make_private_folder(folder)
        with _alone(folder / _LOCK):
            if _ask(address) is Answer.NOTHING:
                return _start(address, folder / LOG, command(), environ)
            check_proxy(address)
            return None
    except OSError as error:
        raise Refused(f"The proxy cannot be started ({error.strerror}): check the rights of {folder}.") from None


def _start(address: ProxyAddress, log: Path, command: Sequence[str], environ: Mapping[str, str]) -> Started:
    with _opened(log) as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal is its end
        )
    answer = readiness.wait(partial(_ask, address), lambda: process.poll() is not None, _SECONDS)
    if answer.is_up and process.poll() is None:
        return Started(process, log)
    raise Refused(f"The proxy did not start ({_last_line(log)}): see {log}.")


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    """The log, for its owner alone, to be gone on with; begun anew once it is large."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        if os.fstat(descriptor).st_size > _MOST_LOG_BYTES:
            os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else is in such a block meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "nothing"
