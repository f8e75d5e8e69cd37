"""How large the parts of a recorded prompt are, also of one that came in parts as a message thread."""

from collections import Counter

from ccflare_core.anthropic.conversation import decoded, read_answer
from ccflare_core.anthropic.prompt_parts import Sizes, sizes_of, sizes_of_answer
from ccflare_core.reports.tally import Query
from ccflare_core.reports.threads import parts_before
from ccflare_core.transcripts.recorded import PARTS, Bodies


def prompt_sizes(query: Query, body: Bodies, request_id: str) -> Sizes | None:
    """See prompt_parts.py. None unless all of the prompt is there, with the answers that are a part of it."""
    found: Sizes = Counter()
    names: dict[str, str] = {}
    for link in parts_before(query, request_id):
        asked, said = (body(link.request_id, part) for part in PARTS)
        if asked is None or asked.truncated or said is None:
            return None
        found += sizes_of(decoded(asked.content, asked.content_encoding), names)
        found += sizes_of_answer(read_answer(said.content, said.content_type, said.content_encoding), names)
    if (asked := body(request_id, "request")) is None or asked.truncated:
        return None
    found += sizes_of(decoded(asked.content, asked.content_encoding), names)
    return found if found.total() else None
