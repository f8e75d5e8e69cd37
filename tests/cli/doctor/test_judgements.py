"""`scripts/doctor.py`: each check goes wrong once, for the reason that it looks for."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asking import wait_for_key
from ccflare_cli.doctor import host_checks, installation, judgements, leaks, proxy_checks
from ccflare_cli.doctor.installation import Ingress
from ccflare_cli.doctor.judgements import Activity, Backup
from ccflare_cli.doctor.main import main
from ccflare_cli.doctor.results import AREAS, DAY, GIB, MIB, Level, Result, worst
from ccflare_core.accounts.account import Account, Kind
from ccflare_core.clients.keys import Role
from ccflare_core.clients.totp import code_at, step_at
from ccflare_core.config.location import Location, Server
from ccflare_core.config.options import OPTIONS
from ccflare_core.exchange.records import RunTold
from ccflare_core.store import backup
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.runs import Program
from ccflare_core.store.store import Store
from ccflare_mitm.pages.page import READ
from ccflare_mitm.pages.table import PAGES, find_page
from desk import Desk
from fake_upstream import FakeUpstream
from harness import REPOSITORY, Proxy, StartProxy, eventually
from history import NOON, History

HEX_KEY = bytes(range(32)).hex()
REAL_TOKEN = "sk-ant-api03-" + "aB3-dE6_gH9jK2mN5pQ8sT1vW4yZ7" * 3 + "AA"  # allow-secret: made up for this test

QUICK = [argument for area in AREAS if area != "code" for argument in ("--only", area)]
"""All but the search of the checkout, which takes half a second."""

Found = dict[str, list[Result]]
Run = Callable[..., Found]


def make_backup(store: Store, folder: Path) -> None:
    path, database = folder / "data" / "a.backup", folder / "data" / "ccflare.db"
    assert store.keys is not None
    entry = store.audited("backup.make", str(path))
    backup.make(database, store.keys, path, NOON, lambda done, total: None, entry)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    """A database in which all is well."""
    with History(tmp_path / "data" / "ccflare.db") as history:
        history.account("max-1")
        make_backup(history.store, tmp_path)
        history.store.clients.add(new_key("laptop", NOON))
        yield history


@pytest.fixture
def run(tmp_path: Path, history: History) -> Run:
    """Run it on that database, with more options and variables; what it found by check."""
    (tmp_path / "home").mkdir(mode=0o700)
    key = tmp_path / "home" / "key.txt"
    key.touch(mode=0o600)
    key.write_text(HEX_KEY)

    def run(*argv: str, code: int = 0, options: str = "", now: float = NOON, **environ: str) -> Found:
        config = tmp_path / "home" / "mitm-config.yaml"
        config.touch(mode=0o600)
        config.write_text(f"confdir: {tmp_path / 'confdir'}\nccflare_database: {history.location}\n{options}\n")
        variables = {
            "XDG_DATA_HOME": str(tmp_path / "home"),
            "ccflare_CONFIG_PATH": str(config),
            "ccflare_ENCRYPTION_KEY": f"file:{key}",
            **environ,
        }
        desk = Desk(environ=variables, now=now)
        assert main([*argv, *([] if "--only" in argv else QUICK), "--format", "json"], desk.console()) == code, (
            desk.said + desk.complained
        )
        found: Found = defaultdict(list)
        for row in json.loads(desk.said):
            found[row["check"]].append(Result(row["check"], Level(row["level"]), row["found"], row["remedy"]))
        return found

    return run


def level(found: Found, check: str) -> Level:
    """The worst of a check's results; it has to be there."""
    assert check in found, sorted(found)
    return worst(found[check])


def test_where_all_is_well_nothing_fails_and_each_trouble_has_a_remedy(run: Run) -> None:
    found = run(*QUICK, "--only", "code")
    results = [result for each in found.values() for result in each]

    assert {result.area for result in results} == set(AREAS) - {"upstream"}
    assert [result for result in results if result.level is Level.FAIL] == []
    assert [result for result in results if result.level is not Level.OK and not result.remedy] == []


