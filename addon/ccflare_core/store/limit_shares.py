"""The shares that the runs on this database have of limits which all of them keep together, see clients/sharing.py.

All who write take turns, so whoever reads all shares and takes what is free in one transaction never takes what
another one has. A run writes its own rows only, and reads those that have changed since it last did. Of a run that is
over, or silent for too long, the others take back what comes free by itself; what it may still spend they take when it
is over, less what it is known to have spent.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from peewee import Database, fn

from ccflare_core.clients.sharing import Answer, Claim, Limit, Line, Report, Resource, Standing, apportion
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import LimitShareRow as Row
from ccflare_core.db.models import RunRow
from ccflare_core.store.client_usage import Query, batched, recorded
from ccflare_core.store.context import StoreContext
from ccflare_core.store.peers import StoredPeers
from ccflare_core.store.runs import update_living
from ccflare_core.text import to_ms

WHOLE, SHARED = 1, 2
"""How a run keeps limits, in its row."""
NOBODY: Final = ""
_KEPT_SECONDS = 2 * 86_400.0
"""How long after a window's end its rows are kept, for proxies whose clocks are late."""
_MILLI = 1000
_BATCH = 100
_MOST: Final = 10**15
"""More than any limit is: what counts where a row has no number, as unknown is never free."""

Id = tuple[str, str]


class StoredShares:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext, peers: StoredPeers, query: Query) -> None:
        self._database = context.database
        self._transaction = context.transaction
        self._wall = context.wall
        self._peers = peers
        self._query = query
        self._claims: dict[Id, dict[str, Claim]] = {}
        self._limits: dict[Id, Limit] = {}
        """As this run knows them."""
        self._seen = self._deletions = 0
        self._looked = (0, 0)

    def begin(self, run_id: str) -> bool:
        """This run takes part, and holds nothing yet; whether it is alone, and so holds all."""
        with self._transaction():
            live = self._peers.live()
            is_alone = not self._sharing(run_id, live)
            self._demote(run_id, live)
            if is_alone:
                self._clear()
            self._touch(run_id, WHOLE if is_alone else SHARED)
        return is_alone

    def has_others(self, run_id: str) -> bool:
        """Whether other runs keep limits too."""
        return bool(self._sharing(run_id, self._peers.live()))

    def look(self) -> bool:
        """Whether any run has written something since the last call. Raises StoreError."""
        before, self._looked = self._looked, self._counted()
        return self._looked != before

    def exchange(self, run_id: str, report: Report) -> Answer:
        """Write what this run tells, and take for it what is free and should be its own. Raises StoreError."""
        try:
            with self._transaction():
                live = self._peers.live()
                others = self._sharing(run_id, live)
                self._demote(run_id, live)
                if others:
                    answer = _Exchange(self, run_id, report, others).run()
                else:
                    self._clear()
                    answer = Answer(is_alone=True)
                self._touch(run_id, SHARED if others else WHOLE)
        except BaseException:
            self._forget()
            raise
        self._looked = (self._seen, self._deletions)
        return answer

    def leave(self, run_id: str, report: Report) -> None:
        """The run is over. What it tells of what it has spent is the last word."""
        try:
            with self._transaction():
                if not report.is_whole:
                    _Exchange(self, run_id, report, {}).leave()
        finally:
            self._forget()

    def purge(self) -> None:
        """Delete what is about windows, and of runs, that ended long ago, and what belonged to nobody beside these.

        All read anew what there is then: one that was taken for dead and wakes must not believe that it has a share.
        """
        since = self._wall() - _KEPT_SECONDS
        self._limits = {id: limit for id, limit in self._limits.items() if limit.until is None or limit.until >= since}
        old = Row.until.is_null(False) & (Row.until < to_ms(since)) | self._is_of_gone_run(to_ms(since))
        if Row.select().where(old).bind(self._database).exists():
            with self._transaction():
                Row.delete().where(old).execute(self._database)
                Row.delete().where(_is_left_alone()).execute(self._database)
                self._count(*(1 + each for each in self._counted()))

    def _is_of_gone_run(self, before: int) -> Any:
        kept = RunRow.select(RunRow.id).where(RunRow.ended_at.is_null() | (RunRow.ended_at >= before))
        return (Row.run_id != NOBODY) & Row.until.is_null() & Row.run_id.not_in(kept)

    def _sharing(self, run_id: str, live: Set[str]) -> dict[str, int]:
        """The other runs of those that live and take part, and how each keeps limits."""
        live = live - {run_id}
        if not live:
            return {}
        takes_part = RunRow.ended_at.is_null() & RunRow.sharing.is_null(False)
        rows: Any = RunRow.select(RunRow.id, RunRow.sharing).where(takes_part).bind(self._database).tuples()
        with as_store_errors():
            return {id: sharing for id, sharing in rows if id in live}

    def _demote(self, run_id: str, live: Set[str]) -> None:
        """What held everything and is silent holds nothing when it comes back."""
        silent = (RunRow.sharing == WHOLE) & RunRow.ended_at.is_null() & RunRow.id.not_in([run_id, *live])
        if RunRow.select().where(silent).bind(self._database).exists():
            RunRow.update({RunRow.sharing: SHARED}).where(silent).execute(self._database)

    def _is_whole(self, run_id: str) -> bool:
        is_whole = (RunRow.id == run_id) & (RunRow.sharing == WHOLE)
        return bool(RunRow.select().where(is_whole).bind(self._database).exists())

    def _touch(self, run_id: str, sharing: int) -> None:
        """Show a sign of life. Whoever has taken this run for dead was wrong."""
        update_living(self._database, run_id, {"heartbeat_at": to_ms(self._wall()), "sharing": sharing})

    def _clear(self) -> None:
        if Row.select().where(Row.scope != NOBODY).bind(self._database).exists():
            Row.delete().where(Row.scope != NOBODY).execute(self._database)
            self._forget()
            self._count(*(1 + each for each in self._counted()))

    def _forget(self) -> None:
        self._claims, self._seen = {}, 0

    def _counted(self) -> tuple[int, int]:
        """The last number that was given to a row, and how often rows were deleted.

        A server that has lost its last transactions goes back: then nothing holds of what was read before.
        """
        is_counter = (Row.scope == NOBODY) & (Row.name == NOBODY) & (Row.run_id == NOBODY)
        with as_store_errors():
            rows: Any = Row.select(Row.number, Row.used).where(is_counter).bind(self._database).tuples()
            number, deletions = (each if _sound(each) < _MOST else 0 for each in next(iter(rows), (0, 0)))
        if number < self._seen:
            self._forget()
        return number, deletions

    def _count(self, number: int, deletions: int) -> None:
        key = {"scope": NOBODY, "name": NOBODY, "run_id": NOBODY}
        row = {**key, "resource": "", **Claim(used=deletions)._asdict(), "until": None, "number": number}
        _upsert(self._database, [row])


