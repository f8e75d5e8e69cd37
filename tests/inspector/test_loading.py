"""Recorded requests become flows that tell what those of the list tell."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ccflare_core.config.settings import Settings
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import ExchangeFinished
from ccflare_core.store.store import Store
from ccflare_mitm.inspector.loading import Head, Recorded, flow_of, read, seconds_of
from database_kit import KEY, NOW, started

pytestmark = pytest.mark.usefixtures("utc")
ROW = {
    "id": "req_1",
    "timestamp": 1_800_000_000_000,
    "method": "POST",
    "path": "/v1/messages",
    "status_code": 200,
    "outcome": "ok",
    "error_message": None,
    "account_name": "max-1",
    "model": "claude-opus-4-8",
    "input_tokens": 1000,
    "cache_read_input_tokens": 204,
    "cache_creation_input_tokens": None,
    "output_tokens": 312,
    "cost_usd": 0.0129,
    "session_id": "s-1",
    "project": "shop",
    "client_name": "laptop",
    "client_ip": "127.0.0.1",
    "response_time_ms": 1500.0,
}
SETTINGS = Settings.build({}, {"XDG_DATA_HOME": "/x"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "ccflare.db", KEY, wall=lambda: NOW)) as store:
        yield store


@pytest.mark.parametrize(("span", "seconds"), [("30m", 1800.0), (" 6h ", 21_600.0), ("2d", 172_800.0)])
def test_spans_are_understood(span: str, seconds: float) -> None:
    assert seconds_of(span) == seconds


@pytest.mark.parametrize("span", ["", "2", "h", "2w", "-1h", "2 h", "99999d"])
def test_what_is_no_span_is_refused_with_those_that_are(span: str) -> None:
    with pytest.raises(StoreError, match="is no time to go back: 30m, 6h and 2d are"):
        seconds_of(span)


def test_a_flow_tells_what_the_row_does() -> None:
    attempts = [(1, "max-1", "5h window spent", 0.25), (2, "max-2", "ok", 1.2)]
    heads = {"request": Head("application/json", "", 20), "response": Head("text/event-stream", "gzip", 30)}

    flow = flow_of(Recorded(ROW, attempts, heads, {"ticket": "12"}), SETTINGS)

    assert flow.comment.splitlines() == [
        "max-1→max-2 ▸ opus-4-8 · 1.2k→312 · $0.013 · recorded 08:00",
        "attempt 1: max-1, 5h window spent, 0.2 s",
        "attempt 2: max-2, ok, 1.2 s",
        "account=max-1 session=s-1 project=shop key=laptop outcome=ok request=req_1 tag=ticket=12",
    ]
    assert (flow.request.method, flow.request.url) == ("POST", "https://api.anthropic.com/v1/messages")
    assert flow.request.timestamp_start == 1_800_000_000
    assert flow.response is not None
    assert dict(flow.response.headers) == {"content-type": "text/event-stream", "content-encoding": "gzip"}
    assert (flow.request.raw_content, flow.response.raw_content) == (None, None)


def test_a_request_that_failed_without_an_answer_says_so() -> None:
    row = ROW | {"status_code": None, "outcome": "refused", "error_message": "Too many.", "output_tokens": None}
    flow = flow_of(Recorded(row | {"account_name": None}, [], {}), SETTINGS)
    assert flow.response is None
    assert flow.comment.splitlines()[0] == "✗ Too many. ▸ opus-4-8 · recorded 08:00"


def test_what_has_ended_since_is_read_oldest_first_and_no_more_than_asked_for(store: Store) -> None:
    for number in range(4):
        store.write([started(f"r{number}"), ExchangeFinished(f"r{number}", "ok", True, 200)])
    store.write([started("open")])

    assert {each.row["id"] for each in read(store, 0.0, 10)} == {"r0", "r1", "r2", "r3"}
    assert len(read(store, 0.0, 2)) == 2
    assert read(store, NOW + 86_400, 10) == []
