"""Logins as people make them: the real script, a browser, a paste, and a proxy that serves from the result."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.secrets.key_sources import KeyFile
from ccflare_core.store.store import Store
from fake_upstream import MESSAGES, TOKEN, FakeUpstream
from harness import REPOSITORY, Proxy, StartProxy, claude_request, eventually, via_base_url
from login_kit import CREATE_KEY, configured

_BROWSER = f"""#!{sys.executable}
import pathlib, sys, urllib.request
page = urllib.request.urlopen(sys.argv[1], timeout=60).read()
folder = pathlib.Path(__file__).parent
(folder / "address").write_text(sys.argv[1])
(folder / "new page").write_bytes(page)
(folder / "new page").rename(folder / "page")
"""


class Person:
    """Someone at a keyboard. The browser stand-in allows every login and leaves what the page shows in a file."""

    def __init__(self, folder: Path, upstream: FakeUpstream, database: Path, **options: str) -> None:
        self.folder = folder / "person"
        self.folder.mkdir()
        browser = self.folder / "browser"
        browser.write_text(_BROWSER)
        browser.chmod(0o700)
        self.database = database
        self.environment = {
            **configured(self.folder, upstream, **options),
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "BROWSER": f"{browser} %s",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # as in a shell that is set up for the proxy
            "HTTP_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }

    @contextlib.contextmanager
    def begins(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """The script, waiting for the code."""
        (self.folder / "page").unlink(missing_ok=True)
        command = [
            sys.executable,
            str(REPOSITORY / "scripts" / "accounts.py"),
            "--database",
            str(self.database),
            *words,
        ]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        try:
            eventually(lambda: (self.folder / "page").exists() or child.poll() is not None)
            yield child
        finally:
            child.kill()
            child.communicate()

    @property
    def code(self) -> str:
        """What the page shows."""
        return (self.folder / "page").read_text()

    def logs_in(self, *words: str) -> str:
        """A whole login that has to go well; what the script printed."""
        with self.begins(*words) as child:
            out, err = child.communicate(self.code + "\n", timeout=60)
        assert child.returncode == 0, err
        return out

    def pastes(self, child: "subprocess.Popen[str]", text: str) -> str:
        """What the script complains of."""
        _, complaint = child.communicate(text + "\n", timeout=60)
        assert child.returncode == 1, complaint
        return complaint.removeprefix("Paste the code: ")


@pytest.fixture
def person(tmp_path: Path, upstream: FakeUpstream) -> Person:
    return Person(tmp_path, upstream, tmp_path / "pool" / "ccflare.db")


@contextlib.contextmanager
def opened(database: Path) -> Iterator[Store]:
    store = Store.open(database, KeyFile(database.with_suffix(".key")))
    try:
        yield store
    finally:
        store.close()


def accounts(database: Path) -> list[Account]:
    with opened(database) as store:
        return store.accounts.all()


def pending(database: Path) -> int:
    with opened(database) as store:
        return len(store.query("SELECT id FROM oauth_sessions"))


def ask(proxy: Proxy) -> int:
    with via_base_url(proxy) as client:
        return client.request(*claude_request(4000, stream=False)).status


def test_a_running_proxy_serves_from_a_new_login_and_from_a_renewed_one(
    upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(upstream, ccflare_hold_seconds=0, ccflare_passthrough="never")
    person = Person(tmp_path, upstream, proxy.database)
    assert ask(proxy) == 503

    said = person.logs_in("login", "max-1")

    assert said.endswith("Added max-1 (OAuth, valid for 8 h).\n")
    eventually(lambda: ask(proxy) == 200)
    (account,) = accounts(proxy.database)
    with opened(proxy.database) as store:
        store.accounts.update(account.id, needs_login=True)
    eventually(lambda: ask(proxy) == 503)

    said = person.logs_in("login", "max-1")

    assert said.endswith("Renewed the login of max-1 (OAuth, valid for 8 h).\n")
    eventually(lambda: ask(proxy) == 200)
    (renewed,) = accounts(proxy.database)
    used = [request.credential for request in upstream.requests if request.path == MESSAGES]
    assert (renewed.id, used[0], used[-1]) == (account.id, account.access_token, renewed.access_token)
    assert pending(proxy.database) == 0


def test_no_secret_is_in_arguments_output_logs_or_files(
    upstream: FakeUpstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(upstream, ccflare_log_level="debug")
    person = Person(tmp_path, upstream, proxy.database, ccflare_log_level="debug")

    with person.begins("login", "max-1") as child:
        seen = Path(f"/proc/{child.pid}/cmdline").read_text() + (person.folder / "address").read_text()
        seen += "".join(child.communicate(person.code + "\n", timeout=60))
    eventually(lambda: ask(proxy) == 200)

    (account,) = accounts(proxy.database)
    sent = next(request.json() for request in upstream.requests if request.path == TOKEN)
    secrets = [account.access_token or "", account.refresh_token or "", sent["code_verifier"]]
    files = b"".join(file.read_bytes() for file in proxy.database.parent.iterdir())
    assert len(sent["code_verifier"]) == 43
    assert [secret for secret in secrets if secret in seen + proxy.log()] == []
    assert [secret for secret in secrets if secret.encode() in files] == []


def test_a_console_login_makes_an_api_key(person: Person, upstream: FakeUpstream) -> None:
    said = person.logs_in("login", "work", "--mode", "console", "--priority", "4")

    (account,) = accounts(person.database)
    assert said.endswith("Added work (API key).\n")
    assert (account.kind, account.priority) == (Kind.API_KEY, 4)
    assert (account.api_key or "").startswith("sk-ant-api03-")
    assert (account.api_key or "") not in said


def test_add_without_a_secret_is_a_login(person: Person) -> None:
    assert person.logs_in("add", "max-1").endswith("Added max-1 (OAuth, valid for 8 h).\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda code: code.partition("#")[0] + "#wrong", "The code belongs to another login"),
        (lambda code: "wrong#" + code.partition("#")[2], "The provider did not take the code"),
        (lambda code: code.partition("#")[0], "The code is incomplete"),
        (lambda code: "", "Nothing was pasted"),
    ],
)
def test_a_wrong_paste_is_one_sentence_and_stores_nothing(person: Person, change: object, sentence: str) -> None:
    with person.begins("login", "max-1") as child:
        complaint = person.pastes(child, change(person.code))  # type: ignore[operator]

    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert (accounts(person.database), pending(person.database)) == ([], 0)


def test_a_login_is_good_for_one_use(person: Person, upstream: FakeUpstream) -> None:
    with person.begins("login", "max-1") as child:
        with opened(person.database) as store:
            ((session,),) = store.query("SELECT id FROM oauth_sessions")
            store.sessions.take(str(session), "max-1")
        complaint = person.pastes(child, person.code)

    assert "This login was used before" in complaint
    assert accounts(person.database) == []
    assert TOKEN not in {request.path for request in upstream.requests}


def test_a_login_is_good_for_ten_minutes(person: Person, upstream: FakeUpstream) -> None:
    with person.begins("login", "max-1") as child:
        with opened(person.database) as store:
            store.query("UPDATE oauth_sessions SET created_at = created_at - 600000")
        complaint = person.pastes(child, person.code)

    assert "not finished within 10 minutes" in complaint
    assert (accounts(person.database), pending(person.database)) == ([], 0)
    assert TOKEN not in {request.path for request in upstream.requests}


def test_the_code_of_another_login_is_refused(person: Person) -> None:
    with person.begins("login", "max-1"):
        other = person.code
    with person.begins("login", "max-1") as child:
        complaint = person.pastes(child, other)

    assert "The code belongs to another login" in complaint
    assert accounts(person.database) == []


def test_ctrl_c_leaves_nothing_behind(person: Person) -> None:
    with person.begins("login", "max-1") as child:
        assert pending(person.database) == 1
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=60)

    assert child.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert (accounts(person.database), pending(person.database)) == ([], 0)


def test_a_killed_login_is_dropped_by_the_next_one_after_its_time(person: Person) -> None:
    with person.begins("login", "max-1") as child:
        child.kill()
    with opened(person.database) as store:
        store.query("UPDATE oauth_sessions SET expires_at = ?", (round(time.time() * 1000),))

    person.logs_in("login", "max-1")

    assert pending(person.database) == 0


def test_a_taken_name_costs_no_key(person: Person, upstream: FakeUpstream) -> None:
    with person.begins("login", "work", "--mode", "console") as child:
        with opened(person.database) as store:
            store.accounts.add(Account("a", "work", Kind.API_KEY, api_key="sk-ant-api03-first"))
        complaint = person.pastes(child, person.code)

    assert "meanwhile" in complaint
    assert [account.api_key for account in accounts(person.database)] == ["sk-ant-api03-first"]
    assert CREATE_KEY not in {request.path for request in upstream.requests}
