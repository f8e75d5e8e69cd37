"""About how many tokens a prompt has, told from its bytes: for budgets, where the upstream has not counted it. Pure.

It is meant to be too much rather than too little, and to cost no more than a walk through the bytes: no text of any
size is parsed for it.
"""

import re
from typing import Final

BYTES_PER_TOKEN: Final = 3
IMAGE_TOKENS: Final = 4_800
"""The largest image takes no more, however many bytes it has."""
REFERENCE_TOKENS: Final = 100_000
"""Of what is named and not sent along, a file or an address: some forty pages of a document."""
MOST_PROMPT: Final = 1_000_000
"""Tokens of the longest prompt that a model takes."""

MOST_BYTES: Final = 8 * 1024 * 1024
"""What is looked at on the event loop, where it takes 40 ms."""

_DATA: Final = b'"data"'
_IMAGE = re.compile(rb'\s*:\s*"(?=iVBOR|/9j/|R0lGOD|UklGR)')  # PNG, JPEG, GIF and WebP in base64
_REFERENCES: Final = (b'"type":"file"', b'"type": "file"', b'"type":"url"', b'"type": "url"')


def estimated_tokens(body: bytes, most_bytes: int = MOST_BYTES) -> int:
    """The tokens of a request with this body, decoded: a third of its bytes, and what images and references take.

    One of more than `most_bytes` is not looked at: it has the longest prompt.
    """
    if len(body) > most_bytes:
        return MOST_PROMPT
    image_bytes = image_tokens = 0
    for size in _images(body):
        image_bytes += size
        image_tokens += min(IMAGE_TOKENS, size // BYTES_PER_TOKEN)
    references = sum(body.count(mark) for mark in _REFERENCES) * REFERENCE_TOKENS
    return min(MOST_PROMPT, (len(body) - image_bytes) // BYTES_PER_TOKEN + image_tokens + references)


def _images(body: bytes) -> list[int]:
    """The bytes in base64 of each image in it."""
    found: list[int] = []
    at = body.find(_DATA)
    while at >= 0:
        at += len(_DATA)
        if image := _IMAGE.match(body, at):
            end = body.find(b'"', image.end())
            at = len(body) if end < 0 else end
            found.append(at - image.end())
        at = body.find(_DATA, at)
    return found