class _Exchange:
    """One transaction."""

    def __init__(self, shares: StoredShares, run_id: str, report: Report, others: Mapping[str, int]) -> None:
        self._shares = shares
        self._run_id = run_id
        self._report = report
        self._others = others
        last, self._deletions = shares._counted()
        if self._deletions != shares._deletions:
            shares._forget()
            shares._deletions = self._deletions
        # Whoever was taken for dead has nothing, whatever it believes.
        self._is_whole = report.is_whole and WHOLE not in others.values() and shares._is_whole(run_id)
        self._claims = shares._claims
        self._number = last + 1
        self._written: dict[tuple[str, str, str], Claim] = {}

    def run(self) -> Answer:
        changed = self._read()
        limits = self._shares._limits = {
            **self._shares._limits,
            **{line.limit.id: line.limit for line in self._report.lines},
        }
        lines = {line.limit.id: line for line in self._report.lines}
        over = self._ended()
        standings: dict[Id, Standing] = {}
        for limit_id in changed | lines.keys() | self._held_by_others_than_live():
            if (limit := limits.get(limit_id)) is None:
                continue
            self._reclaim(limit, over)
            line = lines.get(limit_id)
            if line is not None:
                self._tell(line)
            standings[limit_id] = self._stand(limit)
        self._write()
        return Answer(is_alone=False, standings=standings)

    def leave(self) -> None:
        self._read()
        for line in self._report.lines:
            if line.limit.resource is Resource.SPEND:
                self._put(line.limit, self._run_id, Claim(line.used, line.used, 0, line.spent))
        for limit_id, claims in list(self._claims.items()):
            limit, claim = self._shares._limits.get(limit_id), claims.get(self._run_id)
            if limit is not None and claim is not None and claim.held and limit.resource is not Resource.SPEND:
                self._free(limit, self._run_id, claim)
        self._write()

    # Reading

    def _read(self) -> set[Id]:
        """Take up what has been written since the last time; of which limits that is."""
        columns = (Row.scope, Row.name, Row.run_id, Row.held, Row.used, Row.wanted, Row.spent, Row.waiting)
        is_new = (Row.number > self._shares._seen) & (Row.scope != NOBODY)
        rows: Any = Row.select(*columns).where(is_new).bind(self._shares._database).tuples()
        changed: set[Id] = set()
        for scope, name, run_id, *claim in rows:
            found = _claim(*claim)
            if run_id == self._run_id and found != (own := self._own((scope, name), found)):
                self._written[scope, name, run_id] = found = own
            self._claims.setdefault((scope, name), {})[run_id] = found
            changed.add((scope, name))
        self._shares._seen = self._number - 1
        return changed

    def _own(self, limit_id: Id, found: Claim) -> Claim:
        """What this run has by its own row: others take something away, and nobody else gives."""
        limit, known = self._shares._limits.get(limit_id), self._claims.get(limit_id, {}).get(self._run_id)
        most = known.held if known is not None else limit.amount if limit is not None else 0
        return found._replace(held=min(found.held, most))

    def _ended(self) -> set[str]:
        """The runs with shares that are over, and not only silent."""
        runs = {run for claims in self._claims.values() for run in claims} - {NOBODY, self._run_id, *self._others}
        if not runs:
            return set()
        rows: Any = RunRow.select(RunRow.id).where(RunRow.ended_at.is_null()).bind(self._shares._database).tuples()
        return runs - {id for (id,) in rows}

    def _held_by_others_than_live(self) -> set[Id]:
        live = {NOBODY, self._run_id, *self._others}
        return {
            limit_id
            for limit_id, claims in self._claims.items()
            if any(run not in live and self._is_to_be_had(limit_id, claim) for run, claim in claims.items())
        }

    def _is_to_be_had(self, limit_id: Id, claim: Claim) -> bool:
        limit = self._shares._limits.get(limit_id)
        if limit is None or limit.resource is Resource.SPEND:
            return claim.wanted > 0
        return claim != Claim()

    # Deciding

    def _reclaim(self, limit: Limit, over: set[str]) -> None:
        """Take back what runs that do not live have."""
        for run, claim in list(self._claims.get(limit.id, {}).items()):
            if run in (NOBODY, self._run_id) or run in self._others:
                continue
            if limit.resource is not Resource.SPEND:
                if claim != Claim():
                    self._free(limit, run, claim)
            elif run in over and claim.wanted:
                spent = max(claim.used, recorded(self._shares._query, limit, by=run))
                self._put(limit, run, Claim(spent, spent, 0, spent))

    def _free(self, limit: Limit, run: str, claim: Claim) -> None:
        if limit.resource is Resource.RATE and claim.held:
            self._lack(limit, claim.held * _MILLI)
        self._put(limit, run, Claim())

    def _tell(self, line: Line) -> None:
        limit, is_spent = line.limit, line.limit.resource is Resource.SPEND
        before = self._claims.get(limit.id, {}).get(self._run_id, Claim())
        held = line.held if self._is_whole else min(line.held, before.held)
        if limit.resource is not Resource.RATE:
            held = max(held, line.used)
        given = before.held - held
        if limit.resource is Resource.RATE and given > 0:
            self._lack(limit, given * _MILLI - min(line.tokens, given * _MILLI))
        if is_spent and NOBODY not in self._claims.get(limit.id, {}):
            past = recorded(self._shares._query, limit, but=[self._run_id, *self._others])
            self._put(limit, NOBODY, Claim(past, past, 0, past))
        self._put(
            limit, self._run_id, Claim(held, line.used, line.wanted, line.spent, self._waiting(before, held, line))
        )

    def _waiting(self, before: Claim, held: int, line: Line) -> int | None:
        if held or not line.is_short:
            return None
        return self._number if before.waiting is None else before.waiting

    def _stand(self, limit: Limit) -> Standing:
        """Where this run stands, after it has taken what it may."""
        claims = self._claims.get(limit.id, {})
        live = {run: claims.get(run, Claim()) for run in (self._run_id, *self._others)}
        batches = batched(self._shares._query, limit) if limit.resource is Resource.SPEND else 0
        past = batches + sum(claim.held for run, claim in claims.items() if run not in live)
        divided = limit._replace(amount=max(0, limit.amount - past))
        targets = apportion(divided, live)
        free = limit.amount - past - sum(claim.held for claim in live.values())
        mine, tokens = live[self._run_id], 0
        if WHOLE not in self._others.values() and (take := min(targets[self._run_id] - mine.held, free)) > 0:
            tokens = self._take_tokens(limit, free, take)
            mine = mine._replace(held=mine.held + take, waiting=None)
            self._put(limit, self._run_id, mine)
            free -= take
            live[self._run_id] = mine
            targets = apportion(divided, live)
        lacking = sum(_lacks(live[run], targets[run]) for run in self._others) - free
        give = max(0, min(mine.held - targets[self._run_id], lacking))
        return Standing(mine.held, give, tokens, batches + sum(claim.spent for claim in claims.values()))

    # The part of a rate that nobody holds, which may lack requests

    def _lack(self, limit: Limit, milli: int) -> None:
        lacks = self._claims.get(limit.id, {}).get(NOBODY, Claim()).used
        self._put(limit, NOBODY, Claim(0, min(lacks + milli, limit.amount * _MILLI), 0, 0))

    def _take_tokens(self, limit: Limit, free: int, take: int) -> int:
        if limit.resource is not Resource.RATE:
            return 0
        lacks = self._claims.get(limit.id, {}).get(NOBODY, Claim()).used
        tokens = min(take * _MILLI, max(0, free * _MILLI - lacks))
        if lacks:
            self._put(limit, NOBODY, Claim(0, max(0, lacks - (take * _MILLI - tokens)), 0, 0))
        return tokens

    # Writing

    def _put(self, limit: Limit, run: str, claim: Claim) -> None:
        claims = self._claims.setdefault(limit.id, {})
        if claims.get(run) != claim:
            claims[run] = claim
            self._written[(*limit.id, run)] = claim

    def _write(self) -> None:
        if not self._written:
            return
        rows = [self._row(*key, claim) for key, claim in self._written.items()]
        _upsert(self._shares._database, rows)
        self._shares._count(self._number, self._deletions)
        self._shares._seen = self._number

    def _row(self, scope: str, name: str, run: str, claim: Claim) -> dict[str, Any]:
        limit = self._shares._limits.get((scope, name))
        return {
            "scope": scope,
            "name": name,
            "run_id": run,
            "resource": limit.resource if limit else "",
            **claim._asdict(),
            "until": to_ms(limit.until) if limit and limit.until else None,
            "number": self._number,
        }


