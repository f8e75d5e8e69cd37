"""Audit entries, and their canonical text that is signed. Pure.

No entry can break a line or steer a terminal: what is not printable is replaced, and details are JSON in ASCII. No
entry has a secret in clear: a Secret becomes its HMAC, and whatever looks like one is cut out.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, Self

Outcome = Literal["ok", "denied", "failed"]

RESTORE = "backup.restore"
"""The action of an entry from which on the log is another one than before: a backup was put in place."""

FIRST_HASH = "0" * 64
"""What stands before the first row."""

_LENGTHS = {"actor": 200, "ip": 100, "action": 100, "target": 500, "request_id": 100}
_TEXT, _ITEMS, _DEPTH, _DETAIL = 500, 100, 4, 8000
_SECRETS = re.compile(r"sk-ant-[\w-]{4,}|\bccf_[\w-]{4,}|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
_REMOVED, _REPLACED = "[secret]", "\N{REPLACEMENT CHARACTER}"


class By(NamedTuple):
    """Who acts: `proxy`, `cli:<user of the system>`, `client:<name of a client key>`, and from where."""

    actor: str
    ip: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that stands in a detail as its HMAC-SHA256: who has it can find it, nobody can read it."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened, or was refused. Values of `detail` are JSON's, or a Secret."""

    action: str
    """Dotted nouns: `account.add`, `config.change`."""
    outcome: Outcome
    actor: str
    target: str = ""
    ip: str = ""
    request_id: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, by: By, action: str, target: str = "", outcome: Outcome = "ok", /, **detail: object) -> Self:
        """An entry about what `by` does."""
        return cls(action, outcome, by.actor, target, by.ip, by.request_id, detail)


class Record(Protocol):
    """Writes an entry about what the store's user does, within a transaction of the store."""

    def __call__(self, action: str, target: str = "", outcome: Outcome = "ok", **detail: object) -> None: ...


class Row(NamedTuple):
    """A row of the table `audit_log`. `hash` is an HMAC-SHA256 of all the others, by the audit key of `key_id`."""

    id: int
    ts_utc: str
    actor: str
    ip: str
    action: str
    target: str
    outcome: str
    request_id: str
    detail: str
    key_id: str
    prev_hash: str
    hash: str = ""

    @classmethod
    def make(cls, id: int, at: float, entry: Entry, key_id: str, prev_hash: str, digest: Callable[[str], str]) -> "Row":
        """The row for an entry, not yet signed. `at` is in epoch seconds; `digest` stands for a secret."""
        texts = {name: _clean(getattr(entry, name), length) for name, length in _LENGTHS.items()}
        detail = _detail(entry.detail, digest)
        return cls(
            id=id, ts_utc=stamp(at), outcome=entry.outcome, detail=detail, key_id=key_id, prev_hash=prev_hash, **texts
        )

    def signed_text(self) -> bytes:
        """What the hash is of. The second kind of text begins differently, see `Head`."""
        return b"row" + _json(self[:-1]).encode()

    @property
    def is_restore(self) -> bool:
        """Whether it tells that the database was replaced by a backup."""
        return self.action == RESTORE and self.outcome == "ok"

    def line(self) -> bytes:
        """The row as a line of JSON."""
        return _json(self._asdict()).encode() + b"\n"


class ChainHead(NamedTuple):
    """Where the chain ends, up to where it was deleted on purpose, and which signed rows go with it. `mac` signs it."""

    last_id: int
    hash: str
    pruned_id: int
    pruned_hash: str
    key_id: str
    signed_rows: str = ""
    """What the signatures add up to, see signed_rows.py; "" before there were any."""
    mac: str = ""

    @property
    def version(self) -> int:
        """How often rows were signed."""
        number = self.signed_rows.partition(".")[0]
        return int(number) if number.isdecimal() else 0

    def signed_text(self) -> bytes:
        """What the mac is of."""
        return b"head" + _json(self[:-1] if self.signed_rows else self[:-2]).encode()


def sum_of(version: int, signatures: Iterable[tuple[str, str, int, str]]) -> str:
    """What stands for all signatures of rows: the number of the change, and a digest."""
    return f"{version}.{hashlib.sha256(_json([version, sorted(signatures)]).encode()).hexdigest()}"


def stamp(at: float) -> str:
    """Epoch seconds as ISO 8601 with its offset: `2026-11-01T14:20:00.000+00:00`. As texts they sort by time."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def cover(text: str) -> str:
    """The text without what looks like a secret."""
    return _SECRETS.sub(_REMOVED, text)


def _clean(text: str, length: int) -> str:
    text = cover(str(text))
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _REPLACED for char in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _detail(detail: Mapping[str, object], digest: Callable[[str], str]) -> str:
    text = _json(_plain(detail, digest, 0))
    return text if len(text) <= _DETAIL else _json({"omitted": f"{len(text)} characters"})


def _plain(value: object, digest: Callable[[str], str], depth: int) -> Any:
    """The value as JSON can have it, bounded."""
    if isinstance(value, Secret):
        return digest(value.value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS]
        return {_clean(str(name), _TEXT): _plain(each, digest, depth + 1) for name, each in items}
    if depth < _DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, digest, depth + 1) for each in list(value)[:_ITEMS]]
    return _clean(str(value), _TEXT)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


NO_ROWS = sum_of(0, [])
"""The signatures of a new database."""
