"""The tables of what goes on within requests and sessions: other models' parts, subagents."""

from collections.abc import Callable, Sequence

from ccflare_cli.output import Column, Table, clip, count, iso, moment, money, short_model
from ccflare_core.reports.within import PartUse, Subagent

_MAIN = "(main)"


def part_table(uses: Sequence[PartUse], title: str) -> Table[PartUse]:
    """What advisors and compactions have used, which the requests' own tokens leave out."""
    return Table(
        key="within_requests",
        title=title,
        rows=uses,
        fields=tuple((name, _field(name)) for name in PartUse._fields),
        columns=(
            Column("Model", lambda use: clip(short_model(use.model) or "(none)", 22)),
            Column("What for", lambda use: use.kind.replace("_", " ")),
            Column("Calls", lambda use: count(use.calls), right=True),
            Column("In", lambda use: count(use.input_tokens), right=True),
            Column("Read", lambda use: count(use.cache_read_tokens), right=True),
            Column("Write", lambda use: count(use.cache_creation_tokens), right=True),
            Column("Out", lambda use: count(use.output_tokens), right=True),
            Column("Cost", lambda use: money(use.cost_usd, use.unknown_costs), right=True),
        ),
        note="These tokens come on top of those above; their cost is in that of the requests.",
    )


def subagent_table(agents: Sequence[Subagent], title: str, now: float, note: str = "") -> Table[Subagent]:
    """The agents of sessions as trees."""
    return Table(
        key="subagents",
        title=title,
        rows=agents,
        fields=tuple((name, _agent_field(name)) for name in Subagent._fields),
        columns=(
            Column("Session", lambda agent: clip(agent.session, 14) if not agent.depth else ""),
            Column("Agent", lambda agent: clip("  " * agent.depth + (agent.agent_id or _MAIN), 40)),
            Column("Name", lambda agent: clip(agent.name or "", 20)),
            Column("Requests", lambda agent: count(agent.requests), right=True),
            Column("Prompt", lambda agent: count(agent.prompt_tokens), right=True),
            Column("Out", lambda agent: about(agent.estimated) + count(agent.output_tokens), right=True),
            Column("Cost", lambda agent: about(agent.estimated) + money(agent.cost_usd), right=True),
            Column("Last", lambda agent: moment(agent.last_at, now)),
        ),
        empty="No subagents.",
        note=note,
    )


def about(estimated: object) -> str:
    """What stands before a figure that is, or holds, an estimate."""
    return "~" if estimated else ""


def _field(name: str) -> Callable[[PartUse], object]:
    return lambda use: getattr(use, name)


def _agent_field(name: str) -> Callable[[Subagent], object]:
    is_time = name.endswith("_at")
    return lambda agent: iso(getattr(agent, name)) if is_time else getattr(agent, name)
