"""Holds a value against a JSON schema, as far as the API's document uses them; no field may be unknown to it."""

import json
import re
from collections.abc import Iterator
from typing import Any

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
KNOWN = {
    *("type", "properties", "additionalProperties", "required", "items", "enum", "const", "minimum", "maximum"),
    *("format", "description", "deprecated", "default", "pattern", "minLength", "maxLength"),
}
"""What may stand in a schema: of anything else nothing would be checked."""


def mistakes(value: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """What does not fit, and where."""
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{where or 'it'} is {json.dumps(value)[:80]}, no {' or '.join(kinds)}"
    elif isinstance(value, dict):
        properties: dict[str, Any] = schema.get("properties", {})
        yield from (f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        others: dict[str, Any] | None = schema.get("additionalProperties")
        for name, part in value.items() if properties or others else ():
            if name not in properties and others:
                yield from mistakes(part, others, f"{where}.{name}")
            elif name not in properties:
                yield f"{where}.{name} is not in the document"
            else:
                yield from mistakes(part, properties[name], f"{where}.{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from mistakes(part, schema.get("items", {}), f"{where}[{number}]")
    elif value is not None:
        yield from _of_scalar(value, schema, where)


def _of_scalar(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{where} is {value}"
    if schema.get("format") == "date-time" and not _TIME.fullmatch(value):
        yield f"{where} is no time: {value}"
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{where} is {value}"


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
