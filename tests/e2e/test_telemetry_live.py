"""A running proxy that tells a receiver of OpenTelemetry of each exchange; for a while nobody is there."""

import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ccflare_core.anthropic.conversation import read_request
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError, NotInstalled
from ccflare_core.http.client import Fetcher
from ccflare_mitm.builders.telemetry import build_telemetry
from fake_upstream import FakeUpstream, limited_5h
from harness import Port, eventually
from rig import Rig
from tap import CLIENT, SERVER, Seen, Tap, tapped

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()


class Watched(NamedTuple):
    """A proxy whose receiver came only after its first request, and what the health page said until then."""

    rig: Rig
    tap: Tap
    health: dict[str, Any]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    port = Port()
    options = {"ccflare_otel_endpoint": f"http://127.0.0.1:{port.number}/", "ccflare_record": "full"}
    with FakeUpstream() as upstream, Rig.running(upstream, **options) as rig:
        rig.fresh("a", "b")
        assert rig.ask().status == 200
        rig.proxy.wait_for_log("OpenTelemetry does not arrive")
        health = eventually(lambda: told_by(rig), lambda told: told["telemetry_lost"])
        with tapped(port) as tap:
            yield Watched(rig, tap, health)


@pytest.fixture
def bench(watched: Watched) -> Rig:
    return watched.rig


def told_by(rig: Rig) -> dict[str, Any]:
    with rig.client() as client:
        found: dict[str, Any] = client.request("GET", "/ccflare/health").json()
    return {name: value for name, value in found.items() if name.startswith("telemetry")}


def spans_of(watched: Watched, trace: str, number: int) -> list[Seen]:
    """The spans of a trace in the order of their beginning, as soon as there are so many."""
    found = eventually(lambda: [span for span in watched.tap.spans if span.trace == trace], lambda s: len(s) >= number)
    return sorted(found, key=lambda span: (span.begun, span.kind))


def test_failover_is_one_server_span_with_two_client_spans(watched: Watched, rig: Rig) -> None:
    rig.script("a", limited_5h(time.time() + 3600))
    before = time.time()
    assert rig.ask(extra=((b"traceparent", TRACEPARENT),)).status == 200

    server, left, served = spans_of(watched, TRACE, 3)

    assert [(span.kind, span.parent) for span in (server, left, served)] == [
        (SERVER, PARENT),
        (CLIENT, server.id),
        (CLIENT, server.id),
    ]
    # The beginnings are by the wall's clock and the durations by another one, so they may differ a little.
    assert before - 1 < server.begun <= left.begun <= served.begun <= served.ended <= time.time() + 1
    assert left.begun < left.ended < served.begun + 1
    assert served.ended == server.ended
    assert [span.failed for span in (server, left, served)] == [False, True, False]
    assert (server.name, served.name) == ("POST /v1/messages", "chat claude-opus-4-8")
    row = rig.row()
    assert server.attributes["ccflare.request.id"] == row["id"]
    assert server.attributes["session.id"] == rig.session
    assert (left.attributes["ccflare.account"], left.attributes["error.type"]) == (rig.name("a"), "window_spent")
    answered = {
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": row["completion_tokens"],
        "ccflare.cost_usd": row["cost_usd"],
        "ccflare.account": rig.name("b"),
        "ccflare.verdict": "ok",
        "gen_ai.request.stream": True,
    }
    assert row["cost_usd"] > 0
    assert served.attributes.items() >= answered.items()
    assert [request.header_values("traceparent") for request in rig.requests] == [[TRACEPARENT.decode()]] * 2


def test_nothing_that_was_said_is_in_a_span_though_it_is_recorded(watched: Watched, rig: Rig) -> None:
    trace = "1" * 32
    assert rig.ask(extra=((b"traceparent", f"00-{trace}-{PARENT}-01".encode()),)).status == 200

    told = " ".join(str(span.attributes) for span in spans_of(watched, trace, 2))

    turns = read_request(rig.requests[-1].body).turns
    assert [turn.role for turn in turns if any(part.text in told for part in turn.parts if part.text)] == []
    assert len(turns) > 1
    assert rig.secret("a") not in told


def test_receiver_that_is_away_costs_no_request_and_is_told_of_once(watched: Watched, rig: Rig) -> None:
    assert watched.health["telemetry"] == "failing"
    assert "cannot be reached" in watched.health["telemetry_problem"]

    assert rig.ask().status == 200
    log = rig.proxy.wait_for_log("OpenTelemetry arrives again")

    told = told_by(rig)
    assert (told["telemetry"], told["telemetry_problem"]) == ("works", None)
    assert log.count("OpenTelemetry does not arrive") == 1
    assert "Failed to export" not in log


# --- without a proxy --------------------------------------------------------------------------------------------------


def built(environ: dict[str, str], **options: str) -> object:
    settings = Settings.build({"ccflare_otel_endpoint": "http://127.0.0.1:4318", **options}, {"XDG_DATA_HOME": "/x"})
    return build_telemetry(LiveSettings(settings), environ, Fetcher, "run-1")


def test_endpoint_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)

    with pytest.raises(NotInstalled, match=r"ccflare_otel_endpoint needs OpenTelemetry's SDK: .*otel"):
        built({})


def test_headers_that_cannot_be_read_stop_the_start() -> None:
    with pytest.raises(ConfigError, match="ccflare_OTEL_HEADERS: this is no list of headers"):
        built({"ccflare_OTEL_HEADERS": "a word"})


def test_without_an_endpoint_there_is_no_telemetry() -> None:
    assert built({}, ccflare_otel_endpoint="") is None


@pytest.mark.parametrize(
    "url", ["http://collector.example:4318", "https://pk:sk@otel.example", "https://otel.example/?key=1"]
)
def test_endpoint_must_be_safe(url: str) -> None:
    with pytest.raises(ConfigError, match="ccflare_otel_endpoint"):
        built({}, ccflare_otel_endpoint=url)
