"""Advice about money: cache lost by moving, requests for a batch, short answers on the dearest family.

Dollars are list prices, whoever pays for them. What nobody knows the price of is in no sum.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import batched
from typing import Any, Final, NamedTuple

from ccflare_core.accounts.account import Kind as AccountKind
from ccflare_core.anthropic.pricing import BATCH_FACTOR, WEB_SEARCH, Price, PriceList, Tariff
from ccflare_core.anthropic.request import family
from ccflare_core.anthropic.routes import MESSAGES
from ccflare_core.program import typed
from ccflare_core.reports.advice import LEAST_USD, Advice, Kind, largest
from ccflare_core.reports.figures import count, money, short_model
from ccflare_core.reports.measures import SLOT_MS
from ccflare_core.reports.prompt_cache import cache_uses
from ccflare_core.reports.queries import Reports
from ccflare_core.reports.tally import Query, marks
from ccflare_core.reports.traffic import By, Period, Traffic
from ccflare_core.text import some

LEAST_TOKENS: Final = 1_000_000
"""The floor of what has no price: the cheapest model but Haiku 5.5 takes a dollar for so many."""
BULK: Final = 20
"""Requests of one client to one model within a quarter of an hour: fewer may have somebody who waits for each."""
SHORT: Final = 300
"""Tokens of an answer: a title, a name, yes or no and why. About 200 words, with what was thought for them."""
MOST_SESSIONS: Final = 2_000
"""How many sessions are looked into, the dearest first; the others are worth less, and the sum is at least that."""
_AT_ONCE = 500
_ENDED = "stop_reason IN ('end_turn', 'stop_sequence')"
"""Neither a tool was called nor was anything cut; NULL, where nobody said, is no such end."""
_NO_SESSION = "COALESCE(session_id, '') = ''"
"""Written so that no planner looks through all of those ever recorded for it."""
_CLAUDE = "claude-"
_VERSION = re.compile(r"(?<!\d)\d{1,2}(?!\d)")
"""A number of a model's version, not its date."""


def cost_advice(query: Query, reports: Reports, prices: PriceList, period: Period) -> Iterator[Advice]:
    """What the record of the period says of costs."""
    groups = reports.traffic(period, (By.SESSION, By.MODEL), latencies=False, switches=True)
    yield from moved_sessions(groups, prices)
    yield from batches(query, period)
    yield from short_answers(query, groups, prices, period)


# Sessions that moved


def moved_sessions(groups: Sequence[Traffic], prices: PriceList) -> Iterator[Advice]:
    """What it cost that sessions went on with other accounts; the last key of the groups is the model."""
    moved = [group for group in groups if group.switches]
    for total in cache_uses(moved, prices, total=True):
        if total.cost_usd < LEAST_USD and total.unpriced_tokens < LEAST_TOKENS:
            continue
        thought = f" and {count(total.lost_thinking_tokens)} of thinking lost" if total.lost_thinking_tokens else ""
        yield Advice(
            Kind.MOVED_SESSIONS,
            "",
            f"{some(total.switches, 'request')} went to another account than the one before: "
            f"{count(total.rebilled_tokens)} tokens were written to a cache again{thought}. With ccflare_strategy "
            f"`session` only a limit or a failure moves one; `{typed('stats errors')}` says which.",
            total.switches,
            usd=total.cost_usd if total.cost_usd or not total.unpriced_tokens else None,
            unpriced_tokens=total.unpriced_tokens,
            tokens=total.rebilled_tokens + total.lost_thinking_tokens,
            sessions=largest({use.keys[0]: use.cost_usd or use.unpriced_tokens for use in cache_uses(moved, prices)}),
        )


# Requests that could go to a batch

