"""The proxy is started if none runs: a real one, in the background."""

import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.readiness import Answer, ask
from ccflare_cli.companion.starting import LOG, check_proxy, ensure_proxy
from ccflare_cli.console import Refused
from harness import ADDON, Port, authority
from home_kit import answering


def never() -> Sequence[str]:
    raise AssertionError("nothing is to be started")


def test_a_proxy_is_started_once_and_outlives_who_has_started_it(tmp_path: Path) -> None:
    port, folder = Port(), tmp_path / "data"
    address = ProxyAddress(f"127.0.0.1:{port.number}")
    options = (f"confdir={authority()}", f"ccflare_database={tmp_path / 'ccflare.db'}")
    command = [str(Path(sys.executable).with_name("mitmdump")), "-p", str(port.number), "-s", str(ADDON)]
    command += [word for option in options for word in ("--set", option)]

    started = ensure_proxy(address, folder, lambda: command, {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"})

    assert started is not None
    process = started.process
    try:
        assert ask(address) in (Answer.READY, Answer.NO_ACCOUNT)
        assert os.getsid(process.pid) == process.pid  # no terminal of ours is its end
        assert (started.log, stat.S_IMODE(started.log.stat().st_mode)) == (folder / LOG, 0o600)
        assert "listening" in started.log.read_text()
        assert ensure_proxy(address, folder, never, {}) is None
        check_proxy(address)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        port.release()


def test_a_proxy_that_does_not_start_is_told_of_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    port = Port()
    program = [sys.executable, "-c", "import sys; sys.exit('the option is misspelt')"]
    try:
        with pytest.raises(Refused, match=r"did not start \(the option is misspelt\): see .*proxy\.log"):
            ensure_proxy(ProxyAddress(f"127.0.0.1:{port.number}"), tmp_path, lambda: program, {})
    finally:
        port.release()


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    port, other = Port(), tmp_path / "other"
    other.write_text("mine")
    (tmp_path / LOG).symlink_to(other)
    try:
        with pytest.raises(Refused, match="cannot be started"):
            ensure_proxy(ProxyAddress(f"127.0.0.1:{port.number}"), tmp_path, lambda: [sys.executable, "-c", ""], {})
    finally:
        port.release()
    assert other.read_text() == "mine"


def test_another_program_at_the_address_is_no_proxy(tmp_path: Path) -> None:
    with answering(200, b"<html>") as place, pytest.raises(Refused, match="another program answers there"):
        ensure_proxy(ProxyAddress(place), tmp_path, never, {})


def test_a_proxy_that_is_named_by_its_address_is_not_started() -> None:
    port = Port()
    try:
        with pytest.raises(Refused, match="nothing listens there"):
            check_proxy(ProxyAddress(f"127.0.0.1:{port.number}"))
    finally:
        port.release()
