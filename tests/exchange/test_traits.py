"""What a request says of itself, as rules ask for it; and what its session has said before."""

from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.anthropic.claude_code import Provenance
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.guardrails import Said, Trait
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.traits import Legible, Remembered, minute_of, traits_of
from exchange_kit import ASKED, Bench
from guard_kit import a_key

CLAUDE, SDK = "claude-cli/2.1.330", "Anthropic/Python 2.14.0"
MAIN = ("0f4c1a3e",)
PLAIN = Legible()


class Desk:
    """Requests of one client, one after the other."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.remembered = Remembered()

    def story(self, user_agent: str = CLAUDE, project: str | None = None, agent: str = "", **opening: Any) -> Exchange:
        told = replace(ASKED, user_agent=user_agent, **opening)
        exchange = self.bench.exchanges.begin(told)
        exchange.identified(Provenance(project=project, request_class="main"))
        if agent:
            exchange.belongs_to_agent(agent)
        return exchange

    def said(self, trait: Trait, legible: Legible = PLAIN, **story: Any) -> Said:
        return traits_of(self.story(**story), legible, self.remembered, 0.0, lambda: ("m",)).of(trait)


def test_what_the_head_says_is_certain() -> None:
    desk = Desk()
    run = ClientRun("run-1", 0.0, 0.0)
    told: dict[str, Any] = {"key": a_key("ci"), "run": run, "tags": {"team": "blue", "task": "7"}}

    found = [desk.said(trait, **told) for trait in (Trait.CLIENT, Trait.RUN, Trait.TAG, Trait.CLASS, Trait.MODEL)]
    assert found == [("ci",), ("run-1",), ("team=blue", "task=7"), ("main",), ("m",)]
    assert [desk.said(trait) for trait in (Trait.CLIENT, Trait.RUN, Trait.TAG)] == [(), (), ()]


def test_a_runs_project_counts_for_more_than_the_directory() -> None:
    run = ClientRun("run-1", 0.0, 0.0, project="shop")

    assert Desk().said(Trait.PROJECT, project="cart", run=run) == ("shop",)


@pytest.mark.parametrize(
    ("user_agent", "legible", "said"),
    [
        (SDK, Legible(), ()),
        (CLAUDE, Legible(), None),
        (SDK, Legible(whole=False), None),
        (SDK, Legible(MAIN, whole=False), None),
        (CLAUDE, Legible(MAIN, has_text=False, whole=False), None),
    ],
)
def test_a_project_that_is_not_said_is_none_where_it_could_be_said(
    user_agent: str, legible: Legible, said: Said
) -> None:
    assert Desk().said(Trait.PROJECT, legible, user_agent=user_agent) == said


def test_a_session_remembers_its_project_and_another_clients_does_not() -> None:
    desk = Desk()
    goes_on = Legible(MAIN, whole=False)

    assert desk.said(Trait.PROJECT, Legible(MAIN), project="shop") == ("shop",)
    assert desk.said(Trait.PROJECT, goes_on) == ("shop",)
    assert desk.said(Trait.PROJECT, goes_on, key=a_key("other")) is None
    assert desk.said(Trait.PROJECT, Legible(MAIN), project="cart") == ("cart",)
    assert desk.said(Trait.PROJECT, Legible(MAIN)) == ("cart",)


def test_an_agent_is_its_own_word_and_none_where_there_are_none() -> None:
    desk = Desk()
    begins, goes_on = (Legible(MAIN, whole=whole, has_agents=True) for whole in (True, False))

    assert desk.said(Trait.AGENT, goes_on) is None
    assert desk.said(Trait.AGENT, begins, agent="reviewer") == ("reviewer",)
    assert desk.said(Trait.AGENT, goes_on) == ("reviewer",)
    assert desk.said(Trait.AGENT, begins) == ()
    assert desk.said(Trait.AGENT, goes_on) == ()
    assert desk.said(Trait.AGENT, goes_on._replace(has_agents=False)) == ()


def test_a_body_that_cannot_be_read_hides_the_class_of_a_message_alone() -> None:
    hidden = Legible(has_text=False)

    assert Desk().said(Trait.CLASS, hidden) is None
    assert Desk().said(Trait.CLASS, hidden, path="/v1/messages/count_tokens") == ("main",)
    assert Desk().said(Trait.SESSION, Legible(None)) is None


def test_the_sessions_that_were_used_last_are_remembered() -> None:
    remembered = Remembered(most=2)
    for name in ("a", "b"):
        remembered.recall((name,), name)
    remembered.recall(("a",), None)
    remembered.recall(("c",), "c")

    assert [remembered.recall((name,), None) for name in "abc"] == ["a", None, "c"]


@pytest.mark.usefixtures("utc")
def test_the_minute_is_that_of_the_day() -> None:
    assert [minute_of(seconds) for seconds in (0.0, 59.9, 60.0, 86_399.0, 86_400.0)] == [0, 0, 1, 1439, 0]
