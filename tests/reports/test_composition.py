"""What prompts are made of: counted tokens, shared out by the sizes of parts that were looked into."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ccflare_core.anthropic.prompt_parts import PromptPart, Sizes
from ccflare_core.config.location import Location
from ccflare_core.exchange.records import Payload
from ccflare_core.reports.composition import LOOKED_INTO, Composition, Prompt, composition, prompts_of
from history import NOON, History

P = PromptPart


def prompt(number: int, tokens: int = 100, agent: str = "", *, has_body: bool = True) -> Prompt:
    return Prompt(f"request-{number}", agent, 0, tokens, 0, 5, 0.5, has_body)


def of(prompts: list[Prompt], look: Callable[[str], Sizes | None]) -> Composition | None:
    return composition("one", prompts, look)


def half(_: str) -> Sizes:
    return Counter({P.SYSTEM: 30, P.FILES: 30})


def shown(found: Composition | None) -> dict[PromptPart, tuple[int, int]]:
    assert found is not None
    return {part.part: (part.tokens, part.session_tokens) for part in found.parts}


def test_the_fullest_prompt_and_all_of_them() -> None:
    found = of([prompt(1, 100), prompt(2, 900), prompt(3, 400)], half)

    assert found is not None
    assert (found.request_id, found.tokens, found.session_tokens) == ("request-2", 900, 1_400)
    assert (found.requests, found.looked_into, found.read_tokens, found.output_tokens) == (3, 3, 1_400, 15)
    assert (found.cost_usd, found.unknown_costs) == (1.5, 0)
    assert shown(found) == {P.FILES: (450, 700), P.SYSTEM: (450, 700)}


def test_of_many_a_few_are_looked_into_with_the_first_the_last_and_the_fullest() -> None:
    looked: list[str] = []
    prompts = [prompt(number, 900 if number == 77 else 100) for number in range(200)]

    def look(id_: str) -> Sizes:
        looked.append(id_)
        return half(id_)

    found = of(prompts, look)

    assert found is not None
    assert found.looked_into == len(looked) <= LOOKED_INTO
    assert {"request-0", "request-77", "request-199"} <= {*looked}
    assert shown(found)[P.SYSTEM] == (450, round(found.session_tokens / 2))


def test_each_stands_for_those_beside_it_that_are_its_agents() -> None:
    prompts = [prompt(1), prompt(2, has_body=False), prompt(3, 300, "a1", has_body=False), prompt(4, 100, "a1")]

    found = of(prompts, lambda id_: Counter({P.SYSTEM: 1} if id_ == "request-1" else {P.TOOLS: 1}))

    assert {part: session for part, (_, session) in shown(found).items()} == {P.SYSTEM: 200, P.TOOLS: 400}


def test_what_is_only_in_other_prompts_is_none_of_the_fullest() -> None:
    found = of([prompt(1, 100), prompt(2, 900)], lambda id_: Counter({P.TOOLS if id_ == "request-1" else P.FILES: 7}))

    assert shown(found) == {P.FILES: (900, 900), P.TOOLS: (0, 100)}


@pytest.mark.parametrize("prompts", [[], [prompt(1, has_body=False)], [prompt(1, 0)]])
def test_where_nothing_can_be_looked_into_nothing_is_told(prompts: list[Prompt]) -> None:
    assert of(prompts, half) is None


def test_a_body_that_is_gone_by_now_is_left_out() -> None:
    found = of([prompt(1, 900), prompt(2, 100)], lambda id_: None if id_ == "request-1" else half(id_))

    assert found is not None
    assert (found.request_id, found.looked_into, found.session_tokens) == ("request-2", 1, 1_000)
    assert of([prompt(1)], lambda _: None) is None


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        yield history


def test_the_prompts_of_a_session_are_found_with_their_bodies(past: History) -> None:
    told: dict[str, Any] = {"path": "/v1/messages", "output_tokens": 5, "input_tokens": 10, "cost_usd": None}
    with past.together():
        second = past.exchange(NOON - 1, cache_read_input_tokens=20, **told)
        first = past.exchange(NOON - 2, cache_creation_input_tokens=30, **told)
        helper = past.exchange(NOON - 3, agent_id="a1", **told)
        past.exchange(NOON - 4, session="another", **told)
        past.exchange(NOON - 5, **{**told, "output_tokens": None})
    for id_, truncated in ((second, False), (first, True)):
        past.store.write([Payload(id_, "request", "application/json", "", b"{}", 2, truncated, "session-1")])

    assert prompts_of(past.store.query, "session-1") == [
        Prompt(first, "", 10, 0, 30, 5, None, has_body=False),
        Prompt(second, "", 10, 20, 0, 5, None, has_body=True),
        Prompt(helper, "a1", 10, 0, 0, 5, None, has_body=False),
    ]
