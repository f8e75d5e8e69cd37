"""Writes bodies as rows: what the requests of a session have in common is kept once, as blocks.

Which blocks are needed is noted for segments, some hundred bodies of one session at a time. A note for each body
would grow with the square of the conversation's length, and a count of references would have to be changed in
hundreds of blocks with every turn. So a turn costs five statements whatever its length: the new blocks, their notes
and its manifest are written, and the blocks that the segment has already are neither asked for nor touched.

That is safe since a segment is its writer's own until bodies of it are deleted: then its fencing token (`term`) changes
in the same transaction, and the writer, which reads the token in each of its transactions, begins a new segment. What
is noted stays, and a block that is noted is not deleted (see read.py).
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peewee import Database, fn

from ccflare_core.db.models import BlockRow, SegmentBlockRow, SegmentRow
from ccflare_core.db.statements import ByKeys, Insert, Row
from ccflare_core.errors import VaultError
from ccflare_core.exchange.records import Payload
from ccflare_core.secrets.vault import Vault
from ccflare_core.transcripts import packing
from ccflare_core.transcripts.conversations import Conversations
from ccflare_core.transcripts.packing import Manifest
from ccflare_core.transcripts.pieces import Pieces, pieces

_MOST_BODIES = 256
_MOST_BLOCKS = 8192
"""A segment ends when it has this many of either, so that collecting its garbage is short work."""
_REMEMBERED = 30_000
"""Blocks of segments that can go on; some 200 bytes of memory each."""


class Draft(NamedTuple):
    """A body on its way, in `pieces`, or none if it is kept whole."""

    payload: Payload
    pieces: Pieces | None
    numbers: dict[bytes, int]
    """By address which of the pieces has its content."""
    sealed: dict[bytes, bytes]
    """By address what had to be sealed for it; by "" the whole body."""

    def content(self, at: bytes) -> bytes:
        """What stands in the block with this address; by "" the whole body."""
        return self.pieces.cuts.piece(self.numbers[at]) if self.pieces else self.payload.body


@dataclass(slots=True)
class Segment:
    """What this writer knows of a segment of its own: the blocks noted for it, by address."""

    id: int
    term: int
    bodies: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether another one is to begin."""
        return self.bodies >= _MOST_BODIES or len(self.known) >= _MOST_BLOCKS


