"""An exchange in a few lines above its conversation: who served it, what came of it, what it took, its attempts."""

from collections.abc import Callable, Iterator

from ccflare_core.anthropic.usage import Reading, Usage
from ccflare_core.exchange.log_line import money, served_by, waited
from ccflare_core.exchange.steps import Attempt
from ccflare_core.exchange.story import Story
from ccflare_core.text import local_time

ATTEMPTS = 3
"""How many are shown, the last ones."""


def summary(story: Story, reading: Reading | None, now: float) -> Iterator[str]:
    """`name: value`, a line each. `reading` is what its answer says, as far as it has come; `now` in epoch seconds."""
    why = f" ({story.choice_reason})" if story.choice_reason else ""
    yield f"account: {served_by(story)}{why}"
    yield f"client: {story.opening.key.name if story.opening.key else story.opening.client}"
    model = (reading.model if reading else None) or story.facts.model or "?"
    stand_in = story.stand_in()
    yield f"model: {model} ({stand_in})" if stand_in else f"model: {model}"
    yield f"outcome: {_outcome(story, now)}"
    if reading is not None:
        cost = "" if story.cost is None else f", {money(story.cost)}"
        yield from usage_lines(reading, cost)
    left = len(story.attempts) - ATTEMPTS
    if left > 0:
        yield f"attempts: {left} more before these"
    for attempt in story.attempts[-ATTEMPTS:]:
        yield attempt_line(attempt)


def usage_lines(reading: Reading, cost: str = "") -> Iterator[str]:
    """What an answer says of its tokens, and why it stopped."""
    if told := _usage(reading.usage, "~" * reading.is_estimated):
        yield f"usage: {told}{cost}"
    if reading.stop_reason:
        refused = f" ({reading.refusal})" if reading.refusal else ""
        yield f"stopped: {reading.stop_reason}{refused}"


def _usage(usage: Usage, about: str) -> str:
    prompt = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    thinking = f" ({usage.thinking_tokens:,} thinking)" if usage.thinking_tokens else ""
    return tokens_in_words(*prompt, usage.output_tokens, about) + thinking


def tokens_in_words(
    new: int | None,
    read: int | None,
    written: int | None,
    out: int | None,
    about: str = "",
    show: Callable[[int], str] = "{:,}".format,
) -> str:
    """`1,204 in (1,000 new, 204 cache read), 312 out`: the whole prompt, with its parts where the cache has some."""
    parts = {"new": new, "cache read": read, "cache write": written}
    split = ", ".join(f"{show(number)} {name}" for name, number in parts.items() if number)
    told = []
    if any(number is not None for number in parts.values()):
        total = sum(number or 0 for number in parts.values())
        told.append(f"{show(total)} in" + (f" ({split})" if read or written else ""))
    if out is not None:
        told.append(f"{about}{show(out)} out")
    return ", ".join(told)


def _outcome(story: Story, now: float) -> str:
    if story.outcome is None:
        status = "no answer yet" if story.status is None else f"{story.status}, and it still comes"
        return f"{status}, after {max(0.0, now - story.started_at):.1f} s"
    status = "" if story.status is None else f" ({story.status})"
    error = f": {story.error}" if story.error else ""
    wait = waited(story.waited, ", with ")
    return f"{story.outcome.in_words}{status} after {story.duration:.1f} s{wait}{error}"


def attempt_line(attempt: Attempt) -> str:
    """`attempt 1: max-1, 5h window spent until 14:20, 0.3 s`."""
    verdict = attempt.verdict
    until = f" until {local_time(verdict.until, attempt.started_at)}" if verdict.until else ""
    wait = waited(attempt.waited, ", after ")
    return f"attempt {attempt.number}: {attempt.account_name}, {verdict.reason}{until}, {attempt.duration:.1f} s{wait}"
