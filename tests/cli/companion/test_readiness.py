"""Whether the proxy is up, by what is at its address."""

import json
import socket
import threading

import pytest

from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.readiness import Answer, ask, takes_run, wait
from harness import Port
from home_kit import answering

ERROR = {"type": "error", "error": {"type": "authentication_error", "message": "…"}}


@pytest.mark.parametrize(
    ("status", "told", "answer"),
    [
        (200, {"status": "ok", "ready": True}, Answer.READY),
        (503, {"status": "ok", "ready": False}, Answer.NO_ACCOUNT),
        (401, ERROR, Answer.CLOSED),
        (200, {"status": "ok"}, Answer.CLOSED),
        (503, ERROR, Answer.STARTING),
        (200, {"hello": 1}, Answer.FOREIGN),
        (200, [], Answer.FOREIGN),
    ],
)
def test_an_answer_tells_how_far_the_proxy_is(status: int, told: object, answer: Answer) -> None:
    with answering(status, json.dumps(told).encode()) as place:
        assert ask(ProxyAddress(place)) is answer


def test_another_programs_page_is_none_of_ours() -> None:
    with answering(200, b"<html>") as place:
        assert ask(ProxyAddress(place)) is Answer.FOREIGN


def test_a_closed_port_is_nothing() -> None:
    port = Port()
    try:
        assert ask(ProxyAddress(f"127.0.0.1:{port.number}")) is Answer.NOTHING
    finally:
        port.release()


def test_what_speaks_no_http_is_another_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(65_536)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            assert ask(ProxyAddress(f"127.0.0.1:{server.getsockname()[1]}")) is Answer.FOREIGN
        finally:
            thread.join()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waited(*answers: Answer, has_failed: bool = False) -> tuple[Answer, float]:
    clock, left = Clock(), list(answers)
    found = wait(
        lambda: left.pop(0) if len(left) > 1 else left[0],
        lambda: has_failed,
        10,
        clock=lambda: clock.now,
        sleep=clock.sleep,
    )
    return found, clock.now


def test_waiting_ends_when_the_proxy_is_up() -> None:
    found, seconds = waited(Answer.NOTHING, Answer.STARTING, Answer.READY)

    assert found is Answer.READY
    assert seconds < 1


def test_waiting_ends_with_the_time_or_with_a_failed_service() -> None:
    assert waited(Answer.NOTHING)[1] >= 10
    assert waited(Answer.NOTHING, has_failed=True) == (Answer.NOTHING, 0)


@pytest.mark.parametrize(("status", "takes"), [(200, True), (403, False), (503, None), (407, None)])
def test_whether_a_run_is_known_is_told_by_the_status(status: int, takes: bool | None) -> None:
    with answering(status, b"{}") as place:
        assert takes_run(ProxyAddress(place, label="run-1")) is takes


def test_a_closed_port_knows_of_no_run() -> None:
    port = Port()
    try:
        assert takes_run(ProxyAddress(f"127.0.0.1:{port.number}", label="run-1")) is None
    finally:
        port.release()
