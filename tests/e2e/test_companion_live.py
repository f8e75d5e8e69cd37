"""What the companion's commands give works: a shell that has taken the environment, at a proxy that runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_cli.companion import env, service
from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.readiness import Answer, ask
from clients_kit import detoured
from desk import Desk
from detour import HOST
from fake_upstream import FakeUpstream

_ASK = """
import json, urllib.request
request = urllib.request.Request(
    "https://api.anthropic.com/v1/messages",
    json.dumps({"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}).encode(),
    {"content-type": "application/json", "x-api-key": "unused", "anthropic-version": "2023-06-01"},
)
print(urllib.request.urlopen(request, timeout=60).status)
"""


class Place:
    """A proxy whose API is simulated under its real name, and a desk that has its options."""

    def __init__(self, upstream: FakeUpstream, folder: Path) -> None:
        self.upstream = upstream
        self.proxy = detoured(upstream, folder)
        self.proxy.add_tokens("max-1", "sk-ant-oat01-PLANTED-max-1")
        config = folder / "config.yaml"
        config.write_text(f"confdir: {self.proxy.confdir}\nlisten_port: {self.proxy.port}\n")
        self.environ = {"ccflare_CONFIG_PATH": str(config), "SHELL": "/bin/sh"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with FakeUpstream(tls=True, hosts=[HOST]) as upstream:
        place = Place(upstream, tmp_path_factory.mktemp("proxy"))
        with place.proxy:
            yield place


def test_a_python_program_in_such_a_shell_is_served_by_an_account(place: Place) -> None:
    elsewhere = {"https_proxy": "http://127.0.0.1:9", "NO_PROXY": "anthropic.com"}
    desk = Desk(environ=place.environ | elsewhere)
    assert env.main(["--database", str(place.proxy.database)], desk.console()) == 0, desk.complained
    script = f'{desk.said}exec "$0" -c "$1"'

    done = subprocess.run(
        ["sh", "-c", script, sys.executable, _ASK],
        capture_output=True,
        text=True,
        timeout=90,
        env={"PATH": os.defpath, **elsewhere},
        check=False,
    )

    assert (done.stdout, done.stderr) == ("200\n", "")
    (request,) = (each for each in place.upstream.requests if each.path == "/v1/messages")
    assert (b"Authorization", b"Bearer sk-ant-oat01-PLANTED-max-1") in request.headers


def test_readiness_is_that_of_the_proxy(place: Place) -> None:
    assert ask(ProxyAddress(f"127.0.0.1:{place.proxy.port}")) is Answer.READY


def test_a_service_is_not_installed_beside_a_proxy_that_was_started_by_hand(place: Place, tmp_path: Path) -> None:
    desk = Desk(environ=place.environ | {"XDG_CONFIG_HOME": str(tmp_path)})

    assert service.main(["install", "--database", str(place.proxy.database)], desk.console()) == 1

    assert "There is a proxy at 127.0.0.1" in desk.complained
    assert list(tmp_path.rglob("*.service")) == []
