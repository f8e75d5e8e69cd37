"""Accounts out of the databases of the original ccflare and of its fork better-ccflare. They are only ever read.

Both keep tokens in clear in a table `accounts`, all times in ms. The schema has grown by columns, so what a row has is
looked up and not assumed (original: packages/database/src/migrations.ts of snipeship/ccflare, the fork's likewise).
"""

import contextlib
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.names import nearest_name
from ccflare_core.accounts.priority import fitted
from ccflare_core.anthropic.oauth import LOGIN_SECONDS, is_token
from ccflare_core.db.sqlite import file_size
from ccflare_core.errors import StoreError
from ccflare_core.files import beside

_MOST_ACCOUNTS = 1000
_ANTHROPIC = frozenset({None, "", "anthropic", "claude-console-api"})
_NEEDED = frozenset({"name", "refresh_token", "access_token", "api_key"})
_HEADER = b"SQLite format 3\0"
_LATEST_MS = 7_258_118_400_000  # the year 2200


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account in a foreign place, and why it does not come over, if so."""

    name: str
    account: Account | None = None
    problem: str = ""


def read_database(path: Path, now: float) -> list[FoundAccount]:
    """Every account of such a database, also while its owner runs. Raises StoreError.

    No file of it is changed; only SQLite's locks in the -shm file are used if another program has the database open.
    """
    rows = _rows(path)
    fit = fitted(_priority(row) for row in rows)
    return [_read(row, now, fit[_priority(row)]) for row in rows]


def from_login_file(
    name: str, access_token: str, refresh_token: str | None, expires_at: float | None, now: float
) -> FoundAccount:
    """Tokens that another program keeps in a file."""
    return FoundAccount(name, _login(name, access_token, refresh_token, expires_at, now))


def without_known(found: Iterable[FoundAccount], known: Iterable[Account]) -> list[FoundAccount]:
    """`found`, with an problem for each account that is there already, by its secret or by its name."""
    names: set[str] = set()
    owners: dict[str, str] = {}

    def note(account: Account) -> None:
        names.add(account.name)
        owners.update(dict.fromkeys(_secrets(account), account.name))

    def problem(account: Account) -> str:
        twin = next((owners[secret] for secret in _secrets(account) if secret in owners), None)
        if twin is not None:
            return f"its token is that of {twin}"
        return f"there is an account called {account.name} already" if account.name in names else ""

    for account in known:
        note(account)
    checked = []
    for each in found:
        if each.account is not None and (reason := problem(each.account)):
            each = FoundAccount(each.name, problem=reason)
        if each.account is not None:
            note(each.account)
        checked.append(each)
    return checked


def _secrets(account: Account) -> tuple[str, ...]:
    return tuple(filter(None, (account.refresh_token, account.access_token, account.api_key)))


def _login(name: str, access: str | None, refresh: str | None, expires_at: float | None, now: float) -> Account:
    """An account with a login that was made at a time that nobody knows: it ends in 28 days at the latest.

    The first refresh usually tells better. Without a refresh token it ends with its access token.
    """
    return Account(
        str(uuid.uuid4()),
        name,
        Kind.OAUTH,
        access_token=access,
        refresh_token=refresh,
        expires_at=expires_at,
        created_at=now,
        login_expires_at=now + LOGIN_SECONDS if refresh else None,
    )


# Rows


def _read(row: Mapping[str, Any], now: float, priority: int) -> FoundAccount:
    name = nearest_name(str(row["name"]))
    if row.get("provider") not in _ANTHROPIC:
        return FoundAccount(name, problem="it is another provider's account")
    if row.get("custom_endpoint"):
        return FoundAccount(name, problem="it has an address of its own")
    access, refresh, key = (row.get(column) or None for column in ("access_token", "refresh_token", "api_key"))
    if key is not None and refresh == key:  # how older versions of the fork filled the column
        refresh = None
    if any(not is_token(secret) for secret in (access, refresh, key) if secret is not None):
        return FoundAccount(name, problem="its secret has characters that none has")
    if refresh is None and access is None and key is None:
        return FoundAccount(name, problem="it has neither token nor key")
    if refresh is None and key is not None:
        account = Account(str(uuid.uuid4()), name, Kind.API_KEY, api_key=key, created_at=now)
    else:
        account = _dated(_login(name, access, refresh, _seconds(row.get("expires_at")), now), row, now)
    return FoundAccount(name, replace(account, priority=priority, paused=bool(row.get("paused"))))


def _dated(account: Account, row: Mapping[str, Any], now: float) -> Account:
    account = replace(account, needs_login=bool(row.get("requires_reauth")))
    login_at = _seconds(row.get("created_at"))
    if "priority" in row or login_at is None or login_at > now:
        return account
    # The original, which has no priorities, cannot log in anew as an account: its age is the login's.
    return replace(account, login_at=login_at, login_expires_at=login_at + LOGIN_SECONDS)


def _priority(row: Mapping[str, Any]) -> int:
    value = row.get("priority")
    return value if isinstance(value, int) else 0


def _seconds(ms: object) -> float | None:
    return ms / 1000 if isinstance(ms, int | float) and 0 < ms < _LATEST_MS else None


# The file


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        _check(path)
        return _select(path)
    except (sqlite3.Error, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(
            f"{path}: the database cannot be read ({cause}): check that it is one, and its rights"
        ) from None


def _check(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file")
    with path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise StoreError(f"{path}: this is no SQLite database")


def _select(path: Path) -> list[dict[str, Any]]:
    for _ in range(3):
        uri = _uri(path)
        with _connected(uri) as connection:
            rows = connection.execute("SELECT * FROM accounts ORDER BY name LIMIT ?", (_MOST_ACCOUNTS,))
            found = [dict(row) for row in rows]
            columns = {column[0] for column in rows.description}
        if not columns >= _NEEDED:
            raise StoreError(f"{path}: this is no database of ccflare or better-ccflare")
        if _uri(path) == uri:  # else its owner has started meanwhile, and without locks we may have seen half of it
            return found
    raise StoreError(f"{path}: the database is changing all the time; try again later")


def _uri(path: Path) -> str:
    """How to open it so that nothing is made or changed beside it."""
    log, index = beside(path, "-wal"), beside(path, "-shm")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    if log.exists() and index.exists():
        return uri  # its owner runs, or was killed: with both files there SQLite makes none
    if file_size(log):
        raise StoreError(f"{path}: its -wal is there without the -shm: start its own program once, or copy all three")
    return f"{uri}&immutable=1"


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
        connection.row_factory = sqlite3.Row
        # Left to itself, sqlite3 quotes a text that is not UTF-8 in its error, also if it is a token.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema=OFF")
        yield connection
