"""Requests and sessions by a part of their id."""

from collections.abc import Iterator

import pytest

from ccflare_cli.console import Refused
from ccflare_cli.ids import find_request, find_session
from ccflare_core.config.location import Location
from ccflare_core.store.store import Store
from history import NOON, History

SESSIONS = ("4f1c0a3e-1111-4222-8333-0000000000ab", "4f1c0a3e-2222-4222-8333-0000000000ab", "4f1c", "odd_%!id")


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    """`request-1` to `request-4`, each of a session of its own."""
    with History(location) as past:
        for number, session in enumerate(SESSIONS):
            past.exchange(NOON - number, session=session, upstream_request_id=f"req_011CUpstream{number}")
        yield past.store


@pytest.mark.parametrize("text", ["request-2", "req_011CUpstream1", "reques…-2", "reque...2", "req_011C…m1"])
def test_requests_are_found_by_their_own_and_the_upstreams_id(store: Store, text: str) -> None:
    assert find_request(store, text) == "request-2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SESSIONS[0], SESSIONS[0]),
        ("4f1c0a3e-1", SESSIONS[0]),
        ("4f1c0a3e-2…00ab", SESSIONS[1]),
        ("4f1c", "4f1c"),
        ("odd_", "odd_%!id"),
    ],
)
def test_sessions_are_found_by_their_beginning_or_both_ends(store: Store, text: str, found: str) -> None:
    assert find_session(store, text) == found


@pytest.mark.parametrize("text", ["4f1c0a", "4f1c0a…0000ab"])
def test_more_than_one_is_refused(store: Store, text: str) -> None:
    with pytest.raises(Refused, match="More than one session's id is like this"):
        find_session(store, text)


@pytest.mark.parametrize("text", ["", "4f1", "nobody", "oddX", "4F1C0A3E-1", "…00ab", "%%%%", "____"])
def test_what_is_not_there_or_too_short_is_refused(store: Store, text: str) -> None:
    with pytest.raises(Refused, match=r"There is no such session: `scripts/stats\.py sessions`"):
        find_session(store, text)


def test_a_request_is_no_session(store: Store) -> None:
    with pytest.raises(Refused, match="There is no such request"):
        find_request(store, SESSIONS[0])
