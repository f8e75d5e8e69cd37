"""JSON with comments, edited in place: what is not asked for keeps its bytes, its order and its comments. Pure.

A path is one of jsonc.py. All raise ValueError for a text that is no such JSON.
"""

import json
import re

from ccflare_cli.companion.jsonc import Child, Element, Node, Path, after_blank, parse

_REST_OF_LINE = re.compile(r"(?:[ \t]*/\*(?:(?!\*/)[^\r\n])*\*/)*(?:[ \t]*//[^\r\n]*)?")
"""Comments that belong to what stands before them."""


def put(text: str, path: Path, value: object) -> str:
    """The text with this value at the path, and with what leads there. A new member is the last one."""
    node = parse(text)
    if node is None:
        newline = _newline(text)
        above = text.rstrip() + newline if text.strip() else ""
        return above + _written(_nested(path, value), "", "  ", newline) + newline
    for number, step in enumerate(path):
        child = node.child(step)
        if child is None:
            return _insert(text, node, step, _nested(path[number + 1 :], value))
        node = child.node
    whole = {"name": path[-1], "value": value} if isinstance(path[-1], Element) else value
    if _is_inline(text, node):
        new = json.dumps(whole, ensure_ascii=False)
    else:
        new = _written(whole, _indent(text, node.start), _unit(text), _newline(text))
    return text[: node.start] + new + text[node.end :]


def take(text: str, path: Path) -> str:
    """The text without what is at the path, and its line without anything left in it."""
    node = parse(text)
    for step in path[:-1]:
        child = node.child(step) if node else None
        if child is None:
            return text
        node = child.node
    child = node.child(path[-1]) if node else None
    return text if node is None or child is None else _removed(text, node, child)


def _nested(path: Path, value: object) -> object:
    for step in reversed(path):
        value = [{"name": step, "value": value}] if isinstance(step, Element) else {step: value}
    return value


def _insert(text: str, node: Node, step: str, value: object) -> str:
    unit, newline = _unit(text), _newline(text)
    is_inline = bool(node.children) and _is_inline(text, node)
    indent = _children_indent(text, node, unit)

    def written(each: object) -> str:
        return json.dumps(each, ensure_ascii=False) if is_inline else _written(each, indent, unit, newline)

    if isinstance(step, Element):
        child = written({"name": step, "value": value})
    else:
        child = f"{json.dumps(step, ensure_ascii=False)}: {written(value)}"
    if not node.children:
        inside = text[node.start + 1 : node.end - 1].rstrip()
        closing = newline + _indent(text, node.start)
        return text[: node.start + 1] + inside + newline + indent + child + closing + text[node.end - 1 :]
    last = node.children[-1].node.end
    comma = after_blank(text, last)
    has_comma = text[comma] == ","
    after = comma + 1 if has_comma else last
    if is_inline:
        return f"{text[:after]}{'' if has_comma else ','} {child}{text[after:]}"
    rest = _REST_OF_LINE.match(text, after)
    place = rest.end() if rest else after
    before = text[:place] if has_comma else f"{text[:last]},{text[last:place]}"
    return before + newline + indent + child + ("," if has_comma else "") + text[place:]


def _removed(text: str, node: Node, child: Child) -> str:
    number = node.children.index(child)
    start, end = child.start, child.node.end
    comma = after_blank(text, end)
    if text[comma] == ",":
        end = comma + 1
        if not _is_alone(text, start, end):
            end += len(text[end:]) - len(text[end:].lstrip(" \t"))
    elif number:
        before = node.children[number - 1].node.end
        comma = after_blank(text, before)
        if text[comma + 1 : start].strip():  # a comment, which stays
            text = text[:comma] + text[comma + 1 :]
            start, end = start - 1, end - 1
        else:
            return text[:comma] + text[end:]
    if _is_alone(text, start, end):
        start = text.rfind("\n", 0, start) + 1
        line = text.find("\n", end)
        end = line + 1 if line >= 0 else len(text)
    return text[:start] + text[end:]


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether there is nothing else in the lines of this part."""
    line = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", end)
    return bool(line) and stop >= 0 and not text[line:start].strip() and not text[end:stop].strip()


def _written(value: object, indent: str, unit: str, newline: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return (newline + indent).join(lines)


def _is_inline(text: str, node: Node) -> bool:
    return "\n" not in text[node.start : node.end] and bool(node.children)


def _indent(text: str, at: int) -> str:
    """The blanks that begin the line of this place."""
    line = text.rfind("\n", 0, at) + 1
    return text[line : line + len(text[line:]) - len(text[line:].lstrip(" \t"))]


def _children_indent(text: str, node: Node, unit: str) -> str:
    for child in reversed(node.children):
        line = text.rfind("\n", 0, child.start) + 1
        if line > node.start and not text[line : child.start].strip():
            return text[line : child.start]
    return _indent(text, node.start) + unit


def _unit(text: str) -> str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
