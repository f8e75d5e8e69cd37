"""The tables of what a session's prompts are made of, and where they come from: its recorded bodies."""

from functools import partial
from typing import Any

from ccflare_cli.cells import shortened
from ccflare_cli.console import Console, Refused, check_made, note_reading, open_sealed
from ccflare_cli.ids import find_session
from ccflare_cli.output import Column, Table, bar, count, money, named, percent
from ccflare_core.config.settings import Settings
from ccflare_core.program import typed
from ccflare_core.reports.composition import Composition, PartTokens, composition, prompts_of
from ccflare_core.text import worded
from ccflare_core.transcripts.prompt_sizes import prompt_sizes

_ESTIMATES = "The parts are estimates: their sizes, turned into tokens by what the upstream has counted in all."


def session_tables(console: Console, settings: Settings, name: str) -> list[Table[Any]]:
    """Where the tokens of the session go that is meant. Raises Refused where nothing tells."""
    check_made(settings)
    with open_sealed(console, settings) as store:
        session = find_session(store, name)
        note_reading(console, store, session, "composition")
        found = composition(session, prompts_of(store.query, session), partial(prompt_sizes, store.query, store.body))
    if found is None:
        raise Refused("No request's body of this session is kept as a whole: recording was off, or they are deleted.")
    return [_session_table(found), _part_table(found)]


def _session_table(found: Composition) -> Table[Composition]:
    return Table(
        key="session",
        title="",
        rows=[found],
        fields=(
            *named("session", "request_id", "tokens", "requests", "looked_into", "session_tokens"),
            ("input_tokens", lambda each: each.new_tokens),
            ("cache_read_tokens", lambda each: each.read_tokens),
            ("cache_creation_tokens", lambda each: each.written_tokens),
            *named("output_tokens", "unknown_costs"),
            ("cost_usd", lambda each: round(each.cost_usd, 8)),
        ),
        columns=(
            Column("Session", lambda each: each.session),
            Column("Requests", lambda each: f"{count(each.requests)} ({count(each.looked_into)} looked into)"),
            Column("All prompts", _prompts),
            Column("Answers", lambda each: f"{count(each.output_tokens)} tokens"),
            Column("Cost", lambda each: money(each.cost_usd, each.unknown_costs)),
            Column("Fullest", lambda each: f"{count(each.tokens)} tokens, `{typed(f'show {each.request_id}')}`"),
        ),
        upright=True,
    )


def _prompts(found: Composition) -> str:
    kinds = (("new", found.new_tokens), ("cache read", found.read_tokens), ("cache write", found.written_tokens))
    return f"{count(found.session_tokens)} tokens ({', '.join(f'{count(number)} {kind}' for kind, number in kinds)})"


def _part_table(found: Composition) -> Table[PartTokens]:
    return Table(
        key="parts",
        title="What the prompts are made of",
        rows=found.parts,
        fields=(
            *named("part", "tokens"),
            ("share", lambda part: round(part.share, 4)),
            ("session_tokens", lambda part: part.session_tokens),
            ("session_share", lambda part: round(part.session_share, 4)),
        ),
        columns=(
            Column("Part", lambda part: worded(part.part), way=shortened(12)),
            Column("Fullest", lambda part: _about(part.tokens), right=True),
            Column("Share", lambda part: percent(part.share, 0), right=True, rank=1),
            Column("All prompts", lambda part: _about(part.session_tokens), right=True),
            Column("Of all", lambda part: percent(part.session_share, 0), right=True),
            Column("", lambda part: bar(part.session_share), rank=2),
        ),
        note=_ESTIMATES,
    )


def _about(tokens: int) -> str:
    return f"~{count(tokens)}"
