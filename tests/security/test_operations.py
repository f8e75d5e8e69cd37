"""Operations: what an owner can check, find out and do, and what the project checks of itself."""

import ast
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ccflare_cli import show
from ccflare_cli.accounts import main as accounts
from ccflare_cli.audit import main as audit
from ccflare_cli.doctor import host_checks, judgements
from ccflare_cli.doctor.judgements import Activity
from ccflare_cli.doctor.results import Level
from ccflare_core.reports.anomalies import Cause, Notice
from desk import Desk
from fake_upstream import FakeUpstream
from harness import Proxy, via_base_url
from history import NOON, History

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "addon").rglob("*.py"))

HARMLESS = {"token_keeper.py", "usage_poll.py", "collaborators.py", "failover.py", "write.py"}
"""Where the `random` module spreads times out, or tells two writers apart; nobody gains anything by guessing these."""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeUpstream, Proxy]]:
    """A proxy with an account and a client key."""
    with FakeUpstream() as upstream:
        proxy = Proxy(upstream)
        proxy.add_tokens("max-1", "sk-ant-oat01-one")
        proxy.run_script("keys.py", "client", "add", "me")
        with proxy:
            yield upstream, proxy


@pytest.fixture(scope="module")
def findings(served: tuple[FakeUpstream, Proxy]) -> dict[str, set[str]]:
    """What the doctor says of it: the levels of each check."""
    _, proxy = served
    proxy.log_file.chmod(0o600)
    levels: dict[str, set[str]] = {}
    for row in json.loads(proxy.run_script("doctor.py", "--log", str(proxy.log_file), "--format", "json")):
        levels.setdefault(row["check"], set()).add(row["level"])
    return levels


def test_r29_whatever_must_not_be_guessed_comes_from_the_systems_randomness() -> None:
    importing = {path.name for path in SOURCES if "random" in imported(path)}
    assert importing <= HARMLESS
    assert {path.name for path in SOURCES if re.search(r"uuid[134]?\.uuid[135]\(", path.read_text())} == set()


def imported(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
    return {alias.name for node in nodes for alias in node.names}


def test_r69_the_doctor_warns_of_what_is_unusual() -> None:
    events = Counter({("auth.denied", "denied"): 50, ("token.refresh", "failed"): 5, ("config.change", "ok"): 30})
    odd = judgements.activity(Activity(100, 60, ("203.0.113.7",), events), is_remote=False)
    assert {result.check for result in odd if result.level is not Level.OK} == {
        *("activity.denied", "activity.refreshes", "activity.changes", "activity.failures", "activity.addresses")
    }


def test_r70_the_doctor_shows_what_was_unusual_by_what_was_learned() -> None:
    notices = [Notice(Cause.VOLUME, "ck_1", "office", NOON - n, f"{n} requests") for n in range(7)]

    shown = list(judgements.unusual(notices, is_wanted=True))

    assert [result.level for result in shown] == [Level.WARN] * 6
    assert shown[0].found == "client key office: 2 requests"
    assert shown[-1].found == "2 more notices in 24 hours of what is unusual"
    assert [result.level for result in judgements.unusual([], is_wanted=True)] == [Level.OK]
    assert "ccflare_anomaly_notices" in next(judgements.unusual([], is_wanted=False)).found


def test_r74_a_tracked_or_readable_env_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ccflare_PASSPHRASE=x")
    (tmp_path / ".env").chmod(0o640)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", ".env"], check=True)

    results = [*host_checks.files(None, {}, {}), *host_checks.code()]

    assert [r.check for r in results if r.level is Level.FAIL] == ["files.env", "code.tracked"]


def test_r78_the_doctor_tries_each_box_of_the_checklist(findings: dict[str, set[str]]) -> None:
    """The review's deployment checklist, box by box, on a proxy that runs."""
    boxes = {
        "network": {"access.address", "proxy.host", "options.web_host"},
        "tokens": {
            "keys.source",
            "keys.place",
            "keys.sealed",
            "keys.age",
            "keys.wear",
            "files.private",
            "accounts.token",
        },
        "access": {"access.keys", "access.review", "proxy.changes", "database.audit"},
        "data": {"database.backup", "database.growth", "database.disk", "database.whole"},
        "monitoring": {
            f"activity.{name}" for name in ("denied", "refreshes", "changes", "failures", "addresses", "unusual")
        },
    }
    assert {box: checks - findings.keys() for box, checks in boxes.items() if checks - findings.keys()} == {}


HOLE = '{"id": "X-1", "fix_versions": ["2"]}'


@pytest.mark.parametrize(
    ("program", "seconds", "code", "said"),
    [
        (
            f"""echo '{{"dependencies": [{{"name": "h11", "version": "1", "vulns": [{HOLE}]}}]}}'""",
            30,
            1,
            "h11 1: X-1, mended in 2",
        ),
        ("""echo '{"dependencies": [{"name": "h11", "version": "2", "vulns": []}]}'""", 30, 0, ""),
        ("echo no connection; exit 1", 30, 0, "no advisory feed"),
        ("sleep 60", 1.5, 0, "longer than"),
        (None, 30, 0, "not installed"),
    ],
)
def test_r79_a_known_hole_fails_the_check_and_a_missing_feed_is_a_warning(
    program: str | None, seconds: float, code: int, said: str, tmp_path: Path
) -> None:
    if program is not None:
        (tmp_path / "pip-audit").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "pip-audit").chmod(0o700)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(ROOT / "scripts" / "_advisories.py"), str(seconds)],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert time.monotonic() - began < 30


