"""Whether the doctor sees that two installations differ."""

import json
import shutil
from pathlib import Path

import pytest

from ccflare_cli.doctor import versions
from ccflare_cli.doctor.results import Level
from ccflare_core import __version__
from ccflare_core.program import Version


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The addon/ of a clone."""
    addon = tmp_path / "clone" / "addon"
    (addon / "ccflare_core").mkdir(parents=True)
    (addon / "ccflare_core" / "__init__.py").write_text('__version__ = "1.2"\n')
    (addon / "ccflare.py").touch()
    return addon


@pytest.fixture
def other(here: Path, tmp_path: Path) -> Path:
    """The packages of an installation of it, whose `ccflare` is on PATH by a link, as pipx has it."""
    site = tmp_path / "venv" / "lib" / "python3.13" / "site-packages"
    shutil.copytree(here, site)
    program = tmp_path / "venv" / "bin" / "ccflare"
    program.parent.mkdir()
    program.touch(mode=0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ccflare").symlink_to(program)
    return site


def told(here: Path, tmp_path: Path) -> dict[str, Level]:
    """What is said of other installations, and how bad that is."""
    found = list(versions.versions({"PATH": str(tmp_path / "bin")}, here))
    assert found[0].found == f"ccflare {Version.of(here)} in {here}"
    return {result.found.partition(" is ")[0]: result.level for result in found if str(tmp_path) in result.found[9:]}


def test_version_is_the_number_and_what_the_files_are(here: Path) -> None:
    before = Version.of(here)
    (here / "ccflare.py").write_text("# changed\n")

    assert Version.of().number == __version__
    assert (before.number, Version.of(here).number) == ("1.2", "1.2")
    assert before.files != Version.of(here).files


def test_command_on_path_is_compared(here: Path, other: Path, tmp_path: Path) -> None:
    command = f"the command {tmp_path / 'bin' / 'ccflare'}"
    assert told(here, tmp_path)[command] is Level.OK

    (other / "ccflare.py").write_text("# changed\n")

    assert told(here, tmp_path)[command] is Level.WARN


def test_editable_installation_is_that_of_its_clone(here: Path, other: Path, tmp_path: Path) -> None:
    shutil.rmtree(other / "ccflare_core")
    (other / "__editable__.ccflare-1.2.pth").write_text(f"{here}\n")

    assert versions._packages(tmp_path / "venv") == here
    assert f"the command {tmp_path / 'bin' / 'ccflare'}" not in told(here, tmp_path)


def test_clone_that_it_was_installed_from_is_compared(
    here: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other / "ccflare-1.2.dist-info").mkdir()
    (other / "ccflare-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.4\nName: ccflare\nVersion: 1.2\n")
    (other / "ccflare-1.2.dist-info" / "direct_url.json").write_text(json.dumps({"url": here.parent.as_uri()}))
    monkeypatch.syspath_prepend(other)
    clone = f"the clone that it was installed from, {here.parent},"
    assert told(other, tmp_path)[clone] is Level.OK

    (here / "ccflare.py").write_text("# changed\n")

    assert told(other, tmp_path)[clone] is Level.WARN
    assert clone not in told(here, tmp_path), "an editable one is its clone"


@pytest.mark.parametrize(
    ("version", "level"),
    [(Version.of(), Level.OK), (Version("0.0.9", ""), Level.WARN), (Version(__version__, "abc"), Level.WARN)],
)
def test_running_proxy_is_compared(version: Version, level: Level) -> None:
    assert versions.of_proxy("127.0.0.1:8080", version).level is level
