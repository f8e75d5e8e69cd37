"""How many tokens and dollars an exchange counts in its client's budget; unknown usage is estimated. Pure."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, NamedTuple

from ccflare_core.anthropic.deltas import TOKENS_PER_SECOND
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.prompt_size import MOST_PROMPT, estimated_tokens
from ccflare_core.anthropic.request import MOST_OUTPUT, decoded, most_tokens
from ccflare_core.anthropic.routes import COMPLETE, MESSAGES
from ccflare_core.anthropic.usage import Ending, Reading, Usage


class Counted(NamedTuple):
    """Tokens in all and dollars. None: as the record has them, also if it does not know."""

    tokens: int | None = None
    dollars: Decimal | None = None


AS_RECORDED: Final = Counted()
NOTHING: Final = Counted(0, Decimal(0))


@dataclass(frozen=True, slots=True)
class Demand:
    """What was asked for: as much of the request as tells what its answer may use."""

    path: str
    model: str | None
    body: bytes = field(repr=False)
    encoding: str
    is_streamed: bool = False

    @property
    def most_output(self) -> int:
        """How long its answer may be."""
        most = most_tokens(self.body, content_encoding=self.encoding)
        return MOST_OUTPUT if most is None else most

    @property
    def prompt(self) -> int:
        """The tokens of its prompt, estimated; those of the longest one there is if it cannot be read."""
        text = decoded(self.body, self.encoding)
        return estimated_tokens(text.data) if text.whole else MOST_PROMPT


def presumed(reading: Reading, prices: PriceList, asked: Demand, status: int | None) -> Counted:
    """What a budget takes for an answer whose output nobody has counted to its end.

    A stream that broke off counts for all its deltas and for the thinking that was not shown, a body that cannot be
    read for all that the request allowed; neither for more than that. Text completions (/v1/complete) never tell what
    they used.
    """
    if status == 200 and asked.path == COMPLETE:
        return _of(asked, prices, asked.prompt, asked.most_output)
    used = reading.usage
    is_known = used.output_tokens is not None and not reading.is_estimated
    is_unread = not reading.is_readable or reading.ending is Ending.TRUNCATED or reading.is_estimated
    if asked.path != MESSAGES or status != 200 or is_known or not is_unread:
        return AS_RECORDED
    output = asked.most_output
    if reading.is_readable and reading.presumed_output is not None:
        output = min(output, reading.presumed_output)
    prompt = asked.prompt if used.input_tokens is None else used.input_tokens
    told = replace(reading, usage=replace(used, input_tokens=prompt, output_tokens=output))
    return Counted(sum(_tokens(part.usage) for part in told.messages(asked.model)), prices.cost_of(told, asked.model))


def unanswered(prices: PriceList, asked: Demand, seconds: float) -> Counted:
    """What a budget takes for a request that was given up so long after it went out, before its answer had begun.

    The upstream has read the prompt, and goes on working. A stream begins before its first token is made; an answer
    that comes as a whole is made by then as far as the time went.
    """
    if asked.path not in (MESSAGES, COMPLETE):
        return AS_RECORDED
    output = 0 if asked.is_streamed else min(asked.most_output, round(seconds * TOKENS_PER_SECOND))
    return _of(asked, prices, asked.prompt, output)


def _of(asked: Demand, prices: PriceList, prompt: int, output: int) -> Counted:
    used = Usage(input_tokens=prompt, output_tokens=output)
    return Counted(prompt + output, prices.cost(asked.model, used))


def _tokens(usage: Usage) -> int:
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    return sum(count or 0 for count in counts)