def test_a_person_gets_a_table_of_what_is_not_well(history: History, tmp_path: Path) -> None:
    desk = Desk(environ={"ccflare_ENCRYPTION_KEY": HEX_KEY, "XDG_DATA_HOME": str(tmp_path)}, now=NOON)
    code = main(["--quiet", "--database", str(history.location), "--only", "host"], desk.console())
    assert code == 0
    assert "host.secrets" in desk.said
    assert "host.h11" not in desk.said
    assert desk.said.rstrip().endswith("0 fail")


@pytest.mark.parametrize(
    ("check", "options", "expected"),
    [
        ("options.valid", "ccflare_upstraem: https://api.anthropic.com", Level.FAIL),
        ("options.valid", "ccflare_hold_seconds: -1", Level.FAIL),
        ("options.hazards", "ssl_insecure: true", Level.FAIL),
        ("options.hazards", "validate_inbound_headers: false", Level.FAIL),
        ("options.hazards", "server_replay: [dump.mitm]", Level.FAIL),
        ("options.hazards", "server_replay_extra: '204'", Level.FAIL),
        ("options.risks", "ccflare_record: full", Level.WARN),
        ("options.risks", "ccflare_forward_other_hosts: true", Level.WARN),
        ("options.risks", "ccflare_search_index: plain", Level.WARN),
        ("options.web_host", "web_host: 0.0.0.0", Level.FAIL),
        ("options.web_password", "web_password: secret", Level.FAIL),
        ("options.web_password", "web_password: a-rather-long-password", Level.WARN),
        ("options.web_password", "web_password: $argon2id$v=19$m=65536", Level.OK),
        ("access.address", "listen_host: 0.0.0.0", Level.FAIL),
        ("database.audit_file", "ccflare_audit_file: off", Level.WARN),
    ],
)
def test_options_that_are_wrong_or_open_a_hole(run: Run, check: str, options: str, expected: Level) -> None:
    found = run(options=options, code=int(expected is Level.FAIL))
    assert level(found, check) is expected


@pytest.mark.parametrize(
    ("check", "variables", "expected"),
    [
        ("host.keylog", {"SSLKEYLOGFILE": "/tmp/keys"}, Level.FAIL),
        ("host.proxy", {"HTTPS_PROXY": "http://127.0.0.1:8080/"}, Level.WARN),
        ("host.secrets", {"ccflare_ENCRYPTION_KEY": HEX_KEY}, Level.WARN),
        ("options.valid", {"ccflare_KEY_SORCE": "file"}, Level.FAIL),
        ("keys.source", {"ccflare_ENCRYPTION_KEY": "file:/nowhere"}, Level.FAIL),
        ("database.opens", {"ccflare_ENCRYPTION_KEY": "00" * 32}, Level.FAIL),
    ],
)
def test_variables_that_harm(run: Run, check: str, variables: dict[str, str], expected: Level) -> None:
    found = run(code=int(expected is Level.FAIL), **variables)
    assert level(found, check) is expected


def test_installation_brings_the_authorities_that_are_asked_for() -> None:
    (certifi,) = [".".join(map(str, each.version)) for each in installation.MINIMA if each.package == "certifi"]

    assert (
        f"certifi>={certifi}" in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    )


def test_versions_with_known_holes() -> None:
    installed = {each.package: "9999.0" for each in installation.MINIMA} | {"h11": "0.14.0", "h2": "4.3.0rc1"}
    installed |= {"mitmproxy": "12.3.1"}
    found = {r.check: r.level for r in installation.versions((3, 11, 9), (1, 1, 1), installed)}
    bad = {check for check, each in found.items() if each is Level.FAIL}
    assert bad == {"host.python", "host.openssl", "host.h11"}
    (missing,) = [r for r in installation.versions((3, 13), (3, 0, 1), {**installed, "h2": ""}) if r.check == "host.h2"]
    assert missing.level is Level.FAIL


