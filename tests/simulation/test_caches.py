"""What a session loses when another account serves it."""

from ccflare_core.anthropic.request import Facts
from ccflare_core.simulation.caches import Caches, Loss
from ccflare_core.simulation.turns import Tokens, Turn

OPUS = Facts("claude-opus-4-8", "session-1")


def turn(at: float, read: int, written: int, facts: Facts = OPUS, thinking: int = 0) -> Turn:
    tokens = Tokens(5, 100, written, 0, read)
    return Turn(f"request-{at}", at, "POST", "/v1/messages", facts, 1.0, 5.0, tokens, thinking=thinking)


def served(*moves: tuple[str, Turn]) -> list[Loss]:
    caches = Caches(18_000.0)
    return [caches.serve(each, account, each.at) for account, each in moves]


def test_move_loses_what_the_former_account_has_cached() -> None:
    losses = served(("A", turn(0, 0, 10_000)), ("A", turn(60, 10_000, 2_000)), ("B", turn(120, 12_000, 500)))

    assert losses == [Loss(moved=False), Loss(moved=False), Loss(moved=True, rebilled=12_000)]


def test_move_loses_nothing_when_the_cache_is_over() -> None:
    assert served(("A", turn(0, 0, 10_000)), ("B", turn(301, 10_000, 500)))[1] == Loss(moved=True)


def test_account_that_a_session_comes_back_to_has_some_of_it() -> None:
    losses = served(("A", turn(0, 0, 10_000)), ("B", turn(60, 10_000, 2_000)), ("A", turn(120, 12_000, 500)))

    assert losses[2] == Loss(moved=True, rebilled=2_000)


def test_what_the_first_turn_has_read_is_cached_everywhere() -> None:
    assert served(("A", turn(0, 8_000, 2_000)), ("B", turn(60, 10_000, 500)))[1].rebilled == 2_000


def test_thinking_of_models_that_tie_it_is_lost() -> None:
    sonnet = Facts("claude-sonnet-5-5", "session-1")

    losses = served(("A", turn(0, 0, 10, sonnet, thinking=700)), ("B", turn(4000, 0, 10, sonnet)))
    assert losses[1].thinking == 0  # the thread is forgotten after an hour

    losses = served(("A", turn(0, 0, 10, sonnet, thinking=700)), ("B", turn(400, 0, 10, sonnet)))
    assert losses[1].thinking == 700


def test_requests_without_a_session_lose_nothing() -> None:
    nobody = Facts("claude-opus-4-8")

    assert served(("A", turn(0, 0, 9, nobody)), ("B", turn(1, 9, 0, nobody)))[1] == Loss(moved=False)
