"""How messages reach the terminal, and a file: as text or as one JSON object a line, ours at the level asked for."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from mitmproxy import ctx

from ccflare_core.config.settings import Settings
from ccflare_mitm.log_file import Bounds, LineFormatter, LogFile

OURS = "ccflare"
_CONNECTIONS = "mitmproxy.proxy.server"
"""Logs each connection made and lost at INFO: two lines a request that say nothing."""
_VERBOSITIES = ("termlog_verbosity", "console_eventlog_verbosity")
"""mitmproxy's own levels: mitmdump and mitmweb have the first, the console, which writes no log, the second."""
FLUSH_SECONDS: Final = 0.1
"""After which a line is written at the latest."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; control characters in it cannot start a line of their own."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: str, form: str) -> None:
    """Apply ccflare_log_level and ccflare_log_format."""
    logger = logging.getLogger(OURS)
    logger.setLevel(level.upper())
    # peewee logs statements with their parameters, which are what we store.
    logging.getLogger("peewee").setLevel(logging.WARNING)
    # What does not arrive is told once, and by us.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    verbose = any(getattr(ctx.options, name) == "debug" for name in _VERBOSITIES if name in ctx.options)
    logging.getLogger(_CONNECTIONS).setLevel(logging.NOTSET if verbose else logging.WARNING)
    terminal = ctx.master.addons.get("termlog")
    if terminal is None:
        return  # the screen belongs to the console, whose event log has its own look
    if form == "json":
        terminal.logger.setFormatter(JsonFormatter())
    if level == "debug" and not verbose and not logger.handlers:
        _show_debug(logger, form)


def write_soon(loop: asyncio.AbstractEventLoop) -> None:
    """Have each line of the log reach a journal, a file or a pipe soon: Python gathers 8 KiB for those."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.line_buffering:
        logging.getLogger().addHandler(Flusher(sys.stdout, loop))


class Flusher(logging.Handler):
    """Writes out what a stream has gathered: at once with a warning, else a moment later, for all lines of that moment.

    To write each line by itself is a system call a request, during which the writer's thread takes the interpreter.
    """

    def __init__(self, stream: TextIO, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._stream = stream
        self._loop = loop
        self._is_coming = False

    def emit(self, record: logging.LogRecord) -> None:
        """Called for each line, behind the handler that prints it."""
        if record.levelno >= logging.WARNING or self._loop.is_closed():
            self._write_out()
        elif not self._is_coming:
            self._is_coming = True
            self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, self._write_out)

    def _write_out(self) -> None:
        self._is_coming = False
        try:
            self._stream.flush()
        except OSError:
            sys.exit(1)  # as mitmproxy does when it cannot print


def hush(may_tell: Callable[[str], bool]) -> None:
    """Leave lines about a client's connection out, mitmproxy's or ours, where `may_tell` says so of its address.

    It is asked only of what would be shown.
    """

    def shows(record: logging.LogRecord) -> bool:
        client = getattr(record, "client", None)
        return not client or record.levelno < logging.WARNING or may_tell(str(client[0]))

    for name in (OURS, _CONNECTIONS):
        logging.getLogger(name).addFilter(shows)


def _show_debug(logger: logging.Logger, form: str) -> None:
    """Show our own DEBUG messages, which mitmproxy's terminal leaves out, without all of mitmproxy's."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("[debug] %(message)s"))
    handler.addFilter(lambda record: record.levelno < logging.INFO)
    logger.addHandler(handler)


def open_file(settings: Settings, own: Callable[[Path], Path] | None = None) -> LogFile | None:
    """Begin to write ccflare_log_file, if it is set; `own` gives a worker's. ConfigError if it cannot be written."""
    if settings.log_file is None:
        return None
    bounds = Bounds(settings.log_file_bytes, settings.log_file_days, settings.log_file_count)
    formatter = JsonFormatter() if settings.log_format == "json" else LineFormatter()
    path = own(settings.log_file) if own else settings.log_file
    file = LogFile(path, bounds, formatter, is_shown)
    file.start()
    return file


def is_shown(record: logging.LogRecord) -> bool:
    """Whether the terminal shows it, or would if there were no console in its place."""
    terminal = ctx.master.addons.get("termlog")
    lowest = terminal.logger.level if terminal is not None else logging.INFO
    return record.levelno >= lowest or record.name == OURS  # ours has its level at its logger