@pytest.mark.parametrize(
    ("package", "version", "expected"),
    [
        ("mitmproxy", "12.1.9", Level.FAIL),
        ("mitmproxy", "12.2", Level.OK),
        ("mitmproxy", "12.3.9", Level.OK),
        ("mitmproxy", "12.4", Level.FAIL),
        ("mitmproxy", "13.0.0.dev", Level.FAIL),
        ("certifi", "2026.5.20", Level.FAIL),  # has emSign's authorities, seen
        ("certifi", "2026.10.19.post1", Level.OK),
    ],
)
def test_a_version_is_judged_by_its_range(package: str, version: str, expected: Level) -> None:
    (found,) = [r for r in installation.versions((3, 13), (3, 0), {package: version}) if r.check == f"host.{package}"]

    assert found.level is expected
    assert (package in found.remedy) is (expected is Level.FAIL)


def test_files_that_others_can_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "ccflare.db").chmod(0o644)
    assert level(run(), "files.private") is Level.WARN
    (tmp_path / ".env").write_text("A=b")
    (tmp_path / ".env").chmod(0o644)
    assert level(run(code=1), "files.env") is Level.FAIL
    (tmp_path / ".env").chmod(0o600)
    assert level(run(), "files.env") is Level.OK


def test_rules_with_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("a: {effort: low}\nb: {effort: low}\n")

    (good,) = host_checks.rules(path)
    assert (good.level, good.found) == (Level.OK, f"2 rules in {path}")
    path.chmod(0o666)
    (open_,) = host_checks.rules(path)
    assert (open_.level, open_.found) == (Level.WARN, f"{path}: everybody can change the rules")
    path.write_text("a: {effort: max}\nb: {}\n")
    assert [(each.check, each.level) for each in host_checks.rules(path)] == [("options.rules", Level.FAIL)] * 2
    assert list(host_checks.rules(None)) == []
    assert list(host_checks.rules_accounts(path, list)) == list(host_checks.rules_accounts(None, list)) == []


def test_rules_about_accounts_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("a: {not_accounts: wrok}\nb: {accounts: [spare-*, w*], prefer: [work, gone]}\n")

    found = list(host_checks.rules_accounts(path, lambda: ["work", "spare-1"]))

    assert [(each.check, each.level) for each in found] == [("options.rules", Level.WARN)] * 2
    told = ["rule a: no account is called wrok", "rule b: no account is called gone"]
    assert [each.found for each in found] == told


def test_other_machines_without_a_limit_are_a_risk() -> None:
    remote: dict[str, object] = {"ccflare_allow_remote": True}
    assert worst(installation.option_risks(remote)) is Level.WARN
    assert worst(installation.option_risks({**remote, "ccflare_requests_per_minute_per_ip": 60})) is Level.OK


def test_every_risk_is_an_option_with_that_value() -> None:
    known = {option.name: option for option in OPTIONS}
    assert [name for name, value, _, _ in installation.RISKS if known[name].problem(value)] == []
    assert [name for name, value, _, _ in installation.RISKS if known[name].default == value] == []


def test_a_key_beside_the_database(tmp_path: Path) -> None:
    with closing(History(tmp_path / "ccflare.db").store):
        pass
    desk = Desk(environ={}, now=NOON)
    code = main(["--database", str(tmp_path / "ccflare.db"), "--only", "keys", "--format", "json"], desk.console())
    assert code == 0
    assert {"check": "keys.place", "level": "warn"}.items() <= json.loads(desk.said)[1].items()


def test_a_log_with_a_secret_of_ours_or_of_anybody(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "proxy.log"
    log.touch(mode=0o600)
    log.write_text("all is well\n")
    assert level(run("--log", str(log)), "files.logs") is Level.OK
    for secret, kind in (("token-of-max-1", "a secret of this database"), (REAL_TOKEN, "anthropic-key")):
        log.write_text(f"all is well\nsent {secret} upstream\n")
        (found,) = run("--log", str(log), code=1)["files.logs"]
        assert found.found == f"{log}:2: {kind}"
    log.write_text("")
    log.chmod(0o644)
    assert level(run("--log", str(log)), "files.logs") is Level.WARN
    assert level(run("--log", str(tmp_path / "none"), code=1), "files.logs") is Level.FAIL


def test_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "ROOT", tmp_path)
    assert [r.level for r in host_checks.code()] == [Level.OK]  # no checkout
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "settings.py").write_text(f"KEY = '{REAL_TOKEN}'\nOTHER = '{REAL_TOKEN}'  # allow-secret\n")
    (tmp_path / ".env").write_text("A=b")
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", "settings.py", ".env"], check=True)
    assert [(r.check, r.found) for r in host_checks.code()] == [
        ("code.tracked", ".env is tracked"),
        ("code.secrets", "settings.py:1: anthropic-key"),
    ]


