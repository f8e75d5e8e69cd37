"""An open request as a row: what is known of it while it runs, and that its end is what the record has."""

from dataclasses import replace
from pathlib import Path

import pytest

from ccflare_core.exchange.steps import Send
from ccflare_core.reports.queries import EVERYTHING, OPEN, Position, Reports, Wanted
from ccflare_core.reports.queries import Exchange as Row
from ccflare_core.reports.running import as_they_run, listed, open_as_wanted, running
from ccflare_core.reports.traffic import Period
from ccflare_core.text import to_ms
from exchange_kit import ASKED, END, EPOCH, OK, OPUS, START, STREAM, Bench
from history import NOON, History

DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"%s","%s":"%s"}}\n\n'
)


def row(bench: Bench) -> Row:
    (exchange,) = bench.exchanges.open.values()
    return running(exchange, bench.clock.wall)


def test_a_request_that_waits_has_its_model_and_its_time() -> None:
    bench = Bench()
    bench.begin()
    bench.clock.pass_(1.5)

    told = row(bench)

    assert (told.at, told.seconds, told.model, told.session) == (EPOCH, 1.5, "claude-opus-4-8", "session-1")
    assert (told.account, told.status, told.outcome, told.input_tokens, told.output_tokens) == (None,) * 5


def test_a_request_that_waits_has_its_tags_and_is_found_by_them_and_more() -> None:
    bench = Bench()
    exchange = bench.exchanges.begin(replace(ASKED, tags={"ticket": "12", "who": "me"}))
    exchange.admit(OPUS, b"{}", "")
    wanted = [Wanted(model="claude-opus-4-8", tag=tag) for tag in ("who=me", "who=you")]

    assert row(bench).tags == {"ticket": "12", "who": "me"}
    assert [open_as_wanted(bench.exchanges.open, each, EPOCH) for each in wanted] == [[exchange.id], []]


def test_what_was_recorded_of_a_request_that_is_open_here_is_told_as_far_as_it_has_come() -> None:
    bench = Bench()
    exchange = bench.begin()
    here = row(bench)
    begun = here._replace(model=None, session=None)
    elsewhere, ended = begun._replace(id="elsewhere"), begun._replace(outcome="ok")

    told = as_they_run([begun, elsewhere, ended], {exchange.id: exchange}, bench.clock.wall)

    assert told == [here, elsewhere, ended]


def test_a_stream_that_runs_has_its_account_and_the_tokens_so_far() -> None:
    bench = Bench()
    exchange = bench.begin()
    assert isinstance(exchange.next_step(), Send)
    exchange.judge(200, STREAM, None)
    exchange.delivering(200, STREAM)
    exchange.capture.add(START)
    told = row(bench)
    assert (told.account, told.status) == ("max-a", 200)
    assert (told.input_tokens, told.output_tokens, told.estimated, told.cost_usd) == (25, 0, True, None)

    exchange.capture.add(DELTA % (b"text_delta", b"text", b"x" * 30))
    exchange.capture.add(DELTA % (b"input_json_delta", b"partial_json", b"y" * 60))
    assert row(bench).output_tokens == 30  # three characters each; what a tool is to do is output too

    exchange.capture.add(END)
    assert (row(bench).output_tokens, row(bench).estimated) == (15, False)


@pytest.mark.parametrize("content_type", [b"application/json", b"application/octet-stream"])
def test_an_answer_that_tells_its_tokens_at_the_end_alone_has_none_before(content_type: bytes) -> None:
    bench = Bench()
    exchange = bench.begin()
    exchange.next_step()
    exchange.delivering(200, ((b"content-type", content_type),))
    exchange.capture.add(b'{"type":"message","usage":{"input_tokens":9')
    assert (row(bench).input_tokens, row(bench).estimated) == (None, False)


def test_a_request_that_has_ended_is_as_it_is_recorded() -> None:
    bench = Bench()
    exchange = bench.serve(OK)
    bench.clock.pass_(60)

    told = running(exchange, bench.clock.wall)

    assert (told.outcome, told.account, told.seconds) == ("ok", "max-a", exchange.duration)
    assert (told.input_tokens, told.output_tokens, told.cache_read_tokens) == (1000, 312, 204)
    assert (told.cost_usd, told.estimated) == (float(exchange.cost or 0), False)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(model="claude-opus-4-8"),
        Wanted(session="session-1"),
        Wanted(session="session-1", model="claude-opus-4-8", outcome=OPEN),
    ],
)
def test_an_open_request_is_found_by_what_its_row_does_not_tell_yet(wanted: Wanted) -> None:
    bench = Bench()
    exchange = bench.begin()
    assert open_as_wanted(bench.exchanges.open, wanted, bench.clock.wall) == [exchange.id]


@pytest.mark.parametrize(
    "wanted",
    [
        EVERYTHING,
        Wanted(outcome=OPEN),
        Wanted(model="claude-haiku-4-5"),
        Wanted(session="session-1", account="max-a"),
        Wanted(session="session-1", outcome="ok"),
        Wanted(session="session-1", tag="ticket=12"),
        Wanted(tag="ticket=12"),
        Wanted(session="session-1", client="laptop"),
    ],
)
def test_an_open_request_is_left_to_the_record_or_not_wanted(wanted: Wanted) -> None:
    bench = Bench()
    bench.begin()
    assert open_as_wanted(bench.exchanges.open, wanted, bench.clock.wall) == []


def test_open_requests_of_all_pages_are_found_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccflare_core.reports.running.MOST_FOUND", 3)
    bench, wanted = Bench(), Wanted(session="session-1")
    ids, before = {bench.begin().id for _ in range(8)}, None
    found: list[str] = []
    while page := open_as_wanted(bench.exchanges.open, wanted, EPOCH, before):
        found += page
        before = Position(to_ms(EPOCH), page[-1])

    assert (len(found), set(found)) == (8, ids)


def test_a_request_that_has_ended_is_wanted_as_its_row_tells(tmp_path: Path) -> None:
    with History(tmp_path / "ccflare.db") as history:
        history.account("max-1")
        ended = history.exchange(NOON, model="claude-opus-4-8", session=None)
        runs = history.exchange(NOON + 1, model=None, session=None, outcome=None)
        rows = listed(
            Reports(history.store.query),
            Period(0, NOON + 9),
            9,
            open_ids=[ended, runs],
            wanted=Wanted(model="claude-haiku-4-5"),
        )

    assert [row.id for row in rows] == [runs]
