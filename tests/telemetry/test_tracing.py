"""Spans by the SDK: whose child each is, when it began and ended, and which trace is not sampled."""

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, StatusCode

from ccflare_core.telemetry.conventions import SCHEMA
from ccflare_core.telemetry.tracing import Tracing
from exchange_kit import EPOCH
from telemetry_kit import UPSTREAM, finished, moved, story

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def tracing() -> Tracing:
    return Tracing(Resource.get_empty(), "1.2.3", lambda: UPSTREAM)


def times(span: Any) -> tuple[float, float]:
    return round(span.start_time / 1e9 - EPOCH, 3), round(span.end_time / 1e9 - EPOCH, 3)


def test_exchange_is_a_child_of_its_client_and_each_attempt_a_child_of_it(tracing: Tracing) -> None:
    first, second, server = tracing.spans(moved(traceparent=f"00-{TRACE}-{PARENT}-01"))

    assert (server.kind, first.kind, second.kind) == (SpanKind.SERVER, SpanKind.CLIENT, SpanKind.CLIENT)
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (first, second, server)} == {TRACE}
    assert [span.parent and span.parent.span_id for span in (first, second)] == [server.context.span_id] * 2
    assert [times(span) for span in (first, second, server)] == [(0.0, 0.5), (0.5, 1.75), (0.0, 1.75)]


def test_limited_account_is_an_error_of_its_attempt_alone(tracing: Tracing) -> None:
    spans = tracing.spans(moved())

    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]
    scopes: list[Any] = [span.instrumentation_scope for span in spans]
    assert [scope.attributes for scope in scopes] == [{"ccflare.conventions": SCHEMA}] * 3


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{TRACE}-0000000000000000-01", f"ff-{TRACE}-{PARENT}-01"])
def test_traceparent_that_is_none_begins_a_trace(tracing: Tracing, sent: str) -> None:
    *_, server = tracing.spans(moved(traceparent=sent))

    assert server.parent is None


def test_trace_that_the_client_does_not_sample_has_no_spans(tracing: Tracing) -> None:
    assert tracing.spans(moved(traceparent=f"00-{TRACE}-{PARENT}-00")) == []


def test_what_was_said_is_on_the_last_attempt_and_only_if_it_came_along(tracing: Tracing) -> None:
    bodies = (b'{"model":"claude-opus-4-8","messages":[{"role":"user","content":"Hello"}]}', b"")

    told = [tracing.spans(finished(story(bodies), with_bodies=with_bodies)) for with_bodies in (True, False)]

    has_said = [["Hello" in str(span.attributes) for span in spans] for spans in told]
    assert has_said == [[False, True, False], [False] * 3]


def test_error_in_one_exchange_leaves_nothing_for_the_next(tracing: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ccflare_core.telemetry.conventions.of_exchange", lambda _: {"a": 1 / 0})
        with pytest.raises(ZeroDivisionError):
            tracing.spans(moved())

    assert len(tracing.spans(moved())) == 3


def test_bytes_of_a_client_that_are_no_text_cost_no_span(tracing: Tracing) -> None:
    """The exporter encodes a batch in one go: what it cannot encode would be lost with all the others."""
    odd = moved(path="/v1/\udcff", user_agent="a\udc80")
    server = tracing.spans(odd)[-1]

    (encoded,) = encode_spans([server]).resource_spans[0].scope_spans[0].spans

    assert encoded.name == r"POST /v1/\udcff"
    assert {each.key: each.value.string_value for each in encoded.attributes}["user_agent.original"] == r"a\udc80"