@pytest.mark.parametrize("text", [b"sk-ant-api03-short", b"ccf_PLANTED0123456789abcdefghijklmnopq", b"a" * 200])
def test_made_up_secrets_of_tests_are_passed_over_in_sources_only(text: bytes) -> None:
    assert leaks.find(b"key = " + text, is_source=True) == []
    assert bool(leaks.find(b"key = " + text)) == (text[:1] != b"a")


def test_the_link_that_the_proxy_logs_at_its_start_is_no_leak() -> None:
    token = b"key_0a1b2c.1796027803.aB3-dE6_gH9jK2mN5pQ8sT1vW4yZ7.q8ST1vW4yZ7aB3dE6gH9jK2mN5pQ8sT1"
    assert leaks.find(b"dashboard: http://127.0.0.1:8080/ccflare/login?token=" + token) == []
    assert leaks.find(b"dashboard: http://127.0.0.1:8080/ccflare/other?token=" + token)


def test_a_damaged_database(run: Run, history: History, tmp_path: Path) -> None:
    history.store.close()
    path = tmp_path / "data" / "ccflare.db"
    with path.open("r+b") as file:
        file.seek(3 * 4096 + 100)
        file.write(os.urandom(8 * 4096))
    found = run(code=1)
    assert Level.FAIL in {level(found, check) for check in found if check.startswith("database.")}


def test_no_database_yet(run: Run, tmp_path: Path) -> None:
    found = run(options=f"\nccflare_audit_file: {tmp_path / 'a'}", code=0)
    assert level(found, "database.opens") is Level.OK
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    assert level(run(), "database.opens") is Level.WARN


def test_room_growth_and_backups() -> None:
    assert [r.level for r in judgements.room(200 * MIB, MIB, 1, 256 * MIB)] == [Level.FAIL, Level.OK]
    assert [r.level for r in judgements.room(500 * MIB, MIB, 1, 0)] == [Level.WARN, Level.OK]
    assert [r.level for r in judgements.room(2 * GIB, GIB, 2, 0)] == [Level.OK, Level.WARN]
    assert judgements.backup(None, is_used=True).level is Level.WARN
    unused = judgements.backup(None, is_used=False)
    assert (unused.level, unused.found) == (Level.OK, "there is nothing to back up yet")
    assert judgements.backup(Backup("x", 3 * DAY), is_used=True).level is Level.OK


def test_a_backup_that_is_old(run: Run) -> None:
    assert level(run("--only", "database"), "database.backup") is Level.OK
    assert level(run("--only", "database", now=NOON + 8 * DAY), "database.backup") is Level.WARN


def test_a_backup_that_is_gone_cut_off_or_was_never_finished(run: Run, history: History, tmp_path: Path) -> None:
    path = tmp_path / "data" / "a.backup"
    history.store.note("backup.make", str(tmp_path / "other"), "failed")
    assert level(run("--only", "database"), "database.backup") is Level.OK
    path.write_bytes(path.read_bytes()[:-1])
    [result] = run("--only", "database", code=1)["database.backup"]
    assert (result.level, "cut off" in result.found) == (Level.FAIL, True)
    path.unlink()
    [result] = run("--only", "database")["database.backup"]
    assert (result.level, str(path) in result.found) == (Level.WARN, True)


def test_a_broken_audit_log(run: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "ccflare.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER audit_log_keep")
        connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE id = 1")
    assert level(run(code=1), "database.audit") is Level.FAIL