# A batch takes no fast mode, and a loop of tool calls waits for each of its answers. Subscriptions pay no list price.
_BULK = f"""
    SELECT client_id, MAX(client_name), model, SUM(requests), SUM(cost), SUM(searches), MAX(example) FROM (
        SELECT client_id, MAX(client_name) AS client_name, model, COUNT(*) AS requests, SUM(cost_usd) AS cost,
            SUM(COALESCE(web_search_requests, 0)) AS searches, MAX(id) AS example
        FROM requests WHERE account_used = ? AND timestamp >= ? AND timestamp < ? AND path = ? AND outcome = 'ok'
        AND {_NO_SESSION} AND COALESCE(previous_message_id, '') = '' AND NOT stream AND cost_usd IS NOT NULL
        AND stop_reason IN ('end_turn', 'stop_sequence', 'max_tokens')
        AND COALESCE(service_tier, '') <> 'batch' AND COALESCE(speed, '') <> 'fast'
        GROUP BY client_id, model, timestamp / {SLOT_MS} HAVING COUNT(*) >= {BULK}
    ) AS bulk GROUP BY client_id, model"""  # noqa: S608


def batches(query: Query, period: Period) -> Iterator[Advice]:
    """What clients sent one by one in bulk, with an API key, not streamed and without a session: half of its price."""
    found: defaultdict[tuple[str | None, str], list[Sequence[Any]]] = defaultdict(list)
    sql = "SELECT id FROM accounts WHERE kind = ? ORDER BY id"
    for (account,) in [*query(sql, (AccountKind.API_KEY.value,))]:
        for row in query(_BULK, (account, *period.bounds_ms(), MESSAGES)):
            found[row[0], row[2]].append(row)
    for (_, model), rows in found.items():
        paid = sum(float(row[4]) - float(WEB_SEARCH) * int(row[5]) for row in rows)
        saved = paid * float(1 - BATCH_FACTOR)
        if saved >= LEAST_USD:
            requests = sum(int(row[3]) for row in rows)
            yield Advice(
                Kind.BATCHES,
                str(rows[0][1] or ""),
                f"{some(requests, 'request')} to {short_model(model)} came in bulk, not streamed, and each for itself. "
                "If nobody waits for the answers, the Batches API has them within 24 h at half the price.",
                requests,
                usd=saved,
                request_ids=tuple(str(row[6]) for row in rows),
            )


# Short answers on the dearest family

_SUMS = """COUNT(*), SUM(cost_usd), SUM(COALESCE(input_tokens, 0)), SUM(output_tokens),
    SUM(COALESCE(cache_creation_input_tokens, 0) - COALESCE(cache_creation_1h_input_tokens, 0)),
    SUM(COALESCE(cache_creation_1h_input_tokens, 0)), SUM(COALESCE(cache_read_input_tokens, 0)), MAX(id)"""
_ALONE = f"""SELECT NULL, model, {_SUMS} FROM requests WHERE timestamp >= ? AND timestamp < ? AND {_NO_SESSION}
    AND output_tokens <= {SHORT} AND cost_usd IS NOT NULL AND {_ENDED} AND model IN ({{marks}}) GROUP BY model"""  # noqa: S608
# A session's agents, and its models, have conversations of their own.
_CONVERSATIONS = f"""SELECT session_id, model, {_SUMS} FROM requests WHERE timestamp >= ? AND timestamp < ?
    AND model IN ({{marks}}) AND session_id IN ({{sessions}}) AND output_tokens IS NOT NULL
    GROUP BY session_id, agent_id, model
    HAVING MAX(output_tokens) <= {SHORT} AND COUNT(cost_usd) = COUNT(*)
    AND SUM(CASE WHEN {_ENDED} THEN 1 ELSE 0 END) = COUNT(*)"""  # noqa: S608


class ShortTalk(NamedTuple):
    """A conversation, or requests without a session, in which nothing but short answers was given."""

    session: str | None
    model: str
    requests: int
    usd: float
    tokens: Price
    """How many of each kind that has a price."""
    example: str

    def costs(self, tariff: Tariff) -> float:
        """What it would have cost by these prices."""
        tokens, long = self.tokens, tariff.long
        prompt = (tokens.input + tokens.cache_write_5m + tokens.cache_write_1h + tokens.cache_read) / self.requests
        price = long.price if long and prompt > long.above else tariff.standard
        return float(sum((number * each for number, each in zip(tokens, price, strict=True)), Decimal(0)).scaleb(-6))


