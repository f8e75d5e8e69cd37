"""`stats.py advise --session`: what the prompts of a session were made of, by the bodies that are recorded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.stats.main import main
from ccflare_core.exchange.records import Payload
from ccflare_core.secrets.key_sources import KeyFile
from desk import Desk
from history import NOON, History

SYSTEM, FILE = "You are of help. " * 300, "x = 1\n" * 3000


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "ccflare.db", KeyFile(tmp_path / "ccflare.key")) as history:
        history.account("max-1")
        yield history


def say(past: History, at: float, body: dict[str, Any], answer: dict[str, Any] | None = None, **used: Any) -> str:
    told = {"path": "/v1/messages", "session": "4f1c-9d", "output_tokens": 10, "cost_usd": 0.5, **used}
    id_ = past.exchange(at, "max-1", **told)
    for part, content in (("request", body), ("response", answer)):
        if content is not None:
            data = json.dumps(content).encode()
            past.store.write([Payload(id_, part, "application/json", "", data, len(data), False, told["session"])])
    return id_


def turn(number: int) -> dict[str, Any]:
    """The body of a turn: the file is read in the second one."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is x?"}]
    if number:
        call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"file_path": "/x.py"}}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": FILE}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {"system": SYSTEM, "messages": messages}


def ask(past: History, *words: str, code: int = 0) -> Desk:
    desk = Desk()
    assert main(["--database", str(past.location), "advise", "--session", "4f1c", *words], desk.console()) == code
    return desk


def test_tokens_are_those_that_were_counted_shared_out_by_size(past: History) -> None:
    say(past, NOON - 60, turn(0), input_tokens=1_000)
    fullest = say(past, NOON - 30, turn(1), cache_read_input_tokens=1_000, cache_creation_input_tokens=6_000)
    say(past, NOON - 10, turn(0), input_tokens=90_000, session="another")

    found = json.loads(ask(past, "--format", "json").said)

    session, parts = found["session"], {part["part"]: part for part in found["parts"]}
    assert (session["session"], session["request_id"], session["tokens"]) == ("4f1c-9d", fullest, 7_000)
    assert (session["requests"], session["looked_into"], session["session_tokens"]) == (2, 2, 8_000)
    assert (session["input_tokens"], session["cache_read_tokens"], session["cost_usd"]) == (1_000, 1_000, 1.0)
    assert [part["part"] for part in found["parts"]][:2] == ["files", "system"]
    assert parts["files"]["share"] == pytest.approx(len(FILE) * 7 / 6 / (len(FILE) * 7 / 6 + len(SYSTEM)), abs=0.02)
    assert sum(part["tokens"] for part in found["parts"]) == pytest.approx(7_000, abs=4)
    assert sum(part["session_tokens"] for part in found["parts"]) == pytest.approx(8_000, abs=4)
    assert parts["system"]["session_tokens"] > parts["system"]["tokens"] + 900, "the first prompt is hardly else"


def test_the_parts_of_a_thread_are_one_prompt(past: History) -> None:
    said = {"role": "assistant", "content": [{"type": "text", "text": SYSTEM}]}
    say(past, NOON - 60, turn(0), said, input_tokens=1_000, message_id="msg_1")
    goes_on = {"messages": [{"role": "user", "content": "And y?"}]}
    say(past, NOON - 30, goes_on, input_tokens=3_000, message_id="msg_2", previous_message_id="msg_1")

    parts = {part["part"]: part for part in json.loads(ask(past, "--format", "json").said)["parts"]}

    assert parts["answers"]["tokens"] == pytest.approx(1_500, rel=0.03)
    assert parts["system"]["tokens"] == pytest.approx(1_500, rel=0.03)


def test_people_are_told_that_it_is_an_estimate(past: History) -> None:
    say(past, NOON - 30, turn(1), input_tokens=7_000)

    desk = ask(past)

    assert desk.complained == ""
    assert "Requests     1 (1 looked into)" in desk.said
    assert "The parts are estimates" in desk.said
    assert [line.split()[0] for line in desk.said.splitlines() if "~" in line][:2] == ["files", "system"]


def test_who_reads_bodies_is_in_the_audit_log(past: History) -> None:
    say(past, NOON - 30, turn(1), input_tokens=7_000)

    ask(past)

    found = past.store.query("SELECT target, detail FROM audit_log WHERE action = 'data.read'", ())
    assert [row[0] for row in found] == ["4f1c-9d"]
    assert "composition" in found[0][1]


def test_without_a_body_one_sentence_says_so(past: History) -> None:
    past.exchange(NOON, "max-1", path="/v1/messages", session="4f1c-9d", input_tokens=9, output_tokens=9)

    assert ask(past, code=1).complained.count("\n") == 1


def test_without_the_data_key_one_sentence_says_so(past: History) -> None:
    say(past, NOON - 30, turn(1), input_tokens=7_000)
    past.store.close()
    (Path(str(past.location)).parent / "ccflare.key").unlink()

    desk = ask(past, code=1)

    assert desk.said == ""
    assert desk.complained.count("\n") == 1


@pytest.mark.parametrize("words", [("summary", "--session", "4f1c"), ("advise", "--session", "4f1c", "--watch", "5")])
def test_what_goes_with_no_session(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words], Desk().console())

    assert ended.value.code == 2
