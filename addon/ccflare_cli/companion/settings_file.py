"""A client's settings file, and what we remember of having changed it. Each is written whole or not at all."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from ccflare_cli.companion.edits import Change
from ccflare_cli.console import Refused
from ccflare_core.errors import ConfigError
from ccflare_core.files import draft, make_private_folder, sync_folder, write_whole
from ccflare_core.reading import read_bytes

_LIMIT = 4 * 1024**2
_OTHERS = 0o077


class Found(NamedTuple):
    """What is at a file's place. `mode` is None if nothing is."""

    content: bytes
    mode: int | None


class SettingsFile:
    """One file. Its place may be a link, which stays one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))

    def read(self) -> Found:
        """What is there. Raises Refused if that cannot be read, or is another user's."""
        try:
            found = self._target.stat()
        except FileNotFoundError:
            return Found(b"", None)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be looked at ({error.strerror}): check the rights of its folder."
            ) from None
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise Refused(f"{self.path} belongs to another user, so it stays as it is: edit it as that user.")
        try:
            return Found(read_bytes(self._target, _LIMIT), stat.S_IMODE(found.st_mode))
        except ConfigError as error:
            raise Refused(f"{error}.") from None

    def write(self, content: bytes, mode: int, before: Found) -> None:
        """Put this in the place of what was read `before`. Raises Refused, and writes nothing, if that has changed."""
        make_private_folder(self._target.parent)
        if self.read() != before:
            raise Refused(f"{self.path} was changed by another program just now: try again.")
        try:
            write_whole(self._target, content, mode)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be written ({error.strerror}): check the rights of its folder."
            ) from None

    def remove(self, *, with_folder: bool) -> None:
        """Take the file away, and its folder if there is nothing else in it."""
        self._target.unlink(missing_ok=True)
        sync_folder(self._target.parent)
        if with_folder and not any(self._target.parent.iterdir()):
            self._target.parent.rmdir()

    def check_private(self) -> None:
        """Raises Refused where a file would stay readable by others whatever its mode: on some mounts."""
        make_private_folder(self._target.parent)
        with draft(self._target) as probe:
            if probe.stat().st_mode & _OTHERS:
                raise Refused(
                    f"{self.path} would have a client key in it, and others could read it there: put it on a file "
                    "system with modes, or set ccflare_open_loopback."
                )


@dataclass(frozen=True, slots=True)
class Connection:
    """What is remembered of a client that was connected."""

    file: str
    was_there: bool
    made_folder: bool
    mode: int | None
    change: Change
    place: str = ""
    """Host and port of the proxy that it was led to."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The one that is remembered there. Raises Refused if the file is damaged."""
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(read_bytes(path, 2 * _LIMIT))
            return cls(**{**found, "change": Change.read(found["change"])})
        except (ConfigError, ValueError, KeyError, TypeError):
            raise Refused(
                f"{path}, which remembers what was changed, is damaged: take our entries out of the client's settings "
                "by hand, and delete it."
            ) from None

    def keep(self, path: Path) -> None:
        """Remember it, for its owner alone. Raises Refused."""
        fields: Mapping[str, object] = {name: getattr(self, name) for name in self.__slots__}
        text = json.dumps({**fields, "change": self.change.written()}, indent=1)
        try:
            make_private_folder(path.parent)
            write_whole(path, text.encode())
        except OSError as error:
            raise Refused(f"{path} cannot be written ({error.strerror}): check the rights of its folder.") from None
