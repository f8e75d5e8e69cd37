import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.verdicts import Kind, Scope, Verdict, classify, failed_to_connect, no_way
from ccflare_core.exchange.failover import (
    LONGEST_DELAY,
    MOST_ATTEMPTS,
    Deliver,
    Failover,
    NextAccount,
    RetryBudget,
    RetrySame,
    Step,
)

MOVE = NextAccount(or_deliver=False)
MOVE_OR_DELIVER = NextAccount(or_deliver=True)


def failover(*, attempts: int = 3, delay: float = 1.0, backoff: float = 2.0, random: float = 1.0) -> Failover:
    return Failover(attempts=attempts, delay=delay, backoff=backoff, random=lambda: random)


def verdict(kind: Kind, status: int = 500, *, may_retry: bool = True, deliver: bool = False) -> Verdict:
    return Verdict(kind, status, "…", Scope.REQUEST, None, may_retry=may_retry, deliver=deliver)


def steps(plan: Failover, kinds: Sequence[Kind]) -> list[Step]:
    return [plan.after(verdict(kind)) for kind in kinds]


@pytest.mark.parametrize("kind", [Kind.OK, Kind.CLIENT_ERROR])
def test_the_clients_answer_is_delivered(kind: Kind) -> None:
    assert steps(failover(), [kind]) == [Deliver()]


def test_a_good_answer_with_a_spent_window_in_its_head_is_delivered() -> None:
    head = [(b"anthropic-ratelimit-unified-5h-status", b"rejected")]
    assert failover().after(classify(200, head, None, 0.0)) == Deliver()


def test_an_error_event_under_a_good_head_is_not_delivered() -> None:
    event = {"type": "error", "error": {"type": "rate_limit_error"}}
    assert failover().after(classify(200, [], event, 0.0)) == MOVE


@pytest.mark.parametrize(
    "kind",
    [
        Kind.WINDOW_SPENT,
        Kind.MODEL_BUCKET_SPENT,
        Kind.OUT_OF_CREDITS,
        Kind.CREDENTIAL_REJECTED,
        Kind.PERMISSION_DENIED,
        Kind.ACCOUNT_DISABLED,
        Kind.OUT_OF_FUNDS,
        Kind.SPEND_LIMIT,
        Kind.MODEL_UNAVAILABLE,
        Kind.BETA_UNAVAILABLE,
    ],
)
def test_what_one_account_lacks_any_number_of_others_is_asked_for(kind: Kind) -> None:
    assert steps(failover(), [kind] * 5) == [MOVE] * 5


def test_a_bare_429_moves_once_and_is_delivered_where_no_account_is_free() -> None:
    assert steps(failover(), [Kind.BARE_429] * 3) == [MOVE_OR_DELIVER, Deliver(), Deliver()]


def test_a_short_throttle_moves_once_and_is_not_delivered_the_first_time() -> None:
    assert steps(failover(), [Kind.SHORT_THROTTLE] * 3) == [MOVE, Deliver(), Deliver()]


def test_overload_is_retried_twice_on_each_of_two_accounts() -> None:
    waits = [RetrySame(1.5)] * 2
    expected = [*waits, MOVE_OR_DELIVER, *waits, Deliver()]
    assert steps(failover(), [Kind.OVERLOADED] * 6) == expected


