"""Verifies the audit log: the table against its own chain, then the second copy against the table.

The chain shows any row that was changed, deleted, inserted or moved. What it cannot show is that the whole database
was put back to an older state. For that there is the file, and anchors that were kept elsewhere: the file has them,
and the log at the level debug.

Who has the key may put it back: `maintain.py restore` writes an entry that says so. What the file has from before that
entry, in the order of its lines, is of the database that was replaced, and need not be in the table any more.
"""

import hmac
import json
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ccflare_core.audit.chain import ANCHOR, Audit, anchor_text, fault
from ccflare_core.audit.entries import ChainHead, Row
from ccflare_core.audit.signed_rows import SignedRows
from ccflare_core.errors import AuditError, VaultError

_CHUNK = 5000
_HASH = re.compile(r"[0-9a-f]{64}")
_CHANGED = "the head of the log was changed"
_MARK = 16  # hex digits of a hash that are kept for the comparison with the file


@dataclass(slots=True)
class Verification:
    """What was found. `problem` is the first thing that is wrong, with the number of its row; None if nothing is."""

    problem: str | None = None
    first_id: int = 0
    last_id: int = 0
    rows: int = 0
    in_file: int = 0
    """Rows that the file has as well."""
    aside: int = 0
    """Lines about what happened while the table could not be written."""
    damaged: int = 0
    """Lines of the file that are cut off, or no lines of ours."""
    replaced: int = 0
    """Lines of the file about what a restored backup has replaced."""


class _Stray(NamedTuple):
    """A line of the file that the table has not. `problem` says so, unless a restore explains it: of the first one."""

    id: int
    mark: int
    problem: str


