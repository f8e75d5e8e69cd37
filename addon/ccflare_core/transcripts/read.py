"""Reads recorded bodies back, byte for byte, and frees the blocks that no body needs any more."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import batched
from typing import Any, NamedTuple

from peewee import Database, fn

from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import BlockRow, PayloadRow, RequestRow, SegmentBlockRow, SegmentRow
from ccflare_core.db.statements import Row, render
from ccflare_core.errors import VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.vault import Vault
from ccflare_core.transcripts import packing
from ccflare_core.transcripts.packing import Manifest

Transaction = Callable[[], AbstractContextManager[None]]

_AT_ONCE = 500


class Body(NamedTuple):
    """A recorded body and what its head said of it: its bytes as they were on the wire, or decoded without secrets."""

    content: bytes
    content_type: str
    content_encoding: str
    truncated: bool
    """Whether more passed than was kept."""
    size: int = 0
    """How many bytes passed."""
    redactions: int = 0
    """How many secrets are blanked in it."""


class Transcripts:
    """A part of the store: the recorded bodies.

    What was deleted is freed in two steps. `delete_payloads` takes the bodies away and marks their segments, and
    `collect_garbage`, whenever there is time, reads what is left of those segments and frees the blocks that nothing
    needs.
    Each step is a transaction, so there is nothing to repair after a kill, and what is not swept yet is so later.
    """

    def __init__(self, database: Database, vault: Vault | None, transaction: Transaction) -> None:
        """Without a vault, nothing can be read, nor swept."""
        self._database = database
        self._vault = vault
        self._transaction = transaction
        self._execute: Callable[..., Any] = database.execute_sql

    def body(self, request_id: str, part: str) -> Body | None:
        """The request's body of the `part` "request" or "response"; None if none is kept, or it was withheld.

        Raises VaultError if it does not open, or is not what was recorded.
        """
        is_it = (PayloadRow.request == request_id) & (PayloadRow.part == part) & ~PayloadRow.withheld
        for row in self._payloads(PayloadRow.select().where(is_it)):
            kind = (row.content_type, row.content_encoding, row.truncated)
            return Body(self._content(row), *kind, row.size, row.redactions or 0)
        return None

    def bodies(self, request_id: str) -> dict[str, Body]:
        """Those of the request that there are, by their part."""
        found = ((part, self.body(request_id, part)) for part in ("request", "response"))
        return {part: body for part, body in found if body is not None}

    def blocks(self, session: str | None = None) -> Iterator[tuple[int, bytes]]:
        """Id and content of every block, or of those that a session's bodies need, each once, the oldest first.

        What the blocks of a request leave out are only its `inserts` (see splitting.py): markers for the cache.
        """
        query = BlockRow.select(BlockRow.id, BlockRow.address, BlockRow.body).order_by(BlockRow.id).limit(_AT_ONCE)
        if session is not None:
            in_session = RequestRow.select(RequestRow.id).where(RequestRow.session_id == session)
            segments = PayloadRow.select(PayloadRow.segment).where(PayloadRow.request.in_(in_session))
            noted = SegmentBlockRow.select(SegmentBlockRow.block).where(SegmentBlockRow.segment.in_(segments))
            query = query.where(BlockRow.id.in_(noted))
        last = 0
        while rows := self._rows(query.where(BlockRow.id > last)):
            yield from self._opened(rows).items()
            last = rows[-1][0]

    def wholes(self, session: str | None = None) -> Iterator[tuple[str, str, Body]]:
        """Request id, part and body of what is not in blocks: all answers, and small requests. No order is promised."""
        is_wanted: Any = PayloadRow.segment.is_null()
        if session is not None:
            in_session = RequestRow.select(RequestRow.id).where(RequestRow.session_id == session)
            is_wanted &= PayloadRow.request.in_(in_session)
        keys = self._rows(PayloadRow.select(PayloadRow.request, PayloadRow.part).where(is_wanted))
        for request_id, part in keys:
            if body := self.body(request_id, part):
                yield request_id, part, body

    def requests_of(self, block: int) -> list[str]:
        """The ids of the requests whose body has the block in it, the oldest first."""
        segments = SegmentBlockRow.select(SegmentBlockRow.segment).where(SegmentBlockRow.block == block)
        query = PayloadRow.select(PayloadRow).join(RequestRow)
        query = query.where(PayloadRow.segment.in_(segments)).order_by(RequestRow.timestamp, RequestRow.id)
        return [_key(row)[0] for row in self._payloads(query) if block in self._manifest(row).blocks]

    def delete_payloads(self, request_ids: Sequence[str]) -> int:
        """Delete the bodies of these requests, in one transaction; how many that were.

        Call it before the requests themselves are deleted, so that their blocks are found by `collect_garbage`.
        """
        is_one = PayloadRow.request.in_(request_ids)
        with self._transaction():
            theirs = PayloadRow.select(PayloadRow.segment).where(is_one & PayloadRow.segment.is_null(False))
            closed: dict[Any, Any] = {SegmentRow.term: 0, SegmentRow.is_stale: True}
            SegmentRow.update(closed).where(SegmentRow.id.in_(theirs)).execute(self._database)
            return int(PayloadRow.delete().where(is_one).execute(self._database))

    def collect_garbage(self, limit: int = 1) -> int:
        """Free the blocks of up to `limit` segments that have lost bodies, each in a transaction of its own.

        How many segments that were: 0 when nothing is left to do. Raises VaultError without a key.
        """
        self._with_key()
        done = 0
        while done < limit and (found := self._stale()):
            with self._transaction():
                self._collect_segment(found)
            done += 1
        return done

    def orphans(self) -> int:
        """How many blocks no segment has noted. There are none, or the database was changed by other means."""
        return len(self._rows(BlockRow.select(BlockRow.id).where(~fn.EXISTS(_notes_of_block()))))

    def dangling(self) -> list[tuple[str, str]]:
        """Request id and part of every body that does not open, or has lost a block or its segment's note of one."""
        found = []
        for (segment,) in self._rows(SegmentRow.select(SegmentRow.id)):
            there = self._noted(segment)
            for row in self._bodies_of(segment):
                try:
                    is_whole = there.issuperset(self._manifest(row).blocks)
                except VaultError:
                    is_whole = False
                if not is_whole:
                    found.append(_key(row))
        return found

    def _stale(self) -> int | None:
        """A segment that has lost bodies, or has none left."""
        bodies = PayloadRow.select(PayloadRow.segment).where(PayloadRow.segment == SegmentRow.id)
        for condition in (SegmentRow.is_stale, ~fn.EXISTS(bodies)):
            if rows := self._rows(SegmentRow.select(SegmentRow.id).where(condition).limit(1)):
                return int(rows[0][0])
        return None

    def _collect_segment(self, segment: int) -> None:
        is_it = SegmentRow.id == segment
        SegmentRow.update(term=0).where(is_it).execute(self._database)
        left = self._bodies_of(segment)
        try:
            needed = {block for row in left for block in self._manifest(row).blocks}
        except VaultError:  # who knows what it needs
            SegmentRow.update(is_stale=False).where(is_it).execute(self._database)
            return
        dead = sorted(self._noted(segment) - needed)
        self._free(segment, dead[:_AT_ONCE])
        if len(dead) > _AT_ONCE:
            return  # the rest is for the next time
        if left:
            SegmentRow.update(is_stale=False).where(is_it).execute(self._database)
        else:
            SegmentRow.delete().where(is_it).execute(self._database)

    def _free(self, segment: int, dead: Sequence[int]) -> None:
        is_noted = (SegmentBlockRow.segment == segment) & SegmentBlockRow.block.in_(dead)
        SegmentBlockRow.delete().where(is_noted).execute(self._database)
        is_free = BlockRow.id.in_(dead) & ~fn.EXISTS(_notes_of_block())
        BlockRow.delete().where(is_free).execute(self._database)

    def _noted(self, segment: int) -> set[int]:
        query = SegmentBlockRow.select(SegmentBlockRow.block).join(BlockRow).where(SegmentBlockRow.segment == segment)
        return {block for (block,) in self._rows(query)}

    def _bodies_of(self, segment: int) -> list[PayloadRow]:
        return self._payloads(PayloadRow.select().where(PayloadRow.segment == segment))

    def _content(self, row: PayloadRow) -> bytes:
        if row.format == packing.MANIFEST:
            manifest = self._manifest(row)
            found = self.fetch({*manifest.blocks})
            if missing := [block for block in manifest.blocks if block not in found]:
                raise VaultError(f"a stored body has lost {len(missing)} of its blocks: restore a backup")
            return packing.assemble(manifest, [found[block] for block in manifest.blocks])
        if row.format == packing.CLEAR:
            raise VaultError(f"a body is stored in clear: run `{typed('keys migrate-plaintext')}`")
        if row.format != packing.FORMAT:
            raise VaultError(f"a stored body has the format {row.format!r}: use a newer version, which knows it")
        return self._open(row)

    def _manifest(self, row: PayloadRow) -> Manifest:
        return packing.read_manifest(self._open(row))

    def _open(self, row: PayloadRow) -> bytes:
        request_id, part = _key(row)
        return packing.decode(bytes(row.body), self._with_key(), packing.body_place(part, request_id))

    def fetch(self, wanted: Iterable[int]) -> dict[int, bytes]:
        """Content by id of those of these blocks that are there."""
        found: dict[int, bytes] = {}
        for some in batched(wanted, _AT_ONCE):
            query = BlockRow.select(BlockRow.id, BlockRow.address, BlockRow.body).where(BlockRow.id.in_(some))
            found |= self._opened(self._rows(query))
        return found

    def _opened(self, rows: Sequence[Row]) -> dict[int, bytes]:
        stored = ((bytes(sealed), packing.block_place(bytes(at))) for _, at, sealed in rows)
        return dict(zip((row[0] for row in rows), packing.decode_all(stored, self._with_key()), strict=True))

    def _with_key(self) -> Vault:
        if self._vault is None:
            raise VaultError("no body can be read without a key: open the database with a key source")
        return self._vault

    def _payloads(self, query: Any) -> list[PayloadRow]:
        with as_store_errors():
            return list(query.bind(self._database))

    def _rows(self, query: Any) -> list[Row]:
        """Past peewee's cursor, which takes longer than all the rest."""
        with as_store_errors():
            return list(self._execute(*render(self._database, query)).fetchall())


def _key(row: PayloadRow) -> tuple[str, str]:
    return row.__data__["request"], row.part


def _notes_of_block() -> Any:
    return SegmentBlockRow.select(SegmentBlockRow.block).where(SegmentBlockRow.block == BlockRow.id)
