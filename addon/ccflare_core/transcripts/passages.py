"""A conversation as people read it: the question first, then what came of it; what is long and dull is a line. Pure.

This is the one rendering for all who show a conversation: the inspector's view, `show.py` and the dashboard lay out the
same sections, each in its own way. Nothing here raises, whatever the bodies hold.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ccflare_core.anthropic.blocks import LAID_OUT, Part, as_json
from ccflare_core.anthropic.conversation import Request, Turn
from ccflare_core.http.sse import parse_json
from ccflare_core.text import size, some
from ccflare_core.transcripts.visible import visible

TURNS = 12
"""How many are shown of those before the question, and of those between it and the answer."""
PARTS = 5000
"""How many of one turn are shown: far more than any client sends."""
ROOM = 128 * 1024
"""Characters that a conversation takes at most, unless somebody asks for all of it."""

_QUESTION, _ANSWER = "the question", "the answer"
_PREVIEW, _NAME = 80, 100
_REMINDER: Final = re.compile(r"<system-reminder>(.*?)(?:</system-reminder>|\Z)", re.DOTALL)
"""What Claude Code says to the model in the user's name."""


class Passage(NamedTuple):
    """Something that was said: its text, with a label of one line unless it is plain speech.

    Where it is folded the label stands for the text, unless somebody asks for that. The text is as it was written until
    `within` or `lines` has shown what would hide in it: looking through all of a long one takes its time.
    """

    label: str
    text: str = ""
    is_folded: bool = False


class Section(NamedTuple):
    """What one role says at a time; `note` tells which turn that is. Without a role the note is all there is."""

    role: str
    note: str
    passages: tuple[Passage, ...] = ()


def sections_of(
    request: Request, answer: Sequence[Turn] = (), *, since: int = TURNS, before: int = TURNS
) -> Iterator[Section]:
    """The question, what came since, the answer, the system's text, the tools, and the turns before the question.

    `since` and `before` are how many of those turns are shown, the last ones.
    """
    names = _names(request)
    system, said, at = _parted(request.turns)
    if at is not None:
        yield _section(said[at], names, _QUESTION)
        yield from _last(said[at + 1 :], names, since, "since the question")
    yield from (_section(turn, names, _ANSWER) for turn in answer)
    yield from (_section(turn, names) for turn in system)
    yield from _tools(request)
    yield from _last(said[:at], names, before, "before the question")


def whole_of(request: Request, answer: Sequence[Turn] = ()) -> Iterator[Section]:
    """All turns in their order, with the system's text and the tools in front."""
    names = _names(request)
    system, said, at = _parted(request.turns)
    yield from (_section(turn, names) for turn in system)
    yield from _tools(request)
    yield from (_section(turn, names, _QUESTION if number == at else "") for number, turn in enumerate(said))
    yield from (_section(turn, names, _ANSWER) for turn in answer)


def within(sections: Iterable[Section], room: int = ROOM) -> Iterator[Section]:
    """The same in so many characters: no passage takes more than half of what is left, and the last ones are left out.

    What is cut or left out is said.
    """
    for section in sections:
        if room <= 0:
            yield Section("", "and more, for which there is no room here")
            return
        fitting: list[Passage] = []
        for passage in section.passages:
            if room <= 0:
                fitting.append(Passage("and more, for which there is no room here"))
                break
            kept, most = passage, room // 2
            if not passage.is_folded and len(passage.text) > most:
                fitting.append(passage._replace(text=visible(passage.text[:most])))
                kept = Passage(f"and {size(len(passage.text) - most)} more")
                room -= most
            fitting.append(kept._replace(text=visible(_clipped(kept.text, ROOM))))
            room -= _PREVIEW if kept.is_folded else len(kept.text) + len(kept.label) + 1
        yield section._replace(passages=tuple(fitting))


def lines(sections: Iterable[Section], heading: str = "# ", *, unfolded: bool = False) -> Iterator[str]:
    """The sections as lines of plain text, as long as they were written: who shows them wraps them."""
    title = ""
    for section in sections:
        if title:
            yield ""
        title = f"{section.role} ({section.note})" if section.role and section.note else section.role or section.note
        yield f"{heading}{title}"
        is_open = False
        for passage in section.passages:
            is_line = not passage.text or (passage.is_folded and not unfolded)
            if is_open:  # what follows a text stands apart from it
                yield ""
            if passage.label or is_open:
                preview = _preview(passage.text) if is_line else ""
                yield f"[{passage.label or 'text'}{preview}]"
            if not is_line:
                yield from visible(passage.text).split("\n")
            is_open = not is_line


def _preview(text: str) -> str:
    """The beginning of what is folded."""
    first = _clipped(" ".join(text[: 4 * _PREVIEW].split()), _PREVIEW)
    return f": {visible(first)}" if first else ""


