"""The choice of an account: fixed examples and what must hold for any pool."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.selection import Candidate, Choice, choose
from ccflare_core.config.options import OPTIONS


def candidate(id: str, **fields: Any) -> Candidate:
    free = Candidate(id, f"max-{id}", 0, None, 0, 0.0, 0.0)
    return free._replace(**fields)


def pick(*candidates: Candidate, strategy: str = "session", pinned: str | None = None, turn: int = 0) -> Choice:
    return choose(candidates, strategy=strategy, pinned=pinned, turn=turn)


def test_an_empty_pool_has_no_account() -> None:
    assert pick() == Choice(None, "no account is available", ())


def test_reasons_are_told_for_each() -> None:
    choice = pick(candidate("a", unavailable="paused"), candidate("b", unavailable="token expired"))

    assert choice.account_id is None
    assert choice.considered == (("max-a", "paused"), ("max-b", "token expired"))


def test_a_session_keeps_its_account_although_another_is_idle() -> None:
    choice = pick(candidate("a"), candidate("b", in_flight=9, utilization_5h=0.9), pinned="b")

    assert choice == Choice("b", "keeps its session", (("max-a", "the session is elsewhere"),))


def test_priority_goes_before_stickiness() -> None:
    choice = pick(candidate("a", priority=1), candidate("b", priority=0), pinned="a")

    assert choice.account_id == "b"
    assert choice.reason == "moved from max-a: a higher priority is free"
    assert choice.considered == (("max-a", "lower priority"),)


def test_a_session_moves_when_its_account_cannot_serve() -> None:
    choice = pick(candidate("a", unavailable="5h window spent until 14:20"), candidate("b"), pinned="a")

    assert choice.account_id == "b"
    assert choice.reason == "moved from max-a: 5h window spent until 14:20"


def test_a_pin_to_an_account_that_is_gone_is_no_pin() -> None:
    assert pick(candidate("a"), pinned="z") == Choice("a", "most headroom", ())


@pytest.mark.parametrize("strategy", ["session", "least-used"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"utilization_5h": 0.3}, {"utilization_5h": 0.1}),
        ({"utilization_7d": 0.3}, {"utilization_7d": 0.1}),
        ({"utilization_5h": 0.2, "utilization_7d": 0.1}, {"utilization_5h": 0.1, "utilization_7d": 0.9}),
        ({"in_flight": 1}, {"utilization_5h": 0.049}),
        ({"in_flight": 3, "utilization_7d": 0.0}, {"in_flight": 2, "utilization_7d": 0.9}),
        ({"utilization_5h": 0.6, "in_flight": 0}, {"utilization_5h": 0.1, "in_flight": 9}),
    ],
)
def test_b_has_more_headroom(strategy: str, a: dict[str, Any], b: dict[str, Any]) -> None:
    for turn in (0, 1):
        assert pick(candidate("a", **a), candidate("b", **b), strategy=strategy, turn=turn).account_id == "b"


def test_five_new_sessions_in_one_instant_spread() -> None:
    pool = [candidate(id, utilization_5h=used) for id, used in zip("abcde", (0.01, 0.04, 0, 0.03, 0.02), strict=True)]

    for _ in range(5):
        chosen = pick(*pool).account_id
        pool = [c._replace(in_flight=c.in_flight + (c.id == chosen)) for c in pool]

    assert [c.in_flight for c in pool] == [1, 1, 1, 1, 1]


def test_equals_take_turns() -> None:
    pool = [candidate("a"), candidate("b", utilization_5h=0.5), candidate("c")]

    assert [pick(*pool, turn=turn).account_id for turn in range(4)] == ["a", "c", "c", "a"]


def test_least_used_ignores_the_pin() -> None:
    choice = pick(candidate("a", in_flight=1), candidate("b"), strategy="least-used", pinned="a")

    assert choice == Choice("b", "most headroom", (("max-a", "more used"),))


POOLS = st.lists(
    st.builds(
        candidate,
        id=st.uuids().map(str),
        priority=st.integers(0, 2),
        unavailable=st.none() | st.just("paused"),
        in_flight=st.integers(0, 5),
        utilization_5h=st.floats(0, 2),
        utilization_7d=st.floats(0, 2),
    ),
    max_size=6,
    unique_by=lambda c: c.id,
)
STRATEGIES = next(option.choices for option in OPTIONS if option.name == "ccflare_strategy")
ANY_STRATEGY = st.sampled_from(STRATEGIES)
ANY_TURN = st.integers(0, 100)


@given(POOLS, ANY_STRATEGY, ANY_TURN, st.data())
def test_whatever_the_pool(pool: list[Candidate], strategy: str, turn: int, data: st.DataObject) -> None:
    pinned = data.draw(st.none() | st.sampled_from([*(c.id for c in pool), "gone"]))

    choice = pick(*pool, strategy=strategy, pinned=pinned, turn=turn)

    free = {c.id: c.priority for c in pool if c.unavailable is None}
    best = {id for id, priority in free.items() if priority == min(free.values())}
    assert choice.account_id in best if best else choice.account_id is None
    assert choice.account_id == pinned or strategy != "session" or pinned not in best
    assert len(choice.considered) == len(pool) - len(best and {choice.account_id})
    assert choice.reason
    assert all(why for _, why in choice.considered)


@given(POOLS)
def test_round_robin_visits_all_of_the_best_priority(pool: list[Candidate]) -> None:
    seen = {pick(*pool, strategy="round-robin", turn=turn).account_id for turn in range(len(pool))}

    free = [c for c in pool if c.unavailable is None]
    best = {c.id for c in free if c.priority == min(f.priority for f in free)}
    assert seen - {None} == best