def test_values_in_clear(run: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "ccflare.db", isolation_level=None)) as connection:
        connection.execute("UPDATE accounts SET access_token = 'sk-ant-oat01-in-clear'")
    found = run(code=1)
    assert level(found, "keys.sealed") is Level.FAIL
    assert level(found, "accounts.token") is Level.FAIL


def test_keys_that_are_old() -> None:
    assert judgements.key_age(400 * DAY, is_old=False).level is Level.WARN
    assert judgements.key_age(DAY, is_old=True).level is Level.WARN
    assert judgements.key_age(DAY, is_old=False).level is Level.OK


@pytest.mark.parametrize(
    ("sealed", "level"),
    [(0, Level.OK), (2**30 - 1, Level.OK), (2**30, Level.WARN), (2**32 - 1, Level.WARN), (2**32, Level.FAIL)],
)
def test_a_key_that_has_sealed_much_is_to_be_replaced_long_before_its_limit(sealed: int, level: Level) -> None:
    found = judgements.key_wear(sealed)
    assert (found.level, "rotate" in found.remedy) == (level, level is not Level.OK)


def test_accounts_that_cannot_be_used(run: Run, history: History) -> None:
    history.account("max-3", needs_login=True)
    history.account("max-4", expires_at=NOON - 1, refresh_token=None)
    history.account("max-5", login_expires_at=NOON + DAY, refresh_token="r")
    found = run(code=1)
    assert [r.found.partition(":")[0] for r in found["accounts.token"] if r.level is Level.FAIL] == ["max-3", "max-4"]
    assert [r.found.partition(":")[0] for r in found["accounts.login"]] == ["max-3", "max-5"]
    assert worst(judgements.accounts([], NOON)) is Level.WARN


def test_accounts_that_are_one() -> None:
    one = Account("1", "max-1", Kind.OAUTH, access_token="a", person_id="p", organization_id="o")
    key = Account("2", "key-1", Kind.API_KEY, api_key="k", organization_id="o")
    same = judgements.accounts([one, replace(one, id="3", name="max-3")], NOON)
    assert [r.found for r in same if r.level is Level.FAIL] == ["max-1 and max-3 have the same secret"]

    others = [replace(one, id="3", name="max-3", access_token="b"), replace(key, id="4", name="key-4", api_key="l")]
    found = {r.found: r.level for r in judgements.accounts([one, key, *others], NOON) if r.check == "accounts.shared"}
    assert found == {
        "max-1 and max-3 are one login, and share its limits": Level.WARN,
        "key-1 and key-4 are API keys of one organization, and share its limits": Level.OK,
    }


def test_an_expired_token_that_is_renewed_by_itself_is_no_trouble() -> None:
    account = Account("id", "max", Kind.OAUTH, access_token="a", expires_at=NOON - 1)
    assert worst(judgements.accounts([account], NOON)) is Level.FAIL
    assert worst(judgements.accounts([replace(account, refresh_token="r")], NOON)) is Level.OK


@pytest.mark.parametrize(
    ("ingress", "address", "keys"),
    [
        (Ingress("127.0.0.1", False, False, 0), Level.OK, Level.WARN),
        (Ingress("::1", False, False, 2), Level.OK, Level.OK),
        (Ingress("0.0.0.0", False, True, 2), Level.FAIL, Level.OK),
        (Ingress("0.0.0.0", True, True, 2), Level.OK, Level.OK),
        (Ingress("0.0.0.0", True, False, 2), Level.FAIL, Level.OK),
        (Ingress("proxy.example", True, True, 0), Level.FAIL, Level.WARN),
    ],
)
def test_who_can_reach_the_proxy(ingress: Ingress, address: Level, keys: Level) -> None:
    assert [r.level for r in installation.ingress(ingress)] == [address, keys]


def test_a_client_key_that_nobody_uses(run: Run) -> None:
    assert level(run("--only", "access"), "access.review") is Level.OK
    assert level(run("--only", "access", now=NOON + 91 * DAY), "access.review") is Level.WARN


