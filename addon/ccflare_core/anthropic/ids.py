"""The ids of what belongs to an account: those that a request names, and those that an answer hands out. Pure, total.

Only the API's own fields count: a segment of the path, `container`, `container.skills[].skill_id`, the `file_id` of a
content block or of its source, `fallback_credit_token`, and in lists `after_id` and `before_id`. What a conversation
says about ids, or gives a tool as its input, names nothing.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from ccflare_core.anthropic.request import (
    ESCAPE,
    ESCAPED_NAME,
    PARSE_LIMIT,
    RARE_NAMES,
    decoded,
    unambiguous,
    words_of,
)
from ccflare_core.anthropic.routes import CACHE_TOUCH, MESSAGES, runs_model
from ccflare_core.anthropic.words import Words

ID_LIMIT = 300
"""Characters of an id. The API's have about 30."""
IDS_LIMIT = 10_000
"""How many ids of one request, or of one answer, are looked at; a list has a thousand at most."""
_TOUCH_LIMIT = 64 * 1024
_DEPTH = 8
"""How deep content lies in content. A file in a document in a tool's result is at four."""


class Kind(StrEnum):
    """What an id stands for."""

    FILE = "file"
    BATCH = "batch"
    SKILL = "skill"
    CONTAINER = "container"
    CREDIT = "credit"
    """A `fallback_credit_token`."""
    MESSAGE = "message"
    """A message that a thread can go on from."""
    REQUEST = "request"
    """An answer's `request-id`, by which its prompt cache is kept alive."""


class Id(NamedTuple):
    """One id. A credit token is known by its SHA-256 alone: it can be long, and is worth something."""

    kind: Kind
    text: str

    @property
    def shown(self) -> str:
        """For people and clients."""
        return "fallback_credit_token" if self.kind is Kind.CREDIT else self.text or "no id"


class Named(NamedTuple):
    """What a request names."""

    ids: tuple[Id, ...] = ()
    """Each once; they decide which account it goes to."""
    listed: Kind | None = None
    """What it lists, if it asks for a list of what an account has."""
    problem: str = ""
    """Why nobody can say for certain which ids it names, if so; `ids` are those that were found."""
    thread: bool = False
    """Whether it begins a message thread or goes on with one."""
    continues: str | None = None
    """The id of the message that its thread goes on from. It is not among `ids`: such a request may move."""


NO_IDS: Final = Named()

_KINDS: Final = {"files": Kind.FILE, "skills": Kind.SKILL, "messages/batches": Kind.BATCH}
_PATH = re.compile(r"/v1/(files|skills|messages/batches)(?:/([^/]+)(/.+)?)?")
_MARKS: Final = (b'"file_id"', b'"container"', b'"fallback_credit_token"', b'"thread"')
"""One of these, all of them RARE_NAMES, is in every body that names something. Quotes that a conversation has are
escaped."""
_LOOSE_KINDS: Final = {
    b'"file_id"': Kind.FILE,
    b'"container"': Kind.CONTAINER,
    b'"skill_id"': Kind.SKILL,
    b'"fallback_credit_token"': Kind.CREDIT,
}
_MEMBER = re.compile(rb'"\w+"\s*:\s*["{]')
"""A name that has a text or an object, and what that text is, or the first text of the object if it is an id."""
_PLAIN_MEMBER = re.compile(rb'"\w+"\s*:\s*(?:\{[^{}"]*"(?:id|token)"\s*:\s*)?"([^"\\]{1,5000})"')
_PIECE, _OVERLAP = 256 * 1024, 64
"""A long body is searched so many bytes at a time, for nothing else runs meanwhile; no mark is longer than the overlap.
"""
_OUTPUTS: Final = frozenset({"code_execution_tool_result", "bash_code_execution_tool_result"})
"""The blocks, made by the API itself, in which files that code has written are handed out."""
_TYPES: Final = {"file": Kind.FILE, "message_batch": Kind.BATCH, "skill": Kind.SKILL}
_OWN_SKILL = "custom"
_NONE: Final[frozenset[Kind]] = frozenset()
_OF_MESSAGES: Final = frozenset({Kind.FILE, Kind.CONTAINER, Kind.CREDIT})


def id_of(kind: Kind, value: object) -> Id | None:
    """The id, if `value` is a text that can be one."""
    if not isinstance(value, str) or not value:
        return None
    if kind is Kind.CREDIT:
        return Id(kind, hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest())
    return Id(kind, value[: ID_LIMIT + 1])


