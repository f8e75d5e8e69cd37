"""The endpoints that tell what was said. That it is read is in the audit log first, or nothing is told."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from ccflare_core.clients.keys import Permission
from ccflare_core.errors import StoreError
from ccflare_core.exchange.records import storable
from ccflare_core.reports import vocabulary
from ccflare_core.reports.fields import EXCHANGE, Fields, record
from ccflare_core.reports.vocabulary import list_of, object_of
from ccflare_core.store.searching import search as search_record
from ccflare_core.store.searching import threads_of
from ccflare_core.store.store import Store
from ccflare_core.text import iso
from ccflare_core.transcripts.fields import RECORDED, Whole, read_whole
from ccflare_core.transcripts.passages import lines, sections_of, whole_of, within
from ccflare_core.transcripts.recorded import facts_of
from ccflare_core.transcripts.search import ROLES, Hit, Query
from ccflare_mitm.pages.api.endpoint import READ_SECONDS, Call, Content, Endpoint
from ccflare_mitm.pages.api.parameters import choice, flag, text, whole

MOST_HITS: Final = 100
MOST_CHARACTERS: Final = 1_000_000
_HITS, _CHARACTERS = 20, 40_000


async def request(call: Call) -> Content:
    """One request with its conversation."""
    id_ = await _audited(call)
    return record(await call.read(lambda store: read_whole(store.query, store.body, id_)), RECORDED)


async def conversation(call: Call) -> Content:
    """What was said in a request, as text."""
    id_, asked = await _audited(call), call.asked
    return await call.read(
        lambda store: _said(read_whole(store.query, store.body, id_), asked["characters"], is_all=asked["all"])
    )


async def _audited(call: Call) -> str:
    """The id of the request that is about to be read. Raises NotFound."""
    id_ = str(storable(call.visit.name))
    await call.read(lambda store: facts_of(store.query, id_))
    await call.admin.note_reading(call.visit, id_)
    return id_


def _said(whole: Whole, characters: int, *, is_all: bool) -> dict[str, object]:
    bodies = whole.recorded.request, whole.recorded.answer
    sections = within(whole_of(*bodies) if is_all else sections_of(*bodies), characters)
    facts = record(whole.exchange, [field for field in EXCHANGE if field[0] in vocabulary.CONVERSATION])
    return {**facts, "text": "\n".join(lines(sections)), "missing": whole.recorded.missing or None}


async def search(call: Call) -> Content:
    """Where a text was said, the latest first."""
    asked, query = call.asked, Query(call.asked["text"])
    await call.admin.note_reading(call.visit, asked["session"] or "", "search")
    look = partial(search_record, limit=asked["limit"], session=asked["session"], role=asked["role"])
    in_time = _in_time()  # from now on: it may wait for another search, and for the thread
    async with call.admin.searching:
        hits, threads = await call.read(lambda store: _with_threads(store, look(store, query, in_time)))
    return {"hits": [record(hit, _hit_fields(threads)) for hit in hits]}


def _with_threads(store: Store, hits: list[Hit]) -> tuple[list[Hit], dict[str, str]]:
    return hits, threads_of(store, hits)


def _in_time(clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """Ends a search for which nobody waits any more: the thread that it takes is for other readers too."""
    end = clock() + READ_SECONDS

    def look(done: int, total: int) -> None:
        if clock() > end:
            raise StoreError("The search takes too long: name a session, or search with `search` in a terminal.")

    return look


def _hit_fields(threads: Mapping[str, str]) -> Fields[Hit]:
    return (
        ("at", lambda hit: iso(hit.at)),
        ("id", lambda hit: hit.request_id),
        ("session", lambda hit: hit.session),
        ("thread", lambda hit: threads.get(hit.request_id)),
        ("role", lambda hit: hit.role),
        ("kind", lambda hit: hit.kind),
        ("before", lambda hit: hit.snippet[0]),
        ("match", lambda hit: hit.snippet[1]),
        ("after", lambda hit: hit.snippet[2]),
    )


_SEARCH: Final = {
    "type": "object",
    "properties": {"hits": list_of(object_of(vocabulary.HIT, vocabulary.HIT))},
    "required": ["hits"],
}

CONVERSATIONS: Final = (
    Endpoint(
        "/requests/{name}",
        Permission.LOGS_VIEW,
        "One request with its attempts and its conversation, as `show.py` tells it. That it is read is audited.",
        object_of([name for name, _ in RECORDED], vocabulary.RECORDED),
        request,
        tells_content=True,
    ),
    Endpoint(
        "/requests/{name}/conversation",
        Permission.LOGS_VIEW,
        "What was said in a request, as text that `show.py` prints. That it is read is audited.",
        object_of(vocabulary.CONVERSATION, vocabulary.CONVERSATION),
        conversation,
        (
            flag("all", "whether all turns are told, in their order, and not the question with what came of it first"),
            whole("characters", "about how much is told; what is left out is said", MOST_CHARACTERS, _CHARACTERS),
        ),
        tells_content=True,
    ),
    Endpoint(
        "/search",
        Permission.LOGS_VIEW,
        "Where a text was said, whatever its case, the latest first, as `search.py` finds it. The search is audited.",
        _SEARCH,
        search,
        (
            text("text", "what to look for", is_required=True),
            text("session", "a session's id"),
            choice("role", "who has said it; calls and results of tools belong to tool", ROLES),
            whole("limit", "hits of the answer", MOST_HITS, _HITS),
        ),
        tells_content=True,
    ),
)
