"""The package as `pipx install` has it: away from any clone, from the login to the first answer."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from fake_upstream import FakeUpstream
from harness import REPOSITORY, Proxy, claude_request, via_base_url
from login_kit import allow, configured
from wheel_kit import build, install

pytestmark = pytest.mark.timeout(300)  # pip makes a wheel and installs it before the first test

AREAS = [word for area in ("host", "options", "proxy") for word in ("--only", area)]


class Installed:
    """An installation, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.wheel = build(folder)
        self.command = install(self.wheel, folder / "environment")
        self.home = folder / "home"
        self.home.mkdir()

    def run(self, *words: str, **environ: str) -> str:
        """What a command prints."""
        with self.start(*words, **environ) as process:
            return process.communicate(timeout=60)[0]

    def start(self, *words: str, **environ: str) -> "subprocess.Popen[str]":
        """A command that talks through pipes."""
        pipe = subprocess.PIPE
        known = {"PATH": os.environ["PATH"], "HOME": str(self.home), **environ}
        command = [str(self.command), *words]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=known, cwd=self.home)

    def log_in(self, name: str, environ: Mapping[str, str]) -> str:
        """What `accounts login` says to who opens the page that it shows, and pastes the code."""
        with self.start("accounts", "login", name, **environ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            page = next(word for line in process.stdout for word in line.split() if word.startswith("http"))
            process.stdin.write(f"{allow(page)}\n")
            said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained
        return said


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


def files(addon: Path) -> set[str]:
    found = (path for path in addon.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(addon).as_posix() for path in found if ".egg-info" not in str(path)}


def test_wheel_has_every_file_of_the_addon(installed: Installed) -> None:
    with ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        config = wheel.read("ccflare_core/config/mitm-config.yaml")

    assert names == files(REPOSITORY / "addon")
    assert config == (REPOSITORY / "mitm-config.yaml").read_bytes()


def test_installation_serves_from_the_login_on(installed: Installed, upstream: FakeUpstream, tmp_path: Path) -> None:
    own = {"ccflare_DB_PATH": str(tmp_path / "ccflare.db")}
    assert "max-1" in installed.log_in("max-1", {**own, **configured(tmp_path, upstream)})

    proxy = Proxy(upstream, folder=tmp_path / "proxy", database=Path(own["ccflare_DB_PATH"]))
    proxy._command[:1] = [str(installed.command), "proxy"]
    at = proxy._command.index("-s")
    del proxy._command[at : at + 2]  # `ccflare proxy` brings its own
    with proxy:
        with via_base_url(proxy) as client:
            assert client.request(*claude_request()).status == 200
        said = installed.run("doctor", *AREAS, "--format", "json", **own)

    checks = {each["check"]: each for each in json.loads(said)}
    assert checks["proxy.health"]["level"] == "ok", said
    assert checks["host.mitmproxy"]["level"] == "ok"
    # The template is what it started with.
    assert f"the proxy on 127.0.0.1:{proxy.port}: from mitm-config.yaml: connection_strategy" in said
    assert "scripts/" not in said
