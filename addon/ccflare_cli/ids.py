"""Requests and sessions by as much of their id as one likes to type, or as a table shows of it."""

import re

from ccflare_cli.cells import MARK
from ccflare_cli.console import Refused
from ccflare_core.program import typed
from ccflare_core.store.store import Store

_LEAST = 4
"""Characters. Fewer are no more than a guess."""
_MOST = 1000
_GAP = re.compile(rf"{MARK}|\.\.\.")
_KINDS = {
    "request": (("id", "upstream_request_id"), f"`{typed('stats requests')}` shows the last ones"),
    "session": (("session_id",), f"`{typed('stats sessions')}` shows the last ones"),
}


def find_request(store: Store, text: str) -> str:
    """The id of the one request that is meant, by its own id or the upstream's. Raises Refused."""
    return _find(store, "request", text)


def find_session(store: Store, text: str) -> str:
    """The id of the one session that is meant. Raises Refused."""
    return _find(store, "session", text)


def _find(store: Store, kind: str, text: str) -> str:
    """By the whole id, its beginning, or its two ends with … or three dots between them."""
    names, remedy = _KINDS[kind]
    found = dict.fromkeys(id_ for name in names for id_ in _fitting(store, names[0], name, text))
    whole = [id_ for name in names for id_ in _equal(store, names[0], name, text)]
    ids = list(dict.fromkeys(whole)) or list(found)
    if not ids:
        raise Refused(f"There is no such {kind}: {remedy}.")
    if len(ids) > 1:
        raise Refused(f"More than one {kind}'s id is like this: give more of it.")
    return ids[0]


def _equal(store: Store, key: str, name: str, text: str) -> list[str]:
    return [id_ for (id_,) in store.query(f"SELECT DISTINCT {key} FROM requests WHERE {name} = ?", (text,))]  # noqa: S608


def _fitting(store: Store, key: str, name: str, text: str) -> list[str]:
    begin, *ends = _GAP.split(text, maxsplit=1)
    if len(text) < _LEAST or not begin:
        return []
    end = "".join(ends)
    pattern = "%".join(re.sub("([!%_])", r"!\1", part) for part in (begin, end)) + "%" * (not end)
    sql = f"SELECT DISTINCT {key}, {name} FROM requests WHERE {name} LIKE ? ESCAPE '!' LIMIT {_MOST}"  # noqa: S608
    # LIKE takes small letters for capitals in one database and not in the other.
    return [id_ for id_, told in store.query(sql, (pattern,)) if told.startswith(begin) and told.endswith(end)]
