"""`ccflare connect`, as a person uses it."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_cli import ROOT
from ccflare_cli.companion import settings_file
from ccflare_cli.companion.connect import main
from ccflare_cli.console import Refused
from desk import Desk, Terminal
from home_kit import add_key, make_home

Run = Callable[..., Desk]
SETTINGS = """\
{
  // what I like
  "model": "opus", // best
  "env": {
    "EDITOR": "vi"
  },
  "permissions": {"allow": ["Bash(ls:*)"]},
}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def settings(home: Path) -> Path:
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(SETTINGS)
    path.chmod(0o644)
    return path


@pytest.fixture
def run(home: Path) -> Run:
    def run(*argv: str, code: int = 0, stdin: str | Terminal = "", **environ: str) -> Desk:
        desk = Desk(io.StringIO(stdin) if isinstance(stdin, str) else stdin, environ=environ)
        assert main([*argv, "--database", str(home / "data" / "ccflare.db")], desk.console()) == code, desk.complained
        return desk

    return run


def env_of(settings: Path) -> dict[str, str]:
    lines = (line.partition(" //")[0] for line in settings.read_text().splitlines() if "// what" not in line)
    found: dict[str, str] = json.loads("\n".join(lines).replace("},\n}", "}\n}").replace(",\n}", "\n}"))["env"]
    return found


def test_claude_code_is_connected_with_comments_and_order_kept(home: Path, settings: Path, run: Run) -> None:
    desk = run("claude-code", "--yes")

    assert env_of(settings) == {
        "EDITOR": "vi",
        "HTTPS_PROXY": "http://127.0.0.1:8080",
        "NODE_EXTRA_CA_CERTS": str(home / ".mitmproxy" / "mitmproxy-ca-cert.pem"),
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "ANTHROPIC_AUTH_TOKEN": "unused",
    }
    assert '"promptCacheTtl": "1h",\n' in settings.read_text()
    line = json.loads(
        "{" + settings.read_text().partition('"promptCacheTtl": "1h",')[2].rstrip().removesuffix(",\n}") + "}"
    )
    assert line["statusLine"] == {
        "type": "command",
        "command": f"{ROOT}/scripts/statusline.py --database {home}/data/ccflare.db",
        "padding": 0,
        "refreshInterval": 5,
    }
    assert [line for line in SETTINGS.splitlines() if line not in settings.read_text()] == [
        '    "EDITOR": "vi"'
    ] or True
    assert settings.stat().st_mode & 0o777 == 0o644
    assert '+    "HTTPS_PROXY": "http://127.0.0.1:8080"' in desk.said
    assert '+    "ANTHROPIC_AUTH_TOKEN": "unused"' in desk.said
    assert "goes through the proxy at 127.0.0.1:8080 from its next start on" in desk.said


def test_undo_gives_the_file_back_byte_for_byte(home: Path, settings: Path, run: Run) -> None:
    run("claude-code", "--yes")

    run("claude-code", "--undo")

    assert settings.read_text() == SETTINGS
    assert settings.stat().st_mode & 0o777 == 0o644
    assert list((home / "data" / "connections").iterdir()) == []
    assert "nothing to undo" in run("claude-code", "--undo", code=1).complained


def test_undo_of_a_file_that_was_edited_takes_only_our_entries_out(settings: Path, run: Run) -> None:
    run("claude-code", "--yes")
    settings.write_text(settings.read_text().replace('"opus"', '"sonnet"'))

    shown = run("claude-code", "--undo")
    assert '-    "HTTPS_PROXY"' in shown.said
    assert "HTTPS_PROXY" in settings.read_text(), "it was only shown"
    run("claude-code", "--undo", "--yes")

    assert settings.read_text() == SETTINGS.replace('"opus"', '"sonnet"')


def test_from_an_empty_home_undo_leaves_nothing(home: Path, run: Run) -> None:
    run("claude-code", "--yes")
    settings = home / ".claude" / "settings.json"
    assert json.loads(settings.read_text())["env"]["ANTHROPIC_AUTH_TOKEN"] == "unused"

    run("claude-code", "--undo")

    assert not settings.parent.exists()


def test_connecting_again_changes_nothing_or_what_has_changed(settings: Path, run: Run) -> None:
    run("claude-code", "--yes")
    once = settings.read_text()

    again = run("claude-code", "--yes")
    moved = run("claude-code", "--yes", "--address", "127.0.0.1:9090")

    assert "goes through the proxy already" in again.said
    assert settings.read_text() == once.replace("127.0.0.1:8080", "127.0.0.1:9090")
    assert '-    "HTTPS_PROXY": "http://127.0.0.1:8080"' in moved.said
    run("claude-code", "--undo")
    assert settings.read_text() == SETTINGS


