"""What of mitmproxy's inside is used is there, is named, and is missed when it is gone."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import version
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Server

from ccflare_cli.doctor import installation
from ccflare_core import MITMPROXY
from ccflare_core.errors import ConfigError
from ccflare_mitm.gate.ingress import tells_of_leaving
from ccflare_mitm.host import internals
from ccflare_mitm.host.contract import check_contract

ROOT = Path(__file__).resolve().parents[2]
OURS = sorted([ROOT / "addon" / "ccflare.py", *(ROOT / "addon" / "ccflare_mitm").rglob("*.py")])


# --- the version ------------------------------------------------------------------------------------------------------


def test_this_mitmproxy_is_as_it_is_used() -> None:
    assert internals.differences() == []
    check_contract()


@pytest.mark.parametrize("found", ["12.2", "12.2.3", "12.3.1", "12.3.99"])
def test_versions_of_the_range_are_taken(found: str) -> None:
    check_contract(found)


@pytest.mark.parametrize("found", ["12.1.9", "11", "12.4.0", "12.4.0.dev", "13.0"])
def test_other_versions_are_refused_with_what_to_do(found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^mitmproxy {re.escape(found)} .*; install mitmproxy>=12\.2,<12\.4, "):
        check_contract(found)


def test_there_is_one_range_of_versions() -> None:
    oldest, before = (".".join(map(str, numbers)) for numbers in (MITMPROXY.oldest, MITMPROXY.before))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (judged,) = [each for each in installation.MINIMA if each.package == "mitmproxy"]

    assert f"mitmproxy>={oldest},<{before}" in project["dependencies"]
    assert (judged.version, judged.before) == (MITMPROXY.oldest, MITMPROXY.before)
    assert f"mitmproxy {oldest} or 12.{MITMPROXY.before[1] - 1} is required" in (ROOT / "README.md").read_text()
    assert f"./scripts/test --mitmproxy {oldest} " in (ROOT / ".ci" / "run").read_text()
    assert version.VERSION.startswith(tuple(f"12.{minor}" for minor in range(MITMPROXY.oldest[1], MITMPROXY.before[1])))


# --- what is named ----------------------------------------------------------------------------------------------------


def private_names(path: Path) -> Iterator[str]:
    """The attributes with an underscore in front that a file takes from something that is not its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls"):
                yield node.attr


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_each_private_name_that_is_used_is_checked(path: Path) -> None:
    named = {name for names in internals.ATTRIBUTES.values() for name in names.split()}
    named |= {function.__name__ for function in internals.SIGNATURES}
    public = {"_replace", "_asdict", "_fields"}  # of NamedTuple
    own = set(re.findall(r"def (_\w+)", path.read_text()))  # through super()
    asyncios = {"_sock"}  # of the sockets that asyncio's servers hand out

    modules = {"_events", "_hooks", "_http1", "_http2", "_http_h2", "_base"}
    assert set(private_names(path)) - named - public - own - asyncios - modules == set()


@pytest.mark.parametrize(
    "message",
    [
        "Client disconnected.",
        "Client closed connection before completing request headers: b'POST'",
        "peer closed connection",
        "stream reset by client (CANCEL)",
    ],
)
def test_the_words_for_a_client_that_left_are_the_ones_that_are_looked_for(message: str) -> None:
    texts = [text for texts in internals.WORDS.values() for text in texts]

    assert tells_of_leaving(message)
    assert any(text in message for text in texts)


# --- what is missed ---------------------------------------------------------------------------------------------------


class Changed:
    """A class of mitmproxy's, as a next version may have it."""

    fields: int

    def __init__(self) -> None:
        self.renamed = 1

    def close(self, how: str) -> str:
        return f"it went away, {how}"


def test_an_attribute_that_is_gone_is_named() -> None:
    names = "renamed fields close buffer close.__name__ close.gone"

    assert list(internals.missing({Changed: names})) == ["Changed.buffer", "Changed.close.gone"]


def test_other_parameters_are_named() -> None:
    assert list(internals.changed({Changed.close: "self how", HttpStream.passthrough: "self"})) == [
        "HttpStream.passthrough"
    ]


def test_other_words_are_named() -> None:
    assert list(internals.silent({Changed: ("went away", "left")})) == ["Changed: 'left'"]


@pytest.mark.parametrize("owner", [HttpLayer, HttpStream, Http1Server])
def test_a_start_is_refused_over_what_is_gone(monkeypatch: pytest.MonkeyPatch, owner: type) -> None:
    monkeypatch.setattr(internals, "ATTRIBUTES", {owner: "context gone"})

    with pytest.raises(ConfigError, match=rf"differs inside \({owner.__name__}\.gone\); install mitmproxy>="):
        check_contract()
