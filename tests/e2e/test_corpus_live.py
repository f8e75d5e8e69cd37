"""A sample of the corpus through the real proxy: the row in the database says what the upstream has counted."""

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.usage import Usage
from corpus import COLUMNS, LINES, Case, cases
from fake_upstream import Answer, Cut, FakeUpstream, Wait, encoded, message_json
from harness import Proxy, Truncated, claude_request, via_base_url

# A stream that is cut inside its first event has another account asked in its place.
SAMPLE = [case for case in cases() if not case.name.endswith("cut-inside-the-start")][::9]
ACCOUNTS = 12
"""One that breaks an answer off rests for 5 s, and there is always another one for the next case."""
RESULTS = "/v1/messages/batches/msgbatch_{}/results"
"""Each batch's results are recorded with their usage once."""
CODINGS = ("", "gzip", "br", "zstd", "deflate")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeUpstream, Proxy]]:
    with FakeUpstream() as upstream:
        proxy = Proxy(upstream, folder=tmp_path_factory.mktemp("corpus"), ccflare_hold_seconds=0)
        for number in range(ACCOUNTS):
            proxy.add_api_key(f"account {number}", f"sk-ant-api03-{number}")
        with proxy:
            yield upstream, proxy


def played(case: Case, number: int) -> Answer:
    """The case as an answer in pieces, in one of the codings."""
    size = 1 + len(case.body) // 7
    chunks = tuple(case.body[at : at + size] for at in range(0, len(case.body), size))
    answer = Answer(case.status, ((b"Content-Type", case.content_type.encode()),), chunks)
    if coding := CODINGS[number % len(CODINGS)]:
        answer = encoded(answer, coding)
    if not case.cut:
        return answer
    whole = answer.chunks if not coding else answer.chunks[:-1]  # without what ends the coding
    return Answer(answer.status, answer.headers, (*whole, Wait(0.05), Cut(False)))


@pytest.mark.parametrize(("number", "case"), [*enumerate(SAMPLE)], ids=[case.name for case in SAMPLE])
def test_the_row_holds_what_the_upstream_counted(served: tuple[FakeUpstream, Proxy], number: int, case: Case) -> None:
    upstream, proxy = served
    request = claude_request(3000, session=case.name, stream=case.content_type.startswith("text/event"))
    if case.content_type == LINES:
        request = request._replace(method="GET", target=RESULTS.format(number), body=b"")
    upstream.answer(played(case, number), path=request.target.partition("?")[0])
    with via_base_url(proxy) as client:
        client.send_request(*request)
        client.read_head()
        with contextlib.suppress(Truncated):
            client.read_body()

    [row] = proxy.rows(
        "SELECT * FROM requests WHERE session_id = ? AND outcome IS NOT NULL", (case.name,), until=lambda rows: rows
    )
    assert {name: row[name] for name in COLUMNS} == case.columns
    if case.content_type != LINES and case.columns["output_tokens"] is not None:
        assert row["model"] == case.model
        assert row["cost_usd"] == pytest.approx(float(cost(case)), abs=5e-7)


def cost(case: Case) -> Decimal:
    """The price of what the case has used, which test_pricing.py checks."""
    fast: dict[str, Any] = {"speed": "fast", "inference_geo": "us"} if "/fast/" in case.name else {}
    found = PriceList().cost(case.model, Usage(**case.columns, **fast))
    assert found is not None
    return found


def test_new_prices_are_taken_up_while_the_proxy_runs(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    form = "claude-opus-4-8: {{input: {0}, output: 0, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0}}\n"
    prices.write_text(form.format(1_000))
    with FakeUpstream() as upstream:
        upstream.always(message_json(input_tokens=1_000))
        proxy = Proxy(upstream, folder=tmp_path / "proxy", ccflare_prices=prices)
        proxy.add_api_key("one", "sk-ant-api03-one")
        with proxy, via_base_url(proxy) as client:
            client.request(*claude_request(3000, session="before"))
            (tmp_path / "new.yaml").write_text(form.format(123_000))
            (tmp_path / "new.yaml").rename(prices)  # at once: what is half written is another list of prices
            proxy.wait_for_log("new prices are in force")
            client.request(*claude_request(3000, session="after"))
            sql = "SELECT session_id, cost_usd FROM requests WHERE outcome IS NOT NULL"
            rows = proxy.rows(sql, until=lambda rows: len(rows) == 2)

    assert {row["session_id"]: row["cost_usd"] for row in rows} == {"before": 1.0, "after": 123.0}
