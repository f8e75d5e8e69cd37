"""What a proxy knows of the others on its database. Pure."""

from collections.abc import Mapping
from typing import NamedTuple


class Peers(NamedTuple):
    """Whether there are others, and how many requests they have in flight with each account, by its id."""

    are_there: bool = False
    in_flight: Mapping[str, int] = {}
    look_on: bool = False
    """Whether somebody looks on at one of them, and is to see what goes on here too."""