def _clipped(text: str, most: int) -> str:
    """At most so many characters, with `…` where something was cut."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _names(request: Request) -> dict[str, str]:
    """The names of the tools that were called, by the calls' ids."""
    return {part.id: part.name for turn in request.turns for part in turn.parts if part.id and part.name}


def _parted(turns: Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn], int | None]:
    """The system's own text, which stands in front, what was said, and where the question is in that."""
    is_first = bool(turns) and turns[0].role == "system"
    said = turns[is_first:]
    return turns[:is_first], said, _question(said)


def _question(turns: Sequence[Turn]) -> int | None:
    """Where the user's last own words are; else the last turn that is the user's."""
    theirs = [number for number, turn in enumerate(turns) if turn.role == "user"]
    with_words = (number for number in reversed(theirs) if any(map(_is_spoken, turns[number].parts)))
    return next(with_words, theirs[-1] if theirs else None)


def _is_spoken(part: Part) -> bool:
    if part.kind in ("image", "document"):
        return True
    return part.kind == "text" and any(not text.isspace() for text in _REMINDER.split(part.text)[::2] if text)


def _last(turns: Sequence[Turn], names: Mapping[str, str], most: int, where: str) -> Iterator[Section]:
    """The last of these turns in brief, and how many there are in front of them."""
    if left := turns[: -most or None]:
        length = sum(len(part.text) for turn in left for part in turn.parts)
        yield Section("", f"{some(len(left), 'more turn')} {where}, {size(length)}")
    yield from (_section(turn, names, where, is_brief=True) for turn in turns[len(left) :])


def _section(turn: Turn, names: Mapping[str, str], note: str = "", *, is_brief: bool = False) -> Section:
    is_system = turn.role == "system"
    passages: list[Passage] = []
    for part in turn.parts[:PARTS]:
        if part.kind == "text" and not is_system:
            passages += _spoken(part)
        else:
            passages.append(_labelled(part, names, is_folded=is_brief or is_system))
    if (left := len(turn.parts) - PARTS) > 0:
        passages.append(Passage(f"and {left} more parts"))
    return Section(_word(turn.role), note, tuple(passages))


def _labelled(part: Part, names: Mapping[str, str], *, is_folded: bool) -> Passage:
    """What is no speech, under a label that says what it is. Results and files always fold."""
    is_call, is_result = part.kind.endswith("tool_use"), part.kind.endswith("tool_result")
    text = _laid_out(part.text) if is_call and len(part.text) < LAID_OUT else part.text
    if part.about and not _says_more(part):
        text = ""
    is_folded = bool(text) and (is_folded or is_result or bool(part.about))
    label = " ".join(map(_word, filter(None, (part.kind, part.name or names.get(part.id, ""), part.id))))
    about = _word(part.about) or (_size(text) if is_folded else "")
    told = filter(None, (label, about, "an error" if part.is_error else "", _cached(part)))
    return Passage(", ".join(told), text, is_folded)


def _cached(part: Part) -> str:
    return f"cache_control {_word(part.cached)}" if part.cached else ""


def _says_more(part: Part) -> bool:
    """Whether there is more to read of a file than what it is."""
    return not all(line in part.about or line.startswith("[") for line in part.text.split("\n"))


def _spoken(part: Part) -> Iterator[Passage]:
    """Plain text, with what was put into it by Claude Code folded."""
    text, at = part.text, 0
    for found in _REMINDER.finditer(text):
        if before := text[at : found.start()].strip("\n"):
            yield Passage("", before)
        yield Passage(f"reminder, {_size(found[1])}", found[1].strip("\n"), is_folded=True)
        at = found.end()
    if rest := text[at:].strip("\n"):
        yield Passage("", rest)
    if part.cached:
        yield Passage(_cached(part))


def _tools(request: Request) -> Iterator[Section]:
    if count := len(request.tools):
        label = f"{some(count, 'tool')}, {size(request.tools_size)}"
        yield Section("tools", "", (Passage(label, ", ".join(request.tools), is_folded=True),))


def _laid_out(text: str) -> str:
    """A call's input with a line for each of its values, whose own lines are apart; as it came if it is not whole."""
    values = parse_json(text.encode("utf-8", "replace")) if text.startswith("{") else None
    if not isinstance(values, dict):
        return text
    return "\n".join(f"{name}:{_value(each)}" for name, each in values.items())


def _value(value: object) -> str:
    text = value if isinstance(value, str) else as_json(value)
    return f"\n{text}" if "\n" in text else f" {text}"


def _size(text: str) -> str:
    return size(len(text.encode("utf-8", "replace")))


def _word(text: str) -> str:
    """A name of somebody else's in a line of ours."""
    return _clipped(visible(" ".join(text.split())), _NAME)
