"""What a request says of itself, as the owner's rules ask for it. Pure.

Claude Code leaves its project out of some requests, and all of its prompt out of one that goes on with a message
thread. What the same session has said before counts then; where nothing is known of it, that is not the same as nothing
said, and rules have to take it for whatever it may be.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from ccflare_core.anthropic.claude_code import CLAUDE_CODE
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.clients.guardrails import Said, Trait, Traits
from ccflare_core.exchange.story import Story

_MOST: Final = 10_000


class Legible(NamedTuple):
    """What of a request could be read."""

    session: Said = ()
    has_text: bool = True
    """Whether names and prompts can be looked for in its body, which has no coding then."""
    whole: bool = True
    """Whether its prompt is all here, and not in a thread that it goes on with."""
    has_agents: bool = False
    """Whether there are agents that it could be of."""


class Remembered:
    """What sessions have said, of their project for example. The least recently used go first."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str | None, ...], str] = OrderedDict()

    def recall(self, what: tuple[str | None, ...], said: str | None) -> str | None:
        """What it says now, or else has said before; "" if that was nothing. `what` begins with whose it is."""
        if said is not None:
            self._known[what] = said
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        if (known := self._known.get(what)) is not None:
            self._known.move_to_end(what)
        return known


def traits_of(
    story: Story, legible: Legible, remembered: Remembered, wall: float, models: Callable[[], Said]
) -> Traits:
    """The traits of a request of which it is known by now where it comes from. `models` are those that it asks for."""
    opening = story.opening
    is_read = legible.has_text or opening.path != MESSAGES
    said: dict[Trait, Said] = {
        Trait.PROJECT: _project(story, legible, remembered),
        Trait.CLIENT: _some(opening.key.name if opening.key else None),
        Trait.RUN: _some(opening.run.id if opening.run else None),
        Trait.SESSION: legible.session,
        Trait.TAG: tuple([f"{name}={value}" for name, value in opening.tags.items()]),
        Trait.AGENT: _agent(story, legible, remembered) if legible.has_agents else (),
        Trait.CLASS: _some(story.provenance.request_class) if is_read else None,
    }
    return Traits(said, lambda: minute_of(wall), models)


def minute_of(wall: float) -> int:
    """The minute of the day that it is on this machine's clock."""
    local = datetime.fromtimestamp(wall, UTC).astimezone()
    return local.hour * 60 + local.minute


def _project(story: Story, legible: Legible, remembered: Remembered) -> Said:
    """Claude Code has one, said or not. Of others it is enough that they say none where they could."""
    has_one = story.opening.user_agent.startswith(CLAUDE_CODE)
    said = story.project or (None if has_one or not legible.whole else "")
    return _recalled(story, legible, remembered, ("project",), said)


def _agent(story: Story, legible: Legible, remembered: Remembered) -> Said:
    """What one of a session's agents has said is not another one's word."""
    said = story.agent or "" if legible.has_text and legible.whole else None
    return _recalled(story, legible, remembered, ("agent", story.provenance.agent_id), said)


def _recalled(
    story: Story, legible: Legible, remembered: Remembered, what: tuple[str | None, ...], said: str | None
) -> Said:
    if legible.session:
        said = remembered.recall((story.opening.client_key, *legible.session, *what), said)
    return None if said is None else _some(said or None)


def _some(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)
