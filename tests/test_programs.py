"""What is forked is what the program would be: its arguments, variables, streams, signals and exit are its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY, Proxy, eventually
from programs import ADDON, Program, run

CONFIG, TOP = (str(REPOSITORY / "scripts" / name) for name in ("config.py", "top.py"))
MITMDUMP = str(Path(sys.executable).with_name("mitmdump"))
NEVER = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def test_script_gives_what_it_gives_when_it_starts_anew(tmp_path: Path) -> None:
    for words in (["--help"], ["--gone"]):
        command = [sys.executable, TOP, *words]
        forked = run(command, env=NEVER, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        anew = subprocess.run(command, env=NEVER, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert forked.stdout + forked.stderr
        assert (forked.returncode, forked.stdout, forked.stderr) == (anew.returncode, anew.stdout, anew.stderr)


def test_children_have_their_own_folder_variables_and_mode(tmp_path: Path) -> None:
    (script := tmp_path / "tell.py").write_text(
        "import os, sys\n"
        "print(os.getcwd(), sorted(os.environ), sys.argv[0], os.getpid() == os.getsid(0), flush=True)\n"
        "os.umask(mask := os.umask(0))\n"
        "sys.exit(f'{mask:o}')\n"
    )
    command = [MITMDUMP, "-p", "0", "--set", f"confdir={tmp_path}", "-s", str(script)]
    before = os.umask(0o027)
    try:
        with Program(
            command,
            env={**NEVER, "ONE": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            said, _ = process.communicate(timeout=60)
            assert process.is_forked
    finally:
        os.umask(before)
    assert f"{tmp_path} ['HOME', 'ONE', 'PATH'] {MITMDUMP} True\n" in said
    assert "27" in said.split()
    assert process.returncode == 1


def test_signal_is_told_as_of_any_child(tmp_path: Path) -> None:
    proxy = Proxy(folder=tmp_path, script=None).start()
    os.kill(proxy.pid, signal.SIGABRT)
    assert eventually(lambda: proxy.returncode) == -signal.SIGABRT
    with pytest.raises(ProcessLookupError):
        os.kill(proxy.pid, 0)
    proxy.close()


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ([sys.executable, CONFIG, "--help"], {"PYTHONDEVMODE": "1"}),
        ([sys.executable, CONFIG, "--help"], {"LC_ALL": "C"}),
        ([sys.executable, "-m", "json.tool", "--help"], {}),
        ([MITMDUMP, "--version", "-s", "/elsewhere/addon/ccflare.py"], {}),
    ],
)
def test_what_is_read_at_the_start_starts_anew(command: list[str], variables: dict[str, str]) -> None:
    with Program(command, env={**NEVER, **variables}, stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == 0
    assert not process.is_forked


def test_this_repositorys_addon_is_forked() -> None:
    with Program([MITMDUMP, "--version", "-s", ADDON], env=NEVER, stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == 0
    assert process.is_forked
