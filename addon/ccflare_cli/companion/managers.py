"""The programs that start services: systemd's manager of a user, and macOS' launchd."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from ccflare_cli.companion.units import NAME, Service, launch_agent, systemd_unit
from ccflare_cli.console import Refused
from ccflare_core.config.environment import of_others
from ccflare_core.program import typed

_SECONDS = 240
"""For one command: a stop waits for open answers."""
_WINDOWS = (
    "There is no service for this system here: ccflare runs on Linux and macOS, and on Windows in WSL, where a task "
    "of the Task Scheduler can start it; the README has that task."
)


class State(StrEnum):
    """What the service does."""

    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"
    ABSENT = "not installed"


class Done(NamedTuple):
    """How a program ended, and what it has said."""

    code: int
    said: str


type Run = Callable[[Sequence[str]], Done]


def run_program(words: Sequence[str]) -> Done:
    """Run a program of the system to its end. Raises Refused if there is none, or it hangs."""
    try:
        done = subprocess.run(  # noqa: S603
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=of_others(os.environ),
        )
    except FileNotFoundError:
        raise Refused(f"There is no {words[0]} on this system, so nothing can be installed: see the README.") from None
    except subprocess.TimeoutExpired:
        raise Refused(f"{words[0]} did not end within {_SECONDS} s: see what it waits for.") from None
    return Done(done.returncode, (done.stdout + done.stderr).strip())


class Manager(Protocol):
    """What is asked of each of them."""

    path: Path
    """Where it looks for the service."""

    def file(self, service: Service) -> bytes:
        """What it has to be told."""

    def start(self) -> None:
        """Take the file at `path` up and start what it says, also if an older one runs. Raises Refused."""

    def stop(self) -> None:
        """End the service and forget it; afterwards the file can go."""

    def forget(self) -> None:
        """Take up that the file is gone."""

    def state(self) -> State:
        """What it does now."""

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """What shows its log."""

    def advice(self) -> str:
        """What the user should know of when it runs; "" for nothing."""


def find_manager(environ: Mapping[str, str], platform: str = sys.platform, run: Run = run_program) -> Manager:
    """The one of this system. Raises Refused where there is none."""
    if platform == "darwin":
        return Launchd(Path.home() / "Library", run)
    if platform == "linux":
        config = environ.get("XDG_CONFIG_HOME", "")
        return Systemd(Path(config) if config else Path.home() / ".config", run)
    raise Refused(_WINDOWS)


def has_service(environ: Mapping[str, str]) -> bool:
    """Whether something is installed that starts the proxy."""
    try:
        return find_manager(environ).path.exists()
    except Refused:
        return False


class Systemd:
    """A unit in the folder of the user's own."""

    def __init__(self, config: Path, run: Run) -> None:
        self.path = config / "systemd" / "user" / f"{NAME}.service"
        self._run = run

    def file(self, service: Service) -> bytes:
        """The unit."""
        return systemd_unit(service)

    def start(self) -> None:
        """Have it started now, and whenever the user's manager starts."""
        self._must("daemon-reload")
        self._must("enable", NAME)
        self._must("restart", NAME)

    def stop(self) -> None:
        """Have it stopped, and started no more."""
        self._must("disable", "--now", NAME)

    def forget(self) -> None:
        """Read the units anew."""
        self._must("daemon-reload")

    def state(self) -> State:
        """As `systemctl is-active` has it."""
        if not self.path.exists():
            return State.ABSENT
        said = self._systemctl("is-active", NAME).said.partition("\n")[0]
        if said in ("active", "activating", "reloading"):
            return State.RUNNING
        return State.FAILED if said == "failed" else State.STOPPED

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """Of the journal."""
        return ["journalctl", "--user", "--unit", NAME, "--lines", str(lines), *(["--follow"] if follow else [])]

    def advice(self) -> str:
        """Whether it goes on while nobody is logged in."""
        shown = self._run(["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"])
        if shown.code == 0 and shown.said == "yes":
            return ""
        return (
            "It runs while you are logged in. `loginctl enable-linger` has it start with the machine, and go on while "
            "you are logged out."
        )

    def _systemctl(self, *words: str) -> Done:
        return self._run(["systemctl", "--user", *words])

    def _must(self, *words: str) -> None:
        done = self._systemctl(*words)
        if done.code != 0:
            why = done.said.splitlines()[-1] if done.said else f"exit code {done.code}"
            raise Refused(
                f"`systemctl --user {' '.join(words)}` failed ({why}): see `{typed('service logs')}`; without a "
                "session of this user (sudo, su) log in as them, or run `loginctl enable-linger` first."
            )


class Launchd:
    """An agent in the user's Library."""

    def __init__(self, library: Path, run: Run, sleep: Callable[[float], None] = time.sleep) -> None:
        self.path = library / "LaunchAgents" / f"{NAME}.plist"
        self._log = library / "Logs" / f"{NAME}.log"
        self._run = run
        self._sleep = sleep
        self._domain = f"gui/{os.getuid()}"

    def file(self, service: Service) -> bytes:
        """The agent."""
        return launch_agent(service, self._log)

    def start(self) -> None:
        """Have it started now, and whenever the user logs in."""
        self._launchctl("bootout", f"{self._domain}/{NAME}")
        done = self._launchctl("bootstrap", self._domain, str(self.path))
        for _ in range(20):  # an older one may still be on its way out
            if done.code == 0:
                return
            self._sleep(0.5)
            done = self._launchctl("bootstrap", self._domain, str(self.path))
        raise Refused(f"`launchctl bootstrap` failed ({done.said}): see `{typed('service logs')}`.")

    def stop(self) -> None:
        """Have it stopped, and started no more."""
        self._launchctl("bootout", f"{self._domain}/{NAME}")

    def forget(self) -> None:
        """There is nothing to do: launchd reads the file at a login alone."""

    def state(self) -> State:
        """As `launchctl print` has it."""
        if not self.path.exists():
            return State.ABSENT
        done = self._launchctl("print", f"{self._domain}/{NAME}")
        if done.code != 0:
            return State.STOPPED
        if "state = running" in done.said:
            return State.RUNNING
        return (
            State.FAILED
            if "last exit code = " in done.said and "last exit code = 0" not in done.said
            else State.STOPPED
        )

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """Of the file that it writes to."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self._log)]

    def advice(self) -> str:
        """An agent runs while its user is logged in, and there is no other way for one."""
        return "It runs while you are logged in."

    def _launchctl(self, *words: str) -> Done:
        return self._run(["launchctl", *words])
