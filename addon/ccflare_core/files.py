"""Private folders, and files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make `folder` with mode 0700 if it is missing. One that exists is left as its owner made it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def unblocked(path: str, flags: int) -> int:
    """An opener that does not wait for who writes to a pipe: the caller can see that it is one."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def draft(target: Path) -> Iterator[Path]:
    """An empty file (0600) under a passing name beside `target`, to be written and then published.

    The draft is gone at the end of the block, whatever happened.
    """
    path = target.with_name(f"{target.name}.{secrets.token_hex(8)}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def publish(path: Path, target: Path) -> bool:
    """Give the finished draft its real name. False, and nothing done, if another process was first.

    A hard link never replaces what is there. File systems without hard links get a rename, whose check and
    act are two steps, a few microseconds apart.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    except OSError:
        if target.exists():
            return False
        path.rename(target)
    sync_folder(target.parent)
    return True


def publish_audited(path: Path, target: Path, entry: AbstractContextManager[None]) -> bool:
    """Publish within the transaction that writes an audit entry: neither is there without the other.

    False, and no entry, if another process was first.
    """
    is_published = False
    try:
        with entry:
            is_published = publish(path, target)
            if not is_published:
                raise FileExistsError(target)
    except BaseException as error:
        if is_published:
            target.unlink(missing_ok=True)
        elif isinstance(error, FileExistsError):
            return False
        raise
    return True


def write_whole(target: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a file with this content and mode in the place of `target`, or make it: whole or not at all. OSError."""
    with draft(target) as new:
        new.chmod(mode)
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power, where the system can do that for folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def beside(path: Path, suffix: str) -> Path:
    """The file that SQLite keeps beside the database under this suffix: "-wal" or "-shm"."""
    return path.with_name(path.name + suffix)
