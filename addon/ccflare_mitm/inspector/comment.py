"""A flow's comment: its first line tells the exchange in the list, the others what happened and what to search by.

mitmweb's list and its search box know of a flow what its address, its headers and its comment say, and nothing else.
"""

import itertools
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final
from weakref import WeakKeyDictionary

from mitmproxy import http

from ccflare_core.exchange.final_row import recorded_tags
from ccflare_core.exchange.log_line import money, served_by, waited
from ccflare_core.exchange.steps import Outcome, Ticket
from ccflare_core.exchange.story import Story
from ccflare_core.exchange.summary import ATTEMPTS, attempt_line
from ccflare_core.text import local_time
from ccflare_core.transcripts.visible import visible

MOVED, AGAIN, WRONG, ASKS = "→", "↻", "✗", "▸"

LONGEST_NAME: Final = 12
"""Characters of an account's name in the first line, so that its 25 first ones have room for the model."""


class Comments:
    """Writes them into flows. What a person has written into one stays, above ours."""

    def __init__(self) -> None:
        self._told: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        self._said: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        self._ours: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()

    def write(self, flow: http.HTTPFlow, story: Story) -> bool:
        """Whether the flow has another comment now."""
        self._told[flow] = comment(story)
        return self._renew(flow)

    def keep(self, flow: http.HTTPFlow) -> None:
        """What the flow's comment says so far is ours, and was not written by a person."""
        self._told[flow] = self._ours[flow] = flow.comment

    def told(self, flow: http.HTTPFlow) -> list[str]:
        """What its first lines tell of the exchange: who served it, and the last attempts; nothing of others."""
        head, *attempts = self._told.get(flow, "").splitlines()[:-1] or [""]
        return [each for each in (head, *attempts[-ATTEMPTS:]) if each]

    def say(self, flow: http.HTTPFlow, sentence: str) -> bool:
        """The same with a sentence over it, where the list shows it; without one ("") the last one goes."""
        self._said[flow] = visible(sentence)
        return self._renew(flow)

    def _renew(self, flow: http.HTTPFlow) -> bool:
        ours = "\n".join(each for each in (self._said.get(flow), self._told.get(flow)) if each)
        if ours == (before := self._ours.get(flow, "")):
            return False
        note = flow.comment.removesuffix(before).rstrip("\n")
        flow.comment = f"{note}\n{ours}" if note and ours else note or ours
        self._ours[flow] = ours
        return True


def comment(story: Story) -> str:
    """All of it. Characters that could not be seen are named."""
    lines = (headline(story), *map(attempt_line, story.attempts), _to_search_by(story))
    return "\n".join(visible(" ".join(line.split())) for line in lines)


def headline(story: Story) -> str:
    """`office→max-1 ▸ opus-5-5 · 1.2k→312 · $0.012 · 5h spent until 14:20`."""
    model = f"{ASKS} {told}" if (told := model_of(story)) else ""
    parts = [f"{who(story)} {model}".strip(), *used(story), *_reasons(story)]
    if wait := waited(story.waited):
        parts.append(wait)
    if stand_in := story.stand_in(_short_model):
        parts.append(stand_in)
    if (key := story.opening.key) is not None:
        parts.append(f"for {key.name}")
    return " · ".join(part for part in parts if part)


def who(story: Story) -> str:
    """The accounts in the order in which they were asked, how often one was asked again, and what has failed."""
    asked = [attempt.account_name for attempt in story.attempts]
    if story.lease is not None and (not asked or asked[-1] != story.lease.account.name):
        asked.append(story.lease.account.name)
    names = [name for name, _ in itertools.groupby(asked)] or _nobody(story)
    if len(names) > 3:
        names[1:-1] = ["…"]
    again = sum(one == other for one, other in itertools.pairwise(asked))
    told = MOVED.join(_cut(name) for name in names) + (f" {AGAIN}{again}" if again else "")
    wrong = failure(story)
    return f"{told} {WRONG} {wrong}".strip() if wrong else told


def _nobody(story: Story) -> list[str]:
    """Who stands there of whom no account was asked."""
    if story.ticket is Ticket.PASS:
        return ["own credential"]
    return [] if failure(story) else [served_by(story)]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME + 2 else f"{name[:LONGEST_NAME]}…"


def failure(story: Story) -> str:
    """What has failed; "" if nothing has."""
    match story.outcome:
        case None | Outcome.OK:
            return ""
        case Outcome.CLIENT_ABORT:
            return "the client left"
        case outcome:
            return story.error or outcome.replace("_", " ")


def model_of(story: Story) -> str:
    """The model that has answered, or was asked for; "" if it asks for none."""
    model = (story.reading.model if story.reading else None) or story.facts.model
    return _short_model(model)[:40] if model else ""


def _short_model(model: str) -> str:
    return model.removeprefix("claude-")


def used(story: Story) -> Iterator[str]:
    """Tokens in and out, and dollars."""
    reading = story.reading
    if reading is None or (usage := reading.usage).input_tokens is None:
        return
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    about = "~" * reading.is_estimated
    yield f"{short(read)}{MOVED}{about}{short(usage.output_tokens or 0)}"
    yield f"{about}{short_money(story.cost)}"


def short(number: int) -> str:
    """`312`, `1.2k`, `12k`, `1.2M`."""
    for limit, unit in ((999_500, "M"), (1_000, "k")):
        if number >= limit:
            scaled = number / (1e6 if unit == "M" else 1e3)
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return str(number)


def short_money(cost: Decimal | None) -> str:
    """Dollars with two digits that count; small ones as everywhere."""
    if cost is None or cost < Decimal("0.01"):
        return money(cost)
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.3f}"


def _reasons(story: Story) -> Iterator[str]:
    """Why each account was left, in their order: `5h spent until 14:20`."""
    final = story.lease.account.id if story.lease else None
    for verdict in {a.account_id: a.verdict for a in story.attempts if a.account_id != final}.values():
        until = f" until {local_time(verdict.until, story.started_at)}" if verdict.until else ""
        yield f"{verdict.reason.replace(' window spent', ' spent')}{until}"


def _to_search_by(story: Story) -> str:
    key = story.opening.key
    known = {
        "account": story.lease.account.name if story.lease else None,
        "session": story.facts.session_id,
        "project": story.project,
        "key": key.name if key else None,
        "outcome": story.outcome or "running",
        "request": story.id,
        "replay": story.opening.replay_of,
    }
    return searchable(known, recorded_tags(story))


def searchable(known: Mapping[str, object], tags: Mapping[str, str]) -> str:
    """What mitmweb's search box is to find: each that is known by its name, and the tags."""
    told = [f"{name}={value}" for name, value in known.items() if value]
    return " ".join([*told, *(f"tag={name}={value}" for name, value in tags.items())])