def test_a_client_key_that_has_kept_its_tunnels(run: Run, history: History) -> None:
    history.store.clients.add(new_key("now", NOON, tunnels=True))
    assert level(run("--only", "access"), "access.tunnels") is Level.OK
    with sqlite3.connect(str(history.location)) as connection:
        connection.execute("UPDATE migrations SET applied_at = applied_at - 1000 WHERE name <> '0018_tunnels'")
        connection.execute("UPDATE migrations SET applied_at = ? WHERE name = '0018_tunnels'", (NOON * 1000 + 1,))
    connection.close()
    history.store.clients.add(new_key("later", NOON + 1, tunnels=True))

    kept = run("--only", "access", now=NOON + 2)["access.tunnels"]

    assert [(result.level, result.found.partition(" ")[0]) for result in kept] == [(Level.WARN, "now")]


def test_an_administrator_without_a_second_factor(run: Run, history: History) -> None:
    remote = "ccflare_allow_remote: true"
    assert level(run("--only", "access", options=remote), "access.mfa") is Level.OK
    history.store.clients.add(new_key("me", NOON, role=Role.ADMIN))
    assert level(run("--only", "access", options=remote), "access.mfa") is Level.WARN
    secret = history.store.factors.enable()
    assert level(run("--only", "access", options=remote), "access.mfa") is Level.WARN
    assert history.store.factors.confirm(code_at(secret.seed, step_at(NOON)))
    assert level(run("--only", "access", options=remote), "access.mfa") is Level.OK


def test_unusual_activity() -> None:
    events = Counter({("auth.denied", "denied"): 10, ("token.refresh", "failed"): 3, ("config.change", "ok"): 20})
    day = Activity(30, 10, ("127.0.0.1", "10.0.0.7"), events)
    told = list(judgements.activity(day, is_remote=False))
    assert [result.level for result in told] == [Level.WARN] * 5
    assert told[0].remedy.endswith("--since 24h`; each run of this doctor makes one, too")
    assert told[1].remedy.endswith("--since 24h`")
    quiet = Activity(30, 1, ("127.0.0.1", "10.0.0.7"), Counter())
    assert [r.level for r in judgements.activity(quiet, is_remote=True)] == [Level.OK] * 5


@pytest.mark.parametrize(
    ("failures", "requests", "level"),
    [
        (0, 0, Level.OK),
        (1, 11, Level.OK),
        (1, 10, Level.WARN),
        (12, 17, Level.WARN),
        (9, 20, Level.WARN),
        (10, 20, Level.FAIL),
        (19, 19, Level.WARN),
    ],
)
def test_failures_are_judged_by_their_share(failures: int, requests: int, level: Level) -> None:
    [found] = [
        result
        for result in judgements.activity(Activity(requests, failures, (), Counter()), is_remote=False)
        if result.check == "activity.failures"
    ]
    assert found.level is level


def test_refusals_of_what_runs_no_model_are_no_failures(run: Run, history: History) -> None:
    for number in range(20):
        history.exchange(NOON - number, outcome="refused", path="/ccflare/health")
    history.exchange(NOON)
    [found] = run("--only", "activity")["activity.failures"]
    assert (found.level, found.found) == (Level.OK, "0 of 1 request failed in 24 hours")


def test_activity_is_read_from_the_record(run: Run, history: History) -> None:
    for number in range(20):
        history.exchange(NOON - number, outcome="refused", client="10.0.0.7")
    found = run("--only", "activity", code=1)
    assert level(found, "activity.failures") is Level.FAIL
    assert level(found, "activity.addresses") is Level.WARN


def test_a_clock_that_is_wrong(run: Run, history: History) -> None:
    assert [installation.clock(skew).level for skew in (None, 1, -30, 500)] == [
        Level.OK,
        Level.OK,
        Level.WARN,
        Level.FAIL,
    ]
    history.exchange(NOON + 3600)
    assert level(run(code=1), "host.clock") is Level.FAIL


