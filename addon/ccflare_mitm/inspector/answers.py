"""What commands answer: tables in the console, sentences in mitmweb, which shows both on one line.

A command is a function that gives a Table or a sentence. mitmproxy wants to know from its signature what comes back.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mitmproxy import exceptions
from mitmproxy import types as mitmproxy_types
from mitmproxy.log import ALERT

from ccflare_core.errors import CCFlareError

logger = logging.getLogger("ccflare")


class Table(NamedTuple):
    """What a command has found: in words, and as rows under a head."""

    sentence: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Text(NamedTuple):
    """A text to read or to copy, which the console opens a window for."""

    text: str


type Command = Callable[..., Table | Text | str]


def as_command(function: Command, *, in_words: bool) -> Callable[..., Any]:
    """The function as mitmproxy calls it. With `in_words` it answers with a sentence, else with a table if it has one.

    A sentence of its own goes to the console's foot, where a command that answers with a text would open a window.
    What it raises of ours becomes a CommandError, which is shown as it is.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def command(*arguments: Any) -> Any:
        try:
            answer = function(*arguments)
        except CCFlareError as error:
            raise exceptions.CommandError(str(error)) from error
        if isinstance(answer, Table):
            return answer.sentence if in_words else [list(row) for row in (answer.head, *answer.rows)]
        if isinstance(answer, Text):
            return answer.text
        if in_words:
            return answer
        logger.log(ALERT, "%s", answer)
        return None

    of_the_console = {Table: mitmproxy_types.Data, Text: str}
    answers = str if in_words else of_the_console.get(signature.return_annotation, inspect.Signature.empty)
    command.__signature__ = signature.replace(return_annotation=answers)  # type: ignore[attr-defined]
    return command


class Words:
    """A parameter that is one of several words: the console completes it, and another word is refused in ours.

    mitmproxy's own Choice says "Invalid choice." of it. `typ` is what a command's parameter is annotated with.
    """

    def __init__(self, typ: type[str], noun: str, words: Callable[[], Iterable[str]]) -> None:
        self.typ = typ
        self.display = noun
        self._words = words

    def completion(self, _manager: object, _typ: object, _begun: str) -> Sequence[str]:
        """All of them: mitmproxy keeps those that begin so."""
        return list(self._words())

    def parse(self, _manager: object, _typ: object, text: str) -> str:
        """The word. Raises ValueError, in a sentence, if it is none."""
        words = list(self._words())
        if text not in words:
            raise ValueError(f"no {self.display} {text!r}; there is {', '.join(words) or 'none'}")
        return self.typ(text)

    def is_valid(self, _manager: object, _typ: object, value: object) -> bool:
        """Whether it is one."""
        return value in list(self._words())


def install(manager: Any, commands: dict[str, Command], words: Iterable[Words], *, in_words: bool) -> None:
    """Have mitmproxy know these commands by their names, and the kinds of words that they take."""
    for each in words:
        mitmproxy_types.CommandTypes.typemap[each.typ] = each
    for name, function in commands.items():
        manager.add(name, as_command(function, in_words=in_words))
