"""What an endpoint takes in its query: each parameter with its limits, as the document says and as is enforced. Pure.

Both are made of one schema. What the schema allows is never refused for its form, so that a client can trust it.
"""

import calendar
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ccflare_core.clients.tags import LONGEST_VALUE, NAME
from ccflare_core.exchange.records import storable
from ccflare_core.reports.queries import Position
from ccflare_core.reports.vocabulary import Schema
from ccflare_core.text import composed
from ccflare_mitm.pages.visit import BadQuery

TEXT_LENGTH: Final = 200
CURSOR_LENGTH: Final = 600
_SPAN: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_WHEN = rf"^(all|[1-9][0-9]{{0,4}}[mhdw]|20[0-9][0-9]-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T{_CLOCK}Z)$"
_CURSOR = r"^[0-9]{1,14}-([0-9a-f]{2}){0,250}$"
_TAG: Final = f"^{NAME}=.{{1,{LONGEST_VALUE}}}$"
_FLAGS: Final = {"true": True, "false": False}

Asked = Mapping[str, Any]
"""The value of each parameter of an endpoint; that of one that is not in the query is its default."""


class Parameter(NamedTuple):
    """One parameter. `read` makes a value of a text that the schema allows; `default` is such a text, or None."""

    name: str
    about: str
    schema: Schema
    read: Callable[[str], object] = str
    default: str | None = None
    is_required: bool = False

    def value(self, text: str | None) -> object:
        """What it says, or its default. Raises BadQuery if it is not what the schema allows."""
        if text is None:
            return None if self.default is None else self.read(self.default)
        if not self._allows(text):
            raise BadQuery(f"{self.name} cannot be that; it takes {self._allowed}.")
        return self.read(text)

    def _allows(self, text: str) -> bool:
        schema = self.schema
        if schema["type"] == "integer":
            return (
                bool(re.fullmatch(r"\d{1,9}", text, re.ASCII)) and schema["minimum"] <= int(text) <= schema["maximum"]
            )
        if schema["type"] == "boolean":
            return text in _FLAGS
        if "enum" in schema:
            return text in schema["enum"]
        pattern = schema.get("pattern")
        fits = schema.get("minLength", 0) <= len(text) <= schema["maxLength"]
        return fits and (pattern is None or re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None)

    @property
    def _allowed(self) -> str:
        schema = self.schema
        if schema["type"] == "integer":
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        if schema["type"] == "boolean":
            return "true or false"
        return self.about if "pattern" in schema else ", ".join(schema.get("enum", ())) or _A_TEXT

    def as_document(self) -> Schema:
        """For the document."""
        schema = self.schema
        if self.default is not None and "default" not in schema:
            schema = {**schema, "default": int(self.default) if schema["type"] == "integer" else self.default}
        return {
            "name": self.name,
            "in": "query",
            "required": self.is_required,
            "description": self.about,
            "schema": schema,
        }


_A_TEXT: Final = f"1 to {TEXT_LENGTH} characters"


def text(name: str, about: str, *, is_required: bool = False) -> Parameter:
    """A name, an id or other words, as they stand in the record."""
    schema = {"type": "string", "minLength": 1, "maxLength": TEXT_LENGTH}
    return Parameter(name, about, schema, storable, is_required=is_required)


def tag(name: str, about: str) -> Parameter:
    """A tag, as it stands in the record, however its letters are composed."""
    return Parameter(
        name,
        about,
        {"type": "string", "maxLength": TEXT_LENGTH, "pattern": _TAG},
        lambda text: composed(str(storable(text))),
    )


def choice(name: str, about: str, choices: Iterable[str], default: str | None = None) -> Parameter:
    """One of several words."""
    return Parameter(name, about, {"type": "string", "enum": list(choices)}, str, default)


def flag(name: str, about: str) -> Parameter:
    """Yes or no; without it no."""
    return Parameter(name, about, {"type": "boolean", "default": False}, _FLAGS.__getitem__, "false")


def whole(name: str, about: str, most: int, default: int) -> Parameter:
    """A number from 1 to `most`."""
    return Parameter(name, about, {"type": "integer", "minimum": 1, "maximum": most}, int, str(default))


class When(NamedTuple):
    """A moment, or how long ago it is."""

    at: float = 0.0
    """Epoch seconds."""
    ago: float | None = None

    def moment(self, now: float) -> float:
        """That moment in epoch seconds."""
        return self.at if self.ago is None else max(now - self.ago, 0.0)


def when(name: str, about: str, default: str | None) -> Parameter:
    """A moment, or a span before now."""
    told = f"{about}: a span before now such as 24h, a moment in UTC such as 2026-11-24T14:20:00Z, or all"
    return Parameter(name, told, {"type": "string", "maxLength": 20, "pattern": _WHEN}, _read_when, default)


def _read_when(text: str) -> When:
    if text == "all":
        return When()
    if text[-1] in _SPAN:
        return When(ago=float(int(text[:-1]) * _SPAN[text[-1]]))
    # A day that its month has not is one of the next month.
    return When(float(calendar.timegm((*map(int, re.findall(r"\d+", text)), 0, 0, 0))))


def cursor(name: str = "cursor") -> Parameter:
    """Where a list goes on."""
    about = "the `next` of the answer before"
    return Parameter(name, about, {"type": "string", "maxLength": CURSOR_LENGTH, "pattern": _CURSOR}, read_cursor)


def write_cursor(position: Position) -> str:
    """A position as a text that can stand in a query."""
    return f"{position.at_ms}-{position.id.encode().hex()}"


def read_cursor(text: str) -> Position:
    """The position in such a text."""
    at_ms, _, id_ = text.partition("-")
    return Position(int(at_ms), str(storable(bytes.fromhex(id_).decode(errors="replace"))))


def read_query(said: Sequence[tuple[str, str]], parameters: Sequence[Parameter]) -> Asked:
    """What a query says. Raises BadQuery at the first mistake in it."""
    known, found = {parameter.name for parameter in parameters}, dict[str, str]()
    for name, value in said:
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise BadQuery(f"The query has a parameter that is not known here; {takes}.")
        if name in found:
            raise BadQuery(f"The query has {name} more than once.")
        found[name] = value
    asked = {parameter.name: parameter.value(found.get(parameter.name)) for parameter in parameters}
    for parameter in parameters:
        if parameter.is_required and parameter.name not in found:
            raise BadQuery(f"The query has no {parameter.name}: {parameter.about}.")
    return asked