def test_a_server_without_verified_tls(tmp_path: Path) -> None:
    from ccflare_cli.doctor.store_checks import _server

    (tmp_path / "url").touch(0o600)
    (tmp_path / "url").write_text("postgresql://c:PLANTED@127.0.0.1,10.0.0.7/c?sslmode=prefer")
    hidden = _server(Server(f"file:{tmp_path / 'url'}"))
    assert (hidden.level, "sslmode=prefer" in str(hidden), "PLANTED" in str(hidden)) == (Level.FAIL, True, False)
    assert _server(Server("postgresql://c@db.example/c?sslmode=require")).level is Level.FAIL
    assert _server(Server("postgresql://c@db.example/c")).level is Level.OK
    assert _server(Server("postgresql://c@127.0.0.1/c?sslmode=disable")).level is Level.OK


def test_both_kinds_of_database_can_be_looked_at(location: Location, tmp_path: Path) -> None:
    with History(location) as history:
        history.account("max-1")
        history.exchange(NOON - 60)
    desk = Desk(environ={"ccflare_ENCRYPTION_KEY": HEX_KEY, "XDG_DATA_HOME": str(tmp_path)}, now=NOON)
    areas = ("database", "keys", "accounts", "access", "activity", "proxy")
    argv = [argument for area in areas for argument in ("--only", area)]
    assert main([*argv, "--database", str(location), "--format", "json"], desk.console()) == 0, desk.said
    assert [row for row in json.loads(desk.said) if row["check"] == "database.reads"] == []


def test_the_running_proxy(start_proxy: StartProxy, upstream: FakeUpstream) -> None:
    proxy = start_proxy(upstream, accounts={"max-1": "sk-ant-oat01-one"})
    found = examined(proxy)
    assert {check for check in found if check.startswith("proxy.")} == {
        *("proxy.core", "proxy.health", "proxy.cors", "proxy.origin", "proxy.host", "proxy.changes"),
        *("proxy.headers", "proxy.errors", "proxy.endpoints", "proxy.version"),
    }
    assert [result.level for result in found["proxy.version"]] == [Level.OK]
    wait_for_key(proxy, proxy.add_client_key("me"))
    assert "proxy.keys" in examined(proxy)
    assert upstream.requests == []  # none of what it tries gets anywhere


