"""How the proxy starts: where it listens, what wins, and that it does not start when it should not."""

import contextlib
import json
import signal
import socket
import sqlite3
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream
from harness import ADDON, Proxy, Started, eventually, listening, serves


def refusal(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """The sentences of a start that is refused with exit code 1, before anything listened."""
    with Started(folder, *arguments, **variables) as process:
        assert process.wait(60) == 1
    assert "listening at" not in process.log
    assert "Traceback" not in process.log
    return [line.removeprefix("ccflare: ") for line in process.log.splitlines() if line.startswith("ccflare: ")]


def addresses(folder: Path, *arguments: str, **variables: str) -> set[tuple[str, int]]:
    """Where a running proxy listens."""
    with Started(folder, *arguments, "--set", "ccflare_debuggable=true", **variables) as process:
        eventually(lambda: "listening at" in process.log or process.poll() is not None, timeout=60)
        assert process.poll() is None, process.log
        return listening(process.pid)


def test_it_listens_on_loopback_alone(tmp_path: Path, port: int) -> None:
    assert addresses(tmp_path, "-p", str(port)) == {("127.0.0.1", port)}


def test_the_log_is_written_soon_where_it_is_no_terminal(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port), PYTHONUNBUFFERED="") as process:
        eventually(lambda: "listening at" in process.log or process.poll() is not None, timeout=60)

        assert process.poll() is None


def test_a_first_start_says_what_comes_next_and_nothing_that_needs_an_explanation(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port)) as process:
        eventually(lambda: "ANTHROPIC_BASE_URL" in process.log or process.poll() is not None, timeout=60)
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(b"CONNECT no-such-host.invalid:443 HTTP/1.1\r\nhost: no-such-host.invalid:443\r\n\r\n")
            assert b" 200 " in client.recv(200)
            with pytest.raises(OSError):
                ssl.create_default_context().wrap_socket(client, server_hostname="no-such-host.invalid")
        eventually(lambda: "no tunnel to" in process.log, timeout=60)
        lines = [line.partition("] ")[2] for line in process.log.splitlines()]

    assert lines[:5] == [
        f"Loading script {ADDON}",
        f"HTTP(S) proxy listening at 127.0.0.1:{port}.",
        "ccflare has no account yet: requests pass to https://api.anthropic.com with the client's own credential",
        "next, in another terminal: add an account with `scripts/accounts.py login NAME`",
        f"then connect a client: ANTHROPIC_BASE_URL=http://127.0.0.1:{port} and ANTHROPIC_AUTH_TOKEN=unused for Claude "
        "Code, ANTHROPIC_API_KEY=unused for SDKs",
    ]
    assert lines[5].startswith(f"dashboard, once and for 15 minutes: http://127.0.0.1:{port}/ccflare/login?token=")
    assert lines[6].startswith("no tunnel to no-such-host.invalid:443 for 127.0.0.1: ")
    assert len(lines) == 7


def test_mitmproxys_folder_is_made_for_its_owner_alone(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port)) as process:
        eventually(lambda: "listening at" in process.log or process.poll() is not None, timeout=60)

    assert (tmp_path / ".mitmproxy").stat().st_mode & 0o777 == 0o700


def test_variables_say_where_and_the_command_line_wins(tmp_path: Path, port: int) -> None:
    assert addresses(tmp_path, HOST="127.0.0.2", PORT=str(port)) == {("127.0.0.2", port)}
    assert addresses(tmp_path, "-p", str(port), HOST="127.0.0.2", PORT="1") == {("127.0.0.2", port)}
    assert addresses(tmp_path, "--listen-host", "127.0.0.1", "-p", str(port), HOST="127.0.0.2") == {("127.0.0.1", port)}


def test_mitmproxys_own_default_port_may_be_taken(tmp_path: Path, port: int) -> None:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 8080)):
        assert addresses(tmp_path, PORT=str(port)) == {("127.0.0.1", port)}
        assert addresses(tmp_path, "--listen-host", "127.0.0.1", PORT=str(port)) == {("127.0.0.1", port)}


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with Started(tmp_path, "-p", str(taken.getsockname()[1])) as process:
            assert process.wait(60) == 1
        assert "failed to listen" not in process.log
        port_told = f"ccflare: port {taken.getsockname()[1]} is in use, something listens there already; stop that, or "
        assert (
            port_told + "name another port by -p (listen_host is 127.0.0.1 (mitm-config.yaml), listen_port is "
            in process.log
        )


