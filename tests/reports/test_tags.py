"""Which tags requests have, and which requests a tag has."""

from collections.abc import Iterator

import pytest

from ccflare_core.config.location import Location
from ccflare_core.reports.tags import ids_of, is_tagged, tags_of
from history import NOON, History


@pytest.fixture
def past(location: Location) -> Iterator[History]:
    with History(location) as history:
        yield history


def test_tags_of_requests_are_by_their_names_however_many_are_asked_about(past: History) -> None:
    one = past.exchange(NOON, tags={"who": "me", "ticket": "12"})
    past.exchange(NOON, tags={"ticket": "13"})
    none = past.exchange(NOON)

    found = tags_of(past.store.query, [none, *map(str, range(1000)), one])

    assert dict(found) == {one: {"ticket": "12", "who": "me"}}
    assert tags_of(past.store.query, []) == {}


def test_tags_find_the_requests_that_have_name_and_value(past: History) -> None:
    one = past.exchange(NOON, tags={"ticket": "1=2"})
    past.exchange(NOON, tags={"ticket": "1"})
    past.exchange(NOON, tags={"other": "1=2"})

    assert ids_of(past.store.query, "ticket=1=2") == {one}
    condition = is_tagged("ticket=1=2")
    assert past.store.query(f"SELECT id FROM requests WHERE {condition.sql}", condition.values) == [(one,)]
    assert ids_of(past.store.query, "ticket") == set()
