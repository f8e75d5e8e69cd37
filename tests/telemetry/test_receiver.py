"""The way to a receiver: a real one takes what is sent, and nothing goes anywhere else or says too much."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.http.client import Fetcher
from ccflare_core.telemetry.measuring import Measuring
from ccflare_core.telemetry.receiver import Receiver, read_headers
from ccflare_core.telemetry.tracing import Tracing
from harness import Port, eventually
from tap import tapped
from telemetry_kit import UPSTREAM, moved

KEY = "Basic cGs6c2s="


def receiver(url: str, headers: tuple[tuple[str, str], ...] = ()) -> Receiver:
    """It goes where the option says, and tries once."""
    settings = Settings.build({"ccflare_otel_endpoint": url}, {"XDG_DATA_HOME": "/x"})
    return Receiver(url, headers, Fetcher(egress=lambda: settings.otel_egress), seconds=0.5)


def spans() -> list[Any]:
    return Tracing(Resource.get_empty(), "1.2.3", lambda: UPSTREAM).spans(moved())


@contextmanager
def a_server(status: int = 200, location: str = "") -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A URL, and the path and headers of each request that came there, all of which get this answer."""
    came: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/otel", came
        finally:
            server.shutdown()
            thread.join()


def test_real_receiver_takes_spans_and_metrics() -> None:
    measuring = Measuring(Resource.get_empty(), "1.2.3")
    measuring.count(moved())
    counted = measuring.counted()
    assert counted is not None

    with tapped() as tap:
        way = receiver(tap.url)
        problems = [way.take_spans(spans()), way.take_metrics(counted)]
        eventually(lambda: len(tap.spans) == 3 and "ccflare.cost" in tap.metrics)

    assert problems == ["", ""]
    first, second, server = tap.spans
    assert {first.parent, second.parent} == {server.id}
    assert second.attributes["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert tap.metrics["gen_ai.client.inference.duration"].histogram.data_points[0].count == 1


def test_headers_are_those_of_the_variable_and_no_one_else_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other=of-another-receiver")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    with a_server() as (url, came):
        assert receiver(url).take_spans(spans()) == ""
        assert receiver(url, (("Authorization", KEY),)).take_spans(spans()) == ""

    (path, without), (_, with_key) = came
    assert path == "/otel/v1/traces"
    assert with_key["authorization"] == KEY
    assert not {"authorization", "x-other"} & without.keys()
    assert without["content-type"] == "application/x-protobuf"


def test_redirect_is_a_failure_and_goes_nowhere() -> None:
    with a_server() as (elsewhere, arrived), a_server(307, elsewhere) as (url, came):
        assert receiver(url).take_spans(spans()) == "its answer has the status 307"

    assert len(came) == 1
    assert arrived == []


@pytest.mark.parametrize("status", [401, 503])
def test_answer_that_takes_nothing_is_told_by_its_status(status: int) -> None:
    with a_server(status) as (url, _):
        assert receiver(url).take_spans(spans()) == f"its answer has the status {status}"


def test_receiver_that_is_away_is_told_in_a_sentence() -> None:
    port = Port()
    told = receiver(f"http://127.0.0.1:{port.number}").take_spans(spans())
    port.release()

    assert "127.0.0.1 cannot be reached" in told


def test_place_that_is_not_configured_gets_nothing() -> None:
    with a_server() as (url, came):
        way = Receiver(url, (), Fetcher(egress=frozenset), seconds=0.5)
        assert "no host that ccflare is configured to send anything to" in way.take_spans(spans())

    assert came == []


def test_headers_as_opentelemetry_writes_them() -> None:
    written = "Authorization=Basic%20cGs6c2s%3D, x-langfuse-ingestion-version=4,"

    assert read_headers(written, "X") == (("Authorization", KEY), ("x-langfuse-ingestion-version", "4"))
    assert read_headers(f"Authorization={KEY}", "X") == (("Authorization", KEY),)


@pytest.mark.parametrize("written", ["secret", "a b=secret", "a=secret%0d%0ax: y", "=secret"])
def test_headers_that_are_none_are_refused_without_a_word_of_them(written: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_headers(written, "ccflare_OTEL_HEADERS")

    assert "secret" not in str(refused.value)
