"""Every column that holds sealed bytes, and what is done to all of them: counting, sealing anew, sealing for once.

How far such work has come is told by the values themselves, whose first bytes name their key. So a process that
is killed in the middle leaves nothing to repair: the next one goes on where values are left.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from peewee import SQL, Database, Model, fn

from ccflare_core.audit.signed_rows import MODELS
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import (
    AccountRow,
    AuditKeyRow,
    BlockRow,
    ClientKeyRow,
    OAuthSessionRow,
    PayloadRow,
    SecondFactorRow,
)
from ccflare_core.errors import VaultError
from ccflare_core.secrets.vault import HEAD, Vault, head_of, place
from ccflare_core.store.context import StoreContext
from ccflare_core.transcripts import packing

CLEAR = "clear"
"""Stands in counts for values that are not sealed."""

_BATCH = 50
_BYTES = 8 * 1024 * 1024
_LOOK_AHEAD = 1000

Key = tuple[Any, ...]
Transaction = Callable[[], AbstractContextManager[None]]


def _rewrap(column: "SealedColumn", key: Key, sealed: bytes, vault: Vault) -> dict[str, object]:
    return {column.name: vault.rewrap(sealed, column.place(key))}


def _rewrap_block(column: "SealedColumn", key: Key, sealed: bytes, vault: Vault) -> dict[str, object]:
    at, resealed = packing.reseal_block(sealed, bytes(key[1]), vault)
    return {"address": at, column.name: resealed}


class SealedColumn(NamedTuple):
    """A column of sealed bytes; `keys` are the columns that name a row, `place` makes a value's place of theirs.

    `rewrap` gives what is to change in a row so that the newest key seals it.
    """

    model: type[Model]
    name: str
    keys: tuple[str, ...]
    place: Callable[[Key], str]
    rewrap: Callable[["SealedColumn", Key, bytes, Vault], dict[str, object]] = _rewrap

    @property
    def table(self) -> str:
        """The table's name."""
        return str(self.model._meta.table_name)

    def head(self, length: int = HEAD) -> SQL:
        """The first bytes, in the very words of the index: SQLite does not find it by a bound parameter."""
        return SQL(f"substr({self.name}, 1, {length})")

    def key(self, database: Database, where: object, limit: int) -> list[Key]:
        """The keys of at most `limit` rows."""
        fields = [getattr(self.model, name) for name in self.keys]
        return _rows(self.model.select(*fields).where(where).limit(limit), database)

    def is_row(self, key: Key) -> Any:
        """The condition for one row."""
        condition: Any = None
        for name, value in zip(self.keys, key, strict=True):
            part = getattr(self.model, name) == value
            condition = part if condition is None else condition & part
        return condition

    def get(self, database: Database, key: Key) -> Any:
        """The value; None if the row is gone."""
        found = _rows(self.model.select(SQL(self.name)).where(self.is_row(key)), database)
        return found[0][0] if found else None

    def set(self, database: Database, key: Key, **values: object) -> None:
        """Change the row."""
        self.model.update(values).where(self.is_row(key)).execute(database)


def _rows(query: Any, database: Database) -> list[Key]:
    return list(query.bind(database).tuples())


def _simple(model: type[Model], *names: str) -> Iterator[SealedColumn]:
    """Columns whose values are sealed for their table, column and row."""
    for name in names:
        yield SealedColumn(model, name, ("id",), lambda key, n=name: place(str(model._meta.table_name), n, key[0]))  # type: ignore[misc]


_BLOCK = SealedColumn(
    BlockRow, "body", ("id", "address"), lambda key: packing.block_place(bytes(key[1])), _rewrap_block
)
_BODY = SealedColumn(PayloadRow, "body", ("request", "part"), lambda key: packing.body_place(key[1], key[0]))
_SECRETS = (
    *_simple(AccountRow, "access_token", "refresh_token", "api_key", "proxy"),
    *_simple(OAuthSessionRow, "state", "verifier"),
    *_simple(AuditKeyRow, "sealed"),
    *_simple(SecondFactorRow, "seed"),
)
COLUMNS: tuple[SealedColumn, ...] = (*_SECRETS, _BLOCK, _BODY)
DIGESTS: tuple[SealedColumn, ...] = (*_simple(ClientKeyRow, "digest", "old_digest"),)
"""They need their key as sealed values do, but nobody can make one anew who does not know what it was made of."""


def count_values(database: Database) -> Counter[str]:
    """How many values each key has sealed, by key id; CLEAR counts those that are not sealed."""
    found: Counter[str] = Counter()
    with as_store_errors():
        for column in (*COLUMNS, *DIGESTS):
            head = column.head()
            query = column.model.select(head, fn.COUNT(SQL("*"))).where(head.is_null(False)).group_by(head)
            for first, number in _rows(query, database):
                found[_owner(first)] += number
    return found


