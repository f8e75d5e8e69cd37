"""The tables of what goes on within requests and sessions: other models' parts, subagents."""

from collections.abc import Sequence

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.output import DASH, Column, Table, count, moment, money, short_id, short_model
from ccflare_core.reports.fields import PART, SUBAGENT
from ccflare_core.reports.within import PartUse, Subagent
from ccflare_core.text import worded

_MAIN = "(main)"


def part_table(uses: Sequence[PartUse], title: str) -> Table[PartUse]:
    """What advisors and compactions have used, which the requests' own tokens leave out."""
    return Table(
        key="within_requests",
        title=title,
        rows=uses,
        fields=PART,
        columns=(
            Column("Model", lambda use: short_model(use.model) or "(none)", way=shortened(12)),
            Column("What for", lambda use: worded(use.kind), way=wrapped(10)),
            Column("Calls", lambda use: count(use.calls), right=True, rank=1),
            Column("In", lambda use: count(_prompt(use)), right=True),
            Column("New", lambda use: count(use.input_tokens), right=True, rank=2),
            Column("Read", lambda use: count(use.cache_read_tokens), right=True, rank=2),
            Column("Write", lambda use: count(use.cache_creation_tokens), right=True, rank=2),
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
        fields=SUBAGENT,
        columns=(
            Column("Session", _session, brief=lambda agent: short_id(_session(agent))),
            Column("Agent", lambda agent: "  " * agent.depth + (agent.agent_id or _MAIN), way=shortened(16)),
            Column("Name", lambda agent: agent.name or "", way=shortened(8), rank=3),
            Column("Requests", lambda agent: count(agent.requests), right=True, rank=1),
            Column("In", lambda agent: count(agent.prompt_tokens), right=True),
            Column("Out", lambda agent: about(agent.estimated) + count(agent.output_tokens), right=True),
            Column("Cost", lambda agent: cost(agent.estimated, agent.cost_usd), right=True),
            Column("Last", lambda agent: moment(agent.last_at, now), rank=2, way=wrapped(10)),
        ),
        empty="No subagents.",
        note=note,
    )


def _prompt(use: PartUse) -> int:
    return use.input_tokens + use.cache_read_tokens + use.cache_creation_tokens


def about(estimated: object) -> str:
    """What stands before a figure that is, or holds, an estimate."""
    return "~" if estimated else ""


def cost(estimated: object, usd: float | None, unknown: int = 0) -> str:
    """An amount with what is to be known of it: `~$1.23 + ?`. What is unknown is no estimate."""
    text = money(usd, unknown)
    return text if text.startswith("?") else about(estimated) + text


def _session(agent: Subagent) -> str:
    return "" if agent.depth else agent.session or DASH
