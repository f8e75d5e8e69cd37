"""Whether a body has certain words in it; of one that goes on from another they are looked for where it differs. Pure.

A conversation is sent again with every turn, and to look through 1 MB for one word takes half a millisecond of the
event loop.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Word(NamedTuple):
    """What is looked for: it begins with `begins`, which is in it a second time at most as its last byte.

    It may look at nothing outside of what it matches.
    """

    pattern: re.Pattern[bytes]
    begins: bytes
    most: int = 0
    """So many bytes it has at most; 0: any number. What begins with something rare needs no long way back then."""


class Words:
    """What is known of a body's words. Only its own bytes count, whatever is known of an earlier one."""

    def __init__(self, body: bytes, earlier: Words | None = None, same: int = 0) -> None:
        """The first `same` bytes are those of the `earlier` body; what was asked of that is known of this one too."""
        self.body = body
        self._ends: dict[Word, int] = {}  # behind the first one of each; -1: there is none
        for word, end in earlier._ends.items() if earlier else ():
            self._ends[word] = end if 0 <= end <= same else self._search(word, same)

    def __repr__(self) -> str:
        return "<Words>"

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.body)

    def has(self, word: Word) -> bool:
        """Whether it is in the body."""
        return self.end_of(word) >= 0

    def end_of(self, word: Word) -> int:
        """Where the first one in the body ends; -1: there is none."""
        if word not in self._ends:
            self._ends[word] = self._search(word, 0)
        return self._ends[word]

    def _search(self, word: Word, behind: int) -> int:
        """Where the first one ends that does not end within so many bytes."""
        back = max(0, behind - word.most) if word.most else 0
        begun = self.body.rfind(word.begins, back, behind + len(word.begins) - 1) if behind else 0
        found = word.pattern.search(self.body, begun if begun >= 0 else behind)
        return found.end() if found else -1