class Check:
    """One look at the whole log. `progress` is told the rows that are done, and how many there are."""

    def __init__(self, audit: Audit, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self._audit = audit
        self._progress = progress
        self._marks = array("Q")
        self._report = Verification()
        self._key_ids: frozenset[str] = frozenset()
        self._restores: list[int] = []
        self._restored = 0  # the last restore that the file has come to
        self._strays: list[_Stray] = []
        self._replaced: set[tuple[int, int]] = set()

    def run(self, file: Path | None = None, anchors: tuple[str, ...] = (), *, is_used: bool = False) -> Verification:
        """Look at the table, then at the file (if it is there), the rows that are signed, and the anchors.

        To be called within a snapshot. `is_used` says that the database has content, which an empty log cannot be true
        of. Raises AuditError if an anchor is none, or the file cannot be read.
        """
        try:
            head = self._audit.head()
        except AuditError:
            self._report.problem = _CHANGED
            return self._report
        problem = self._table(head, is_used=is_used)
        if file is not None and file.exists():
            problem = problem or self._file(file, head)
        problem = problem or next(iter(SignedRows(self._audit, nullcontext).problems()), None)
        if head is not None:
            problem = problem or next((found for each in anchors if (found := self._anchor(each, head))), None)
        self._report.problem = problem
        return self._report

    def _table(self, head: ChainHead | None, *, is_used: bool) -> str | None:
        if head is None:
            if is_used or self._audit.rows_after(0, 1):
                return "the head of the log is missing, and with it the way to tell what else is"
            return None
        if problem := self._head(head):
            return problem
        report = self._report
        report.first_id, report.last_id = head.pruned_id + 1, head.last_id
        expected, previous = head.pruned_id + 1, head.pruned_hash
        for row in self._rows(head.pruned_id):
            if expected > head.last_id:
                return f"row {row.id} was put in: the log ends with row {head.last_id}"
            if problem := fault(row, expected, previous, self._audit.signer):
                return problem
            self._marks.append(_mark(row.hash))
            if row.is_restore:
                self._restores.append(row.id)
            expected, previous = row.id + 1, row.hash
            report.rows += 1
        if expected <= head.last_id:
            return f"row {expected} is missing: the log was cut off there, it had {head.last_id} rows"
        return None if previous == head.hash else f"row {head.last_id} is not the one that the head names"

    def _rows(self, after: int) -> Iterator[Row]:
        total = self._report.last_id - after
        while rows := self._audit.rows_after(after, _CHUNK):
            yield from rows
            after = rows[-1].id
            self._progress(self._report.rows, total)

    def _head(self, head: ChainHead) -> str | None:
        signer = self._audit.signer
        if head.key_id != signer.key_id:
            return "the head of the log is not signed by the newest key: it was put back or made by someone else"
        is_signed = hmac.compare_digest(head.mac.encode(), signer.mac(head.signed_text()).encode())
        return None if is_signed else _CHANGED

    def _anchor(self, text: str, head: ChainHead) -> str | None:
        try:
            last_id, hash_, *rows, key_id, mac = text.split(":")
            number, signed_rows = int(last_id), ":".join(rows)
            signed = anchor_text(number, hash_, signed_rows)
            is_ours = hmac.compare_digest(self._audit.signer.mac(signed, key_id), mac)
        except (ValueError, TypeError, VaultError):
            is_ours = False
        if not is_ours:
            raise AuditError(f"{text[:80]} is no anchor of this log: give one as the second copy of the log has it")
        if (number, _mark(hash_)) in self._replaced:
            return None
        problem = self._compare(number, hash_, head)
        if not problem and number == head.last_id and signed_rows not in ("", head.signed_rows):
            return "client keys, blocks or the second factor are not those of the anchor: they were put back"
        if problem and any(number >= each for each in self._restores):
            return f"{problem}; or the anchor is from before a backup was restored, and the file has no such row"
        return problem

    def _compare(self, number: int, hash_: str, head: ChainHead) -> str | None:
        """What is wrong if there once was a row with this number and hash."""
        if number > head.last_id:
            return (
                f"row {head.last_id + 1} is missing: there once was a row {number}, so the log was put back or cut off"
            )
        if number > head.pruned_id and self._marks[number - head.pruned_id - 1] != _mark(hash_):
            return f"row {number} is another one than there once was: the log was replaced"
        return None

    def _file(self, file: Path, head: ChainHead | None) -> str | None:
        self._key_ids = frozenset(self._audit.signer.key_ids())
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if problem := self._line(line, head, f"line {number} of {file}"):
                        return problem
        except OSError as error:
            raise AuditError(f"{file} cannot be read ({error.strerror}): check its owner and mode") from error
        if self._restores and self._restores[-1] > self._restored:
            self._forgive()  # the file could not be written when it was restored
        return self._strays[0].problem if self._strays else None

    def _line(self, line: bytes, head: ChainHead | None, place: str) -> str | None:
        """What is wrong with the line, whatever comes behind it."""
        if _is_anchor(line):
            return None  # the lines around it say as much
        row = _read(line)
        if row is None:
            self._report.damaged += 1
            return None
        if row.key_id not in self._key_ids:
            self._stray(row, f"what the file has as row {row.id} was changed, or is of another database ({place})")
            return None
        if fault(row, row.id, row.prev_hash, self._audit.signer):
            return f"what the file has as row {row.id} was changed ({place})"
        if row.id == 0:
            self._report.aside += 1
        elif head is None:
            return f"row {row.id} is missing: the file has it, so the log was deleted ({place})"
        elif problem := self._compare(row.id, row.hash, head):
            self._stray(row, f"{problem} ({place})")
        else:
            self._in_both(row, head)
        return None

    def _stray(self, row: Row, problem: str) -> None:
        self._strays.append(_Stray(row.id, _mark(row.hash), "" if self._strays else problem))

    def _in_both(self, row: Row, head: ChainHead) -> None:
        """The table has the row too, or had it before its oldest rows were deleted on purpose."""
        self._report.in_file += row.id > head.pruned_id
        newest = row.id if row.is_restore else max((each for each in self._restores if each <= row.id), default=0)
        if newest > self._restored:  # a copy of such a line further down explains nothing
            self._restored = newest
            self._forgive()

    def _forgive(self) -> None:
        self._report.replaced += len(self._strays)
        self._replaced |= {(each.id, each.mark) for each in self._strays}
        self._strays.clear()


def _is_anchor(line: bytes) -> bool:
    try:
        return set(json.loads(line)) == {ANCHOR}
    except (ValueError, TypeError, RecursionError):
        return False


def _read(line: bytes) -> Row | None:
    try:
        row = Row(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    is_plain = type(row.id) is int and all(isinstance(each, str) for each in row[1:])
    return row if is_plain and _HASH.fullmatch(row.hash) else None


def _mark(hash_: str) -> int:
    return int(hash_[:_MARK], 16)
