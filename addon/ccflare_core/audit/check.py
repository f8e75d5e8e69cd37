"""Verifies the audit log: the table against its own chain, then the second copy against the table.

The chain shows any row that was changed, deleted, inserted or moved. What it cannot show is that the whole database
was put back to an older state. For that there is the file, and anchors that were kept elsewhere (the proxy logs them).
"""

import hmac
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ccflare_core.audit.chain import Audit, anchor_text, fault
from ccflare_core.audit.entries import Head, Row
from ccflare_core.errors import AuditError, VaultError

_CHUNK = 5000
_MARK = 16  # hex digits of a hash that are kept for the comparison with the file


@dataclass(slots=True)
class Report:
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


class Check:
    """One look at the whole log. `progress` is told the rows that are done, and how many there are."""

    def __init__(self, audit: Audit, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self._audit = audit
        self._progress = progress
        self._marks = array("Q")
        self._report = Report()

    def run(self, file: Path | None = None, anchors: tuple[str, ...] = (), *, is_used: bool = False) -> Report:
        """Look at the table, then at the file (if it is there) and the anchors.

        `is_used` says that the database has content, which an empty log cannot be true of. Raises AuditError if an
        anchor is none, or the file cannot be read.
        """
        head = self._audit.head()
        problem = self._table(head, is_used=is_used)
        if head is not None:
            problem = problem or next((found for each in anchors if (found := self._anchor(each, head))), None)
        if file is not None and file.exists():
            problem = problem or self._file(file, head)
        self._report.problem = problem
        return self._report

    def _table(self, head: Head | None, *, is_used: bool) -> str | None:
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
            self._marks.append(int(row.hash[:_MARK], 16))
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

    def _head(self, head: Head) -> str | None:
        signer = self._audit.signer
        if head.key_id != signer.key_id:
            return "the head of the log is not signed by the newest key: it was put back or made by someone else"
        is_signed = hmac.compare_digest(head.mac.encode(), signer.mac(head.signed_text()).encode())
        return None if is_signed else "the head of the log was changed"

    def _anchor(self, text: str, head: Head) -> str | None:
        try:
            last_id, hash_, key_id, mac = text.split(":")
            number = int(last_id)
            is_ours = hmac.compare_digest(self._audit.signer.mac(anchor_text(number, hash_), key_id), mac)
        except (ValueError, TypeError, VaultError):
            is_ours = False
        if not is_ours:
            raise AuditError(f"{text[:80]} is no anchor of this log: give one as the proxy has logged it")
        return self._compare(number, hash_, head)

    def _compare(self, number: int, hash_: str, head: Head) -> str | None:
        """What is wrong if there once was a row with this number and hash."""
        if number > head.last_id:
            return (
                f"row {head.last_id + 1} is missing: there once was a row {number}, so the log was put back or cut off"
            )
        if number > head.pruned_id and self._marks[number - head.pruned_id - 1] != int(hash_[:_MARK], 16):
            return f"row {number} is another one than there once was: the log was replaced"
        return None

    def _file(self, file: Path, head: Head | None) -> str | None:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if problem := self._line(line, head):
                        return f"{problem} (line {number} of {file})"
        except OSError as error:
            raise AuditError(f"{file} cannot be read ({error.strerror}): check its owner and mode") from error
        return None

    def _line(self, line: bytes, head: Head | None) -> str | None:
        row = _read(line)
        if row is None:
            self._report.damaged += 1
            return None
        if fault(row, row.id, row.prev_hash, self._audit.signer):
            return f"what the file has as row {row.id} was changed"
        if row.id == 0:
            self._report.aside += 1
            return None
        if head is None:
            return f"row {row.id} is missing: the file has it, so the log was deleted"
        if problem := self._compare(row.id, row.hash, head):
            return problem
        self._report.in_file += row.id > head.pruned_id
        return None


def _read(line: bytes) -> Row | None:
    try:
        row = Row(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    is_plain = type(row.id) is int and all(isinstance(each, str) for each in row[1:])
    return row if is_plain and len(row.hash) == 64 else None