# What a request names


def named_by(
    method: str,
    target: str,
    body: bytes,
    *,
    content_encoding: str = "",
    strict: bool = False,
    words: Words | None = None,
) -> Named:
    """What a request for this target names. `strict` is for clients that may not reach everything.

    Then a body that two readers could take for different ones has a `problem`. A body is looked at in under 2 ms a
    megabyte, and is parsed only where it can name something. One of more than PARSE_LIMIT is for a thread. `words` are
    those of the body, if it has no coding and they are known.
    """
    path, _, query = target.partition("?")
    if found := _PATH.fullmatch(path):
        kind = _KINDS[found[1]]
        if found[2]:
            return Named(_unique([id_of(kind, found[2])]))
        if method == "GET":
            return Named(_unique([id_of(kind, value) for value in _cursors(query)]), listed=kind)
    if path == CACHE_TOUCH:
        return Named((_touched(body, content_encoding),))
    if not runs_model(method, path):
        return NO_IDS
    return _named_in(body, content_encoding, words, strict=strict)


def _touched(body: bytes, content_encoding: str) -> Id:
    """The request whose prompt cache is to be kept; one that nobody knows if the body names none."""
    text = decoded(body[:_TOUCH_LIMIT], content_encoding)
    try:
        parsed = json.loads(text.data, object_pairs_hook=unambiguous) if text.whole else None
    except (ValueError, RecursionError):
        parsed = None
    return id_of(Kind.REQUEST, _at(parsed, "request_id")) or Id(Kind.REQUEST, "")


def hands_out(method: str, path: str) -> frozenset[Kind]:
    """The kinds of ids that a good answer to this request hands out. What a file says is not the API's word."""
    if (method, path) == ("POST", MESSAGES):
        return _OF_MESSAGES
    found = _PATH.fullmatch(path)
    if found is None or method == "DELETE":
        return _NONE
    kind, rest = _KINDS[found[1]], found[3] or ""
    if kind is Kind.BATCH and rest == "/results":
        return _OF_MESSAGES
    return frozenset({kind}) if rest in ("", "/cancel") else _NONE


def deletes(method: str, path: str) -> Id | None:
    """What is gone after a good answer to this request."""
    found = _PATH.fullmatch(path)
    return id_of(_KINDS[found[1]], found[2]) if found and method == "DELETE" and not found[3] else None


def _cursors(query: str) -> list[str]:
    """From which ids on a page of a list is asked for."""
    try:
        pairs = parse_qsl(query, max_num_fields=100)
    except ValueError:
        return []
    return [value for name, value in pairs if name in ("after_id", "before_id")]


def _unique(ids: list[Id | None]) -> tuple[Id, ...]:
    return tuple(dict.fromkeys([each for each in ids if each is not None]))


def _named_in(body: bytes, content_encoding: str = "", words: Words | None = None, *, strict: bool) -> Named:
    text = decoded(body, content_encoding)
    if not text.whole:
        return Named(problem="its body cannot be decoded")
    data = text.data
    is_utf8 = b"\0" not in data[:4] and data[:2] not in (b"\xff\xfe", b"\xfe\xff")
    if len(data) > PARSE_LIMIT:
        return _named_in_long(data, is_utf8=is_utf8)
    words = words_of(text, words)
    is_marked = words.has(RARE_NAMES) and any(mark in data for mark in _MARKS)
    if strict and not is_marked:
        is_marked = words.has(ESCAPE) and words.has(ESCAPED_NAME)
    if is_utf8 and not is_marked:
        return NO_IDS
    try:
        parsed = json.loads(data, object_pairs_hook=unambiguous if strict else None)
    except (ValueError, RecursionError):
        return Named(problem="its body is no JSON that has one reading only")
    return _named_in_object(parsed)


def named_in_batch(requests: Iterable[bytes], *, strict: bool = False) -> Named:
    """As `named_by`, for the requests of a batch one after the other, as they stand in its body. It is for a thread."""
    ids: dict[Id, None] = {}
    problem = ""
    for text in requests:
        named = _named_in(b'{"requests":[%s]}' % text, strict=strict)
        ids.update(dict.fromkeys(named.ids))
        problem = problem or named.problem
        if len(ids) > IDS_LIMIT:
            return Named(tuple(ids)[:IDS_LIMIT], problem="it names too many")
    return Named(tuple(ids), problem=problem)


