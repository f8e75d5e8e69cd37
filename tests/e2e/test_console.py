"""mitmproxy's console with our addon, in a pseudo terminal: it starts, serves, shows, and leaves when it is told to."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from console_kit import CONTROL, Console
from fake_upstream import FakeUpstream
from harness import claude_request, via_base_url

LEAVES_SCREEN = "\x1b[?1049l"


@pytest.fixture
def console(upstream: FakeUpstream, tmp_path: Path) -> Iterator[Console]:
    console = Console(upstream, tmp_path, ccflare_log_level="debug", ccflare_inspector_bytes=0)
    console.add_api_key("one", "sk-ant-api03-one")
    with console:
        yield console


def ends_well(console: Console) -> bool:
    """Whether it ended with status 0, without an error, and has written down that its run is over."""
    status = console.wait()
    (run,) = console.rows("SELECT ended_at FROM runs")
    return status == 0 and run["ended_at"] is not None and "Traceback" not in console.log()


def test_the_console_serves_shows_and_leaves_by_its_keys(console: Console) -> None:
    with via_base_url(console) as client:
        assert client.request(*claude_request()).status == 200
    console.shown("/v1/messages")

    console.press("q")
    console.shown("Quit (")
    console.press("y")

    assert ends_well(console)


def test_the_console_opens_a_flow_whose_bodies_are_in_the_database(console: Console) -> None:
    with via_base_url(console) as client:
        assert client.request(*claude_request()).status == 200
    console.shown("/v1/messages")
    console.rows("SELECT request_id FROM payloads", until=lambda rows: len(rows) == 2)

    console.press("\r")

    console.shown("# user (the question)")
    console.shown("Say hello.")


def test_the_console_leaves_by_a_signal(console: Console) -> None:
    console.stop(signal.SIGTERM)

    assert ends_well(console)


def test_the_console_leaves_when_its_terminal_has_gone(console: Console) -> None:
    """It reads nothing from there without end, and would not see the signal by itself."""
    with via_base_url(console) as client:
        assert client.request(*claude_request()).status == 200
    console.shown("/v1/messages")

    console.leave()
    os.kill(console.pid, signal.SIGHUP)

    assert ends_well(console)
    (row,) = console.rows("SELECT outcome FROM requests")
    assert row["outcome"] == "ok"


def test_the_consoles_screen_gets_no_log_line(console: Console) -> None:
    """With ccflare_log_level=debug, which in a terminal shows what the event log has here."""
    with via_base_url(console) as client:
        client.request(*claude_request())
    console.shown("/v1/messages")

    assert "[debug]" not in console.log()


def test_the_console_says_why_it_does_not_start(upstream: FakeUpstream, tmp_path: Path) -> None:
    console = Console(upstream, tmp_path, ccflare_hold_seconds="soon")

    with pytest.raises(RuntimeError, match="ended with 1"):
        console.start()

    assert "ccflare: ccflare_hold_seconds: " in console.log()
    assert "Traceback" not in console.log()
    console.close()


def test_the_console_says_what_port_is_taken_when_it_has_given_the_screen_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        console = Console(None, tmp_path, arguments=("-p", str(port)))
        with pytest.raises(RuntimeError, match="ended with 1"):
            console.start()

    _, _, after = console.log().rpartition(LEAVES_SCREEN)
    assert CONTROL.sub("", after).strip().startswith(f"ccflare: port {port} is in use, something listens there already")
    assert "Errno" not in console.log()
    console.close()
