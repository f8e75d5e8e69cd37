"""What a service starts, and what of this environment it gets."""

from pathlib import Path

import pytest

from ccflare_cli import ROOT
from ccflare_cli.companion.program import carried, own_command
from ccflare_cli.console import Refused
from ccflare_core.config.settings import Settings


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An environment with ccflare in it, as pipx makes one."""
    prefix = tmp_path / "venvs" / "ccflare"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "ccflare").touch()
    return prefix


def test_a_clone_starts_what_a_person_starts() -> None:
    assert own_command("run", "proxy") == [str(ROOT / "scripts" / "run")]


def test_an_installation_is_started_by_the_name_that_survives_an_upgrade(tmp_path: Path, installed: Path) -> None:
    named = tmp_path / "bin" / "ccflare"
    named.parent.mkdir()
    named.symlink_to(installed / "bin" / "ccflare")

    assert own_command("run", "proxy", tmp_path, installed, lambda name: str(named)) == [str(named), "proxy"]


def test_another_installation_on_the_path_is_not_started(tmp_path: Path, installed: Path) -> None:
    other = tmp_path / "other"
    other.touch()

    assert own_command("run", "proxy", tmp_path, installed, lambda name: str(other)) == [
        str(installed / "bin" / "ccflare"),
        "proxy",
    ]


def test_what_will_be_deleted_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="uvx keeps a program only for a while"):
        own_command("run", "proxy", tmp_path, tmp_path / "uv" / "archive-v0" / "x", lambda name: None)
    with pytest.raises(Refused, match="which would be started"):
        own_command("run", "proxy", tmp_path, tmp_path / "empty", lambda name: None)


def test_variables_that_the_proxy_reads_are_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        "PORT": "9090",
        "HOST": "x86_64-conda-linux-gnu",
        "ccflare_DB_PATH": "mine.db",
        "ccflare_CONFIG_PATH": "mine.yaml",
        "XDG_DATA_HOME": "/data",
        "EDITOR": "vi",
    }
    settings = Settings.build({"ccflare_database": str(tmp_path / "mine.db")}, {})

    assert carried(environ, settings).variables == {
        "PORT": "9090",
        "ccflare_DB_PATH": str(tmp_path / "mine.db"),
        "ccflare_CONFIG_PATH": str(tmp_path / "mine.yaml"),
        "XDG_DATA_HOME": "/data",
    }


def test_secrets_are_carried_only_as_where_they_are() -> None:
    named = {"ccflare_ALERT_SECRET": "file:/home/you/secret", "ccflare_OTEL_HEADERS": "cmd:pass show otel"}
    environ = {"ccflare_PASSPHRASE": "PLANTED words", **named}

    found = carried(environ, Settings.build({}, {}))

    assert found.variables == named
    assert found.secrets == ("ccflare_PASSPHRASE",)
