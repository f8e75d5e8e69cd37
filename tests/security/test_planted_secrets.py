"""Everything runs with known secrets in it: proxies, scripts, logins, errors, a crash. Then every artefact is searched.

A part with a secret of its own adds it to PLANTED and uses it in `traffic`, `scripts` or `troubles`.
"""

import base64
import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import TOKEN, FakeUpstream, Header, bad_request, json_answer, sse, unauthorized
from harness import ClaudeRequest, Http2Client, Proxy, RawClient, claude_request, eventually, via_base_url
from login_kit import allow, configured
from web_kit import WebSocket, pages

PLANTED = {
    "API key": "sk-ant-api03-PLANTED-account-0123456789abcdef",
    "access token": "sk-ant-oat01-PLANTED-access-0123456789abcdef",
    "refresh token": "sk-ant-ort01-PLANTED-refresh-0123456789abcdef",
    "client's API key": "sk-ant-api03-PLANTED-client-0123456789abcdef",
    "client's own token": "sk-ant-oat01-PLANTED-client-0123456789abcdef",
    "client key": "ccf_PLANTED0123456789abcdefghijklmnop",
    "proxy password": "PLANTED-proxy-password-0123456789",
    "cookie": "PLANTED-cookie-0123456789",
    "encryption key": "91a7" * 16,
    "passphrase": "PLANTED passphrase of seven words or so",
    "database password": "PLANTED-database-password",
    "secret in a prompt": "ghp_PLANTEDprompt0123456789abcdef",
    "password in a prompt": "PLANTED-hunter2-hunter2",
    "secret in an answer": "xoxb-PLANTED-answer-0123456789",
}
IN_BODIES = ("secret in a prompt", "password in a prompt", "secret in an answer")
"""These are in what the client and the model say to each other, which an inspector is there to show."""

FAILING = """
import ccflare_mitm.wire.attempt as wire

read_head = wire.read_head

def sabotaged(response):
    if "x-crash" in response.headers:
        raise RuntimeError(f"planted: {response!r} {response.headers!r}")
    return read_head(response)

wire.read_head = sabotaged

class Failing:
    def response(self, flow):
        if "x-crash" in flow.request.headers:
            raise RuntimeError(f"planted: {flow!r} {flow.request!r} {flow.request.headers!r}")

addons = [Failing()]
"""


class Arguments:
    """The arguments of every process of this machine, looked at all the time."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Arguments":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((process / "cmdline").read_bytes())


class Search:
    """Secrets to look for, and where they were found."""

    def __init__(self) -> None:
        self._secrets = dict(PLANTED)
        self.found: list[str] = []
        self.looked_at = 0

    def add(self, name: str, value: str) -> None:
        """One that was made on the way."""
        self._secrets[name] = value

    def look(self, where: str, artefact: str | bytes, *, without: tuple[str, ...] = ()) -> None:
        """Look for all but some of them, in clear and in base64."""
        data = artefact.encode() if isinstance(artefact, str) else artefact
        self.looked_at += bool(data)
        for name, secret in self._secrets.items():
            plain = secret.encode()
            forms = (plain, json.dumps(secret).encode()[1:-1], base64.b64encode(plain)[:-4])
            if name not in without and any(form in data for form in forms):
                self.found.append(f"{name} in {where}")

    def look_into(self, folder: Path) -> None:
        """Look at every file there is; whole conversations are in dumps of the inspector's."""
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in (".pem", ".p12"):
                shows_bodies = path.name in ("flows", "flows.har")
                self.look(str(path), path.read_bytes(), without=IN_BODIES if shows_bodies else ())


def accounts(proxy: Proxy, upstream: FakeUpstream) -> None:
    """An account with a key, one with tokens, and one whose tokens are refreshed at once."""
    proxy.add_api_key("key", PLANTED["API key"], priority=1)
    proxy.add_tokens("tokens", PLANTED["access token"], PLANTED["refresh token"], priority=2)
    proxy.add_tokens("renewed", *upstream.logins.new_login(), priority=3, expires_in=1)


