"""How services are started and asked for, by programs of the system."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ccflare_cli.companion.managers import (
    Done,
    Launchd,
    Manager,
    State,
    Systemd,
    find_manager,
    has_service,
    run_program,
)
from ccflare_cli.console import Refused


class System:
    """Answers for systemctl or launchctl, and remembers what it was told."""

    def __init__(self, *answers: tuple[str, int, str]) -> None:
        self.told: list[str] = []
        self._answers = list(answers)

    def __call__(self, words: Sequence[str]) -> Done:
        line = " ".join(words)
        self.told.append(line)
        for answer in self._answers:
            if answer[0] in line:
                self._answers.remove(answer)
                return Done(*answer[1:])
        return Done(0, "")


def made(manager: Manager) -> Manager:
    manager.path.parent.mkdir(parents=True)
    manager.path.touch()
    return manager


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("active", State.RUNNING),
        ("activating", State.RUNNING),
        ("failed", State.FAILED),
        ("inactive", State.STOPPED),
        ("Failed to connect to bus: No medium found", State.STOPPED),
    ],
)
def test_systemd_tells_what_a_unit_does(tmp_path: Path, said: str, state: State) -> None:
    system = System(("is-active", 3, said))

    assert Systemd(tmp_path, system).state() is State.ABSENT
    assert made(Systemd(tmp_path, system)).state() is state


def test_systemd_starts_a_unit_now_and_later(tmp_path: Path) -> None:
    system = System()

    Systemd(tmp_path, system).start()

    told = ["daemon-reload", "enable ccflare", "restart ccflare"]
    assert system.told == [f"systemctl --user {words}" for words in told]


def test_systemd_without_a_session_is_a_sentence(tmp_path: Path) -> None:
    system = System(("daemon-reload", 1, "Failed to connect to bus: No medium found"))

    with pytest.raises(Refused, match=r"daemon-reload` failed \(Failed to connect to bus: No medium found\)"):
        Systemd(tmp_path, system).start()


def test_systemd_advises_lingering_until_it_is_on(tmp_path: Path) -> None:
    assert "enable-linger" in Systemd(tmp_path, System(("loginctl", 0, "no"))).advice()
    assert Systemd(tmp_path, System(("loginctl", 0, "yes"))).advice() == ""


@pytest.mark.parametrize(
    ("code", "said", "state"),
    [
        (0, "\tstate = running\n\tpid = 7", State.RUNNING),
        (0, "\tstate = not running\n\tlast exit code = 1", State.FAILED),
        (0, "\tstate = not running\n\tlast exit code = 0", State.STOPPED),
        (113, "Could not find service", State.STOPPED),
    ],
)
def test_launchd_tells_what_an_agent_does(tmp_path: Path, code: int, said: str, state: State) -> None:
    assert made(Launchd(tmp_path, System(("print", code, said)))).state() is state


def test_launchd_starts_an_agent_once_the_older_one_is_gone(tmp_path: Path) -> None:
    system, slept = System(("bootstrap", 5, "Input/output error")), list[float]()

    Launchd(tmp_path, system, slept.append).start()

    assert [line.split()[1] for line in system.told] == ["bootout", "bootstrap", "bootstrap"]
    assert slept == [0.5]


def test_launchd_gives_up_with_a_sentence(tmp_path: Path) -> None:
    system = System(*[("bootstrap", 5, "Input/output error")] * 30)

    with pytest.raises(Refused, match="Input/output error"):
        Launchd(tmp_path, system, lambda seconds: None).start()


def test_logs_come_from_where_each_keeps_them(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, System()).log_command(5, follow=True)
    launchd = Launchd(tmp_path, System()).log_command(5, follow=True)

    assert systemd == ["journalctl", "--user", "--unit", "ccflare", "--lines", "5", "--follow"]
    assert launchd == ["tail", "-n", "5", "-F", str(tmp_path / "Logs" / "ccflare.log")]


def test_each_system_has_its_own(tmp_path: Path) -> None:
    linux = find_manager({"XDG_CONFIG_HOME": str(tmp_path)}, "linux")

    assert linux.path == tmp_path / "systemd" / "user" / "ccflare.service"
    assert find_manager({}, "darwin").path.name == "ccflare.plist"
    with pytest.raises(Refused, match="on Windows in WSL"):
        find_manager({}, "win32")


def test_a_service_is_there_once_its_file_is(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert not has_service(environ)

    made(find_manager(environ, "linux"))

    assert has_service(environ)


def test_a_program_is_run_and_a_missing_one_is_a_sentence() -> None:
    assert run_program(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Done(3, "out\nerr")
    with pytest.raises(Refused, match="There is no no-such-program on this system"):
        run_program(["no-such-program"])
