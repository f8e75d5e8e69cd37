"""Priorities: which account is used first, as a number from 1 (first) to 99 (last). Pure."""

from collections.abc import Iterable

FIRST, LAST = 1, 99
DEFAULT = 50
"""In the middle, so that one number puts an account before all others, or behind them."""

_ROOM = LAST - DEFAULT


def fitted(priorities: Iterable[int]) -> dict[int, int]:
    """What each priority of a place where 0 is the usual one becomes here: as it was, with 50 added.

    If one of them would be below 1 or above 99, all stand side by side around 50 instead, in the same order.
    Migration 0023 does the same.
    """
    known = sorted(set(priorities))
    if all(abs(each) <= _ROOM for each in known):
        return {each: DEFAULT + each for each in known}
    before, after = [each for each in known if each < 0], [each for each in known if each > 0]
    ranks = {0: 0} | {each: rank - len(before) for rank, each in enumerate(before)}
    ranks |= {each: rank for rank, each in enumerate(after, start=1)}
    return {each: max(FIRST, min(DEFAULT + ranks[each], LAST)) for each in known}
