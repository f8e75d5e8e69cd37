"""The tags of requests: which requests have one, and which ones a request has."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from ccflare_core.clients.tags import split
from ccflare_core.reports.tally import Condition, Query, marks

_TOGETHER: Final = 500


_IDS: Final = "SELECT request_id FROM request_tags WHERE name = ? AND value = ?"


def is_tagged(tag: str) -> Condition:
    """Whether a request has this tag (`name=value`)."""
    return Condition(f"id IN ({_IDS})", split(tag))


def ids_of(query: Query, tag: str) -> set[str]:
    """The ids of the requests with this tag."""
    return {id_ for (id_,) in query(_IDS, split(tag))}


def tags_of(query: Query, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """The values of the tags of these requests by their names; requests without one are left out."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for at in range(0, len(ids), _TOGETHER):
        some = ids[at : at + _TOGETHER]
        places = marks(some)
        sql = f"SELECT request_id, name, value FROM request_tags WHERE request_id IN ({places}) ORDER BY name"  # noqa: S608
        for id_, name, value in query(sql, some):
            found[id_][name] = value
    return found