def asking(credential: Header, **options: Any) -> ClaudeRequest:
    """A request of a client that puts secrets wherever it can."""
    extra = (
        (b"cookie", f"session={PLANTED['cookie']}".encode()),
        (b"proxy-authorization", f"Basic {PLANTED['proxy password']}".encode()),
    )
    request = claude_request(3000, credential=credential, extra=extra, **options)
    said = {"note": f"use {PLANTED['secret in a prompt']}", "password": PLANTED["password in a prompt"]}
    return request._replace(body=request.body.replace(b"{", json.dumps(said)[:-1].encode() + b",", 1))


def traffic(client: RawClient | Http2Client, upstream: FakeUpstream) -> None:
    """Answers and errors over every account, what passes with the client's own credential, and what is refused."""
    key = (b"x-api-key", PLANTED["client's API key"].encode())
    token = (b"authorization", f"Bearer {PLANTED["client's own token"]}".encode())
    said = PLANTED["secret in an answer"]
    upstream.answer(sse(["the token is ", said[:9], said[9:17], said[17:], "."]), credential=PLANTED["API key"])
    upstream.answer(bad_request(f"what is {PLANTED['secret in a prompt']}?"), credential=PLANTED["API key"])
    upstream.answer(unauthorized(f"{PLANTED['API key']} is not known"), credential=PLANTED["API key"])
    upstream.answer(unauthorized(f"{PLANTED['access token']} is over"), credential=PLANTED["access token"])
    statuses = [client.request(*asking(credential)).status for credential in (key, token, key, token)]
    assert (statuses[0], statuses[1], statuses[-1]) == (200, 400, 200)
    client.request("GET", "/api/oauth/profile", (token, (b"cookie", PLANTED["cookie"].encode())))
    passed = [request for request in upstream.requests if request.path == "/api/oauth/profile"][-1]
    assert passed.credential == PLANTED["client's own token"]  # what passes, passes whole
    assert passed.header("cookie") == PLANTED["cookie"]
    client.request("GET", "/v1/models/../x", (token,))
    client.request("POST", "/v1/messages", (key, (b"origin", b"http://evil.example")), b"{}")
    client.request("GET", "/v1/models", ((b"x-api-key", PLANTED["client key"].encode()),))


def troubles(client: RawClient | Http2Client, upstream: FakeUpstream) -> None:
    """An exception in another addon and one in the stream layer, with all that a traceback can show."""
    key = (b"x-api-key", PLANTED["client's API key"].encode())
    method, target, headers, body = asking(key, stream=False)
    assert client.request(method, target, (*headers, (b"x-crash", b"1")), body).status == 200
    upstream.answer(json_answer({}, headers=((b"x-crash", b"1"),)))
    assert client.request(method, target, headers, body).status == 500


def scripts(proxy: Proxy, search: Search) -> None:
    """Every script, when it works and when it does not."""
    for script, *words in (
        ("accounts.py", "list"),
        ("accounts.py", "list", "--format", "json"),
        ("stats.py",),
        ("stats.py", "requests", "--format", "json"),
        ("stats.py", "errors"),
        ("keys.py", "status"),
        ("keys.py", "rotate"),
        ("audit.py", "show"),
    ):
        search.look(script, proxy.run_script(script, *words))
    url = proxy.folder / "url"
    url.write_text(f"postgresql://me:{PLANTED['database password']}@127.0.0.1:9/none?connect_timeout=1")
    url.chmod(0o600)
    for words, stdin in (
        (["list", "--database", f"file:{url}"], ""),
        (["add", "key", "--api-key", "-"], PLANTED["API key"]),
        (["add", "bad", "--api-key", "-"], f"{PLANTED['API key']}\n{PLANTED['access token']}"),
        (["add", "bad", "--tokens", "-"], json.dumps({"access_token": PLANTED["access token"], "expires_in": "x"})),
        (["add", "bad", "--tokens", "-"], PLANTED["refresh token"]),
    ):
        with pytest.raises(AssertionError) as complaint:
            proxy.run_script("accounts.py", *words, stdin=stdin)
        search.look(" ".join(words), str(complaint.value))
    url.unlink()  # the one place where it may stand


def login(proxy: Proxy, search: Search) -> None:
    """A login by hand: the page is opened here, and its code is pasted."""
    with proxy.start_script("accounts.py", "login", "fresh", "--no-browser", "--priority", "3") as child:
        assert child.stdout is not None
        address = next(line.strip() for line in child.stdout if line.strip().startswith("http"))
        out, err = child.communicate(allow(address) + "\n", timeout=60)
    assert child.returncode == 0, err
    search.look("the login", address + out + err)


def made_on_the_way(upstream: FakeUpstream, search: Search) -> int:
    """Add the tokens, codes and verifiers that the upstream has seen; how many these are."""
    made = {request.credential for request in upstream.requests if "PLANTED" not in request.credential}
    for request in upstream.requests:
        if request.path == TOKEN:
            fields = request.json()
            made |= {fields.get(name) or "" for name in ("refresh_token", "code", "code_verifier")}
    for number, secret in enumerate(sorted(made - {"", *PLANTED.values()})):
        search.add(f"secret {number} that was made on the way", secret)
    return len(made)


def check(search: Search, arguments: Arguments, folder: Path) -> None:
    """Look at what is left, and report."""
    search.look_into(folder)
    for line in arguments.seen:
        search.look("arguments", line)
    assert sorted(set(search.found)) == []
    assert search.looked_at > 20


def test_r03_mitmdump_with_every_output_and_a_crash(tls_upstream: FakeUpstream, tmp_path: Path) -> None:
    """HTTP/2 clients, all that mitmproxy can log and dump, JSON logs, and a death by SIGABRT with a traceback."""
    (tmp_path / "failing.py").write_text(FAILING)
    search = Search()
    proxy = Proxy(
        tls_upstream,
        folder=tmp_path,
        anew=True,  # so that the kernel shows its arguments
        arguments=["-vvv", "-w", str(tmp_path / "flows"), "-s", str(tmp_path / "failing.py")],
        environment={"ccflare_ENCRYPTION_KEY": PLANTED["encryption key"], "PYTHONFAULTHANDLER": "1"},
        hardump=str(tmp_path / "flows.har"),
        flow_detail=4,
        ccflare_log_level="debug",
        ccflare_log_format="json",
        ccflare_retry_attempts=0,
    )
    with Arguments() as arguments, contextlib.closing(proxy):
        accounts(proxy, tls_upstream)
        proxy.start()
        with Http2Client.via_connect(proxy, "localhost", tls_upstream.port) as client:
            traffic(client, tls_upstream)
            troubles(client, tls_upstream)
        scripts(proxy, search)
        proxy.rows("SELECT id FROM requests WHERE outcome IS NULL", until=lambda rows: not rows)
        os.kill(proxy.pid, signal.SIGABRT)
        eventually(lambda: proxy.returncode, until=lambda code: code == -signal.SIGABRT)
    assert "planted: " in proxy.log()
    assert "Fatal Python error: Aborted" in proxy.log()
    assert made_on_the_way(tls_upstream, search) >= 2
    check(search, arguments, tmp_path)


def test_r03_mitmweb_with_its_frames_and_pages(upstream: FakeUpstream, tmp_path: Path) -> None:
    """The inspector while it is looked at, text logs, a passphrase, and a login."""
    search = Search()
    proxy = Proxy(
        upstream,
        folder=tmp_path,
        anew=True,
        program="mitmweb",
        environment={"ccflare_PASSPHRASE": PLANTED["passphrase"], **configured(tmp_path, upstream)},
        ccflare_log_level="debug",
        ccflare_retry_attempts=0,
    )
    with Arguments() as arguments, contextlib.closing(proxy):
        accounts(proxy, upstream)
        login(proxy, search)
        proxy.start()
        frames = WebSocket(proxy)
        with via_base_url(proxy) as client:
            traffic(client, upstream)
        eventually(lambda: frames.take().count(b"flows/update") >= 6)
        made_on_the_way(upstream, search)
        search.look("frames", frames.read)
        frames.close()
        shown = pages(proxy)
        ids = [flow["id"] for flow in json.loads(shown["/flows"])]
        whole = pages(proxy, *(f"/flows/{id}/{part}/content.data" for id in ids for part in ("request", "response")))
        for path, body in {**shown, **whole}.items():
            search.look(path, body, without=IN_BODIES)
        proxy.stop()
    check(search, arguments, tmp_path)
