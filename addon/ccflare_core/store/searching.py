"""Searches what was recorded, by the index if there is one, and tells where the conversations with hits begin."""

from collections.abc import Callable, Container, Iterable
from functools import lru_cache

from ccflare_core.reports.threads import parts_before
from ccflare_core.store.store import Store
from ccflare_core.transcripts.search import Hit, Query, Search


def search(
    store: Store,
    query: Query,
    progress: Callable[[int, int], None],
    *,
    limit: int,
    session: str | None = None,
    role: str | None = None,
    ids: Container[str] | None = None,
) -> list[Hit]:
    """At most `limit` hits, the latest first, in requests of these `ids` alone if they are given.

    `progress` is called with how much is done, of how much.
    """
    index = store.search_index.candidates(query.literal)
    total = index.total if index else _total(store)
    looking = Search(index or store.transcripts, _moments(store), lambda done: progress(done, total))
    return looking.run(query, limit=limit, session=session, role=role, ids=ids)


def threads_of(store: Store, hits: Iterable[Hit]) -> dict[str, str]:
    """The first request of the message thread, for each request with a hit that is a later part of one."""
    found: dict[str, str] = {}
    for request_id in {hit.request_id for hit in hits}:
        if earlier := parts_before(store.query, request_id):
            found[request_id] = earlier[0].request_id
    return found


def _moments(store: Store) -> Callable[[str], tuple[float, str | None]]:
    """Gives a request's time and session."""

    @lru_cache(1000)
    def find(request_id: str) -> tuple[float, str | None]:
        found = store.query("SELECT timestamp, session_id FROM requests WHERE id = ?", (request_id,))
        return (found[0][0] / 1000, found[0][1]) if found else (0.0, None)

    return find


def _total(store: Store) -> int:
    """How much there is to look through."""
    sql = "SELECT (SELECT COUNT(*) FROM blocks) + (SELECT COUNT(*) FROM payloads WHERE chapter_id IS NULL)"
    return int(store.query(sql)[0][0])