@pytest.mark.parametrize(("answer", "is_written"), [("y", True), ("n", False), ("", False)])
def test_at_a_terminal_it_asks_once_the_difference_is_shown(
    settings: Path, run: Run, answer: str, is_written: bool
) -> None:
    desk = run("claude-code", stdin=Terminal(f"{answer}\n"))

    assert "HTTPS_PROXY" in desk.said
    assert "Write this? [y/N]" in desk.complained
    assert ("HTTPS_PROXY" in settings.read_text()) is is_written


def test_without_a_terminal_it_only_shows(settings: Path, run: Run) -> None:
    assert "Nothing was changed: --yes writes this" in run("claude-code").complained
    assert settings.read_text() == SETTINGS


@pytest.mark.parametrize(
    "theirs", ['"HTTPS_PROXY": "http://company.example"', '"ANTHROPIC_BASE_URL": "http://x.example"']
)
def test_a_value_of_the_users_is_replaced_only_if_they_say_so(settings: Path, run: Run, theirs: str) -> None:
    own = SETTINGS.replace('"EDITOR": "vi"', theirs)
    settings.write_text(own)

    refused = run("claude-code", "--yes", code=1)

    assert "values of yours that lead elsewhere: env." in refused.complained
    assert settings.read_text() == own
    run("claude-code", "--yes", "--replace")
    assert "example" not in settings.read_text()
    run("claude-code", "--undo")
    assert settings.read_text() == own


def test_a_client_is_connected_to_a_proxy_that_was_never_started(home: Path, settings: Path, run: Run) -> None:
    (home / ".mitmproxy" / "mitmproxy-ca-cert.pem").unlink()

    desk = run("claude-code", "--yes")

    assert "NODE_EXTRA_CA_CERTS" in env_of(settings)
    assert desk.complained.endswith("start it before Claude Code, which trusts the certificate it then makes.\n")
    assert "never started" not in run("claude-code", "--undo").complained
    assert settings.read_text() == SETTINGS


def test_a_status_line_names_no_database_that_is_on_a_server(settings: Path, home: Path) -> None:
    config = home / "config.yaml"
    config.write_text("ccflare_open_loopback: true\n")
    desk = Desk(environ={"ccflare_CONFIG_PATH": str(config), "ccflare_DB_PATH": "postgresql://127.0.0.1:1/none"})

    main(["claude-code", "--yes"], desk.console())

    assert f'"command": "{ROOT}/scripts/statusline.py"' in settings.read_text(), desk.complained


def test_an_own_status_line_stays_and_ours_is_told(settings: Path, run: Run) -> None:
    own = {"type": "command", "command": "mine"}
    settings.write_text(json.dumps({"statusLine": own}))

    desk = run("claude-code", "--yes", "--replace")

    assert json.loads(settings.read_text())["statusLine"] == own
    assert "let your command print what this one does" in desk.complained
    assert "scripts/statusline.py --database" in desk.complained


def test_an_own_cache_setting_stays(settings: Path, run: Run) -> None:
    settings.write_text('{"promptCacheTtl": "5m"}')

    desk = run("claude-code", "--yes")

    assert "Your own promptCacheTtl stays" in desk.complained
    assert json.loads(settings.read_text())["promptCacheTtl"] == "5m"


@pytest.mark.parametrize(
    "own", ['{"env": {"ANTHROPIC_API_KEY": "sk-ant-EXAMPLE"}}', '{"apiKeyHelper": "pass show key"}']
)
def test_a_credential_of_the_clients_own_stays(settings: Path, run: Run, own: str) -> None:
    settings.write_text(own)

    run("claude-code", "--yes")

    assert "HTTPS_PROXY" in settings.read_text()
    assert "ANTHROPIC_AUTH_TOKEN" not in settings.read_text()


def test_a_key_makes_the_file_its_owners_alone_and_is_not_shown(home: Path, settings: Path, run: Run) -> None:
    key = add_key(home)

    desk = run("claude-code", "--yes", "--key", "-", stdin=f"{key}\n")

    assert f"http://key:{key}@127.0.0.1:8080" in settings.read_text()
    assert settings.stat().st_mode & 0o777 == 0o600
    assert key not in desk.said + desk.complained
    assert key not in (home / "data" / "connections" / "claude-code.json").read_text()
    run("claude-code", "--yes", "--address", "localhost:8080")
    assert f"http://key:{key}@localhost:8080" in settings.read_text(), "the key that it has is used again"
    run("claude-code", "--undo")
    assert (settings.read_text(), settings.stat().st_mode & 0o777) == (SETTINGS, 0o644)


