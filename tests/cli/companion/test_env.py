"""`ccflare env`, as a shell and a person use it."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ccflare_cli.companion.env import main
from desk import Desk, Terminal
from home_kit import add_key, make_home

Run = Callable[..., Desk]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def run(home: Path) -> Run:
    def run(*argv: str, code: int = 0, stdin: str = "", **environ: str) -> Desk:
        desk = Desk(io.StringIO(stdin), environ={"SHELL": "/bin/bash"} | environ)
        assert main([*argv, "--database", str(home / "data" / "ccflare.db")], desk.console()) == code, desk.complained
        return desk

    return run


def test_a_shell_takes_what_is_printed(home: Path, run: Run) -> None:
    desk = run(HTTP_PROXY="http://proxy.example")
    show = 'printf "%s\\n" "$HTTPS_PROXY" "$NODE_EXTRA_CA_CERTS" "$SSL_CERT_FILE" "${HTTP_PROXY-none}"'

    done = subprocess.run(
        ["sh", "-c", f"{desk.said}{show}"], capture_output=True, text=True, check=True, env={"HTTP_PROXY": "x"}
    )

    address, authority, bundle, gone = done.stdout.splitlines()
    assert (address, gone, desk.complained) == ("http://127.0.0.1:8080", "none", "")
    assert authority == str(home / ".mitmproxy" / "mitmproxy-ca-cert.pem")
    assert Path(bundle).read_bytes().endswith(Path(authority).read_bytes().strip() + b"\n")


def test_the_address_is_the_configured_one_or_the_given_one(run: Run) -> None:
    configured = run("--format", "json", PORT="9090", HOST="0.0.0.0").said
    given = run("--format", "json", "--address", "[::1]:9091").said

    assert '"http://127.0.0.1:9090"' in configured
    assert '"http://[::1]:9091"' in given


def test_a_shell_of_another_kind_is_told_in_its_words(run: Run) -> None:
    assert "set -gx HTTPS_PROXY 'http://127.0.0.1:8080'" in run(SHELL="/usr/bin/fish").said
    assert "$env:HTTPS_PROXY = 'http://127.0.0.1:8080'" in run("--shell", "powershell").said


def test_at_a_terminal_it_says_how_the_shell_takes_it(home: Path) -> None:
    desk = Desk(stdout=Terminal())

    assert main(["--database", str(home / "ccflare.db"), "--shell", "fish"], desk.console()) == 0

    assert "scripts/env.py --shell fish | source" in desk.complained


def test_at_a_terminal_the_way_to_take_it_asks_for_the_key_again(home: Path) -> None:
    key = add_key(home)
    desk = Desk(io.StringIO(f"{key}\n"), stdout=Terminal(), environ={"SHELL": "/bin/bash"})

    assert main(["--database", str(home / "data" / "ccflare.db"), "--key", "-"], desk.console()) == 0

    assert 'eval "$(scripts/env.py --key -)"' in desk.complained


def test_a_key_that_nobody_asks_for_is_left_out_and_that_is_said(home: Path, run: Run) -> None:
    desk = run("--key", "-", stdin="ccf_EXAMPLE\n")

    assert "ccf_" not in desk.said
    assert desk.complained == "The key is left out: this proxy asks programs of this machine for none.\n"


def test_programs_get_the_variables_as_json(run: Run) -> None:
    rows = json.loads(run("--format", "json", ANTHROPIC_BASE_URL="http://127.0.0.1:8080").said)

    assert rows[0] == {"name": "ANTHROPIC_BASE_URL", "value": None}
    assert {"name": "ANTHROPIC_AUTH_TOKEN", "value": "unused"} in rows


def test_a_login_of_claude_code_stays(home: Path, run: Run) -> None:
    (home / ".claude").mkdir()
    (home / ".claude" / ".credentials.json").write_text('{"claudeAiOauth": {"accessToken": "EXAMPLE"}}')

    assert "ANTHROPIC_AUTH_TOKEN" not in run().said


def test_where_keys_are_in_use_an_address_without_one_is_refused(home: Path, run: Run) -> None:
    key = add_key(home)

    refused = run(code=1)

    assert refused.said == ""
    assert "make one with `scripts/keys.py client add NAME --tunnels`" in refused.complained
    given = run("--key", "-", stdin=f"{key}\n").said
    assert f"http://key:{key}@127.0.0.1:8080" in given
    again = run(HTTPS_PROXY=f"http://key:{key}@127.0.0.1:8080").said
    assert f"http://key:{key}@127.0.0.1:8080" in again
    (home / "config.yaml").write_text("ccflare_open_loopback: true")
    assert "ccf_" not in run(ccflare_CONFIG_PATH=str(home / "config.yaml")).said


def test_what_is_no_key_is_refused_and_not_repeated(home: Path, run: Run) -> None:
    add_key(home)

    refused = run("--key", "-", code=1, stdin="sk-ant-EXAMPLE")

    assert "This is no client key" in refused.complained
    assert "EXAMPLE" not in refused.complained


def test_without_an_authority_it_says_who_makes_it(home: Path, run: Run) -> None:
    (home / ".mitmproxy" / "mitmproxy-ca-cert.pem").unlink()

    assert "so start it" in run(code=1).complained


@pytest.mark.parametrize("address", ["8080", "http://127.0.0.1:8080", "host:"])
def test_what_is_no_address_is_misuse(run: Run, address: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--address", address)
