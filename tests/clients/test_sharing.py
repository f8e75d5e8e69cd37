"""Who gets how much of a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.sharing import Claim, Limit, Resource, apportion

AMOUNTS = st.integers(0, 200)
CLAIMS = st.dictionaries(
    st.sampled_from("abcde"),
    st.builds(
        Claim, held=st.integers(0, 50), used=st.integers(0, 50), wanted=AMOUNTS, waiting=st.none() | st.integers(0)
    ),
    min_size=1,
)


def of(amount: int, resource: Resource = Resource.OPEN) -> Limit:
    return Limit("key:k1", "open", amount, resource)


@given(AMOUNTS, CLAIMS, st.sampled_from([Resource.OPEN, Resource.RATE]))
def test_all_of_it_is_given_to_somebody_and_no_more(amount: int, claims: dict[str, Claim], resource: Resource) -> None:
    assert sum(apportion(of(amount, resource), claims).values()) == amount


@given(AMOUNTS, CLAIMS)
def test_of_what_is_spent_nobody_gets_more_than_is_left(amount: int, claims: dict[str, Claim]) -> None:
    given = apportion(of(amount, Resource.SPEND), claims)
    used = sum(claim.used for claim in claims.values())
    assert sum(given.values()) <= max(amount, used)
    assert all(given[run] >= claim.used for run, claim in claims.items())


@given(AMOUNTS, CLAIMS)
def test_nobody_gets_more_than_somebody_who_gets_too_little(amount: int, claims: dict[str, Claim]) -> None:
    given = apportion(of(amount), claims)
    short = [given[run] for run, claim in claims.items() if given[run] < min(claim.wanted, amount)]
    assert not short or max(given.values()) <= min(short) + 1


@pytest.mark.parametrize(
    ("amount", "wanted", "given"),
    [
        (10, (0, 0), (5, 5)),
        (10, (10, 0), (9, 1)),  # so that a first request there need not wait
        (10, (10, 10), (5, 5)),
        (10, (2, 10), (2, 8)),
        (3, (3, 0), (3, 0)),
        (12, (12, 12, 0), (6, 5, 1)),
    ],
)
def test_shares_follow_what_is_wanted(amount: int, wanted: tuple[int, ...], given: tuple[int, ...]) -> None:
    claims = {str(number): Claim(wanted=each) for number, each in enumerate(wanted)}
    assert tuple(apportion(of(amount), claims).values()) == given


def test_what_cannot_be_divided_goes_to_whoever_waits_longest() -> None:
    claims = {"a": Claim(1, 1, 1), "b": Claim(0, 0, 1, waiting=9), "c": Claim(0, 0, 1, waiting=4), "d": Claim(0, 0, 1)}
    assert apportion(of(1), claims) == {"a": 0, "b": 0, "c": 1, "d": 0}


def test_what_nobody_wants_stays_where_it_is() -> None:
    assert apportion(of(1), {"a": Claim(), "b": Claim(1)}) == {"a": 0, "b": 1}


def test_what_may_be_spent_is_given_as_far_as_it_is_wanted() -> None:
    limit = of(100, Resource.SPEND)
    assert apportion(limit, {"a": Claim(used=10, wanted=15), "b": Claim(wanted=5)}) == {"a": 15, "b": 5}
    assert apportion(limit, {"a": Claim(used=90, wanted=100), "b": Claim(wanted=5)}) == {"a": 95, "b": 5}
