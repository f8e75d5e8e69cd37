"""A console of strings for the commands' tests."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from ccflare_cli.console import Console
from history import NOON


class Terminal(io.StringIO):
    """Input that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Desk:
    """Where a command's words end up.

    `typed` is what is typed unseen when a secret is asked for, and `typed_again` what the second time, if not the same.
    """

    stdin: TextIO = field(default_factory=io.StringIO)
    typed: str = ""
    typed_again: str | None = None
    now: float = NOON
    environ: Mapping[str, str] = field(default_factory=dict)
    stdout: io.StringIO = field(default_factory=io.StringIO)
    stderr: io.StringIO = field(default_factory=io.StringIO)
    prompts: list[str] = field(default_factory=list)
    browse: Callable[[str], bool] = lambda address: False

    def console(self) -> Console:
        return Console(
            self.stdin, self.stdout, self.stderr, self.environ, lambda: self.now, self._type_unseen, self.browse
        )

    def _type_unseen(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.typed if self.typed_again is None or len(self.prompts) == 1 else self.typed_again

    @property
    def said(self) -> str:
        return self.stdout.getvalue()

    @property
    def complained(self) -> str:
        return self.stderr.getvalue()