def _named_in_long(data: bytes, *, is_utf8: bool) -> Named:
    """What is too long to be parsed is searched. A tool's input counts too then: that is too much, never too little."""
    ids: dict[Id | None, None] = {}
    is_clear = is_utf8
    for start in range(0, len(data), _PIECE):
        end = start + _PIECE + _OVERLAP
        is_clear = is_clear and ESCAPED_NAME.pattern.search(data, start, end) is None
        for mark, kind in _LOOSE_KINDS.items():
            at = data.find(mark, start, end)
            while at >= 0:
                if _MEMBER.match(data, at):
                    found = _PLAIN_MEMBER.match(data, at)
                    is_clear = is_clear and found is not None and len(ids) < IDS_LIMIT
                    if found and is_clear:
                        ids[id_of(kind, found[1].decode("utf-8", "replace"))] = None
                at = data.find(mark, at + 1, end)
    return Named(_unique([*ids]), problem="" if is_clear else "its body is too long to be parsed")


def _named_in_object(parsed: object) -> Named:
    """A request's ids, or those of all requests of a batch."""
    if not isinstance(parsed, dict):
        return NO_IDS
    found = _ids_of(parsed)
    batch = parsed.get("requests")
    for each in batch if isinstance(batch, list) else ():
        found += _ids_of(_at(each, "params"))
    thread = parsed.get("thread")
    continues = _at(thread, "previous_message_id")
    ids = _unique(found)
    return Named(
        ids,
        problem="it names too many" if len(ids) > IDS_LIMIT else "",
        thread=isinstance(thread, dict),
        continues=continues[:ID_LIMIT] if isinstance(continues, str) and continues else None,
    )


def _ids_of(request: object) -> list[Id | None]:
    if not isinstance(request, dict):
        return []
    container, token = request.get("container"), request.get("fallback_credit_token")
    found = [
        id_of(Kind.CONTAINER, container if isinstance(container, str) else _at(container, "id")),
        id_of(Kind.CREDIT, token if isinstance(token, str) else _at(token, "token")),
    ]
    skills = _at(container, "skills")
    own = [each for each in skills if _at(each, "type") != "anthropic"] if isinstance(skills, list) else []
    found += [id_of(Kind.SKILL, _at(each, "skill_id")) for each in own]
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        _files_in(_at(message, "content"), found)
    _files_in(request.get("system"), found)
    return found


def _files_in(content: object, found: list[Id | None]) -> None:
    """Add the files of blocks, of their sources, and of the content that they have themselves."""
    waiting = [(content, _DEPTH)]
    for value, depth in waiting:  # which grows meanwhile
        for block in value if isinstance(value, list) else (value,):
            if not isinstance(block, dict):
                continue
            if "file_id" in block:
                found.append(id_of(Kind.FILE, block["file_id"]))
            if depth:
                inner = (block.get("source"), block.get("content"))
                waiting += [(each, depth - 1) for each in inner if isinstance(each, dict | list)]


# What an answer hands out


def in_document(body: Mapping[str, Any]) -> Iterator[Id]:
    """The ids in a JSON answer that is no message: of the object, or of the list of objects, that it is."""
    data = body.get("data")
    for each in (body, *(data[:IDS_LIMIT] if isinstance(data, list) else ())):
        kind = _TYPES.get(str(_at(each, "type")))
        if kind is None or (kind is Kind.SKILL and _at(each, "source") not in (_OWN_SKILL, None)):
            continue
        yield from _some(id_of(kind, _at(each, "id")))


def in_message(message: object) -> Iterator[Id]:
    """The ids in a message, or in what a `message_delta` says of it."""
    yield from _some(id_of(Kind.CONTAINER, _at(_at(message, "container"), "id")))
    yield from _some(id_of(Kind.CREDIT, _at(_at(message, "stop_details"), "fallback_credit_token")))
    content = _at(message, "content")
    for block in content if isinstance(content, list) else ():
        yield from in_block(block)


def in_block(block: object) -> Iterator[Id]:
    """The ids of files that code has written, in a content block."""
    if _at(block, "type") in _OUTPUTS:
        outputs = _at(_at(block, "content"), "content")
        for each in outputs if isinstance(outputs, list) else ():
            yield from _some(id_of(Kind.FILE, _at(each, "file_id")))


def _some(found: Id | None) -> tuple[Id, ...]:
    return () if found is None or len(found.text) > ID_LIMIT else (found,)


def _at(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