@pytest.mark.parametrize(("random", "delay"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_overload_waits_a_jittered_second(random: float, delay: float) -> None:
    assert steps(failover(random=random), [Kind.OVERLOADED]) == [RetrySame(delay)]


def test_the_kinds_with_one_hop_share_it() -> None:
    kinds = [Kind.BARE_429, Kind.SHORT_THROTTLE]
    assert steps(failover(), kinds) == [MOVE_OR_DELIVER, Deliver()]


def test_a_failure_is_retried_with_growing_delays_and_afresh_on_the_next_account() -> None:
    waits = [RetrySame(1.0), RetrySame(2.0), RetrySame(4.0)]
    expected = [*waits, MOVE_OR_DELIVER, *waits, MOVE_OR_DELIVER]
    assert steps(failover(), [Kind.UPSTREAM_FAILURE] * 8) == expected


def test_a_failure_without_an_answer_is_retried_too() -> None:
    assert failover().after(failed_to_connect("connection refused")) == RetrySame(1.0)


def test_a_proxy_that_fails_is_retried_as_an_upstream_is() -> None:
    assert failover().after(no_way("refused")) == RetrySame(1.0)


def test_a_proxy_that_leads_to_somebody_else_is_not_asked_again() -> None:
    assert failover().after(no_way("an impostor", Kind.NOT_TRUSTED)) == MOVE_OR_DELIVER


def test_jitter_halves_a_delay_at_most() -> None:
    plan = failover(random=0.0)
    assert steps(plan, [Kind.UPSTREAM_FAILURE] * 2) == [RetrySame(0.5), RetrySame(1.0)]


def test_without_attempts_a_failure_moves_at_once() -> None:
    assert steps(failover(attempts=0), [Kind.UPSTREAM_FAILURE]) == [MOVE_OR_DELIVER]


def test_delays_are_bounded_whatever_the_backoff() -> None:
    plan = failover(attempts=9, delay=1e3, backoff=1e200)
    assert steps(plan, [Kind.UPSTREAM_FAILURE] * 9) == [RetrySame(LONGEST_DELAY)] * 9


@pytest.mark.parametrize("kind", [Kind.UPSTREAM_FAILURE, Kind.OVERLOADED])
def test_a_failure_that_asks_not_to_be_retried_is_delivered(kind: Kind) -> None:
    assert failover().after(verdict(kind, 503, may_retry=False)) == Deliver()


def test_a_move_gives_the_next_account_its_own_retries() -> None:
    plan = failover(attempts=1)
    kinds = [Kind.UPSTREAM_FAILURE, Kind.WINDOW_SPENT, Kind.UPSTREAM_FAILURE, Kind.UPSTREAM_FAILURE]
    assert steps(plan, kinds) == [RetrySame(1.0), MOVE, RetrySame(1.0), MOVE_OR_DELIVER]


@given(st.lists(st.sampled_from(Kind), min_size=MOST_ATTEMPTS, max_size=40), st.integers(0, 99))
def test_every_sequence_of_verdicts_ends(kinds: list[Kind], attempts: int) -> None:
    taken = steps(failover(attempts=attempts), kinds)
    assert taken[MOST_ATTEMPTS - 1 :] == [Deliver()] * (len(kinds) - MOST_ATTEMPTS + 1)


@given(st.lists(st.sampled_from(Kind), max_size=40), st.integers(0, 5), st.floats(0.0, 1.0))
def test_no_account_is_retried_in_place_more_often_than_allowed(
    kinds: list[Kind], attempts: int, random: float
) -> None:
    in_place = 0
    for step in steps(failover(attempts=attempts, random=random), kinds):
        in_place = in_place + 1 if isinstance(step, RetrySame) else 0
        assert in_place <= max(attempts, 2)
        assert not isinstance(step, RetrySame) or 0.5 <= step.delay <= LONGEST_DELAY


@pytest.mark.parametrize(("in_flight", "most"), [(0, 3), (1, 3), (15, 3), (16, 4), (100, 20)])
def test_retries_under_way_are_a_fifth_of_the_exchanges_and_three_at_least(in_flight: int, most: int) -> None:
    budget = RetryBudget()
    taken = 0
    while budget.allows(in_flight):
        budget.take()
        taken += 1
    assert taken == most


def test_a_retry_that_is_over_makes_room_also_when_it_failed() -> None:
    budget = RetryBudget(minimum=1)
    with contextlib.suppress(OSError), budget:
        assert not budget.allows(1)
        raise OSError
    assert budget.allows(1)


def test_giving_twice_does_not_widen_the_budget() -> None:
    budget = RetryBudget(minimum=1)
    budget.give()
    budget.take()
    assert not budget.allows(1)
    assert repr(budget) == "<RetryBudget: 1 under way>"
