"""Where Claude Code's files are, and what they say of a login."""

import json
from pathlib import Path

import pytest

from ccflare_cli.companion.claude_code import has_login, settings_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".claude").mkdir()
    return tmp_path


def test_settings_are_the_users_own_or_where_a_variable_says(home: Path) -> None:
    assert settings_file({}) == home / ".claude" / "settings.json"
    assert settings_file({"CLAUDE_CONFIG_DIR": f"{home}/other"}) == home / "other" / "settings.json"


@pytest.mark.parametrize(
    ("file", "content", "platform", "expected"),
    [
        (".claude/.credentials.json", {"claudeAiOauth": {"accessToken": "EXAMPLE"}}, "linux", True),
        (".claude/.credentials.json", {"claudeAiOauth": {}}, "linux", False),
        (".claude/.credentials.json", [], "linux", False),
        (".claude/settings.json", {"apiKeyHelper": "pass show key"}, "linux", True),
        (".claude.json", {"primaryApiKey": "EXAMPLE"}, "linux", True),
        (".claude.json", {"oauthAccount": {"emailAddress": "me@example.com"}}, "linux", False),
        (".claude.json", {"oauthAccount": {"emailAddress": "me@example.com"}}, "darwin", True),
    ],
)
def test_a_login_is_known_by_its_files(home: Path, file: str, content: object, platform: str, expected: bool) -> None:
    (home / file).write_text(json.dumps(content))

    assert has_login({}, platform) is expected


def test_without_files_or_with_broken_ones_there_is_no_login(home: Path) -> None:
    assert not has_login({})
    (home / ".claude" / ".credentials.json").write_bytes(b"{\xff" + b"[" * 100_000)
    assert not has_login({})