def short_answers(query: Query, groups: Sequence[Traffic], prices: PriceList, period: Period) -> Iterator[Advice]:
    """Conversations with the dearest family in which no answer was long or called a tool, and what the next one takes.

    Of a long conversation's last answer nothing is said: its prompt is in the cache of the model that it began with.
    """
    models = _dearest([model for group in groups if (model := group.keys[1])], prices)
    if not (next_one := _next(models, prices)):
        return
    talks = [*_short_talks(query, [group for group in groups if group.keys[1] in models], models, period)]
    tariff = prices.tariffs[next_one]
    usd, less = sum(talk.usd for talk in talks), sum(talk.costs(tariff) for talk in talks)
    if usd - less < LEAST_USD:
        return
    requests = sum(talk.requests for talk in talks)
    yield Advice(
        Kind.SHORT_ANSWERS,
        family(models[0]),
        f"{some(requests, 'request')} in conversations without a tool call or an answer of more than {SHORT} tokens "
        f"cost {money(usd)}; with {short_model(next_one)} it would have been {money(less)}.",
        requests,
        usd=usd - less,
        request_ids=tuple(talk.example for talk in talks if talk.session is None),
        sessions=largest(_by_session(talks)),
    )


def _by_session(talks: Iterable[ShortTalk]) -> dict[str | None, float]:
    found: defaultdict[str | None, float] = defaultdict(float)
    for talk in talks:
        found[talk.session] += talk.usd
    return dict(found)


def _dearest(used: Iterable[str], prices: PriceList) -> list[str]:
    """Those of the models in use that are of the family whose output is dearest; of equals all are."""
    found: defaultdict[str, dict[str, Decimal]] = defaultdict(dict)
    for model in used:
        if tariff := prices.tariff(model):
            found[family(model)][model] = tariff.standard.output
    models = max(found.values(), key=lambda costs: max(costs.values()), default={})
    return sorted(models)


def _next(models: Sequence[str], prices: PriceList) -> str | None:
    """The newest model of the next family whose output is cheaper than that of all these; None if there is none."""
    outputs = {model: tariff.standard.output for model, tariff in prices.tariffs.items()}
    least = min((tariff.standard.output for model in models if (tariff := prices.tariff(model))), default=Decimal(0))
    newest = {family(model): model for model in sorted(outputs, key=_version) if model.startswith(_CLAUDE)}
    cheaper = [model for model in newest.values() if outputs[model] < least and family(model) != family(models[0])]
    return max(cheaper, key=lambda model: outputs[model], default=None)


def _version(model: str) -> tuple[int, ...]:
    return tuple(map(int, _VERSION.findall(model)))


def _short_talks(query: Query, groups: Sequence[Traffic], models: Sequence[str], period: Period) -> Iterator[ShortTalk]:
    bounds, those = period.bounds_ms(), marks(models)
    if any(group.keys[0] is None for group in groups):
        yield from map(_talk, query(_ALONE.format(marks=those), (*bounds, *models)))
    # On the average, what is looked for is short: nearly all sessions are told apart by their sums.
    short = [group for group in groups if group.keys[0] and group.output_tokens <= SHORT * group.requests]
    short.sort(key=lambda group: -group.cost_usd)
    for some_sessions in batched(dict.fromkeys(group.keys[0] for group in short[:MOST_SESSIONS]), _AT_ONCE):
        sql = _CONVERSATIONS.format(marks=those, sessions=marks(some_sessions))
        yield from map(_talk, query(sql, (*bounds, *models, *some_sessions)))


def _talk(row: Sequence[Any]) -> ShortTalk:
    session, model, requests, usd, *tokens, example = row
    return ShortTalk(session, model, int(requests), float(usd), Price(*map(Decimal, map(int, tokens))), example)