@pytest.mark.parametrize(
    "said",
    [("--listen-host", "0.0.0.0"), ("--listen-host", ""), ("--mode", "regular@0.0.0.0:18081")],
    ids=["0.0.0.0", "everywhere", "in a mode"],
)
def test_an_address_that_others_can_reach_is_refused(tmp_path: Path, port: int, said: tuple[str, str]) -> None:
    [sentence] = refusal(tmp_path, *said, "-p", str(port))
    assert sentence.startswith("listen_host: ")
    assert "ccflare_allow_remote" in sentence


def test_an_address_that_others_can_reach_can_be_asked_for(tmp_path: Path, port: int) -> None:
    with contextlib.closing(Proxy(folder=tmp_path / "proxy")) as proxy:  # for its commands; it is not started
        proxy.add_client_key("laptop")
    wanted = {"ccflare_allow_remote": "true", "ccflare_insecure_remote": "true", "ccflare_database": proxy.database}
    said = [word for name, value in wanted.items() for word in ("--set", f"{name}={value}")]
    assert addresses(tmp_path, "--listen-host", "0.0.0.0", "-p", str(port), *said) == {("0.0.0.0", port)}


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = refusal(
        tmp_path,
        *("--set", "ccflare_hold_seconds=soon"),
        *("--set", "ccflare_databse=x.db"),
        LB_STRATEGY="fastest",
        ccflare_DB_PTH="y.db",
    )
    assert [sentence.partition(":")[0] for sentence in told] == [
        "ccflare_databse",
        "ccflare_hold_seconds",
        "ccflare_DB_PTH",
        "LB_STRATEGY",
    ]
    assert "did you mean ccflare_database?" in told[0]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HOST": "0.0.0.0"}, "listen_host (variable HOST): 0.0.0.0 can be reached from other machines"),
        ({"ccflare_DB_PATH": "/proc/nothing/here.db"}, "(variable ccflare_DB_PATH)"),
        ({"ccflare_EGRESS_PROXY": "file:/nowhere"}, "ccflare_egress_proxy (variable ccflare_EGRESS_PROXY)"),
        ({"ccflare_CONFIG_PATH": "/nowhere.yaml"}, "ccflare_CONFIG_PATH: there is no file /nowhere.yaml"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_that_is_rejected_is_told_with_its_variable(
    tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    [sentence] = refusal(tmp_path, **variables)
    assert told in sentence


def test_a_port_that_is_taken_is_told_with_its_variable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Started(tmp_path, PORT=port) as process:
            eventually(lambda: process.poll() is not None or f"listen_port is {port}" in process.log)
    assert f"listen_port is {port} (variable PORT)" in process.log


def test_what_was_said_on_the_command_line_wins_over_environment_and_file(tmp_path: Path, port: int) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("ccflare_passthrough: never\nccflare_database: file.db\n")
    said = {"ccflare_CONFIG_PATH": str(config), "ccflare_DB_PATH": str(tmp_path / "variable.db")}
    with Started(tmp_path, "-p", str(port), **said) as process:
        eventually(lambda: "refuses requests" in process.log)
    assert (tmp_path / "variable.db").exists()
    with Started(tmp_path, "-p", str(port), "--set", f"ccflare_database={tmp_path / 'said.db'}", **said) as process:
        eventually(lambda: "refuses requests" in process.log)
    assert (tmp_path / "said.db").exists()
    assert not (tmp_path / "file.db").exists()


def test_an_unusable_key_stops_the_start(tmp_path: Path) -> None:
    [sentence] = refusal(tmp_path, ccflare_ENCRYPTION_KEY="too short")
    assert "ccflare_ENCRYPTION_KEY" in sentence
    assert "too short" not in sentence


@pytest.mark.parametrize("keeps", ["database", "certificates"])
def test_folder_that_cannot_be_written_stops_the_start(tmp_path: Path, keeps: str) -> None:
    home = tmp_path / "no-folder"  # as good as another user's folder, and so to root too
    home.touch()
    elsewhere = {"ccflare_DB_PATH": str(tmp_path / "ccflare.db")} if keeps == "certificates" else {}
    arguments = () if elsewhere else ("--set", f"confdir={tmp_path / 'certificates'}")

    [sentence] = refusal(tmp_path, *arguments, HOME=str(home), **elsewhere)

    assert f"{home}/.{'mitmproxy' if elsewhere else 'local'}" in sentence
    assert "rights" in sentence


def test_a_package_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "peewee.py").write_text("raise ModuleNotFoundError('No module named peewee', name='peewee')")

    (sentence,) = refusal(tmp_path / "home", PYTHONPATH=str(tmp_path))

    assert sentence.startswith("this Python has no package peewee:")


def test_a_log_of_all_that_is_sent_stops_the_start(tmp_path: Path) -> None:
    [sentence] = refusal(tmp_path, "--set", "proxy_debug=true")
    assert sentence.startswith("proxy_debug: ")


def test_another_key_than_the_one_that_sealed_stops_the_start(tmp_path: Path) -> None:
    with contextlib.closing(Proxy(folder=tmp_path / "sealing")) as sealing:
        sealing.add_api_key("work", "sk-ant-api03-sealed")
        [sentence] = refusal(
            tmp_path / "start", "--set", f"ccflare_database={sealing.database}", ccflare_ENCRYPTION_KEY="ab" * 32
        )
    assert "wrapped by the key source file, but environment is configured" in sentence


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize(
    "spoil",
    [foreign, Path.touch, lambda path: path.write_bytes(b"no database" * 100)],
    ids=["foreign", "empty", "junk"],
)
def test_a_database_that_is_not_ours_is_left_alone(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "some.db"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()
    [sentence] = refusal(tmp_path, "--set", f"ccflare_database={path}")
    assert str(path) in sentence
    assert path.read_bytes() == before


def test_files_are_the_owners_alone(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port)) as process:
        eventually(lambda: serves(port) or process.poll() is not None, timeout=60)
        folder = tmp_path / ".local" / "share" / "ccflare"
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes["ccflare"] == 0o700
    assert {"ccflare.db", "ccflare.db-wal", "ccflare.key"} <= modes.keys()
    assert {mode for name, mode in modes.items() if name != "ccflare"} == {0o600}


def test_the_key_can_come_from_the_environment_and_is_not_written(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port), ccflare_ENCRYPTION_KEY="5a" * 32) as process:
        eventually(lambda: serves(port) or process.poll() is not None, timeout=60)
    folder = tmp_path / ".local" / "share" / "ccflare"
    assert not (folder / "ccflare.key").exists()
    assert all(b"5a5a5a" not in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(upstream: FakeUpstream, tmp_path: Path, number: int) -> None:
    with Proxy(upstream, folder=tmp_path) as proxy:
        assert proxy.stop(number) == 0
        assert "Traceback" not in proxy.log()


def test_a_log_in_json(tmp_path: Path, port: int) -> None:
    variables: Mapping[str, str] = {"LOG_FORMAT": "json"}
    with Started(tmp_path, "-p", str(port), **variables) as process:
        eventually(lambda: "ccflare has no account" in process.log)
    lines = [line for line in process.log.splitlines() if "ccflare has no account" in line]
    assert json.loads(lines[0])["level"] == "INFO"


def test_a_log_file_has_what_the_terminal_shows(tmp_path: Path, port: int) -> None:
    path = tmp_path / "logs" / "ccflare.log"
    path.parent.mkdir()
    with Started(tmp_path, "-p", str(port), "--set", f"ccflare_log_file={path}") as process:
        eventually(lambda: "ccflare has no account" in process.log)
    assert process.returncode == 0
    written = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for told in ("listening at 127.0.0.1", "INFO ccflare: ccflare has no account yet", "stopped."):
        assert told in written
        assert told.removeprefix("INFO ccflare: ") in process.log
    assert "client connect" not in written


def test_a_log_file_can_be_in_json(tmp_path: Path, port: int) -> None:
    path = tmp_path / "ccflare.log"
    with Started(tmp_path, "-p", str(port), "--set", f"ccflare_log_file={path}", LOG_FORMAT="json") as process:
        eventually(lambda: "ccflare has no account" in process.log)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert any(line["level"] == "INFO" and "ccflare has no account" in line["msg"] for line in lines)


def test_a_log_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    [sentence] = refusal(tmp_path, "--set", f"ccflare_log_file={tmp_path / 'nowhere' / 'ccflare.log'}")
    assert sentence.startswith("ccflare_log_file: ")
    assert "cannot be written (No such file or directory); name a file in a folder" in sentence


def test_a_log_file_that_is_another_file_stops_the_start(tmp_path: Path) -> None:
    said = ("--set", f"ccflare_log_file={tmp_path / 'x.db'}", "--set", f"ccflare_database={tmp_path / 'x.db'}")
    assert refusal(tmp_path, *said) == [
        "ccflare_log_file: this is the database too; allowed is the path of another file"
    ]


def test_started_with_nohup_it_outlives_its_terminal(tmp_path: Path, port: int) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        with Started(tmp_path, "-p", str(port)) as process:
            eventually(lambda: "listening at" in process.log)
            process.send_signal(signal.SIGHUP)
            eventually(lambda: serves(port))
            assert (process.poll(), "stopped" in process.log) == (None, False)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_mitmproxys_own_folder_is_its_owners_alone(tmp_path: Path, port: int) -> None:
    with Started(tmp_path, "-p", str(port)) as process:
        eventually(lambda: "listening at" in process.log)
    folder = tmp_path / ".mitmproxy"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
