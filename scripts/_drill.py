"""The drill behind scripts/drill: everything on loopback, in a temporary folder, gone at the end."""

import contextlib
import http.client
import json
import os
import shlex
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from _demo import ACCOUNTS, clean_environment, free_port, proxy_process, say, script, upstream_process, wait_for

OWNER, THIEF = "127.0.0.1", "127.0.0.66"
"""Two addresses of this machine: as far as the proxy can see, two machines."""
SECONDS = 5.0


class Drill:
    """One incident. Each step says what it does; the first one that does not come out as it should ends the drill."""

    def __init__(self, folder: Path, port: int, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._port = port
        self._environment = environment

    def run(self, name: str, *arguments: str, stdin: str = "") -> str:
        """What a script prints; the command is shown."""
        say(f"$ scripts/{name} {shlex.join(arguments)}")
        return self.quietly(name, *arguments, stdin=stdin)

    def quietly(self, name: str, *arguments: str, stdin: str = "") -> str:
        """The same, not shown."""
        database = str(self._folder / "ccflare.db")
        return script(name, "--database", database, *arguments, environment=self._environment, stdin=stdin)

    def ask(self, secret: str, source: str, program: str) -> int:
        """The status of one request with this client key; 0 if the connection is closed without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10, source_address=(source, 0))
        headers = {"content-type": "application/json", "x-api-key": secret, "user-agent": program}
        body = {"model": "claude-opus-4-8", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
        try:
            connection.request("POST", "/v1/messages", json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def play(self, laptop: str, stolen: str) -> None:
        """The whole story, with the secrets of two client keys. Raises RuntimeError where it goes wrong."""
        say("1. A laptop works. Somebody else has got hold of the key of a build server, and uses it from elsewhere.\n")
        must([self.ask(laptop, OWNER, "claude-cli/2") for _ in range(4)] == [200] * 4, "the laptop is served")
        must([self.ask(stolen, THIEF, "curl/8") for _ in range(8)] == [200] * 8, "the thief is served")

        say("2. Use is higher than it should be. Who was it?\n")
        key, address = self.suspect()
        must((key, address) == ("ci", THIEF), f"the suspect is {key} from {address}")

        say("3. The key is revoked, and the address blocked. The laptop goes on.\n")
        self.run("keys.py", "client", "revoke", key)
        soon(lambda: self.ask(stolen, THIEF, "curl/8") != 200, "the stolen key is good for nothing")
        self.run("access.py", "block", address, "--reason", "stolen key")
        soon(lambda: self.ask(laptop, THIEF, "curl/8") in (0, 403), "that address gets nothing, with any key")
        must(self.ask(laptop, OWNER, "claude-cli/2") == 200, "the laptop is served")

        say("4. What the thief may have seen is renewed; an account in doubt is paused meanwhile.\n")
        self.run("accounts.py", "pause", "max-1")
        renewed = json.loads(self.run("keys.py", "rotate-all", "--yes", "--format", "json"))
        fresh = {each["name"]: each["secret"] for each in renewed}["laptop"]
        soon(lambda: self.ask(laptop, OWNER, "claude-cli/2") == 401, "the laptop's old secret is refused")
        must(self.ask(fresh, OWNER, "claude-cli/2") == 200, "its new secret is served")
        self.run("accounts.py", "resume", "max-1")

        say("5. Nobody has touched the log of all this, and it is kept.\n")
        say(self.run("audit.py", "verify"))
        self.keep_evidence()
        say(self.run("doctor.py", "--quiet"))

    def suspect(self) -> tuple[str, str]:
        """The key and address that an account has served and its owner does not know."""
        arguments = [("who-used", account, "--between", "1h", "now") for account in ACCOUNTS]
        found: set[tuple[str, str]] = set()
        deadline = time.monotonic() + SECONDS
        while not found and time.monotonic() < deadline:  # what was just served may not be written down yet
            uses = [
                use for each in arguments for use in json.loads(self.quietly("audit.py", "--format", "json", *each))
            ]
            found = {(use["client"], use["ip"]) for use in uses if use["ip"] != OWNER}
        for each in arguments:
            say(self.run("audit.py", *each))
        must(len(found) == 1, f"one stranger is found: {found}")
        return found.pop()

    def keep_evidence(self) -> None:
        file = self._folder / "evidence.zip"
        say(self.run("audit.py", "bundle", str(file), "--between", "1h", "now"))
        must(file.stat().st_mode & 0o077 == 0, "the evidence is its owner's alone")
        with zipfile.ZipFile(file) as archive:
            told = archive.read("audit.jsonl").decode()
        for action in ("client.revoke", "address.block", "account.pause", "key.rotate_all", "data.export"):
            must(f'"{action}"' in told, f"{action} is in it")


def must(holds: bool, what: str) -> None:
    """Say that it is so. Raises RuntimeError if it is not."""
    if not holds:
        raise RuntimeError(f"this should be so, but is not: {what}")
    say(f"   - {what}")


def soon(look: Callable[[], bool], what: str) -> None:
    """The same, for what may take a moment: a running proxy takes up changes within a second."""
    deadline = time.monotonic() + SECONDS
    while not look() and time.monotonic() < deadline:
        time.sleep(0.1)
    must(look(), what)


def main() -> int:
    """Run the drill; 0 if every step came out as it should."""
    with tempfile.TemporaryDirectory(prefix="ccflare-drill-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = clean_environment(folder)
        say("Starting a simulated upstream, and a proxy with two simulated accounts …\n")
        upstream = stack.enter_context(upstream_process(environment))
        port = free_port()
        drill = Drill(folder, port, environment)
        for account, token in ACCOUNTS.items():
            refresh = token.replace("-oat", "-ort")
            tokens = json.dumps({"access_token": token, "refresh_token": refresh, "expires_in": 28800})
            drill.quietly("accounts.py", "add", account, "--tokens", "-", stdin=tokens)
        secrets = [drill.quietly("keys.py", "client", "add", key).strip() for key in ("laptop", "ci")]
        log = stack.enter_context(proxy_process(port, upstream, folder, environment))
        wait_for(port, log)
        try:
            drill.play(*secrets)
        except RuntimeError as error:
            say(f"\nThe drill failed: {error}\n\nThe proxy's log:\n{log.read_text()}")
            return 1
        say("The drill came out as it should.")
        return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
