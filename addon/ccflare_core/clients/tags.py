"""Tags: what a client says of its requests, to find them again and to add up what they cost. Pure.

They come in the header `x-ccflare-tag`, which never goes upstream, or with the run that a request is in. They are
recorded in clear.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ccflare_core.http.headers import Header
from ccflare_core.text import composed

HEADER: Final = b"x-ccflare-tag"
MOST_TAGS: Final = 4
LONGEST_VALUE: Final = 64
NAME: Final = "[a-z0-9_-]{1,32}"
"""A pattern."""
FORM: Final = (
    f"name=value, the name of 1 to 32 of a-z, 0-9, _ and -, the value of 1 to {LONGEST_VALUE} characters that can be "
    "printed"
)


class Tagged(NamedTuple):
    """The values of a request's tags by their names, or as a sentence what is wrong with them."""

    tags: Mapping[str, str] = {}
    problem: str = ""


NO_TAGS: Final = Tagged()


def valid_tag(text: str) -> bool:
    """Whether that is a tag, see FORM. What steers a terminal or turns the direction of a text cannot be printed."""
    name, value = split(text)
    return re.fullmatch(NAME, name) is not None and 0 < len(value) <= LONGEST_VALUE and value.isprintable()


def split(tag: str) -> tuple[str, str]:
    """The name and the value of a tag."""
    name, _, value = tag.partition("=")
    return name, value


def read_tags(fields: Iterable[Header]) -> Tagged:
    """The tags in a request's fields: one in each, or several with commas between them (RFC 9110, 5.3)."""
    said = [value for name, value in fields if name.lower() == HEADER]
    if not said:
        return NO_TAGS
    text = b",".join(said).decode(errors="surrogateescape")
    tags = [composed(each.strip()) for each in text.split(",") if each.strip()]
    if not all(map(valid_tag, tags)):
        return Tagged(problem=f"{HEADER.decode()} takes {FORM}; a comma stands between two of them.")
    found = dict(map(split, tags))
    if len(tags) > MOST_TAGS or len(found) < len(tags):
        return Tagged(problem=f"{HEADER.decode()} takes {MOST_TAGS} tags at most, and each name once.")
    return Tagged(found)
