"""Shell completion by argcomplete, if that is installed: the extra `completion`."""

import argparse
import importlib
import os

_ASKED = "_ARGCOMPLETE"
"""Set by the shell when it asks for completions, to the number of words that are not ours plus one."""


def complete(parser: argparse.ArgumentParser, *, skip: int = 0) -> None:
    """Answer a shell that asks what may come next, and end the process; else do nothing.

    Of the words on the line the first `skip` stand before what the parser is for.
    """
    if _ASKED not in os.environ:
        return
    try:
        argcomplete = importlib.import_module("argcomplete")
    except ImportError:
        return
    os.environ[_ASKED] = str(int(os.environ[_ASKED]) + skip)
    argcomplete.autocomplete(parser)


def first_word() -> str:
    """The word behind the command's name, if it is whole and the shell asks for what comes behind it."""
    if _ASKED not in os.environ:
        return ""
    line = os.environ.get("COMP_LINE", "")
    before = line.encode()[: int(os.environ.get("COMP_POINT") or 0)].decode("utf-8", "ignore")
    words = before.split()
    return words[1] if len(words) > 2 or (len(words) == 2 and before[-1].isspace()) else ""
