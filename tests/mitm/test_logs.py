"""The log: one JSON object a line whatever it says, and whose messages are shown at which level."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.addons.termlog import TermLog
from mitmproxy.test import taddons

from ccflare_mitm import logs
from ccflare_mitm.logs import Flusher, JsonFormatter

CONNECTIONS, PEEWEE = "mitmproxy.proxy.server", "peewee"
OURS = logging.getLogger(logs.OURS)


def record(message: object, *arguments: object, trouble: BaseException | None = None) -> logging.LogRecord:
    info = (type(trouble), trouble, None) if trouble else None
    made = logging.LogRecord("ccflare", logging.WARNING, __file__, 1, message, arguments, info)
    made.created = 1_800_000_000.25
    return made


class Terminal:
    """mitmproxy's terminal log, written to a string."""

    def __init__(self, context: taddons.context, patch: pytest.MonkeyPatch) -> None:
        self.text = io.StringIO()
        with patch.context() as inner:
            inner.delenv("PYTEST_CURRENT_TEST")  # by which mitmproxy would tell the fixture's phase from the test's
            self.addon = TermLog(self.text)
        context.master.addons.add(self.addon)
        self.options = context.options

    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Also puts all loggers back as they were."""
    loggers = [logging.getLogger(name) for name in (logs.OURS, PEEWEE, CONNECTIONS)]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    with taddons.context() as context:
        terminal = Terminal(context, monkeypatch)
        yield terminal
        terminal.addon.uninstall()
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


# --- one object a line ------------------------------------------------------------------------------------------------


def test_a_message_is_an_object() -> None:
    assert json.loads(JsonFormatter().format(record("%s rests", "max-1"))) == {
        "ts": "2027-01-15T08:00:00.250+00:00",
        "level": "WARNING",
        "logger": "ccflare",
        "msg": "max-1 rests",
    }


def test_an_exception_is_told_within_its_line() -> None:
    line = JsonFormatter().format(record("failed", trouble=ValueError("broken\nin two")))

    assert "\n" not in line
    assert json.loads(line)["exception"] == "ValueError: broken\nin two"


@given(st.text(st.characters()))
def test_nothing_in_a_message_starts_a_line_or_a_field(text: str) -> None:
    line = JsonFormatter().format(record("asked for %s", text))

    assert line.isascii()
    assert line.isprintable()
    entry: dict[str, Any] = json.loads(line)
    assert set(entry) == {"ts", "level", "logger", "msg"}
    assert entry["msg"] == f"asked for {text}"


def test_an_injected_line_stays_inside_its_own() -> None:
    line = JsonFormatter().format(record('x\r\n{"level": "INFO"}\u2028\x1b[31m'))

    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


# --- who is heard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_our_messages_are_shown_from_the_level_that_was_asked_for(
    terminal: Terminal, level: str, heard: list[str]
) -> None:
    logs.configure(level, "json")

    for name in ("debug", "info", "warning", "error"):
        OURS.log(getattr(logging, name.upper()), name)

    assert [json.loads(line)["msg"] for line in terminal.lines()] == heard


def test_text_is_left_to_mitmproxy(terminal: Terminal) -> None:
    logs.configure("info", "text")

    OURS.info("max-1 serves")

    (line,) = terminal.lines()
    assert "max-1 serves" in line
    assert not line.startswith("{")


@pytest.mark.parametrize(("form", "shown"), [("text", "[debug] asked"), ("json", '"msg": "asked"')])
def test_debug_shows_our_own_messages_only(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], form: str, shown: str
) -> None:
    logs.configure("debug", form)
    logs.configure("debug", form)

    OURS.debug("asked")
    OURS.info("answered")
    logging.getLogger("mitmproxy.other").debug("noise")

    assert capsys.readouterr().out.count(shown) == 1
    assert [("answered" in line, "asked" in line) for line in terminal.lines()] == [(True, False)]


def test_with_all_of_mitmproxys_messages_ours_come_the_same_way(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.options.update(termlog_verbosity="debug")
    logs.configure("debug", "text")

    OURS.debug("asked")

    assert sum("asked" in line for line in terminal.lines()) == 1
    assert capsys.readouterr().out == ""


def test_the_databases_statements_are_never_shown(terminal: Terminal) -> None:
    terminal.options.update(termlog_verbosity="debug")
    logs.configure("debug", "text")

    logging.getLogger(PEEWEE).debug("INSERT %s", "a secret")

    assert terminal.lines() == []


@pytest.mark.parametrize(("verbosity", "shown"), [("info", 0), ("debug", 1)])
def test_connections_are_shown_to_those_who_ask(terminal: Terminal, verbosity: str, shown: int) -> None:
    terminal.options.update(termlog_verbosity=verbosity)
    logs.configure("info", "text")

    logging.getLogger(CONNECTIONS).info("client connect")

    assert len(terminal.lines()) == shown


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_console_has_no_terminal_log_and_its_screen_stays_its_own(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    with taddons.context() as context:
        assert "termlog_verbosity" not in context.options
        logs.configure("debug", form)
        OURS.debug("asked")

    assert capsys.readouterr() == ("", "")
    assert OURS.level == logging.DEBUG


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("verbosity", "level"), [("info", logging.WARNING), ("debug", logging.NOTSET)])
def test_connections_are_in_the_consoles_event_log_for_those_who_ask(verbosity: str, level: int) -> None:
    with taddons.context() as context:
        context.options.add_option("console_eventlog_verbosity", str, verbosity, "")
        logs.configure("info", "text")

    assert logging.getLogger(CONNECTIONS).level == level


# --- when it is written -----------------------------------------------------------------------------------------------


class Gathering(io.StringIO):
    """What is written to it, as far as it was flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.written = ""

    def flush(self) -> None:
        self.times += 1
        self.written = self.getvalue()


async def said(stream: Gathering, *levels: int) -> Flusher:
    flusher = Flusher(stream, asyncio.get_running_loop())
    for number, level in enumerate(levels):
        stream.write(f"{number}\n")
        flusher.handle(logging.makeLogRecord({"levelno": level, "msg": str(number)}))
    return flusher


async def test_lines_of_one_moment_are_written_together_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.01)
    stream = Gathering()
    flusher = await said(stream, *[logging.INFO] * 50)
    assert stream.times == 0
    while not stream.times:
        await asyncio.sleep(0.005)
    assert (stream.times, stream.written.count("\n")) == (1, 50)

    stream.write("50\n")
    await asyncio.to_thread(flusher.handle, logging.makeLogRecord({"levelno": logging.DEBUG, "msg": "50"}))
    while stream.times == 1:
        await asyncio.sleep(0.005)
    assert stream.written.endswith("50\n")


async def test_a_warning_is_written_at_once_with_what_was_said_before_it() -> None:
    stream = Gathering()
    await said(stream, logging.INFO, logging.WARNING)
    assert (stream.times, stream.written) == (1, "0\n1\n")


def test_without_an_event_loop_each_line_is_written_at_once() -> None:
    stream, loop = Gathering(), asyncio.new_event_loop()
    loop.close()
    flusher = Flusher(stream, loop)
    for _ in range(2):
        flusher.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": ""}))
    assert stream.times == 2


async def test_a_log_that_cannot_be_written_ends_the_program() -> None:
    class Closed(Gathering):
        def flush(self) -> None:
            raise BrokenPipeError

    with pytest.raises(SystemExit):
        await said(Closed(), logging.ERROR)
