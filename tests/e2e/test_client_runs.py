"""`ccflare run` with a proxy that runs: what a client is narrowed to, and what is left of that when it has ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.companion import run
from clients_kit import detoured
from desk import Desk
from detour import HOST
from fake_upstream import FakeUpstream
from harness import REPOSITORY, eventually, via_base_url
from programs import Program

RUN = REPOSITORY / "scripts" / "run.py"
BODY = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
ASK = f"""
import json, os, sys, urllib.error, urllib.request
def ask():
    fields = {{"content-type": "application/json", "x-api-key": "unused", "anthropic-version": "2023-06-01"}}
    request = urllib.request.Request("https://{HOST}/v1/messages", {json.dumps(BODY)!r}.encode(), fields)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]
"""


class Place:
    """A proxy whose API is simulated under its real name, with two accounts, and what its owner has set."""

    def __init__(self, upstream: FakeUpstream, folder: Path) -> None:
        self.upstream, self._seen = upstream, 0
        self.proxy = detoured(upstream, folder, ccflare_hold_seconds=0)
        for name in ("max-1", "max-2"):
            self.proxy.add_tokens(name, f"sk-ant-oat01-PLANTED-{name}")
        config = folder / "config.yaml"
        config.write_text(f"confdir: {self.proxy.confdir}\nlisten_port: {self.proxy.port}\n")
        self.environ = {"ccflare_CONFIG_PATH": str(config), "PATH": os.environ["PATH"], "HOME": str(folder)}

    def start(self, *arguments: str, code: str, **environ: str) -> "subprocess.Popen[str]":
        words = ["--database", str(self.proxy.database), *arguments, sys.executable, "-c", ASK + code]
        return Program(
            [sys.executable, str(RUN), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | environ,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: str = "print(json.dumps(ask()))", **environ: str) -> tuple[int, Any, str]:
        """The exit code, what the client has printed as JSON, and what was complained of."""
        process = self.start(*arguments, code=code, **environ)
        said, complained = process.communicate(timeout=90)
        return process.returncode, json.loads(said) if said else None, complained

    def refusal(self, *words: str, **environ: str) -> str:
        """What is said of a client that is not started."""
        desk = Desk(environ=self.environ | environ)
        assert run.main(["--database", str(self.proxy.database), *words], desk.console()) == 1
        return desk.complained

    def ask(self, address: str) -> tuple[int, str]:
        """What the API says to who goes by this address of the proxy; 0 and why if it says nothing."""
        code = f"{ASK}try: found = ask()\nexcept OSError as error: found = 0, str(error)\nprint(json.dumps(found))"
        variables = {"HTTPS_PROXY": address, "SSL_CERT_FILE": str(self.proxy.confdir / "mitmproxy-ca-cert.pem")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=variables, timeout=90, check=True)
        status, message = json.loads(done.stdout)
        return status, message

    def reason(self, account: str) -> str:
        """What the health page says of an account."""
        with via_base_url(self.proxy) as client:
            accounts = client.request("GET", "/ccflare/health").json()["accounts"]
        return next(str(each["reason"]) for each in accounts if each["name"] == account)

    def served_by(self) -> list[str]:
        """The accounts that were asked, in order, since the last time."""
        requests, self._seen = self.upstream.requests[self._seen :], len(self.upstream.requests)
        found = [each.credential for each in requests if each.path == "/v1/messages"]
        return [str(each).rpartition("PLANTED-")[2] for each in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with FakeUpstream(tls=True, hosts=[HOST]) as upstream:
        place = Place(upstream, tmp_path_factory.mktemp("proxy"))
        with place.proxy:
            yield place


def test_a_client_is_served_by_its_account_and_recorded_as_its_run(place: Place) -> None:
    names = ("HTTPS_PROXY", "NO_PROXY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ccflare_PASSPHRASE")
    code = f"print(json.dumps([ask(), ask(), [os.environ.get(name) for name in {names}]])); sys.exit(7)"
    theirs = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}

    ended, said, complained = place.run(
        *("--account", "max-2", "--project", "site", "--tag", "ticket=12", "--tag", "who=me"), code=code, **theirs
    )

    assert (ended, said[:2], complained) == (7, [[200, ""], [200, ""]], "")
    address, *others = said[2]
    run = address.removeprefix("http://").partition(":")[0]
    assert address == f"http://{run}:-@127.0.0.1:{place.proxy.port}"
    assert others == ["localhost,127.0.0.1,::1", "unused", None, None]
    assert place.served_by() == ["max-2", "max-2"]
    sql = "SELECT project, account_name, client_id FROM requests WHERE client_run = ? AND outcome = 'ok'"
    rows = place.proxy.rows(sql, (run,), until=lambda rows: len(rows) == 2)
    assert rows[0] == {"project": "site", "account_name": "max-2", "client_id": None}
    (row,) = place.proxy.rows("SELECT tags, ended_at FROM client_runs WHERE id = ?", (run,))
    assert (row["tags"], row["ended_at"] is not None) == ('["ticket=12", "who=me"]', True)
    tagged = "SELECT name, value FROM request_tags JOIN requests ON id = request_id WHERE client_run = ?"
    found = [(tag["name"], tag["value"]) for tag in place.proxy.rows(tagged, (run,))]
    assert sorted(found) == [("ticket", "12")] * 2 + [("who", "me")] * 2
    eventually(lambda: place.ask(address), lambda answer: answer[0] == 403)
    status, message = place.ask(address)
    assert (status, message[:47]) == (403, "The run in the proxy's address is not known her")
    assert place.served_by().count("max-1") == 0


def test_a_client_whose_account_cannot_serve_waits_for_it_and_is_not_moved(place: Place) -> None:
    place.proxy.accounts("pause", "max-2")
    try:
        eventually(lambda: place.reason("max-2"), lambda reason: reason == "paused")
        place.served_by()
        _, (status, message), _ = place.run("--account", "max-2")
    finally:
        place.proxy.accounts("resume", "max-2")
        eventually(lambda: place.reason("max-2"), lambda reason: reason == "serving")

    assert (status, place.served_by()) == (503, [])
    assert message.startswith("This run is to be served by account max-2")


def test_a_budget_ends_what_a_client_may_spend(place: Place) -> None:
    _, said, _ = place.run("--budget", "0.00001", code="print(json.dumps([ask(), ask()]))")

    assert said == [[200, ""], [429, "This run has used its budget of $0.00001."]]


def test_an_account_that_is_not_there_starts_nothing(place: Place) -> None:
    assert "nobody" in place.refusal("--account", "nobody", "true")


# --- where keys are in use --------------------------------------------------------------------------------------------

SHOW = "print(json.dumps([ask(), os.environ['HTTPS_PROXY'], os.environ.get('CLAUDE_CODE_OAUTH_TOKEN')]))"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    with FakeUpstream(tls=True, hosts=[HOST]) as upstream:
        place = Place(upstream, tmp_path_factory.mktemp("keyed"))
        key = place.proxy.add_client_key("laptop", "--tunnels", "--accounts", "max-2")
        with place.proxy:
            yield place, key


def test_a_client_gets_a_key_for_its_run_alone_which_is_no_wider_than_its_users(keyed: tuple[Place, str]) -> None:
    place, key = keyed
    place.served_by()
    address = f"http://key:{key}@127.0.0.1:{place.proxy.port}"

    ended, said, complained = place.run(code=SHOW, HTTPS_PROXY=address, CLAUDE_CODE_OAUTH_TOKEN=key)

    assert (ended, complained, said[0], said[2]) == (0, "", [200, ""], None)
    run, _, temporary = said[1].removeprefix("http://").partition("@")[0].partition(":")
    assert temporary.startswith("ccf_")
    assert temporary != key
    assert place.served_by() == ["max-2"]
    sql = "SELECT client_name FROM requests WHERE client_run = ?"
    assert place.proxy.rows(sql, (run,), until=len) == [{"client_name": "laptop"}]
    assert "Tunnel connection failed" in eventually(lambda: place.ask(said[1]), lambda answer: answer[0] == 0)[1]
    assert temporary not in place.proxy.log()
    assert "may not use the account max-1" in place.refusal("--account", "max-1", "true", HTTPS_PROXY=address)


def test_the_owner_needs_no_key_for_a_client(keyed: tuple[Place, str]) -> None:
    place, _ = keyed
    place.served_by()

    ended, said, complained = place.run("--account", "max-1", code=SHOW)

    assert (ended, complained, said[0], place.served_by()) == (0, "", [200, ""], ["max-1"])
    run = said[1].removeprefix("http://").partition(":")[0]
    assert place.ask(f"http://{run}:-@127.0.0.1:{place.proxy.port}")[0] == 0  # a label is no key


def test_a_key_that_is_none_starts_nothing(keyed: tuple[Place, str]) -> None:
    place, key = keyed
    address = f"http://key:{key[:-3]}xyz@127.0.0.1:9"

    assert "it is an unknown key" in place.refusal("true", HTTPS_PROXY=address)
