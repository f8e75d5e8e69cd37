"""Questions about what goes on within requests and sessions: other models' part in an answer, and subagents."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ccflare_core.reports.tally import Query
from ccflare_core.reports.traffic import Period

_MOST_DEEP = 20


class PartUse(NamedTuple):
    """What a model was used for within requests, by kind. `cost_usd` is the known part and is in the requests' cost."""

    model: str | None
    kind: str
    calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_creation_tokens: int
    output_tokens: int
    cost_usd: float
    unknown_costs: int


class Subagent(NamedTuple):
    """What a session's agent has used; `agent_id` is None for the session's main thread. Times in epoch seconds.

    `depth` counts the agents above it. `name` is the agent's definition, if it is known by one.
    """

    session: str | None
    agent_id: str | None
    parent_id: str | None
    name: str | None
    requests: int
    prompt_tokens: int
    output_tokens: int
    cost_usd: float
    estimated: int
    first_at: float
    last_at: float
    depth: int = 0


def parts(query: Query, period: Period) -> list[PartUse]:
    """What was used beside the answers themselves, the dearest first."""
    sql = """SELECT model, kind, SUM(calls), SUM(input_tokens), SUM(cache_read_tokens), SUM(cache_creation_tokens),
             SUM(output_tokens), COALESCE(SUM(cost_usd), 0), SUM(CASE WHEN cost_usd IS NULL THEN 1 ELSE 0 END)
             FROM usage_parts WHERE at >= ? AND at < ? GROUP BY model, kind ORDER BY 8 DESC, 1, 2"""
    rows = ([*row[:2], *map(int, row[2:7]), row[7], int(row[8])] for row in query(sql, period.bounds_ms()))
    return [PartUse._make(row) for row in rows]


def parts_of(query: Query, request_id: str) -> list[PartUse]:
    """What was used beside the answer of one request."""
    sql = """SELECT model, kind, calls, input_tokens, cache_read_tokens, cache_creation_tokens, output_tokens,
             COALESCE(cost_usd, 0), CASE WHEN cost_usd IS NULL THEN 1 ELSE 0 END
             FROM usage_parts WHERE request_id = ? ORDER BY number"""
    return [PartUse._make(row) for row in query(sql, (request_id,))]


class Counts(NamedTuple):
    """What a request counts in its client's budget, where that is not what its answer has used."""

    tokens: int | None
    usd: float | None
    settled: str | None = None
    """Of a batch: by what (see `models.BatchRow`); None while it is an estimate, as it is of all others."""


def counts_of(query: Query, request_id: str) -> Counts | None:
    """What the request, or the batch that it has made, counts; None: what its answer has used, if anything."""
    sql = """SELECT tokens, usd, settled FROM batches
             WHERE request_id = ? AND (settled_by IS NULL OR settled_by <> request_id)"""
    found = [*query(sql, (request_id,))]
    found += query("SELECT counted_tokens, counted_usd FROM requests WHERE id = ?", (request_id,))
    return next((Counts(*row) for row in found if row[0] is not None), None)


_AGENTS = """SELECT session_id, agent_id, MAX(parent_agent_id), MAX(agent), COUNT(*), COALESCE(SUM(prompt_tokens), 0),
    COALESCE(SUM(output_tokens), 0), COALESCE(SUM(cost_usd), 0), SUM(CASE WHEN estimated THEN 1 ELSE 0 END),
    MIN(timestamp) / 1000.0, MAX(timestamp) / 1000.0 FROM requests WHERE {} GROUP BY session_id, agent_id"""


def subagents(query: Query, period: Period) -> list[Subagent]:
    """The agents of each session of the period that had subagents, as trees, the latest session first."""
    having = """timestamp >= ? AND timestamp < ? AND session_id IN (SELECT session_id FROM requests
                WHERE timestamp >= ? AND timestamp < ? AND agent_id IS NOT NULL)"""
    return _trees(query(_AGENTS.format(having), (*period.bounds_ms(), *period.bounds_ms())))


def subagents_of(query: Query, session: str) -> list[Subagent]:
    """The agents of one session as a tree; none if it had no subagents."""
    found = _trees(query(_AGENTS.format("session_id = ?"), (session,)))
    return found if any(agent.agent_id for agent in found) else []


def _trees(rows: Iterable[Sequence[Any]]) -> list[Subagent]:
    sessions: defaultdict[str | None, list[Subagent]] = defaultdict(list)
    for row in rows:
        agent = Subagent._make([*row[:4], *map(int, row[4:7]), float(row[7]), int(row[8]), *map(float, row[9:]), 0])
        sessions[agent.session].append(agent)
    latest = sorted(sessions.values(), key=lambda agents: -max(agent.last_at for agent in agents))
    return [agent for agents in latest for agent in _tree(agents)]


def _tree(agents: Sequence[Subagent]) -> Iterator[Subagent]:
    """Each agent behind the one that has started it, in the order in which they began."""
    known = {agent.agent_id for agent in agents}
    below: defaultdict[str | None, list[Subagent]] = defaultdict(list)
    for agent in sorted(agents, key=lambda agent: agent.first_at):
        has_parent = agent.parent_id in known and agent.parent_id != agent.agent_id
        if agent.agent_id is not None:
            below[agent.parent_id if has_parent else None].append(agent)
    yield from (agent for agent in agents if agent.agent_id is None)
    told: set[str | None] = set()
    waiting = [(agent, 1) for agent in reversed(below[None])]
    while waiting:
        agent, depth = waiting.pop()
        told.add(agent.agent_id)
        yield agent._replace(depth=depth)
        waiting += [(each, min(depth + 1, _MOST_DEEP)) for each in reversed(below[agent.agent_id])]
    # Those that name each other as their parents stand in no tree.
    yield from (agent._replace(depth=1) for agent in agents if agent.agent_id and agent.agent_id not in told)