BARE = """
import runpy, sys
sys.argv, sys.executable = sys.argv[1:], "/none/python"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""An environment without a pip-audit of its own."""


def test_r80_security_lint_is_on_for_all_that_is_not_a_test() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("S")]
    assert [place for place, rules in lint["per-file-ignores"].items() if "S" in rules] == ["tests/**"]


def test_r81_the_reviews_manual_checklist(findings: dict[str, set[str]]) -> None:
    """No credential in the code, no page for strangers, no telling error, private files, a clean log."""
    for check in ("code.secrets", "proxy.changes", "proxy.errors", "proxy.headers", "files.private", "files.logs"):
        assert findings[check] == {"ok"}, check


def test_r82_strangers_learn_nothing_and_change_nothing(served: tuple[FakeUpstream, Proxy]) -> None:
    """The review's three curl commands, with its own paths and with ours."""
    upstream, proxy = served
    evil = ((b"Origin", b"http://evil.com"), (b"Access-Control-Request-Method", b"GET"))
    for path in ("/api/accounts", "/ccflare/accounts"):
        with via_base_url(proxy) as client:
            assert client.request("GET", path).status in (401, 403, 404, 429)
        with via_base_url(proxy) as client:
            assert client.request("OPTIONS", path, evil).header("access-control-allow-origin") is None
    with via_base_url(proxy) as client:
        head = client.request("HEAD", "/ccflare/health").head
    assert [name for name in ("server", "via", "x-powered-by") if head.header(name)] == []
    assert upstream.requests == []


HOSTILE = ("x' OR '1'='1", "x'; DROP TABLE requests; --", 'x" OR 1=1 --', "%", "_", "\\", "!%", "?", "%s")


@pytest.mark.parametrize("text", HOSTILE)
def test_r83_text_from_outside_is_never_a_part_of_a_statement(text: str, tmp_path: Path) -> None:
    """Ruff's S608, which is on, finds statements that are put together; here is what comes of those that may be."""
    path = tmp_path / "ccflare.db"
    with History(path) as history:
        history.account("max-1")
        history.exchange(NOON - 60)
    for main, argv in (
        (audit.main, ("who-used", text)),
        *((audit.main, ("show", f"--{name}={text}")) for name in ("target", "actor", "ip", "action")),
        (show.main, (text,)),
        (accounts.main, ("pause", text)),
        (accounts.main, ("remove", text, "--yes")),
    ):
        desk = Desk(environ={"ccflare_ENCRYPTION_KEY": bytes(range(32)).hex()}, now=NOON)
        with contextlib.suppress(SystemExit):  # an argument that no account can be called is misuse
            main([*argv, "--database", str(path)], desk.console())
        assert "max-1" not in desk.said, argv
        assert "syntax" not in desk.said + desk.complained, argv
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*), SUM(paused) FROM accounts").fetchone() == (1, 0)
        assert connection.execute("SELECT COUNT(*) FROM requests").fetchone() == (1,)


@pytest.mark.timeout(300)
def test_r71_the_drill_comes_out_as_it_should(tmp_path: Path) -> None:
    """A stolen key: who used it, revoke, block, renew everything, verify, keep the evidence."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_drill.py")],
        capture_output=True,
        text=True,
        timeout=280,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for command in ("who-used", "client revoke", "access.py block", "rotate-all", "audit.py verify", "bundle"):
        assert command in done.stdout
    assert list(tmp_path.iterdir()) == []
