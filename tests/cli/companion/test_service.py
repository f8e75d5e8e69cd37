"""`ccflare service`, as a person uses it, with stand-ins for the system's own programs."""

import json
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccflare_cli import ROOT
from ccflare_cli.companion import connect
from ccflare_cli.companion.service import main, worker_words
from ccflare_core.errors import ConfigError
from desk import Desk
from harness import Port
from home_kit import answering, make_home

Run = Callable[..., Desk]
READY = b'{"ready": true}'
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"$HOME/told"
case "$*" in
    *restart*) [ -e "$HOME/broken" ] && { echo "Failed to restart"; exit 1; }; echo active >"$HOME/state" ;;
    *disable*) echo inactive >"$HOME/state" ;;
    *is-active*) cat "$HOME/state" 2>/dev/null || echo inactive ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    scripts = {
        "systemctl": SYSTEMCTL,
        "loginctl": "#!/bin/sh\necho no\n",
        "journalctl": '#!/bin/sh\necho "$*" >"$HOME/asked"\n',
    }
    for name, text in scripts.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that is ready; its port."""
    with answering(200, READY) as place:
        yield place.rpartition(":")[2]


@pytest.fixture
def run(home: Path) -> Run:
    def run(*argv: str, code: int = 0, **environ: str) -> Desk:
        desk = Desk(environ=environ)
        assert main([*argv, "--database", str(home / "ccflare.db")], desk.console()) == code, desk.complained
        return desk

    return run


def told(home: Path) -> list[str]:
    lines = (home / "told").read_text().splitlines()
    return [line.removeprefix("--user ") for line in lines if "is-active" not in line]


def unit(home: Path) -> Path:
    return home / ".config" / "systemd" / "user" / "ccflare.service"


def running(home: Path) -> None:
    """As if the service ran already: what answers at its address is its own."""
    unit(home).parent.mkdir(parents=True)
    unit(home).write_text("# Written by `ccflare service install`\n")
    (home / "state").write_text("active\n")


def test_install_writes_a_unit_starts_it_and_waits_until_it_is_ready(home: Path, run: Run, proxy: str) -> None:
    running(home)

    desk = run("install", PORT=proxy)

    text = unit(home).read_text()
    assert f"ExecStart={ROOT}/scripts/run\n" in text
    assert f"Environment=PORT={proxy}\n" in text
    assert f"Environment=ccflare_DB_PATH={home}/ccflare.db\n" in text
    assert stat.S_IMODE(unit(home).stat().st_mode) == 0o600
    assert told(home) == ["daemon-reload", "enable ccflare", "restart ccflare"]
    assert f"The service runs at 127.0.0.1:{proxy}: it is ready." in desk.said
    assert "loginctl enable-linger" in desk.said


@pytest.mark.skipif(sys.platform != "linux", reason="there are no workers elsewhere")
def test_install_with_workers_starts_so_many_and_an_update_keeps_them(home: Path, run: Run, proxy: str) -> None:
    running(home)
    for words, number in ((["--workers", "3"], "3"), ([], "3"), (["--workers", "2"], "2")):
        run("install", *words, PORT=proxy)
        assert f"ExecStart={ROOT}/scripts/run --workers {number}\n" in unit(home).read_text()

    run("install", "--workers", "1", PORT=proxy)

    assert f"ExecStart={ROOT}/scripts/run\n" in unit(home).read_text()


def test_workers_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="--workers takes Linux"):
        worker_words(2)
    assert worker_words(1) == ()


def test_a_stop_may_take_as_long_as_the_proxy_lets_answers_go_on(home: Path, run: Run, proxy: str) -> None:
    running(home)
    (home / "config.yaml").write_text("ccflare_drain_seconds: 600")

    run("install", PORT=proxy, ccflare_CONFIG_PATH=str(home / "config.yaml"))

    assert "TimeoutStopSec=660\n" in unit(home).read_text()


def test_install_tells_of_a_proxy_that_does_not_come_up(home: Path, run: Run) -> None:
    port = Port()
    try:
        refused = run("install", "--wait", "0", PORT=str(port.number), code=1)
    finally:
        port.release()

    assert "The service was installed, but nothing listens there" in refused.complained
    assert unit(home).exists()


def test_install_beside_a_proxy_that_runs_already_is_refused(home: Path, run: Run, proxy: str) -> None:
    refused = run("install", PORT=proxy, code=1)

    assert "There is a proxy at" in refused.complained
    assert not unit(home).exists()


def test_install_tells_what_systemd_says_if_it_does_not_start(home: Path, run: Run, proxy: str) -> None:
    running(home)
    (home / "broken").touch()

    assert "restart ccflare` failed (Failed to restart)" in run("install", PORT=proxy, code=1).complained


def test_a_unit_of_the_users_own_is_replaced_only_if_they_say_so(home: Path, run: Run, proxy: str) -> None:
    running(home)
    unit(home).write_text("[Service]\nExecStart=/mine\n")

    assert "is a file of your own" in run("install", PORT=proxy, code=1).complained
    assert "/mine" in unit(home).read_text()
    run("install", "--replace", PORT=proxy)
    assert "/mine" not in unit(home).read_text()


def test_a_secret_in_the_environment_is_not_written_down(home: Path, run: Run, proxy: str) -> None:
    running(home)

    desk = run("install", PORT=proxy, ccflare_PASSPHRASE="PLANTED words")

    assert "ccflare_PASSPHRASE is a secret" in desk.complained
    assert "PLANTED" not in unit(home).read_text()


def test_uninstall_stops_it_and_leaves_the_data(home: Path, run: Run) -> None:
    running(home)
    (home / "ccflare.db").write_text("data")

    desk = run("uninstall")

    assert told(home) == ["disable --now ccflare", "daemon-reload"]
    assert not unit(home).exists()
    assert (home / "ccflare.db").read_text() == "data"
    assert f"The data stay: {home}/ccflare.db." in desk.said
    assert "nothing to take out" in run("uninstall", code=1).complained


def test_a_client_without_a_service_is_told_of(home: Path, run: Run) -> None:
    desk = Desk()
    assert connect.main(["claude-code", "--yes", "--database", str(home / "ccflare.db")], desk.console()) == 0
    assert "`scripts/service.py install` installs one" in desk.complained
    running(home)
    assert connect.main(["claude-code", "--undo", "--database", str(home / "ccflare.db")], desk.console()) == 0
    again = Desk()
    assert connect.main(["claude-code", "--yes", "--database", str(home / "ccflare.db")], again.console()) == 0
    assert "service install" not in again.complained

    assert "`scripts/connect.py claude-code --undo`" in run("uninstall").complained


def test_status_tells_of_the_service_and_of_the_proxy(home: Path, run: Run, proxy: str) -> None:
    port = Port()
    assert "not installed" in run("status", PORT=str(port.number), code=1).said
    running(home)

    found = json.loads(run("status", "--format", "json", PORT=proxy).said)

    assert found == {"state": "running", "address": f"127.0.0.1:{proxy}", "proxy": "ready", "file": str(unit(home))}
    assert "nothing listens there" in run("status", PORT=str(port.number), code=1).said
    port.release()


def test_logs_are_those_of_the_journal(home: Path, run: Run) -> None:
    assert "is not installed" in run("logs", code=1).complained
    running(home)

    run("logs", "--lines", "5", "--follow")

    assert (home / "asked").read_text() == "--user --unit ccflare --lines 5 --follow\n"