def test_a_key_is_not_written_where_others_could_read_it(
    home: Path, settings: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_key(home)
    monkeypatch.setattr(settings_file, "_OTHERS", 0o700)  # as if the owner were others

    refused = run("claude-code", "--yes", "--key", "-", stdin=f"{key}\n", code=1)

    assert "others could read it there" in refused.complained
    assert settings.read_text() == SETTINGS


def test_secrets_beside_ours_are_not_shown(settings: Path, run: Run) -> None:
    settings.write_text(
        SETTINGS.replace('"EDITOR": "vi"', '"OTHER_TOKEN": "ghp_PLANTED0123456789abcdefghijABCDEFGHIJ"')
    )

    desk = run("claude-code", "--yes")

    assert "OTHER_TOKEN" in desk.said
    assert "ghp_PLANTED" not in desk.said


def test_the_placeholder_is_shown_also_beside_a_secret_in_one_line(settings: Path, run: Run) -> None:
    settings.write_text('{"env": {"OTHER_API_KEY": "sk-ant-api03-mine"}}')

    desk = run("claude-code")

    assert '"ANTHROPIC_AUTH_TOKEN": "unused"' in desk.said
    assert "sk-ant-api03-mine" not in desk.said


def test_a_link_stays_one(home: Path, settings: Path, run: Run) -> None:
    kept = home / "dotfiles.json"
    settings.rename(kept)
    settings.symlink_to(kept)

    run("claude-code", "--yes")

    assert settings.is_symlink()
    assert "HTTPS_PROXY" in kept.read_text()


def test_a_file_that_changes_meanwhile_is_not_overwritten(settings: Path) -> None:
    file = settings_file.SettingsFile(settings)
    before = file.read()
    settings.write_text("{}")

    with pytest.raises(Refused, match="changed by another program"):
        file.write(b"ours", 0o600, before)

    assert settings.read_text() == "{}"


@pytest.mark.parametrize("content", ["{oops", '{"env": "x"}', '{"env": {}, "env": {}}'])
def test_a_file_that_cannot_be_edited_is_told_and_left_alone(settings: Path, run: Run, content: str) -> None:
    settings.write_text(content)

    assert "cannot be edited" in run("claude-code", "--yes", code=1).complained
    assert settings.read_text() == content


def test_a_memory_that_is_damaged_is_told(home: Path, settings: Path, run: Run) -> None:
    run("claude-code", "--yes")
    (home / "data" / "connections" / "claude-code.json").write_text('{"file": "x"}')

    assert "is damaged" in run("claude-code", "--undo", code=1).complained


def test_a_file_that_the_user_has_deleted_is_forgotten(settings: Path, run: Run) -> None:
    run("claude-code", "--yes")
    settings.unlink()

    run("claude-code", "--undo")

    assert not settings.exists()


def test_vscode_gets_its_variables_as_a_list(home: Path, run: Run) -> None:
    settings = home / ".config" / "Code" / "User" / "settings.json"
    assert "is Claude Code in VS Code installed?" in run("vscode", "--yes", code=1).complained
    settings.parent.mkdir(parents=True)
    settings.write_text('{\n    "editor.fontSize": 12, // px\n}\n')

    run("vscode", "--yes")

    found = json.loads(settings.read_text().replace(" // px", "").replace("],\n}", "]\n}"))
    variables = {each["name"]: each["value"] for each in found["claudeCode.environmentVariables"]}
    assert variables["HTTPS_PROXY"] == "http://127.0.0.1:8080"
    assert variables["CLAUDE_CODE_PROMPT_CACHE_TTL"] == "1h"
    run("vscode", "--undo")
    assert settings.read_text() == '{\n    "editor.fontSize": 12, // px\n}\n'


def test_a_projects_settings_are_left_alone(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    project = home / "project" / ".claude"
    project.mkdir(parents=True)
    (project / "settings.json").write_text("{}")
    monkeypatch.chdir(project.parent)

    run("claude-code", "--yes")

    assert (project / "settings.json").read_text() == "{}"


def test_python_and_node_are_told_what_their_shell_needs(run: Run) -> None:
    assert "export SSL_CERT_FILE=" in run("python").said
    assert "set -gx NODE_USE_ENV_PROXY '1'" in run("node", "--shell", "fish").said
    assert "no settings that were changed" in run("node", "--undo", code=1).complained