class _Page(BaseHTTPRequestHandler):
    """Another program's page, for every path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>mitmweb</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def another_program(port: int = 0) -> Iterator[int]:
    """A web server on a port of this machine; which one."""
    with ThreadingHTTPServer(("127.0.0.1", port), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def started(history: History, scope: str, run_id: str, pid: int) -> None:
    """Note that a proxy has started, as it does itself."""
    history.store.configurations.take(scope, {"listen_host": "127.0.0.1"})
    history.store.note("proxy.start", scope, run=run_id, pid=pid)


def test_another_program_on_a_port_that_a_proxy_once_had_is_none_of_its_business(
    run: Run, history: History, start_proxy: StartProxy, upstream: FakeUpstream
) -> None:
    host, proxy = socket.gethostname(), start_proxy(upstream)
    with another_program() as port:
        started(history, f"{host}:{port}", "run-1", os.getpid())
        history.store.runs.start("run-1", host, os.getpid())
        history.store.runs.end("run-1")
        started(history, f"{host}:{proxy.port}", "run-2", os.getpid())
        history.store.runs.start("run-2", host, os.getpid())
        found = run("--only", "proxy", code=1)  # this process may dump its core
    assert {result.found for result in found["proxy.health"]} == {f"127.0.0.1:{proxy.port} is well"}


def test_proxies_on_one_database_of_which_one_is_older_and_one_is_silent(run: Run, history: History) -> None:
    assert "database.proxies" not in run("--only", "database")
    for name, version in (("alpha", "1.0 (aa)"), ("beta", "1.0 (aa)")):
        history.store.runs.start(name, name, 7, Program(version))
    (found,) = run("--only", "database")["database.proxies"]
    assert (found.level, found.found) == (Level.OK, "2 proxies share the database, all of one version")

    history.store.runs.start("gamma", "gamma", 7, Program("0.9 (bb)"))
    history.store.write([RunTold("beta", {"beat_at": 1})])

    silent, older = run("--only", "database")["database.proxies"]
    assert (silent.level, silent.found) == (Level.WARN, "beta: no sign of life for longer than 45 s")
    assert older.level is Level.WARN
    assert older.found.endswith("0.9 (bb) on gamma; 1.0 (aa) on alpha")


def test_a_port_that_another_program_answers_is_no_fault_of_the_proxy(run: Run, history: History) -> None:
    with another_program() as port:
        started(history, f"{socket.gethostname()}:{port}", "run-1", os.getpid())
        history.store.runs.start("run-1", socket.gethostname(), os.getpid())
        found = run("--only", "proxy", code=1)  # this process may dump its core
    [health] = found["proxy.health"]
    assert (health.level, "another program" in health.found) == (Level.WARN, True)
    assert {check for check in found if check.startswith("proxy.")} == {"proxy.health", "proxy.core"}


def test_a_throttled_probe_proves_nothing() -> None:
    refused, throttled = (proxy_checks.Seen(status, {}, "") for status in (401, 429))
    assert proxy_checks._judged("proxy.keys", "x", refused, is_well=True).level is Level.OK
    assert proxy_checks._judged("proxy.keys", "x", throttled, is_well=False).level is Level.WARN
    assert proxy_checks._endpoints({"/a": refused, "/b": throttled}, is_closed=True).level is Level.WARN
    assert proxy_checks._endpoints({"/a": refused}, is_closed=True).level is Level.OK


def test_a_probe_without_a_key_that_has_to_slow_down_was_refused(start_proxy: StartProxy) -> None:
    """As a third run within two minutes is told, in place of 401."""
    proxy = start_proxy()
    proxy.add_client_key("me")
    here = proxy_checks.Proxy("127.0.0.1", proxy.port, proxy.pid, False, False, {}, {})

    seen = eventually(lambda: proxy_checks._ask(here, "GET", "/ccflare/accounts"), lambda seen: seen.status == 429)

    assert not seen.is_throttled
    assert proxy_checks._judged("proxy.keys", "x", seen, is_well=seen.status in proxy_checks._REFUSED).level is Level.OK
    assert proxy_checks._endpoints({"/a": seen}, is_closed=True).level is Level.OK


def test_pages_of_every_permission_to_read_are_tried() -> None:
    tried = [found.page for path in proxy_checks.PAGES if (found := find_page(path))]
    assert [page.methods for page in tried] == [READ] * len(proxy_checks.PAGES)
    reading = {page.permission for page in PAGES if page.methods == READ and page.permission is not None}
    assert {page.permission for page in tried} == reading


def examined(proxy: Proxy) -> Found:
    """What the script finds in a proxy from outside."""
    found: Found = defaultdict(list)
    for row in json.loads(proxy.run_script("doctor.py", "--only", "proxy", "--format", "json")):
        assert row["level"] == "ok", row
        found[row["check"]].append(Result(**row))
    return found


def test_online_it_names_the_upstreams_keys(tls_upstream: FakeUpstream, run: Run, tmp_path: Path) -> None:
    where = f"ccflare_upstream: {tls_upstream.url}\nccflare_token_url: {tls_upstream.url}/v1/oauth/token\n"
    where += f"ccflare_create_key_url: {tls_upstream.url}/key\n"
    found = run("--online", "--only", "upstream", options=where, code=1)
    assert "not trusted" in found["upstream.tls"][0].found

    trusting = f"{where}ssl_verify_upstream_trusted_ca: {tls_upstream.ca_file}\n"
    (pins,) = run("--online", "--only", "upstream", options=trusting)["upstream.pins"]
    assert "sha256/" in pins.found
    pinned = f"{trusting}ccflare_upstream_pins: {urlsplit(tls_upstream.url).hostname}=sha256/{'A' * 43}=\n"
    assert level(run("--online", "--only", "upstream", options=pinned, code=1), "upstream.pins") is Level.FAIL
