"""The tags of requests in the database: how many different ones a day, and that they end with their requests."""

from collections.abc import Iterator

import pytest

from ccflare_core.config.location import Location
from ccflare_core.exchange.records import RequestTagged
from ccflare_core.store.request_tags import MOST_A_DAY
from ccflare_core.store.store import Store
from database_kit import NOW, open_store, started

AT = round(NOW * 1000)
DAY_MS = 86_400_000


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = open_store(location)
    yield store
    store.close()


def tag(store: Store, id_: str, *tags: tuple[str, str], at: int = AT) -> dict[str, str]:
    """Record a request with these tags; those that are recorded."""
    begun = started(id_)._replace(timestamp_ms=at)
    store.write([begun, *(RequestTagged(id_, at, name, value) for name, value in tags)])
    return dict(store.query("SELECT name, value FROM request_tags WHERE request_id = ?", (id_,)))


def fill(store: Store, number: int) -> None:
    """Record so many different tags, of one request: `n0=x`, `n1=x` and so on."""
    tag(store, "many", *((f"n{each}", "x") for each in range(number)))


def test_tags_are_recorded_with_their_request(store: Store) -> None:
    assert tag(store, "r1", ("ticket", "12"), ("who", "me")) == {"ticket": "12", "who": "me"}


def test_tags_beyond_the_days_bound_become_other(store: Store) -> None:
    fill(store, MOST_A_DAY)

    assert tag(store, "known", ("n7", "x")) == {"n7": "x"}
    assert tag(store, "late", ("n7", "new")) == {"n7": "other"}
    assert tag(store, "unknown", ("who", "me"), ("where", "here")) == {"other": "other"}
    assert tag(store, "tomorrow", ("who", "me"), at=AT + DAY_MS) == {"who": "me"}


def test_tags_of_the_day_count_after_a_restart(store: Store, location: Location) -> None:
    fill(store, MOST_A_DAY - 1)
    again = open_store(location)
    try:
        assert tag(again, "last", ("who", "me")) == {"who": "me"}
        assert tag(again, "late", ("who", "you")) == {"who": "other"}
    finally:
        again.close()


def test_tags_that_came_to_no_commit_do_not_count(store: Store) -> None:
    fill(store, MOST_A_DAY - 1)
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.write([started("r1"), RequestTagged("r1", AT, "who", "me"), RequestTagged("nobody", AT, "who", "me")])

    assert tag(store, "r2", ("who", "you")) == {"who": "you"}
    assert tag(store, "r3", ("who", "me")) == {"who": "other"}


def test_tags_end_with_their_request(store: Store) -> None:
    tag(store, "r1", ("ticket", "12"))
    tag(store, "r2", ("ticket", "12"))

    assert sum(store.history.delete(["r1"])) == 1
    assert store.query("SELECT request_id FROM request_tags", ()) == [("r2",)]
