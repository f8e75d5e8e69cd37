"""Names the mistake behind a path that the API does not have but almost does. Pure.

A base URL with `/v1` or a slash at its end makes clients ask for `/v1/v1/messages` or `//v1/messages`. Such a request
means an account and carries the client's placeholder for a key: sent on, it would come back as a 401 that explains
nothing.
"""

import re
from collections.abc import Callable
from typing import Final

ShapeOf = Callable[[str], str | None]
"""The shape of the API's path that this is; None if it is none of them."""

EMPTY_SEGMENT: Final = "There is an empty segment (//) in the path: a base URL ends without a slash."
_DOUBLED: Final = "There is a /v1 too many in the path: a base URL ends behind host and port, without /v1."
_OUR_PAGES: Final = "The proxy's own pages lie under /ccflare/, such as /ccflare/health."
_TWICE: Final = re.compile("/v1/(?:v1|api|ccflare)(?:/|$)")
_OURS: Final = re.compile("/ccflare(?:/|$)")


class NearMisses:
    """Knows the shapes of the API's paths, in which `{id}` stands for one segment."""

    def __init__(self, shapes: tuple[str, ...], shape_of: ShapeOf) -> None:
        self._parts = [tuple(shape.split("/")) for shape in shapes]
        self._shape_of = shape_of

    def mistake(self, path: str) -> str | None:
        """One sentence on what is wrong with this path, in lower case and decoded; None if it is another path."""
        if _TWICE.match(path):
            return _DOUBLED
        if _OURS.match(path):
            return _OUR_PAGES
        if shape := self._shape_of(path[max(path.rfind("/v1/"), 0) :]):
            return f"There is something in front of {shape} in the path: a base URL ends behind host and port."
        if shape := self._shape_of(f"/v1{path}"):
            return f"The path lacks its /v1: the API has {shape}."
        if shape := self._one_letter_off(path):
            return f"The API has no such path; the nearest one is {shape}."
        return None

    def _one_letter_off(self, path: str) -> str | None:
        segments = path.split("/")
        for parts in self._parts:
            if len(parts) == len(segments):
                pairs = [(part, segment) for part, segment in zip(parts, segments, strict=True) if part != "{id}"]
                if _is_one_letter_off("/".join(part for part, _ in pairs), "/".join(segment for _, segment in pairs)):
                    return "/".join(parts)
        return None


def _is_one_letter_off(text: str, other: str) -> bool:
    """Whether one letter more, less or changed, or two that changed places, make the one of the other."""
    if abs(len(text) - len(other)) > 1:
        return False
    start = _common(text, other)
    left, right = text[start:], other[start:]
    end = _common(left[::-1], right[::-1])
    left, right = left[: len(left) - end], right[: len(right) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _common(text: str, other: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((index for index, (one, two) in pairs if one != two), min(len(text), len(other)))
