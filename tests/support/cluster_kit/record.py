"""What is asked of the database: when each cooldown was there for everybody to see, every row, and what it cost."""

import threading
import time
from typing import Any, NamedTuple, Self

from ccflare_core.config.location import Server
from cluster_kit.scale import Late

CHANNEL = "cluster_witness"
PROBE_SECONDS = 0.01
LEAST_SECONDS = 0.002
"""What the server answers in less is answered at once."""

_WATCH = f"""
CREATE TABLE cluster_cooldowns (
    id BIGSERIAL PRIMARY KEY, account TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL,
    until BIGINT NOT NULL, source TEXT NOT NULL, gone BOOLEAN NOT NULL
);
CREATE FUNCTION cluster_note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_is scope_cooldowns := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    number BIGINT;
BEGIN
    INSERT INTO cluster_cooldowns (account, scope, name, until, source, gone)
    VALUES (now_is.account_id, now_is.scope, now_is.name, now_is.until, now_is.source, TG_OP = 'DELETE')
    RETURNING id INTO number;
    PERFORM pg_notify('{CHANNEL}', number::text);
    RETURN NULL;
END $$;
CREATE TRIGGER cluster_note AFTER INSERT OR UPDATE OR DELETE ON scope_cooldowns
FOR EACH ROW EXECUTE FUNCTION cluster_note();
CREATE TABLE cluster_sessions (id BIGSERIAL PRIMARY KEY, session TEXT NOT NULL, account TEXT NOT NULL);
CREATE FUNCTION cluster_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number BIGINT;
BEGIN
    INSERT INTO cluster_sessions (session, account) VALUES (NEW.session, NEW.account_id) RETURNING id INTO number;
    PERFORM pg_notify('{CHANNEL}', 's' || number);
    RETURN NULL;
END $$;
CREATE TRIGGER cluster_place AFTER INSERT OR UPDATE ON session_accounts FOR EACH ROW EXECUTE FUNCTION cluster_place();
"""


class Set(NamedTuple):
    """That a cooldown was set, changed or ended (`gone`) by a commit that others could see at `at` (epoch seconds)."""

    at: float
    account: str
    scope: str
    name: str
    until: float
    """Epoch seconds."""
    source: str
    gone: bool


class Placed(NamedTuple):
    """That it could be seen from `at` on (epoch seconds) which account holds a session, which stands for its key."""

    at: float
    session: str
    account: str


class Row(NamedTuple):
    """A recorded request."""

    number: int
    """The load's; 0 if it is of no request of the load's."""
    outcome: str | None
    account: str | None
    reason: str
    attempts: int
    """Rows of attempts."""


class Counts(NamedTuple):
    """What the server has counted so far."""

    wal_bytes: int
    commits: int
    inserted: int
    updated: int
    deleted: int
    read: int


class Witness:
    """Notes when it hears of each change of a cooldown or a session, on a connection of its own, and counts notices.

    A notice comes when the transaction is committed: then what it is about is there for every proxy to see. On another
    connection it measures how late the server answers.
    """

    def __init__(self, server: Server) -> None:
        import psycopg  # not before: the rest of scripts/bench does without

        self._server = server
        self._is_over = threading.Event()
        self.heard: dict[str, float] = {}
        self.late: list[Late] = []
        """How late the server was with an answer that takes it nothing."""
        self.announced = 0
        """Notices of ccflare's own."""
        with psycopg.connect(server.text, autocommit=True) as connection:
            connection.execute(_WATCH.encode())
            row = connection.execute("SELECT id FROM ccflare").fetchone()
        assert row is not None
        self._connection = psycopg.connect(server.text, autocommit=True)
        for channel in (CHANNEL, f"ccflare_{row[0]}"):
            self._connection.execute(f"LISTEN {channel}".encode())
        self._probed = psycopg.connect(server.text, autocommit=True)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._probe)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
        self._connection.close()
        self._probed.close()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            for each in self._connection.notifies(timeout=0.5):
                if each.channel == CHANNEL:
                    self.heard[each.payload] = time.time()
                else:
                    self.announced += 1

    def _probe(self) -> None:
        while not self._is_over.wait(PROBE_SECONDS):
            began = time.monotonic()
            self._probed.execute("SELECT 1")
            if (late := time.monotonic() - began) >= LEAST_SECONDS:
                self.late.append(Late(time.time(), late))

    def placed(self) -> list[Placed]:
        """Which account holds which session, in the order of the commits."""
        found = rows(self._server, "SELECT * FROM cluster_sessions ORDER BY id")
        return [Placed(self.heard[f"s{id}"], session, account) for id, session, account in found]

    def cooldowns(self) -> list[Set]:
        """All that was set, in the order of the commits that did it."""
        found = rows(self._server, "SELECT * FROM cluster_cooldowns ORDER BY id")
        return [
            Set(self.heard[str(id)], account, scope, name, until / 1000, source, gone)
            for id, account, scope, name, until, source, gone in found
        ]


_COUNTS = """
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
    (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
    SUM(n_tup_ins), SUM(n_tup_upd), SUM(n_tup_del), SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0))
FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname NOT LIKE 'cluster_%'
"""


def counts(server: Server) -> Counts:
    """What the server has counted until about a second ago."""
    return Counts(*map(int, rows(server, _COUNTS)[0]))


def backends(server: Server) -> list[int]:
    """The process ids of the server, as far as they work on this database or for all."""
    return [pid for (pid,) in rows(server, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")]


_ROWS = """
SELECT user_agent, outcome, account_name, choice_reason,
    (SELECT COUNT(*) FROM attempts a WHERE a.request_id = r.id)
FROM requests r WHERE path = '/v1/messages'
"""


def recorded(server: Server) -> list[Row]:
    """Every request that is recorded."""
    found = rows(server, _ROWS)
    return [Row(int(agent.partition("cluster/")[2] or 0), *rest) for agent, *rest in found]


def rows(server: Server, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    import psycopg

    with psycopg.connect(server.text, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()
