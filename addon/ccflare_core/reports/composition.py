"""What a session's prompts were made of: the parts' sizes, turned into tokens by what the upstream has counted. Pure.

How many tokens a prompt has is known; how they are shared out among its parts is an estimate. Not every request is
looked into: each one that is stands for those beside it, which have mostly the same prompt.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ccflare_core.anthropic.prompt_parts import PromptPart, Sizes
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.reports.tally import Query

LOOKED_INTO: Final = 12
"""How many requests of a session at most: opening and parsing them takes about a second."""

type Look = Callable[[str], Sizes | None]
"""Looks into the request with an id; None where its body, or one before it in its thread, is no longer there."""


class Prompt(NamedTuple):
    """A request of a session that a model has answered. `has_body` says whether it can be looked into."""

    id: str
    agent_id: str
    new_tokens: int
    read_tokens: int
    written_tokens: int
    output_tokens: int
    cost_usd: float | None
    has_body: bool

    @property
    def tokens(self) -> int:
        """Of the whole prompt."""
        return self.new_tokens + self.read_tokens + self.written_tokens


class PartTokens(NamedTuple):
    """About how many tokens a part has in the fullest prompt, and in all prompts of the session together."""

    part: PromptPart
    tokens: int
    share: float
    session_tokens: int
    session_share: float


class Composition(NamedTuple):
    """What a session has sent. All but the `parts` is counted."""

    session: str
    request_id: str
    """That of the fullest prompt of those that can be looked into."""
    tokens: int
    requests: int
    looked_into: int
    session_tokens: int
    new_tokens: int
    read_tokens: int
    written_tokens: int
    output_tokens: int
    cost_usd: float
    unknown_costs: int
    parts: tuple[PartTokens, ...]


def prompts_of(query: Query, session: str) -> list[Prompt]:
    """The session's, those of one agent beside each other, the oldest first."""
    sql = """SELECT id, COALESCE(agent_id, ''), COALESCE(input_tokens, 0), COALESCE(cache_read_input_tokens, 0),
             COALESCE(cache_creation_input_tokens, 0), output_tokens, cost_usd,
             EXISTS (SELECT 1 FROM payloads WHERE request_id = requests.id AND part = 'request'
                     AND NOT truncated AND NOT withheld)
             FROM requests WHERE session_id = ? AND path = ? AND output_tokens IS NOT NULL
             ORDER BY 2, timestamp, id"""
    return [Prompt._make([*row[:7], bool(row[7])]) for row in query(sql, (session, MESSAGES))]


def composition(session: str, prompts: Sequence[Prompt], look: Look) -> Composition | None:
    """What the session's prompts were made of; None if nothing of it can be looked into."""
    looked: dict[int, Sizes] = {}
    for place in _places(prompts):
        sizes = look(prompts[place].id)
        if sizes:
            looked[place] = sizes
    if not looked:
        return None
    fullest = max(looked, key=lambda place: prompts[place].tokens)
    tokens, all_tokens = prompts[fullest].tokens, sum(prompt.tokens for prompt in prompts)
    here, everywhere = _shares(looked[fullest]), _weighed(prompts, looked)
    costs = [prompt.cost_usd for prompt in prompts if prompt.cost_usd is not None]
    return Composition(
        session,
        prompts[fullest].id,
        tokens,
        len(prompts),
        len(looked),
        all_tokens,
        sum(prompt.new_tokens for prompt in prompts),
        sum(prompt.read_tokens for prompt in prompts),
        sum(prompt.written_tokens for prompt in prompts),
        sum(prompt.output_tokens for prompt in prompts),
        sum(costs),
        len(prompts) - len(costs),
        tuple(
            PartTokens(part, round(tokens * here.get(part, 0)), here.get(part, 0), round(all_tokens * share), share)
            for part, share in sorted(everywhere.items(), key=lambda each: (-each[1], each[0]))
        ),
    )


def _places(prompts: Sequence[Prompt]) -> list[int]:
    """Which ones to look into: the fullest, and others from the first to the last."""
    there = [place for place, prompt in enumerate(prompts) if prompt.has_body and prompt.tokens]
    if len(there) <= LOOKED_INTO:
        return there
    step = (len(there) - 1) / (LOOKED_INTO - 2)
    fullest = max(there, key=lambda place: prompts[place].tokens)
    return sorted({fullest, *(there[round(step * number)] for number in range(LOOKED_INTO - 1))})


def _shares(sizes: Sizes) -> dict[PromptPart, float]:
    return {part: size / sizes.total() for part, size in sizes.items()}


def _weighed(prompts: Sequence[Prompt], looked: dict[int, Sizes]) -> dict[PromptPart, float]:
    """The shares in all prompts: each is made of what the closest one of its agent is that was looked into."""
    weights: Counter[int] = Counter()
    for place, prompt in enumerate(prompts):
        weights[min(looked, key=lambda other: _distance(prompts, place, other))] += prompt.tokens
    total = weights.total()
    found: dict[PromptPart, float] = {}
    for place, weight in weights.items():
        for part, share in _shares(looked[place]).items():
            found[part] = found.get(part, 0) + share * weight / total
    return found


def _distance(prompts: Sequence[Prompt], one: int, other: int) -> tuple[bool, int]:
    return prompts[one].agent_id != prompts[other].agent_id, abs(one - other)