class Blocks:
    """Writes bodies through one connection, within whatever transaction is open on it."""

    def __init__(
        self, database: Database, vault: Vault | None, draw: Callable[[], int] = lambda: random.getrandbits(62) + 1
    ) -> None:
        """`draw` gives terms, which no other writer may have drawn. Without a vault nothing can be prepared."""
        self._vault = vault
        self._draw = draw
        self._new_segments = Insert(
            database, SegmentRow, (SegmentRow.term, SegmentRow.is_stale), (SegmentRow.id, SegmentRow.term)
        )
        self._new_blocks = Insert(
            database, BlockRow, (BlockRow.address, BlockRow.body), (BlockRow.address, BlockRow.id)
        )
        self._notes = Insert(database, SegmentBlockRow, (SegmentBlockRow.segment, SegmentBlockRow.block))
        self._terms = ByKeys(database, _asking)
        self._found = ByKeys(database, _finding)
        self._segments: OrderedDict[str, Segment] = OrderedDict()
        self._earlier: Conversations[Pieces] = Conversations()
        self._key_id = ""

    def forget(self) -> None:
        """Begin new segments from now on: what was written since the last commit did not come to one."""
        self._segments.clear()

    def prepare(self, payloads: Sequence[Payload]) -> list[Draft]:
        """Cut, compress and seal, before a transaction is open. Raises VaultError without a vault."""
        if not payloads:
            return []
        vault = self._with_key()
        drafts = [self._draft(payload, vault) for payload in payloads]
        todo: dict[bytes | str, tuple[Draft, bytes]] = {}
        for draft in drafts:
            if draft.pieces is None:
                todo[draft.payload.request_id + draft.payload.part] = (draft, b"")
                continue
            segment = self._segments.get(draft.payload.session_id or "")
            known = segment.known if segment else {}
            todo |= {at: (draft, at) for at in draft.numbers if at not in known and at not in todo}
        sealed = packing.encode([(draft.content(at), _place(draft, at)) for draft, at in todo.values()], vault)
        for (draft, at), each in zip(todo.values(), sealed, strict=True):
            draft.sealed[at] = each
        return drafts

    def _draft(self, payload: Payload, vault: Vault) -> Draft:
        if payload.part != "request" or payload.content_encoding:
            return Draft(payload, None, {}, {})
        session = payload.session_id
        earlier = self._earlier.closest(session, payload.body) if session else None
        found = pieces(payload.body, lambda piece: packing.address(piece, vault), earlier)
        if found is None:
            return Draft(payload, None, {}, {})
        if session:
            self._earlier.keep(session, found)
        return Draft(payload, found, {at: number for number, at in enumerate(found.addresses)}, {})

    def write(self, drafts: Sequence[Draft]) -> list[Row]:
        """Write the blocks that are missing; the rows of `payloads`, which the caller writes."""
        cut = [draft for draft in drafts if draft.pieces]
        segments = self._segments_of(cut) if cut else {}
        if cut:
            self._write_blocks(cut, segments)
        manifests = iter(self._manifests(cut, segments))
        rows = [_row(draft, next(manifests), segments) if draft.pieces else _whole_row(draft) for draft in drafts]
        self._let_go()
        return rows

    def _with_key(self) -> Vault:
        if self._vault is None:
            raise VaultError("no body can be recorded without a key: open the database with a key source")
        if self._vault.key_id != self._key_id:
            self.forget()  # every address is another one now
            self._earlier.clear()
            self._key_id = self._vault.key_id
        return self._vault

    def _segments_of(self, cut: Sequence[Draft]) -> dict[str, Segment]:
        """For each session the segment that goes on, or a new one."""
        sessions = {draft.payload.session_id or "" for draft in cut}
        mine = {session: self._segments[session] for session in sessions if session in self._segments}
        going_on = self._confirmed(segment for segment in mine.values() if not segment.is_full)
        segments = {session: segment for session, segment in mine.items() if segment.id in going_on}
        fresh = {self._draw(): session for session in sessions if session not in segments}
        for number, term in self._new_segments.run([(term, False) for term in fresh]):
            segments[fresh[term]] = Segment(number, term)
        for draft in cut:
            segments[draft.payload.session_id or ""].bodies += 1
        for session, segment in segments.items():
            self._segments[session] = segment
            self._segments.move_to_end(session)
        return segments

    def _confirmed(self, segments: Iterable[Segment]) -> set[int]:
        """Those that are still ours; they stay so until the commit, since those who write take turns."""
        terms = {segment.id: segment.term for segment in segments}
        return {number for number, term in self._terms.run([*terms]) if terms[number] == term}

    def _write_blocks(self, cut: Sequence[Draft], segments: Mapping[str, Segment]) -> None:
        wanted: dict[bytes, Draft] = {}
        for draft in cut:
            known = segments[draft.payload.session_id or ""].known
            wanted |= {at: draft for at in draft.numbers if at not in known}
        ids = {bytes(at): number for at, number in self._found.run([*wanted])}
        ids |= self._insert({at: draft for at, draft in wanted.items() if at not in ids}, cut)
        notes = []
        for draft in cut:
            segment = segments[draft.payload.session_id or ""]
            new = {at: ids[at] for at in draft.numbers if at not in segment.known}
            notes += [(segment.id, block) for block in new.values()]
            segment.known |= new
        self._notes.run(notes)

    def _insert(self, missing: Mapping[bytes, Draft], cut: Sequence[Draft]) -> dict[bytes, int]:
        if not missing:
            return {}
        sealed = {at: each for draft in cut for at, each in draft.sealed.items()}
        if late := [at for at in missing if at not in sealed]:  # its segment was closed since `prepare`
            todo = [(missing[at].content(at), packing.block_place(at)) for at in late]
            sealed |= zip(late, packing.encode(todo, self._with_key()), strict=True)
        rows = self._new_blocks.run([(at, sealed[at]) for at in missing])
        return {bytes(at): number for at, number in rows}

    def _manifests(self, cut: Sequence[Draft], segments: Mapping[str, Segment]) -> list[bytes]:
        todo = []
        for draft in cut:
            if (found := draft.pieces) is not None:
                known = segments[draft.payload.session_id or ""].known
                manifest = Manifest(found.digested.digest, [known[at] for at in found.addresses], found.taken.inserts)
                todo.append((packing.write_manifest(manifest), _place(draft, b"")))
        return packing.encode(todo, self._with_key()) if todo else []

    def _let_go(self) -> None:
        total = sum(len(segment.known) for segment in self._segments.values())
        while total > _REMEMBERED and len(self._segments) > 1:
            total -= len(self._segments.popitem(last=False)[1].known)


def _asking(ids: list[Any]) -> Any:
    return SegmentRow.select(SegmentRow.id, SegmentRow.term).where(SegmentRow.id.in_(ids))


def _finding(addresses: list[Any]) -> Any:
    query = BlockRow.select(BlockRow.address, fn.MIN(BlockRow.id)).where(BlockRow.address.in_(addresses))
    return query.group_by(BlockRow.address)


def _place(draft: Draft, at: bytes) -> str:
    return packing.block_place(at) if at else packing.body_place(draft.payload.part, draft.payload.request_id)


def _row(draft: Draft, manifest: bytes, segments: Mapping[str, Segment]) -> Row:
    segment = segments[draft.payload.session_id or ""]
    return (*_facts(draft.payload, packing.MANIFEST), manifest, segment.id)


def _whole_row(draft: Draft) -> Row:
    return (*_facts(draft.payload, packing.FORMAT), draft.sealed[b""], None)


def _facts(payload: Payload, form: str) -> tuple[Any, ...]:
    kind = (payload.content_type, payload.content_encoding, payload.size, payload.truncated)
    return (payload.request_id, payload.part, form, *kind, payload.redactions, payload.withheld)