def _lacks(claim: Claim, target: int) -> int:
    """How much others should give up for it: nothing while it has what it wants, and half of what it might have."""
    is_short = claim.held < min(target, claim.wanted) or 2 * claim.held < target
    return max(0, target - claim.held) if is_short else 0


def _claim(held: object, used: object, wanted: object, spent: object, waiting: object) -> Claim:
    """What a row says. Another version may have written it, or somebody else."""
    since = waiting if isinstance(waiting, int) else None
    return Claim(_sound(held), _sound(used), _sound(wanted), _sound(spent), since)


def _sound(number: object) -> int:
    return number if isinstance(number, int) and 0 <= number <= _MOST else _MOST


def _is_left_alone() -> Any:
    """What belongs to no run, of a limit of which no run has anything any more."""
    of_runs: Any = Row.alias()
    same = (of_runs.scope == Row.scope) & (of_runs.name == Row.name) & (of_runs.run_id != NOBODY)
    is_nobodys = (Row.scope != NOBODY) & (Row.run_id == NOBODY) & Row.until.is_null()
    return is_nobodys & ~fn.EXISTS(of_runs.select(of_runs.scope).where(same))


def _upsert(database: Database, rows: Sequence[dict[str, Any]]) -> None:
    told = [Row.held, Row.used, Row.wanted, Row.spent, Row.waiting, Row.until, Row.number]
    for at in range(0, len(rows), _BATCH):
        insert = Row.insert_many(rows[at : at + _BATCH])
        insert.on_conflict(conflict_target=[Row.scope, Row.name, Row.run_id], preserve=told).execute(database)
