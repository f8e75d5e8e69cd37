"""The shell scripts: with real shells, and with stubs for the interpreters, for pip and for what they install."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHELL_SCRIPTS = ["scripts/_bootstrap.sh", "scripts/run", "scripts/test", "scripts/check", "scripts/lock"]
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
DEADLINE = 60

# Stands for an interpreter: knows its own path and, with -m venv and -m pip, does what the scripts need of these.
PYTHON = """#!/bin/sh
case "$*" in
    *"sys.version_info"*) printf '%s\\n' "$0" ;;
    "-m venv "*)
        echo venv >>"$LOG"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-I - "*) echo "group-$4" ;;
    "-m pip --version") ;;
    "-I "*"/scripts/_lock.py packages "*) echo "locked-$4" ;;
    *"/scripts/_lock.py make") echo "made" ;;
    *"/scripts/_lock.py packages run") echo "packages" ;;
    "-m cyclonedx_py requirements "*) cat; echo "sbom" ;;
    "-m pip install "*" --no-index --editable "*) echo "itself" >>"$LOG" ;;
    "-m pip install "*" --require-hashes --no-deps --only-binary :all: "*)
        echo "hashed $(cat "${0%/bin/python}/.ccflare/requirements.txt")" >>"$LOG"
        [ -z "${PIP_FAILS-}" ] || { echo "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"; exit 1; }
        printf '#!/bin/sh\necho "mitmdump $*"\n' >"${0%/python}/mitmdump"
        chmod +x "${0%/python}/mitmdump" ;;
    "-m pip install "*" --requirement "*" mitmproxy"*)
        echo "pip $(cat "${0%/bin/python}/.ccflare/requirements.txt")" >>"$LOG"
        echo "$*" >"${0%/bin/python}/asked"
        sleep "${PIP_SECONDS:-0}"
        [ -z "${PIP_FAILS-}" ] || { echo "ERROR: no such package"; exit 1; }
        for name in mitmdump mitmweb mitmproxy; do
            printf '#!/bin/sh\\necho "%s -O=$PYTHONOPTIMIZE $*"\\n' "$name" >"${0%/python}/$name"
            chmod +x "${0%/python}/$name"
        done ;;
    "-O -m compileall "*) echo "$*" >"${0%/bin/python}/compiled"; exit 1 ;;
    scripts/_clients.py) echo "clients" >>"$LOG"; exit 1 ;;
    "-m pytest"*) echo "pytest $*" ;;
    *) exit 1 ;;
esac
"""
TOO_OLD = "#!/bin/sh\nexit 1\n"
BROKEN_SHIM = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Checkout:
    """A copy of the scripts in a folder of its own, on a PATH with nothing but sh's own tools and our stubs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.log.touch()
        (folder / "home").mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for name in SHELL_SCRIPTS:
            shutil.copy(ROOT / name, self.root / name)
        self.pyproject = self.root / "pyproject.toml"
        self.pyproject.write_text("[project]\n")
        self.constraints = self.root / "scripts" / "constraints.txt"
        self.constraints.write_text("a==1\n")
        self.environ = {"HOME": str(folder / "home"), "PATH": str(self.bin), "LOG": str(self.log)}
        for tool in ("cat", "chmod", "cksum", "cp", "dirname", "getconf", "grep", "mkdir", "readlink", "rm", "rmdir"):
            self.link(tool)
        for tool in ("id", "ls", "sh", "sleep", "tail"):
            self.link(tool)

    def link(self, tool: str) -> None:
        self.bin.mkdir(exist_ok=True)
        found = shutil.which(tool)
        assert found
        (self.bin / tool).symlink_to(found)

    def start(self, script: str, *arguments: str, shell: str = "sh", **environ: str) -> subprocess.Popen[str]:
        found = shutil.which(shell)
        assert found
        applet = ["sh"] if shell == "busybox" else []
        return subprocess.Popen(
            [found, *applet, str(self.root / "scripts" / script), *arguments],
            env=self.environ | environ,
            cwd=self.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, shell: str = "sh", **environ: str) -> tuple[int, str, str]:
        """Exit status, output and errors of a script."""
        process = self.start(script, *arguments, shell=shell, **environ)
        output, errors = process.communicate(timeout=DEADLINE)
        return process.returncode, output, errors

    def find_python(self, shell: str = "sh", **environ: str) -> tuple[int, str]:
        program(
            self.root / "scripts" / "find",
            f"set -eu\nroot='{self.root}'\n. '{self.root}/scripts/_bootstrap.sh'\nfind_python\n",
        )
        status, output, _ = self.run("find", shell=shell, **environ)
        return status, output.strip()

    def installed(self) -> list[str]:
        """What the stubs were asked for since the last call."""
        lines = [line.strip() for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


# --- the scripts as such -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_each_script_is_posix_sh(script: str, shell: str) -> None:
    command = [shell, "sh"] if shell == "busybox" else [shell, "--posix"] if shell == "bash" else [shell]

    result = subprocess.run([*command, "-n", script], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)

    assert (result.returncode, result.stderr) == (0, "")


def test_ci_is_a_bash_script() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True, timeout=DEADLINE)


