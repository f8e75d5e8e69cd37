"""Why a connected client would go past the proxy, and that the doctor says so."""

import json
from pathlib import Path

import pytest

from ccflare_cli.companion import connect
from ccflare_cli.companion.bypasses import reasons
from ccflare_cli.doctor.client_checks import clients
from ccflare_cli.doctor.results import Level
from ccflare_core.config.settings import Settings
from desk import Desk
from home_kit import make_home

PLACE = "127.0.0.1:8080"
OURS = {"HTTPS_PROXY": f"http://key:ccf_EXAMPLE@{PLACE}", "NO_PROXY": "localhost,intra.example"}


@pytest.mark.parametrize(
    ("own", "shell", "managed", "told"),
    [
        (OURS, {}, {}, ""),
        (OURS, {"HTTPS_PROXY": "http://other.example", "NO_PROXY": "*"}, {}, ""),
        ({}, {}, {}, "do not have HTTPS_PROXY any more"),
        (OURS | {"HTTPS_PROXY": "http://other.example:8080"}, {}, {}, "does not lead to 127.0.0.1:8080"),
        (OURS | {"ANTHROPIC_BASE_URL": "https://x"}, {}, {}, "its settings have ANTHROPIC_BASE_URL"),
        (OURS, {"ANTHROPIC_BASE_URL": "https://x"}, {}, "this shell has ANTHROPIC_BASE_URL"),
        (OURS | {"NO_PROXY": "anthropic.com"}, {}, {}, "NO_PROXY leaves out the API's host"),
        (OURS, {"no_proxy": "*"}, {}, "no_proxy leaves out the API's host"),
        (OURS, {"CLAUDE_CODE_USE_BEDROCK": "1"}, {}, "CLAUDE_CODE_USE_BEDROCK is set"),
        (OURS | {"CLAUDE_CODE_USE_BEDROCK": "0"}, {"CLAUDE_CODE_USE_BEDROCK": "1"}, {}, ""),
        (OURS, {}, {"HTTPS_PROXY": "http://other.example"}, "an administrator's settings have HTTPS_PROXY"),
    ],
)
def test_each_reason_is_told(own: dict[str, str], shell: dict[str, str], managed: dict[str, str], told: str) -> None:
    found = list(reasons(own, shell, managed, PLACE))

    assert len(found) == bool(told)
    assert told in "".join(found)
    assert "ccf_" not in "".join(found)


def test_doctor_looks_at_clients_that_were_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path, monkeypatch)
    settings = Settings.build({"ccflare_database": str(home / "ccflare.db")}, {})
    managed = home / "managed.json"

    def found(**shell: str) -> list[tuple[Level, str]]:
        return [(each.level, each.found) for each in clients(settings, shell, PLACE, managed, home)]

    assert found() == [(Level.OK, "no client is connected by its settings")]
    words = ["claude-code", "--yes", "--address", "127.0.0.1:9090", "--database", str(home / "ccflare.db")]
    assert connect.main(words, Desk().console()) == 0
    assert found() == [(Level.OK, "Claude Code goes through the proxy")]
    assert found(ANTHROPIC_BASE_URL="https://x") == [
        (Level.WARN, "Claude Code goes past the proxy: this shell has ANTHROPIC_BASE_URL")
    ]
    managed.write_text(json.dumps({"env": {"NO_PROXY": "*"}}))
    assert "an administrator's settings have NO_PROXY" in found()[0][1]
    managed.write_text("{oops")
    (home / ".claude" / "settings.json").write_text("{oops")
    assert "cannot be read" in found()[0][1]


@pytest.mark.parametrize(
    ("project", "told"),
    [
        (OURS | {"ANTHROPIC_BASE_URL": "", "CLAUDE_CODE_USE_VERTEX": "0", "EDITOR": "vi"}, ""),
        ({"HTTPS_PROXY": "http://other.example"}, "HTTPS_PROXY"),
        ({"ANTHROPIC_BASE_URL": "https://x", "NO_PROXY": "*"}, "ANTHROPIC_BASE_URL, NO_PROXY"),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, "CLAUDE_CODE_USE_BEDROCK"),
    ],
)
def test_a_project_that_leads_elsewhere_is_told(project: dict[str, str], told: str) -> None:
    found = list(reasons(OURS, {}, {}, PLACE, project))

    assert found == ([f"the settings of the project in this folder have {told}"] if told else [])


@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_doctor_looks_at_the_project_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    home = make_home(tmp_path, monkeypatch)
    settings = Settings.build({"ccflare_database": str(home / "ccflare.db")}, {})
    words = ["claude-code", "--yes", "--address", PLACE, "--database", str(home / "ccflare.db")]
    assert connect.main(words, Desk().console()) == 0
    project = home / "site"
    (project / ".claude").mkdir(parents=True)
    (project / ".claude" / name).write_text('{"env": {"ANTHROPIC_BASE_URL": "https://x"}}')

    def found(folder: Path) -> list[str]:
        return [each.found for each in clients(settings, {}, PLACE, home / "no-managed.json", folder)]

    assert found(home) == ["Claude Code goes through the proxy"]
    assert found(project) == [
        "Claude Code goes past the proxy: the settings of the project in this folder have ANTHROPIC_BASE_URL"
    ]
