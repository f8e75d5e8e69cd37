import io
import json
import stat
from pathlib import Path

import pytest

from ccflare_cli import prices
from desk import Desk
from fake_upstream import Answer, FakeUpstream

OPUS_6 = "claude-opus-6: {input: 5, output: 25, cache_write_5m: 6.25, cache_write_1h: 10, cache_read: 0.5}\n"
SONNET_5 = "claude-sonnet-5: {input: 3, output: 10, cache_write_5m: 2.5, cache_write_1h: 4, cache_read: 0.2}\n"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(environ={"XDG_DATA_HOME": str(tmp_path)})


def run(desk: Desk, *arguments: str) -> int:
    desk.stdout, desk.stderr = io.StringIO(), io.StringIO()
    return prices.main(arguments, desk.console())


def write(tmp_path: Path, text: str, name: str = "new.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_show_lists_every_price_with_its_source(desk: Desk) -> None:
    assert run(desk, "show", "--format", "json") == 0

    rows = {row["model"]: row for row in json.loads(desk.said)}
    assert rows["claude-opus-5-5"]["standard"]["output"] == 20
    assert rows["claude-opus-5-5"]["fast"]["input"] == 8
    assert rows["claude-haiku-5-5"]["long_above"] == 100_000
    assert {row["source"] for row in rows.values()} == {"built in"}


def test_an_update_shows_the_difference_and_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    target = tmp_path / "prices.yaml"

    assert run(desk, "update", write(tmp_path, OPUS_6 + SONNET_5), "--to", str(target)) == 0

    lines = [line.split() for line in desk.said.splitlines()]
    assert ["claude-sonnet-5", "input", "2", "3"] in lines
    assert ["claude-opus-6", "output", "–", "25"] in lines
    assert "--yes" in desk.complained
    assert not target.exists()


def test_yes_writes_what_differs_from_the_built_in_prices(desk: Desk, tmp_path: Path) -> None:
    target = tmp_path / "prices.yaml"
    same = "claude-opus-4-5: {input: 5, output: 25, cache_write_5m: 6.25, cache_write_1h: 10, cache_read: 0.5}\n"

    assert run(desk, "update", write(tmp_path, OPUS_6 + same), "--to", str(target), "--yes") == 0
    assert run(desk, "update", write(tmp_path, SONNET_5), "--to", str(target), "--yes") == 0

    text = target.read_text()
    assert [line for line in text.splitlines() if not line.startswith((" ", "#", "dated"))] == [
        "claude-opus-6:",
        "claude-sonnet-5:",
    ]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert run(desk, "update", str(target), "--to", str(target)) == 0
    assert "in force already" in desk.said


def test_prices_come_from_an_address_without_its_query_in_the_file(desk: Desk, tmp_path: Path) -> None:
    target = tmp_path / "prices.yaml"
    with FakeUpstream() as upstream:
        upstream.answer(Answer(200, ((b"Content-Type", b"text/plain"),), (OPUS_6.encode(),)), path="/prices.yaml")
        code = run(desk, "update", f"{upstream.url}/prices.yaml?token=private", "--to", str(target), "--yes")

    assert (code, upstream.requests[0].target) == (0, "/prices.yaml?token=private")
    assert "private" not in target.read_text() + desk.said + desk.complained


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("http://prices.example/p.yaml", "cannot be used"),
        ("ftp://127.0.0.1/p.yaml", "cannot be used"),
        ("missing.yaml", "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_sentence(desk: Desk, tmp_path: Path, source: str, sentence: str) -> None:
    assert run(desk, "update", source, "--to", str(tmp_path / "prices.yaml"), "--yes") == 1

    assert sentence in desk.complained
    assert len(desk.complained.splitlines()) == 1
    assert not (tmp_path / "prices.yaml").exists()


def test_an_answer_that_is_no_file_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        upstream.answer(Answer(404, ((b"Content-Type", b"text/html"),), (b"<html>",)), path="/p")
        assert run(desk, "update", f"{upstream.url}/p", "--to", str(tmp_path / "prices.yaml"), "--yes") == 1

    assert "answered 404" in desk.complained


def test_without_a_file_to_write_to_it_says_what_to_do(desk: Desk, tmp_path: Path) -> None:
    assert run(desk, "update", write(tmp_path, OPUS_6)) == 1

    assert desk.complained == "Set ccflare_prices to the file that holds your prices, or name one with --to.\n"
