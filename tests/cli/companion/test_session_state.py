"""A session for the status line: by a proxy that answers, one that does not, and the file."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from ccflare_cli.companion.session_state import Proxy, ask, find_proxy, read
from ccflare_core.accounts.account import Kind
from ccflare_core.reports.session_state import Limit, SessionState, as_record
from history import NOON, History


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "100% of #1?.db"
    with History(path) as history:
        for name in ("max-1", "max-2"):
            history.account(name)
        history.account("key-1", kind=Kind.API_KEY, api_key="sk-ant-PLANTED", needs_login=True)
        history.account("off", paused=True)
        history.cooldown("max-1", NOON + 60, "5h window spent")
        history.cooldown("max-2", NOON + 60, "opus spent", family="opus")
        for minute, account in enumerate(("max-1", "max-2", "max-2", "max-1")):
            history.exchange(NOON - 3600 + minute * 60, account, cost_usd=0.5)
        history.exchange(NOON - 60, None, outcome="no_account")
        history.exchange(NOON, "max-2", session="session-2")
        history.window("max-1", "5h", 0.2, NOON + 60, at=NOON - 60)
        history.window("max-1", "5h", 0.5, NOON + 60)
        history.window("max-1", "7d", 0.9, NOON - 1)
    return path


def test_a_session_is_read_from_the_file(database: Path) -> None:
    assert read(str(database), "session-1", NOON) == SessionState(
        "max-1", {"5h": Limit(0.5, NOON + 60), "7d": Limit(0.0, None)}, 1, 4, 2.0, 2, ()
    )


def test_what_no_database_can_hold_is_nothing(database: Path) -> None:
    assert read(str(database), "\ud800", NOON) is None
    assert read(f"{database}\udcff", None, NOON) is None


def test_what_is_no_database_of_ours_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)

    assert read(str(tmp_path / "none.db"), None, NOON) is None
    assert not (tmp_path / "none.db").exists()
    assert read(str(tmp_path / "text"), None, NOON) is None
    assert read(str(tmp_path), None, NOON) is None


def test_reading_writes_nothing(database: Path) -> None:
    before = database.read_bytes()

    read(str(database), "session-1", NOON)

    assert database.read_bytes() == before


# By the proxy

STATE = SessionState("max-1", {"5h": Limit(0.5, NOON + 60)}, 1, 2, 0.25, 1, ("max-2 needs login",))
TOLD = json.dumps(as_record("s", STATE)).encode()
KEY = "ccf_abc-DEF_9"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"}, Proxy("127.0.0.1", 8080, "")),
        ({"ANTHROPIC_BASE_URL": "http://[::1]:8080/", "ANTHROPIC_AUTH_TOKEN": KEY}, Proxy("::1", 8080, KEY)),
        ({"ANTHROPIC_BASE_URL": "http://localhost:80", "ANTHROPIC_API_KEY": KEY}, Proxy("localhost", 80, KEY)),
        ({"ANTHROPIC_BASE_URL": "http://localhost:80", "ANTHROPIC_API_KEY": "sk-ant-x"}, Proxy("localhost", 80, "")),
        ({"HTTPS_PROXY": f"http://run-7:{KEY}@127.0.0.1:8080"}, Proxy("127.0.0.1", 8080, KEY)),
        ({"https_proxy": "http://run-7:-@127.0.0.1:8080"}, Proxy("127.0.0.1", 8080, "")),
        ({"HTTPS_PROXY": "http://127.0.0.1:8080", "ANTHROPIC_AUTH_TOKEN": KEY}, Proxy("127.0.0.1", 8080, "")),
        ({"ANTHROPIC_BASE_URL": "http://10.0.0.1:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "https://127.0.0.1:8080", "HTTPS_PROXY": "http://127.0.0.1:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1.example.com:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:99999"}, None),
        ({"ANTHROPIC_BASE_URL": "http://127.999.0.1:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "http://127.\u0660.0.1:8080"}, None),
        ({}, None),
    ],
)
def test_proxy_of_this_machine_is_found_with_a_key_of_ours_alone(environ: dict[str, str], found: Proxy | None) -> None:
    assert find_proxy(environ) == found


@contextmanager
def answering(*pieces: bytes, seconds: float = 0.0) -> Iterator[tuple[Proxy, list[bytes]]]:
    """A proxy that gives these pieces to the first that asks it, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        with closing(listener.accept()[0]) as connection:
            asked.append(connection.recv(65_536))
            with suppress(OSError):  # nobody has to read to the end
                for piece in pieces:
                    connection.sendall(piece)
            done.wait(seconds)

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = threading.Thread(target=serve)
        server.start()
        yield Proxy("127.0.0.1", listener.getsockname()[1], KEY), asked
        done.set()
        server.join()


def test_proxy_tells_of_the_session_to_the_key_that_made_it() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" + TOLD[:20], TOLD[20:]) as (proxy, asked):
        assert ask(proxy, "session-1", 30) == STATE

    assert asked[0].startswith(b"GET /ccflare/api/v1/session/session-1 HTTP/1.1\r\n")
    assert f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in asked[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\n\r\n" + TOLD,
        b"HTTP/1.1 200 OK\r\n\r\n" + TOLD[:-1],
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n" + TOLD.replace(b'"free": 1', b'"free": null'),
        b"HTTP/1.1 200 OK\r\n\r\n" + TOLD.replace(b'"free": 1', b'"free": Infinity'),
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000 + TOLD,
    ],
)
def test_proxy_that_tells_nothing_that_is_known_is_as_good_as_none(answer: bytes) -> None:
    with answering(answer) as (proxy, _):
        assert ask(proxy, "session-1", 30) is None


def test_proxy_that_takes_too_long_is_not_waited_for() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + TOLD, seconds=60) as (proxy, _):
        begun = time.monotonic()
        assert ask(proxy, "session-1") is None
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize("session", ["a b", "a\r\nb: c", "", "../health", "\u00e4"])
def test_proxy_is_not_asked_for_what_is_no_session(session: str) -> None:
    assert ask(Proxy("127.0.0.1", 1, ""), session) is None