def count_of(database: Database, key_id: str, columns: Iterable[SealedColumn] = COLUMNS) -> int:
    """How many values in these columns this key has sealed."""
    with as_store_errors():
        return sum(
            column.model.select(fn.COUNT(SQL("*"))).where(column.head() == head_of(key_id)).bind(database).scalar()
            for column in columns
        )


def _owner(first: object) -> str:
    is_sealed = isinstance(first, bytes) and len(first) == HEAD and first[:1] == head_of("")
    return first[1:].hex() if is_sealed and isinstance(first, bytes) else CLEAR


class Resealing:
    """Work on all sealed columns in small transactions, between which others can write.

    `left` has a line for each value that does not open. They stay as they are.
    """

    def __init__(self, context: StoreContext, vault: Vault) -> None:
        self._database = context.database
        self._vault = vault
        self._transaction = context.transaction
        self._context = context
        self.left: list[str] = []

    def rewrap(self) -> Iterator[int]:
        """Seal with the newest key what an older one of the ring has sealed; yields each batch's number of rows."""
        for column in COLUMNS:
            failed: set[Key] = set()
            while True:
                with self._transaction():
                    done, failures = self._rewrap_batch(column, failed)
                failed |= failures
                if not done and not failures:
                    break
                yield done

    def _rewrap_batch(self, column: SealedColumn, failed: set[Key]) -> tuple[int, set[Key]]:
        old = [head_of(key_id) for key_id in self._vault.key_ids[1:]]
        if not old:
            return 0, set()
        found = column.key(self._database, column.head().in_(old), _BATCH + len(failed))
        done, size, failures = 0, 0, set()
        for key in (key for key in found if key not in failed):
            sealed = column.get(self._database, key)
            size += len(sealed)
            try:
                with self._resigned(column, key):
                    column.set(self._database, key, **column.rewrap(column, key, sealed, self._vault))
                done += 1
            except VaultError:
                failures.add(key)
                self.left.append(f"{column.table}.{column.name} of row {_named(key)}")
            if size > _BYTES:
                break
        return done, failures

    @contextmanager
    def _resigned(self, column: SealedColumn, key: Key) -> Iterator[None]:
        """Within it a row may be sealed anew that is signed: its signature follows, with an entry."""
        if column.model not in MODELS:
            yield
            return
        with self._context.signed.kept(column.model, key[0], column.name):
            yield
        self._context.record("key.rewrap", column.table, stage="row")

    def seal_clear(self) -> Iterator[int]:
        """Seal what is stored in clear, each value checked by opening it; yields each batch's number of rows."""
        for column in _SECRETS:
            is_clear = column.head().is_null(False) & (column.head(1) != head_of(""))
            yield from self._seal_where(column, is_clear, self._seal_secret)
        yield from self._seal_where(_BODY, PayloadRow.format == packing.CLEAR, self._seal_body)

    def _seal_where(
        self, column: SealedColumn, condition: object, seal: Callable[[SealedColumn, Key], None]
    ) -> Iterator[int]:
        while found := column.key(self._database, condition, _LOOK_AHEAD):
            for start in range(0, len(found), _BATCH):
                keys = found[start : start + _BATCH]
                with self._transaction():
                    for key in keys:
                        seal(column, key)
                yield len(keys)

    def _seal_secret(self, column: SealedColumn, key: Key) -> None:
        value = column.get(self._database, key)
        plain = value.encode() if isinstance(value, str) else bytes(value or b"")
        if not plain:
            column.set(self._database, key, **{column.name: None})
        elif plain[:1] != head_of(""):  # else the proxy has written it meanwhile
            sealed = self._vault.seal(plain, column.place(key))
            _check(self._vault.open(sealed, column.place(key)) == plain)
            column.set(self._database, key, **{column.name: sealed})

    def _seal_body(self, column: SealedColumn, key: Key) -> None:
        if not column.key(self._database, column.is_row(key) & (PayloadRow.format == packing.CLEAR), 1):
            return  # another process was here, or the row is gone
        value = column.get(self._database, key)
        plain = value.encode() if isinstance(value, str) else bytes(value or b"")
        where = column.place(key)
        (sealed,) = packing.encode([(plain, where)], self._vault)
        _check(packing.decode(sealed, self._vault, where) == plain)
        column.set(self._database, key, body=sealed, format=packing.FORMAT)


def _named(key: Key) -> str:
    return "/".join(str(part) for part in key if not isinstance(part, bytes))


def drain(work: Iterable[int], pause: Callable[[], None] = lambda: None) -> int:
    """Do all of it, with a pause after each batch; how many rows that were."""
    total = 0
    for done in work:
        total += done
        pause()
    return total


def _check(is_same: bool) -> None:
    if not is_same:
        raise VaultError("a value that was just sealed opens as another one: check this machine's memory")
