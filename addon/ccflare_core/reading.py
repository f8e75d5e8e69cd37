"""What is in a file that a person wrote, read within a limit. Errors are ConfigErrors that name the file."""

from pathlib import Path

from ccflare_core.errors import ConfigError

TEXT_LIMIT = 256 * 1024
"""Bytes: far more than any file that a person writes for ccflare."""


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
