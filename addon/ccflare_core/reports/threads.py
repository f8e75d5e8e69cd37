"""The parts of a message thread: each request has its new messages only, and names the message that it goes on from."""

from typing import Final, NamedTuple

from ccflare_core.reports.tally import Query

MOST: Final = 2_000
"""How many parts of a thread are looked for."""

_EARLIER = """SELECT id, previous_message_id, session_id FROM requests WHERE message_id = ?
    ORDER BY timestamp DESC, id DESC LIMIT 1"""


class Link(NamedTuple):
    """One part: its request, the message that it goes on from (None: it is the first one), and its session."""

    request_id: str
    previous: str | None
    session: str | None


def parts_before(query: Query, request_id: str) -> list[Link]:
    """The recorded requests that this one goes on from, the first one first."""
    sql = "SELECT previous_message_id FROM requests WHERE id = ?"
    return earlier_parts(query, next((row[0] for row in query(sql, (request_id,))), None))


def earlier_parts(query: Query, previous: str | None) -> list[Link]:
    """The recorded requests before the one that goes on from this message, the first one first."""
    found: list[Link] = []
    seen: set[str] = set()
    while previous and previous not in seen and len(found) < MOST:
        seen.add(previous)
        link = next((Link(*row) for row in query(_EARLIER, (previous,))), None)
        if link is None:
            break
        found.append(link)
        previous = link.previous
    return found[::-1]
