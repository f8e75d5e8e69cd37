"""The parts of a message thread, found by the messages that they go on from."""

from collections.abc import Iterator
from typing import Any

import pytest

from ccflare_core.config.location import Location
from ccflare_core.reports.threads import Link, earlier_parts
from history import NOON, History


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        yield history


def part(past: History, at: float, message: str, previous: str | None = None) -> str:
    return past.exchange(NOON + at, message_id=message, previous_message_id=previous)


def test_parts_come_in_the_order_in_which_they_were_said(past: History) -> None:
    first, second = part(past, 0, "msg_1"), part(past, 1, "msg_2", "msg_1")
    part(past, 2, "msg_3", "msg_2")
    part(past, 3, "msg_other")

    assert [link.request_id for link in earlier_parts(past.store.query, "msg_2")] == [first, second]
    assert earlier_parts(past.store.query, "msg_1") == [Link(first, None, "session-1")]


@pytest.mark.parametrize("previous", [None, "", "msg_nobody"])
def test_what_goes_on_from_nothing_has_no_parts_before_it(past: History, previous: str | None) -> None:
    part(past, 0, "msg_1")
    assert earlier_parts(past.store.query, previous) == []


def test_a_part_that_is_deleted_leaves_those_behind_it(past: History) -> None:
    kept = part(past, 1, "msg_2", "msg_1")
    assert [link.request_id for link in earlier_parts(past.store.query, "msg_2")] == [kept]


def test_a_circle_ends(past: History) -> None:
    """No genuine upstream makes one."""
    ids = [part(past, 0, "msg_1", "msg_2"), part(past, 1, "msg_2", "msg_1")]
    assert {link.request_id for link in earlier_parts(past.store.query, "msg_2")} == set(ids)


def test_a_later_part_inherits_what_it_leaves_out(past: History) -> None:
    told: dict[str, Any] = {"project": "shop", "working_directory": "/srv/shop", "agent": "reviewer"}
    past.exchange(NOON, message_id="msg_1", session="one", session_id="one", **told)
    own: tuple[dict[str, Any], ...] = ({}, {"project": "own"})
    for number, more in enumerate(own, 2):
        past.exchange(NOON + number, message_id=f"msg_{number}", previous_message_id="msg_1", session=None, **more)

    sql = "SELECT session_id, project, working_directory, agent FROM requests ORDER BY timestamp"
    assert [tuple(row) for row in past.store.query(sql, ())] == [
        ("one", "shop", "/srv/shop", "reviewer"),
        ("one", "shop", "/srv/shop", "reviewer"),
        ("one", "own", "/srv/shop", "reviewer"),
    ]
