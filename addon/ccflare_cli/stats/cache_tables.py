"""The tables of the prompt cache."""

from collections.abc import Callable, Sequence

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import Column, Table, count, iso, moment, money, named, percent, short_model
from ccflare_core.reports.prompt_cache import CacheUse
from ccflare_core.reports.traffic import By

_NONE = "(none)"
_REBILLED = "Re-billed: written again because the former account had it cached; priced as writing less reading."
_LOST = "Thinking lost: what the former account had thought, for models that tie it to the account; priced as output."


def cache_table(uses: Sequence[CacheUse], by: Sequence[By], title: str, note: str, now: float) -> Table[CacheUse]:
    """One row for each group: how much came from the cache, and what switches between accounts cost."""
    return Table(
        key="_".join(["cache", *(["by", *by] if by else [])]),
        title=title,
        rows=uses,
        fields=(
            *((split.value, _key(index)) for index, split in enumerate(by)),
            ("requests", lambda use: use.requests),
            ("input_tokens", lambda use: use.uncached_tokens),
            ("cache_read_tokens", lambda use: use.read_tokens),
            ("cache_creation_tokens", lambda use: use.written_tokens),
            ("cache_hit_rate", lambda use: use.hit_rate),
            *named("switches", "rebilled_tokens"),
            ("rebilled_usd", lambda use: round(use.rebilled_usd, 8)),
            ("lost_thinking_tokens", lambda use: use.lost_thinking_tokens),
            ("lost_thinking_usd", lambda use: round(use.lost_thinking_usd, 8)),
            ("switch_cost_usd", lambda use: round(use.cost_usd, 8)),
            ("rebilled_tokens_of_unknown_price", lambda use: use.unpriced_tokens),
            ("last_at", lambda use: iso(use.last_at)),
        ),
        columns=(
            *(Column(split.capitalize(), _shown(index, split), way=shortened(12)) for index, split in enumerate(by)),
            Column("Requests", lambda use: count(use.requests), right=True),
            Column("Hits", lambda use: percent(use.hit_rate), right=True),
            Column("In", lambda use: count(_prompt(use)), right=True),
            Column("New", lambda use: count(use.uncached_tokens), right=True, rank=4),
            Column("Read", lambda use: count(use.read_tokens), right=True, rank=4),
            Column("Write", lambda use: count(use.written_tokens), right=True, rank=4),
            Column("Switches", lambda use: count(use.switches), right=True, rank=1),
            Column("Re-billed", lambda use: count(use.rebilled_tokens), right=True, legend=_REBILLED),
            Column("Thinking lost", lambda use: count(use.lost_thinking_tokens), right=True, rank=2, legend=_LOST),
            Column("Cost", lambda use: money(use.cost_usd, use.unpriced_tokens), right=True),
            *([_last(now)] if By.SESSION in by else []),
        ),
        empty="No requests.",
        note=note,
        upright=not by,
    )


def _last(now: float) -> Column[CacheUse]:
    return Column("Last", lambda use: moment(use.last_at, now), rank=3, way=wrapped(10))


def _prompt(use: CacheUse) -> int:
    return use.uncached_tokens + use.read_tokens + use.written_tokens


def _key(index: int) -> Callable[[CacheUse], str | None]:
    return lambda use: use.keys[index]


def _shown(index: int, split: By) -> Callable[[CacheUse], str]:
    def show(use: CacheUse) -> str:
        key = use.keys[index]
        if key is None:
            return _NONE
        return short_model(key) if split is By.MODEL else key

    return show
