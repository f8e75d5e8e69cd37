"""What systemd and launchd are told."""

import configparser
import os
import plistlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ccflare_cli.companion.units import MARK, Service, launch_agent, systemd_unit

ODD = ('a "b" %h', "c\\d $HOME", "it's %%", "plain")
PLAIN = Service(["/usr/bin/env", "proxy"], {"ccflare_CONFIG_PATH": "/home/you/my files/100%.yaml"}, 180)

LAUNCHD_KEYS: dict[str, type | tuple[type, ...]] = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": (bool, dict),
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "Umask": int,
    "HardResourceLimits": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}
"""Those of launchd.plist(5) that an agent may have, and their types."""


def parsed(unit: bytes) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string(unit.decode())
    return found


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str] | None:
    """What systemd itself says of a unit; None where there is no systemd."""
    if shutil.which("systemd-analyze") is None:
        return None
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(folder)}
    return subprocess.run(
        ["systemd-analyze", "--user", *words], capture_output=True, text=True, timeout=60, env=environ, check=False
    )


@pytest.fixture(params=ODD)
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One whose path has what systemd would read as something else."""
    path = tmp_path / str(request.param) / "ccflare"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    path.chmod(0o755)
    return path


def test_unit_is_one_that_systemd_takes(tmp_path: Path, program: Path) -> None:
    unit = tmp_path / "ccflare.service"
    unit.write_bytes(systemd_unit(Service([str(program), "proxy", "$HOME %h"], PLAIN.environment, 180)))

    if done := analyze(tmp_path, "verify", str(unit)):
        assert (done.returncode, done.stderr) == (0, "")
    assert list(parsed(unit.read_bytes())) == ["DEFAULT", "Unit", "Service", "Install"]


def test_unit_is_as_closed_as_a_users_unit_can_be(tmp_path: Path) -> None:
    unit = tmp_path / "ccflare.service"
    unit.write_bytes(systemd_unit(PLAIN))

    if done := analyze(tmp_path, "security", "--offline=yes", "--threshold=75", str(unit)):
        assert done.returncode == 0, done.stdout
    service = parsed(unit.read_bytes())["Service"]
    assert service["NoNewPrivileges"] == "yes"
    needing_a_namespace = ("Protect", "Private", "ReadOnly", "ReadWrite", "Inaccessible", "Capability", "Bind", "Root")
    assert [name for name in service if name.startswith(needing_a_namespace)] == []


def test_unit_stops_patiently_and_keeps_its_files_private() -> None:
    service = parsed(systemd_unit(PLAIN))["Service"]

    assert (service["TimeoutStopSec"], service["UMask"], service["Restart"]) == ("180", "0077", "on-failure")


def test_unit_says_what_it_starts_as_systemd_reads_it(program: Path) -> None:
    unit = systemd_unit(Service([str(program), "proxy", "$HOME %h"], PLAIN.environment, 180))

    service = parsed(unit)["Service"]
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(service["ExecStart"])]
    assert words[-3:] == [str(program), "proxy", "$HOME %h"]
    assert shlex.split(service["Environment"]) == ["ccflare_CONFIG_PATH=/home/you/my files/100%%.yaml"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "proxy|$HOME %h|"


def test_agent_has_keys_that_launchd_knows() -> None:
    agent = plistlib.loads(launch_agent(PLAIN, Path("/Users/you/Library/Logs/ccflare.log")))

    assert [name for name, value in agent.items() if not isinstance(value, LAUNCHD_KEYS[name])] == []
    assert agent["ProgramArguments"] == ["/usr/bin/env", "proxy"]
    assert agent["EnvironmentVariables"] == PLAIN.environment
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert (agent["ExitTimeOut"], agent["Umask"]) == (180, 0o077)


def test_both_are_known_as_ours() -> None:
    assert MARK.encode() in systemd_unit(PLAIN)
    assert MARK.encode() in launch_agent(PLAIN, Path("/log"))
