"""What is in a file that a person wrote, read within a limit. Errors are ConfigErrors that name the file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ccflare_core.errors import ConfigError

TEXT_LIMIT = 256 * 1024
"""Bytes: far more than any file that a person writes for ccflare."""
_WRITING_SECONDS: Final = 0.05
"""An editor may empty a file before it fills it again, and rules that are half there allow more than all of them."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content. Raises ConfigError, also if that is more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read ({error.strerror}): check the path and its mode") from error
    if len(content) > limit:
        raise ConfigError(f"{path}: the file is longer than {limit // 1024} KiB: shorten it, or name another one")
    return content


def read_text(path: Path) -> str:
    """The content as text, of at most TEXT_LIMIT bytes. Raises ConfigError."""
    try:
        return read_bytes(path, TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the file is not text: save it as UTF-8") from error


class FileWatch[T]:
    """Notices that a file is another one than before. All of it blocks, so it runs beside the event loop.

    `load` makes something of the file, or of None if there is to be none, and raises ConfigError. `stays` says what is
    so while the file has mistakes.
    """

    def __init__(
        self,
        path: Callable[[], Path | None],
        load: Callable[[Path | None], T],
        stays: str,
        on_trouble: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.trouble: str | None = None
        """Why the file that is there now is not in force."""
        self._path = path
        self._load = load
        self._stays = stays
        self._on_trouble = on_trouble
        self._pause = pause
        self._seen: object = None

    def start(self) -> T:
        """What is in the file now. Raises ConfigError."""
        self._seen = self._state()
        return self._loaded()

    def look(self) -> T | None:
        """What is in it if it has changed. A file with mistakes is told of once, and what was before stays.

        One that is being written is left for the next time.
        """
        state = self._state()
        if state == self._seen:
            return None
        self._pause(_WRITING_SECONDS)
        found: T | None = None
        trouble = None
        try:
            found = self._loaded()
        except ConfigError as error:
            trouble = f"{self._stays}: {error}"
        if self._state() != state:
            return None
        self._seen, self.trouble = state, trouble
        if trouble is not None:
            self._on_trouble(trouble)
        return found

    def _loaded(self) -> T:
        path = self._path()
        if path and path.exists() and not path.is_file():  # a pipe would be waited for, and is empty the second time
            raise ConfigError(f"{path}: this is no ordinary file: name one")
        return self._load(path)

    def _state(self) -> object:
        path = self._path()
        try:
            info = path.stat() if path else None
        except OSError:
            return path
        return path, info and (info.st_ino, info.st_size, info.st_mtime_ns)
