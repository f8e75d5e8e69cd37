"""The table of advice: what to change, what it is worth, and where to look."""

from collections.abc import Sequence

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, count, money, named, percent, short_id
from ccflare_core.program import typed
from ccflare_core.reports.advice import Advice
from ccflare_core.text import worded

_WORTH = "Dollars are list prices, whoever pays them; ? is what nobody knows."


def advice_table(found: Sequence[Advice], note: str, title: str) -> Table[Advice]:
    """One row for each thing to change, the dearest first."""
    return Table(
        key="advice",
        title=title,
        rows=found,
        fields=(
            *named("kind", "subject", "text", "requests"),
            ("usd", lambda advice: None if advice.usd is None else round(advice.usd, 8)),
            *named("unpriced_tokens", "tokens", "window"),
            ("share", lambda advice: None if advice.share is None else round(advice.share, 4)),
            *named("account", "request_ids", "sessions"),
        ),
        columns=(
            Column("Worth", worth, right=True, legend=_WORTH),
            Column("About", lambda advice: worded(advice.kind), way=wrapped(8)),
            Column("Of", lambda advice: advice.subject, way=shortened(12), under="About"),
            Column("Advice", lambda advice: advice.text, way=wrapped(30)),
            Column("Requests", lambda advice: count(advice.requests), right=True, rank=1),
            Column(
                "Look at",
                lambda advice: ", ".join([*advice.request_ids, *advice.sessions]) or DASH,
                brief=lambda advice: short_id(next(iter([*advice.request_ids, *advice.sessions]), None)),
                rank=2,
                legend=f"Look at a request with `{typed('show ID')}`, at a session with "
                f"`{typed('show last --session ID')}`.",
            ),
        ),
        empty="Nothing to change: this record gives no reason to.",
        note=note,
    )


def worth(advice: Advice) -> str:
    """What it is worth, in the unit that it is known in."""
    if advice.usd is not None or advice.unpriced_tokens:
        return money(advice.usd, advice.unpriced_tokens)
    return "?" if advice.share is None else f"{percent(advice.share, 0)} of {advice.window}"
