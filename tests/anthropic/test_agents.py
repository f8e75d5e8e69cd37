import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.agents import Agent, Agents, with_model
from ccflare_core.errors import ConfigError

PROMPT = 'You review code with great care.\nYou never say "LGTM" – not even to <tests> \\o/.'
OTHER = "You plan a journey through the code base, step by step, and write it down."


def body(*prompts: str, said: str = "Hello", ascii: bool = False) -> bytes:
    system = [{"type": "text", "text": prompt} for prompt in prompts]
    content = {"model": "claude-opus-4-8", "messages": [{"role": "user", "content": said}], "system": system}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=ascii).encode()


def name(agents: Agents, content: bytes) -> str | None:
    found = agents.find(content)
    return found.name if found else None


@pytest.mark.parametrize("ascii", [True, False])
def test_an_agent_is_known_by_its_prompt_in_the_system_text(ascii: bool) -> None:
    agents = Agents([Agent("reviewer", PROMPT), Agent("planner", OTHER)])

    assert name(agents, body("You are Claude Code.", f"Notes.\n{PROMPT}\n<env>", ascii=ascii)) == "reviewer"
    assert name(agents, body(OTHER, ascii=ascii)) == "planner"
    assert name(agents, body("You are Claude Code.", ascii=ascii)) is None


def test_the_longest_prompt_tells_of_two_that_contain_each_other() -> None:
    agents = Agents([Agent("reviewer", PROMPT), Agent("strict-reviewer", PROMPT + " Be strict.")])

    assert name(agents, body(PROMPT + " Be strict.")) == "strict-reviewer"
    assert name(agents, body(PROMPT)) == "reviewer"


def test_a_prompt_that_is_quoted_in_a_message_does_not_count() -> None:
    assert name(Agents([Agent("reviewer", PROMPT)]), body("You are Claude Code.", said=PROMPT)) is None


def write(folder: Path, file: str, text: str) -> Path:
    path = folder / file
    path.write_text(text, encoding="utf-8")
    return path


def test_claude_codes_agent_files(tmp_path: Path) -> None:
    front = "---\nname: reviewer\ndescription: Reviews: all of it\nmodel: {}\ntools: Read, Grep\n---\n\n{}\n"
    write(tmp_path, "a.md", front.format("claude-haiku-4-5", PROMPT))
    write(tmp_path, "planner.md", front.format("inherit", OTHER).replace("name: reviewer\n", ""))
    write(tmp_path, "empty.md", front.format("claude-haiku-4-5", ""))
    write(tmp_path, "notes.txt", OTHER)

    agents = Agents.load(tmp_path)

    assert len(agents) == 2
    assert agents.find(body(PROMPT)) == Agent("reviewer", PROMPT, "claude-haiku-4-5")
    assert agents.find(body(OTHER)) == Agent("planner", OTHER, None)


def test_a_yaml_file_names_prompts_files_and_models(tmp_path: Path) -> None:
    file = write(tmp_path, "reviewer.md", f"---\nname: r\nmodel: opus\n---\n{PROMPT}")
    definitions = {
        "reviewer": {"file": str(file), "model": "claude-haiku-4-5"},
        "planner": {"prompt": OTHER},
    }
    agents = Agents.load(write(tmp_path, "agents.yaml", json.dumps(definitions)))

    assert agents.find(body(PROMPT)) == Agent("reviewer", PROMPT, "claude-haiku-4-5")
    assert agents.find(body(OTHER)) == Agent("planner", OTHER, None)


@pytest.mark.parametrize("text", ["", "{}", "# none\n"])
def test_no_agents_are_no_mistake(tmp_path: Path, text: str) -> None:
    assert len(Agents.load(write(tmp_path, "agents.yaml", text))) == 0
    assert len(Agents.load(None)) == 0


@pytest.mark.parametrize(
    ("definitions", "problem"),
    [
        ("[", "is not YAML"),
        ("- a\n", "defines no agents"),
        ("r: text\n", "needs a `prompt` or a `file`"),
        ("r: {prompt: short}\n", "of 40 characters or more"),
        (f"r: {{prompt: '{OTHER}', model: sonnet}}\n", "no full name"),
        (f"r: {{prompt: '{OTHER}', modle: claude-x}}\n", "needs a `prompt` or a `file`"),
        ("r: {file: /nowhere/agent.md}\n", "cannot be read"),
        (f"'a b': {{prompt: '{OTHER}'}}\n", "letters, digits"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, definitions: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Agents.load(write(tmp_path, "agents.yaml", definitions))

    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Agents.load(write(tmp_path, "agents.yaml", "a: {prompt: short}\nb: {model: claude-x}\n"))

    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a","stream":true}', b'{"model":"claude-x","stream":true}'),
        (b' {\n "x" : [ {"model":"no"} ], "model" :\t"a" }', b' {\n "x" : [ {"model":"no"} ], "model" :\t"claude-x" }'),
        (b'{"a":"\\"model\\":\\"b\\"","model":"a"}', b'{"a":"\\"model\\":\\"b\\"","model":"claude-x"}'),
        (b'{"model":"\\u0061\xff","m":1e400}', b'{"model":"claude-x","m":1e400}'),
        (b'{"note":"model","model":"a"}', b'{"note":"model","model":"claude-x"}'),
    ],
)
def test_only_the_model_changes(before: bytes, after: bytes) -> None:
    assert with_model(before, "claude-x") == after


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"model":1}', b'{"model":"a","model":"b"}', b'{"x":{"model":"a"}}', b'["model","a"]', b"\xff"],
)
def test_a_body_without_one_model_is_left_alone(content: bytes) -> None:
    assert with_model(content, "claude-x") is None


@given(
    st.dictionaries(st.text(), st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5)), st.text()
)
def test_everything_else_stays(fields: dict[str, object], model: str) -> None:
    content = {**fields, "model": model}

    changed = with_model(json.dumps(content).encode(), "claude-x")

    assert changed is not None
    assert json.loads(changed) == {**content, "model": "claude-x"}
