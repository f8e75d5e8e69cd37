"""A YAML file that a person wrote, as nodes that know their lines: all its mistakes are told at once. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from ccflare_core.errors import ConfigError


def compose(text: bytes | str, name: str) -> Node | None:
    """The text as a tree, which keeps each value as it was written. Raises ConfigError; `name` is the file's."""
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not YAML ({_problem(error)}).") from error
    return root


def _problem(error: Exception) -> str:
    """What is wrong with a text that is no YAML, as the rest of a sentence."""
    if isinstance(error, RecursionError):
        return "too much stands in one another"
    if isinstance(error, ReaderError | UnicodeDecodeError):
        return "it is no plain text: save it as UTF-8"
    problem, context = (str(getattr(error, name, None) or "") for name in ("problem", "context"))
    is_star = "alias" in f"{context} {problem}"
    return f"{problem or 'it cannot be read'}{': what begins with * stands in quotes' if is_star else ''}"


class Section(NamedTuple):
    """A mapping in the file, and what to call it in a message."""

    owner: str
    node: Node
    entries: dict[str, Node]


class Mistakes:
    """Reads nodes, and notes what is wrong with their lines."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def note(self, node: Node, text: str) -> None:
        """This is wrong with that node."""
        self._found.append((node.start_mark.line + 1, text))

    def section(self, node: Node, owner: str, names: Sequence[str] = ()) -> Section:
        """What a mapping holds by name; with `names`, no others may stand in it."""
        found: dict[str, Node] = {}
        if not isinstance(node, MappingNode):
            self.note(node, f"{owner} must hold names and values, one `name: value` a line")
            return Section(owner, node, found)
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else None
            if name is None:
                self.note(key, f"a name in {owner} must be plain text")
            elif name in found:
                self.note(key, f"{name} stands twice in {owner}; remove one")
            elif names and name not in names:
                self.note(key, f"{owner} has no {name}; what may stand here is {', '.join(names)}")
            else:
                found[name] = value
        return Section(owner, node, found)

    def require_none(self, name: str) -> None:
        """Raise ConfigError with all of them, in the order of their lines, if there are any. `name` is the file's."""
        if self._found:
            raise ConfigError(*(f"{name} line {line}: {text}." for line, text in sorted(self._found)))
