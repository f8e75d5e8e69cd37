"""How many tokens and dollars an exchange counts in its client's budget; unknown usage is estimated. Pure."""

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.anthropic.request import most_tokens
from ccflare_core.anthropic.usage import Ending, Reading, Usage

MOST_OUTPUT = 128_000
"""Tokens of the longest answer, for a request whose own limit cannot be read."""

_MESSAGES = "/v1/messages"


class Counted(NamedTuple):
    """Tokens in all and dollars. None: as the record has them, also if it does not know."""

    tokens: int | None = None
    dollars: Decimal | None = None


AS_RECORDED = Counted()


def presumed(
    reading: Reading, prices: PriceList, *, path: str, status: int | None, model: str | None, body: bytes, encoding: str
) -> Counted:
    """What a budget takes for an answer whose output nobody has counted to its end.

    A stream that broke off counts for all its deltas and for the thinking that was not shown, a body that cannot be
    read for all that the request allowed; neither for more than that. `body` and `encoding` are the request's.
    """
    used = reading.usage
    is_known = used.output_tokens is not None and not reading.is_estimated
    is_unread = not reading.is_readable or reading.ending is Ending.TRUNCATED or reading.is_estimated
    if path != _MESSAGES or status != 200 or is_known or not is_unread:
        return AS_RECORDED
    most = most_tokens(body, content_encoding=encoding)
    output = MOST_OUTPUT if most is None else most
    if reading.is_readable and reading.presumed_output is not None:
        output = min(output, reading.presumed_output)
    told = replace(reading, usage=replace(used, input_tokens=used.input_tokens or 0, output_tokens=output))
    return Counted(sum(_tokens(part.usage) for part in told.messages(model)), prices.cost_of(told, model))


def _tokens(usage: Usage) -> int:
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    return sum(count or 0 for count in counts)