@pytest.mark.parametrize("script", ["scripts/run", "scripts/test", "scripts/check", "scripts/lock", ".ci/run"])
def test_each_script_can_be_started(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


# --- finding a Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_the_newest_name_on_path_is_taken(checkout: Checkout, shell: str) -> None:
    program(checkout.bin / "python3", PYTHON)
    program(checkout.bin / "python3.12", PYTHON)
    newest = program(checkout.bin / "python3.13", PYTHON)

    assert checkout.find_python(shell) == (0, str(newest))


def test_a_name_that_promises_too_much_is_passed_over(checkout: Checkout) -> None:
    program(checkout.bin / "python3.14", BROKEN_SHIM)
    program(checkout.bin / "python3.12", TOO_OLD)
    good = program(checkout.bin / "python3", PYTHON)

    assert checkout.find_python() == (0, str(good))


@pytest.mark.parametrize("where", ["home", "variable", "command", "shims"])
@pytest.mark.parametrize("shell", SHELLS)
def test_pyenvs_versions_are_found_behind_an_old_python3(checkout: Checkout, shell: str, where: str) -> None:
    home = Path(checkout.environ["HOME"])
    pyenv = home / ".pyenv" if where == "home" else home.parent / "some where" / "pyenv"
    program(checkout.bin / "python3", TOO_OLD)
    program(pyenv / "versions" / "3.11.7" / "bin" / "python3.11", PYTHON)
    program(pyenv / "versions" / "3.12.1" / "bin" / "python3.12", PYTHON)
    newest = program(pyenv / "versions" / "3.13.0" / "bin" / "python3.13", PYTHON)
    program(pyenv / "versions" / "3.14.0" / "bin" / "python3.14", BROKEN_SHIM)
    environ: dict[str, str] = {}
    if where == "variable":
        environ["PYENV_ROOT"] = str(pyenv)
    elif where == "command":
        program(checkout.bin / "pyenv", f"#!/bin/sh\necho '{pyenv}'\n")
    elif where == "shims":
        program(pyenv / "shims" / "python3.12", BROKEN_SHIM)
        environ["PATH"] = f"{pyenv}/shims:{checkout.bin}"

    assert checkout.find_python(shell, **environ) == (0, str(newest))


def test_the_real_interpreter_stands_behind_a_virtual_environments_one(checkout: Checkout) -> None:
    (checkout.bin / "python3").symlink_to(sys.executable)

    status, found = checkout.find_python()

    assert status == 0
    assert not (Path(found).parent.parent / "pyvenv.cfg").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_python_one_sentence_says_what_to_install(checkout: Checkout, shell: str) -> None:
    program(checkout.bin / "python3", TOO_OLD)

    status, output, errors = checkout.run("run", shell=shell)

    assert (status, output) == (1, "")
    assert errors.splitlines()[1:] == [
        "ccflare: no Python 3.12 or newer (with its venv module) was found; "
        "install python3.12 (on Debian and Ubuntu python3.12-venv too), or uv"
    ]


def test_uv_is_asked_if_there_is_no_python(checkout: Checkout) -> None:
    stub = program(checkout.root.parent / "stub", PYTHON)
    program(
        checkout.bin / "uv", f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/bin"\ncp {stub} "$last/bin/python"\n'
    )

    status, output, _ = checkout.run("run")

    assert (status, output.split()[0]) == (0, "mitmdump")


# --- .venv ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout whose .venv is current for `run`."""
    program(checkout.bin / "python3", PYTHON)
    status, _, errors = checkout.run("run")
    assert (status, errors.count("\n")) == (0, 1)
    assert checkout.installed() == ["venv", "pip"]
    return checkout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_current_venv_is_used_in_silence(ready: Checkout, shell: str) -> None:
    status, output, errors = ready.run("run", "-p", "9000", "a b", shell=shell)

    assert (status, errors, ready.installed()) == (0, "", [])
    assert output == f"mitmdump -O=1 -s {ready.root}/addon/ccflare.py -p 9000 a b\n"


@pytest.mark.parametrize(("word", "name"), [("web", "mitmweb"), ("console", "mitmproxy")])
def test_a_first_word_chooses_the_program(ready: Checkout, word: str, name: str) -> None:
    _, output, _ = ready.run("run", word, "-q", PYTHONOPTIMIZE="")

    assert output == f"{name} -O= -s {ready.root}/addon/ccflare.py -q\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_first_word_that_there_is_not_is_refused_but_a_filter_is_none(ready: Checkout, shell: str) -> None:
    status, output, errors = ready.run("run", "webb", shell=shell)

    assert (status, output) == (1, "")
    assert errors == "ccflare: run takes web, console or mitmdump's options (a filter of mitmdump's begins with ~)\n"
    assert [ready.run("run", word, shell=shell)[0] for word in ("~u messages", "!~q", "(~q)")] == [0, 0, 0]


def test_run_may_be_called_by_a_link(ready: Checkout) -> None:
    link = ready.bin / "ccflare"
    link.symlink_to(ready.root / "scripts" / "run")

    result = subprocess.run(["sh", str(link)], env=ready.environ, capture_output=True, text=True, timeout=DEADLINE)

    assert result.stdout.startswith("mitmdump")


def test_what_the_proxy_imports_is_compiled_as_it_is_started(ready: Checkout) -> None:
    compiled = ready.root / ".venv" / "compiled"
    assert compiled.read_text() == f"-O -m compileall -q -j 0 {ready.root}/.venv/lib {ready.root}/addon\n"


def test_a_changed_pyproject_brings_venv_up_to_date(ready: Checkout) -> None:
    ready.pyproject.write_text("[project]\n# changed\n")

    ready.run("run")

    assert ready.installed() == ["pip"]


@pytest.mark.parametrize("trouble", ["old", "gone", "unfinished", "moved"])
def test_a_venv_that_cannot_be_trusted_is_made_anew(ready: Checkout, trouble: str) -> None:
    venv = ready.root / ".venv"
    (venv / "left over").touch()
    match trouble:
        case "old":
            program(venv / "bin" / "python", TOO_OLD)
        case "gone":
            (venv / "bin" / "python").unlink()
        case "unfinished":
            (venv / ".ccflare" / "unfinished").touch()
        case "moved":
            ready.root = ready.root.rename(ready.root.with_name("elsewhere"))

    status, output, _ = ready.run("run")

    assert (status, ready.installed()) == (0, ["venv", "pip"])
    assert str(ready.root) in output
    assert not (ready.root / ".venv" / "left over").exists()


def test_a_venv_made_by_its_owner_is_kept(checkout: Checkout) -> None:
    program(checkout.root / ".venv" / "bin" / "python", PYTHON)

    status, _, _ = checkout.run("run")

    assert (status, checkout.installed()) == (0, ["pip"])


def test_a_changed_bootstrap_brings_venv_up_to_date(ready: Checkout) -> None:
    with (ready.root / "scripts" / "_bootstrap.sh").open("a") as script:
        script.write("# changed\n")

    ready.run("run")

    assert ready.installed() == ["pip"]


def test_another_mitmproxy_gets_an_environment_of_its_own(ready: Checkout) -> None:
    status, output, errors = ready.run("test", "--mitmproxy", "12.2", "tests/test_x.py")

    assert (status, output) == (0, "pytest -m pytest tests/test_x.py\n")
    assert "installing into .venv-12.2;" in errors
    assert ready.installed() == ["venv", "pip group-test"]
    assert (ready.root / ".venv-12.2" / "asked").read_text().endswith(" mitmproxy==12.2.*\n")
    assert ready.run("test", "--mitmproxy", "12.2")[2] == ""
    ready.run("run")
    assert ready.installed() == []


@pytest.mark.parametrize("shell", SHELLS)
def test_an_extra_is_installed_once_and_brought_along_from_then_on(ready: Checkout, shell: str) -> None:
    asked = ready.root / ".venv" / "asked"

    status, output, _ = ready.run("run", "--with", "plot", "--with", "hsm", "web", "-q", shell=shell)

    assert (status, ready.installed()) == (0, ["pip"])
    assert output == f"mitmweb -O=1 -s {ready.root}/addon/ccflare.py -q\n"
    assert f" --editable {ready.root}[plot,hsm] " in asked.read_text()
    assert ready.run("run", "--with", "plot", shell=shell)[2] == ""
    assert ready.installed() == []
    ready.pyproject.write_text("[project]\n# changed\n")
    ready.run("run", "--with", "keyring", shell=shell)
    assert f" --editable {ready.root}[keyring,hsm,plot] " in asked.read_text()


def test_an_extra_whose_installation_failed_is_tried_again(ready: Checkout) -> None:
    assert ready.run("run", "--with", "plot", PIP_FAILS="1")[0] == 1
    ready.installed()

    ready.run("run", "--with", "plot")

    assert ready.installed() == ["pip"]


@pytest.mark.parametrize("extra", [(), ("everything",), ("../plot",), ("",)])
def test_an_extra_that_there_is_not_is_refused(ready: Checkout, extra: tuple[str, ...]) -> None:
    status, _, errors = ready.run("run", "--with", *extra)

    allowed = "completion, hsm, keyring, mcp, metrics, otel, plot or postgres"
    assert (status, errors) == (1, f"ccflare: --with takes {allowed}\n")


@pytest.mark.parametrize("version", ["", "../x", "12.2;x", "new"])
def test_a_mitmproxy_that_is_no_version_is_refused(ready: Checkout, version: str) -> None:
    status, _, errors = ready.run("test", "--mitmproxy", version)

    assert (status, errors) == (1, "ccflare: --mitmproxy takes a version, such as 12.2\n")


# --- the lock file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_locked_start_installs_by_hashes_alone_and_once(checkout: Checkout, shell: str) -> None:
    program(checkout.bin / "python3", PYTHON)

    status, output, _ = checkout.run("run", "--locked", "-p", "9000", shell=shell)

    assert (status, output) == (0, f"mitmdump -s {checkout.root}/addon/ccflare.py -p 9000\n")
    assert checkout.installed() == ["venv", "hashed locked-run", "itself"]
    assert checkout.run("run", "--locked")[0] == 0
    assert checkout.run("run")[0] == 0  # its versions are within the ranges too
    assert checkout.installed() == []


def test_a_locked_start_does_not_take_what_was_installed_without_the_lock_or_by_another_one(ready: Checkout) -> None:
    ready.run("run", "--locked")
    assert ready.installed() == ["hashed locked-run", "itself"]
    ready.constraints.write_text("a==2\n")
    ready.run("run")
    assert ready.installed() == []
    ready.run("run", "--locked")
    assert ready.installed() == ["hashed locked-run", "itself"]
    ready.run("test")
    assert ready.installed() == ["pip group-test"]
    ready.run("run", "--locked")
    assert ready.installed() == ["hashed locked-run", "itself"]


def test_tests_and_checks_can_be_locked_too(ready: Checkout) -> None:
    assert ready.run("test", "--locked", "tests/test_x.py")[1] == "pytest -m pytest tests/test_x.py\n"
    assert ready.installed() == ["hashed locked-test", "itself"]
    ready.run("check", "--locked")
    assert ready.installed() == ["hashed locked-dev", "itself"]
    assert ready.run("test", "--locked", "--mitmproxy", "12.2")[::2] == (
        1,
        "ccflare: --locked and --mitmproxy exclude each other: the lock file has one version of each package\n",
    )


def test_a_package_with_another_hash_is_not_installed(checkout: Checkout) -> None:
    program(checkout.bin / "python3", PYTHON)

    status, output, errors = checkout.run("run", "--locked", PIP_FAILS="1")

    assert (status, output) == (1, "")
    assert "the installation failed (ERROR: THESE PACKAGES DO NOT MATCH THE HASHES)" in errors
    assert checkout.installed() == ["venv", "hashed locked-run"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_lock_and_an_sbom_are_made_by_tools_in_an_environment_of_their_own(checkout: Checkout, shell: str) -> None:
    program(checkout.bin / "python3", PYTHON)

    assert checkout.run("lock", shell=shell)[:2] == (0, "made\n")
    assert checkout.installed() == ["venv", "pip group-lock"]
    assert checkout.run("lock", "sbom", shell=shell)[:2] == (0, "packages\nsbom\n")
    assert checkout.run("lock", "nonsense", shell=shell)[0] == 1
    assert not (checkout.root / ".venv").exists()
    assert (checkout.root / ".venv-lock").exists()


def test_each_group_is_installed_once_and_dev_is_all_of_them(ready: Checkout) -> None:
    ready.run("test")
    assert ready.installed() == ["pip group-test"]
    ready.run("test")
    assert ready.installed() == []
    ready.run("check")
    assert ready.installed() == ["pip group-dev"]
    ready.pyproject.write_text("[project]\n# changed\n")
    ready.run("check")
    assert ready.installed() == ["pip group-dev"]
    ready.run("test")
    ready.run("run")
    assert ready.installed() == []


def test_tests_run_in_parallel_unless_told_what_to_run(ready: Checkout) -> None:
    _, every, _ = ready.run("test")
    _, one, _ = ready.run("test", "tests/test_x.py")

    assert every.split("-n ")[1].split()[0] in ("2", "3", "4")
    assert one == "pytest -m pytest tests/test_x.py\n"


def test_clients_that_cannot_be_installed_stop_no_test(ready: Checkout) -> None:
    status, said, _ = ready.run("test", "--clients", "tests/test_x.py")
    assert (status, said) == (0, "pytest -m pytest tests/test_x.py\n")
    assert ready.installed()[-1] == "clients"


@pytest.mark.parametrize("shell", SHELLS)
def test_environment_of_another_user_is_used_but_not_changed(ready: Checkout, shell: str) -> None:
    (ready.bin / "id").unlink()
    program(ready.bin / "id", "#!/bin/sh\necho 4711\n")
    assert ready.run("run", shell=shell)[0] == 0

    ready.pyproject.write_text("[project]\n# newer\n")
    began = time.monotonic()
    status, output, errors = ready.run("run", shell=shell)

    assert (status, output, errors.count("\n"), ready.installed()) == (1, "", 1, [])
    assert errors.startswith("ccflare: .venv belongs to another user; start this as the user who made it")
    assert time.monotonic() - began < 60, "it waits for no lock, which would take 15 minutes"


def test_environment_that_cannot_be_made_is_told_at_once(checkout: Checkout) -> None:
    (checkout.root / ".venv").write_text("no folder")

    status, output, errors = checkout.run("run")

    state = checkout.root / ".venv" / ".ccflare"
    assert (status, output) == (1, "")
    assert errors == f"ccflare: {state} cannot be written; check who may write to {checkout.root}\n"


def test_a_failed_installation_is_told_in_one_sentence_and_tried_again(checkout: Checkout) -> None:
    program(checkout.bin / "python3", PYTHON)

    status, output, errors = checkout.run("run", PIP_FAILS="1")

    assert (status, output) == (1, "")
    log = checkout.root / ".venv" / ".ccflare" / "install.log"
    assert errors.splitlines()[-1] == (
        f"ccflare: the installation failed (ERROR: no such package); {log} has the details"
    )
    assert checkout.run("run")[0] == 0
    assert checkout.installed() == ["venv", "pip", "venv", "pip"]


def test_a_failed_update_leaves_what_was_there(ready: Checkout) -> None:
    ready.pyproject.write_text("[project]\n# changed\n")

    assert ready.run("run", PIP_FAILS="1")[0] == 1

    ready.pyproject.write_text("[project]\n")
    assert ready.run("run")[0] == 0
    assert ready.installed() == ["pip"]


# --- several starts at once ----------------------------------------------------------------------------------------


def test_starts_at_the_same_time_install_once(checkout: Checkout) -> None:
    program(checkout.bin / "python3", PYTHON)

    starts = [checkout.start("run", PIP_SECONDS="1") for _ in range(4)]
    results = [start.communicate(timeout=DEADLINE) for start in starts]

    assert [start.returncode for start in starts] == [0, 0, 0, 0]
    assert all(output.startswith("mitmdump") for output, _ in results)
    assert checkout.installed() == ["venv", "pip"]
    assert not (checkout.root / ".venv" / ".ccflare" / "lock").exists()


@pytest.mark.parametrize("holder", ["2000000000", None])
def test_the_lock_of_a_dead_start_is_broken(checkout: Checkout, holder: str | None) -> None:
    program(checkout.bin / "python3", PYTHON)
    lock = checkout.root / ".venv" / ".ccflare" / "lock"
    lock.mkdir(parents=True)
    if holder:
        (lock / holder).touch()

    status, _, _ = checkout.run("run")

    assert (status, checkout.installed(), lock.exists()) == (0, ["venv", "pip"], False)


def test_an_interrupted_start_leaves_no_lock_and_the_next_starts_anew(checkout: Checkout) -> None:
    program(checkout.bin / "python3", PYTHON)
    start = checkout.start("run", PIP_SECONDS="1")
    until = time.monotonic() + DEADLINE
    while "pip" not in checkout.log.read_text() and time.monotonic() < until:
        time.sleep(0.02)

    start.send_signal(signal.SIGTERM)
    start.communicate(timeout=DEADLINE)

    assert start.returncode == 143
    assert not (checkout.root / ".venv" / ".ccflare" / "lock").exists()
    checkout.installed()
    assert checkout.run("run")[0] == 0
    assert checkout.installed() == ["venv", "pip"]
