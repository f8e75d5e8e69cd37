"""The steps from an empty database to today's tables: append-only, each applied once.

A published step is never edited: databases that took it are out there. To change a table, append a step here
and change `models.py`. Statements are plain SQL for SQLite and PostgreSQL; `{serial}` and `{blob}` stand for
what the two call differently.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from peewee import Database, SqliteDatabase

from ccflare_core.db.models import MigrationRow
from ccflare_core.errors import StoreError


class Migration(NamedTuple):
    """A named step. The name is what the database remembers."""

    name: str
    statements: tuple[str, ...]
    sqlite: tuple[str, ...] = ()
    """What comes after them on SQLite only."""
    postgres: tuple[str, ...] = ()
    """And on PostgreSQL only."""


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "0001_foundation",
        (
            """CREATE TABLE accounts (
                id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
                priority INTEGER NOT NULL, paused BOOLEAN NOT NULL,
                access_token {blob}, refresh_token {blob}, api_key {blob},
                expires_at BIGINT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL,
                login_at BIGINT, login_expires_at BIGINT, needs_login BOOLEAN NOT NULL)""",
            """CREATE TABLE cooldowns (
                account_id TEXT NOT NULL, family TEXT NOT NULL, until BIGINT NOT NULL,
                reason TEXT NOT NULL, source TEXT NOT NULL, streak INTEGER NOT NULL,
                PRIMARY KEY (account_id, family))""",
            """CREATE TABLE runs (
                id TEXT NOT NULL PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL,
                started_at BIGINT NOT NULL, heartbeat_at BIGINT NOT NULL, ended_at BIGINT)""",
            """CREATE TABLE requests (
                id TEXT NOT NULL PRIMARY KEY, timestamp BIGINT NOT NULL,
                method TEXT NOT NULL, path TEXT NOT NULL, account_used TEXT, account_name TEXT,
                status_code INTEGER, success BOOLEAN, error_message TEXT,
                response_time_ms DOUBLE PRECISION, first_byte_ms DOUBLE PRECISION,
                failover_attempts INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
                model TEXT, outcome TEXT, client_ip TEXT NOT NULL, user_agent TEXT NOT NULL, session_id TEXT,
                door TEXT NOT NULL, stream BOOLEAN, choice_reason TEXT NOT NULL DEFAULT '',
                run_id TEXT NOT NULL, upstream_request_id TEXT,
                prompt_tokens BIGINT, completion_tokens BIGINT, total_tokens BIGINT,
                input_tokens BIGINT, output_tokens BIGINT,
                cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT,
                cache_creation_5m_input_tokens BIGINT, cache_creation_1h_input_tokens BIGINT,
                thinking_tokens BIGINT, web_search_requests BIGINT, service_tier TEXT,
                cost_usd DOUBLE PRECISION, request_bytes BIGINT, response_bytes BIGINT)""",
            "CREATE INDEX requests_timestamp ON requests (timestamp)",
            "CREATE INDEX requests_account ON requests (account_used, timestamp)",
            "CREATE INDEX requests_model ON requests (model, timestamp)",
            "CREATE INDEX requests_session ON requests (session_id)",
            "CREATE INDEX requests_open ON requests (run_id) WHERE outcome IS NULL",
            """CREATE TABLE attempts (
                id {serial} PRIMARY KEY,
                request_id TEXT NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
                number INTEGER NOT NULL, account_id TEXT, account_name TEXT NOT NULL, status_code INTEGER,
                verdict TEXT NOT NULL, reason TEXT NOT NULL, windows TEXT NOT NULL,
                started_at BIGINT NOT NULL, duration_ms DOUBLE PRECISION NOT NULL)""",
            "CREATE INDEX attempts_request ON attempts (request_id)",
            """CREATE TABLE windows (
                id {serial} PRIMARY KEY, account_id TEXT NOT NULL, name TEXT NOT NULL, at BIGINT NOT NULL,
                utilization DOUBLE PRECISION, status TEXT, resets_at BIGINT)""",
            "CREATE INDEX windows_reading ON windows (account_id, name, at)",
            """CREATE TABLE payloads (
                request_id TEXT NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
                part TEXT NOT NULL, format TEXT NOT NULL, content_type TEXT NOT NULL,
                content_encoding TEXT NOT NULL, size BIGINT NOT NULL, truncated BOOLEAN NOT NULL,
                body {blob} NOT NULL, PRIMARY KEY (request_id, part))""",
        ),
    ),
    Migration(
        "0002_refresh",
        (
            "ALTER TABLE accounts ADD COLUMN refresh_digest TEXT",
            """CREATE TABLE refresh_leases (
                account_id TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, term TEXT NOT NULL)""",
        ),
    ),
    Migration(
        "0003_login",
        (
            "ALTER TABLE accounts ADD COLUMN refresh_retry_at BIGINT",
            """CREATE TABLE oauth_sessions (
                id TEXT NOT NULL PRIMARY KEY, account_name TEXT NOT NULL, mode TEXT NOT NULL,
                state {blob} NOT NULL, verifier {blob} NOT NULL,
                created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL)""",
        ),
    ),
    Migration(
        "0004_keys",
        (
            """CREATE TABLE data_keys (
                id TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL UNIQUE, wrapped {blob} NOT NULL,
                source TEXT NOT NULL, source_at BIGINT NOT NULL, created_at BIGINT NOT NULL)""",
            # Which key has sealed a body stands in its first bytes.
            "CREATE INDEX payloads_key ON payloads (substr(body, 1, 9))",
        ),
    ),
    Migration(
        "0005_provenance",
        tuple(
            f"ALTER TABLE requests ADD COLUMN {name} TEXT"
            for name in ("project", "working_directory", "agent", "request_class", "original_model")
        ),
    ),
    Migration(
        "0006_blocks",
        (
            "CREATE TABLE chapters (id {serial} PRIMARY KEY, term BIGINT NOT NULL, is_stale BOOLEAN NOT NULL)",
            "CREATE INDEX chapters_stale ON chapters (id) WHERE is_stale",
            "CREATE TABLE blocks (id {serial} PRIMARY KEY, address {blob} NOT NULL, body {blob} NOT NULL)",
            "CREATE INDEX blocks_address ON blocks (address)",
            "CREATE INDEX blocks_key ON blocks (substr(body, 1, 9))",
            """CREATE TABLE chapter_blocks (
                chapter_id BIGINT NOT NULL REFERENCES chapters (id), block_id BIGINT NOT NULL REFERENCES blocks (id),
                PRIMARY KEY (chapter_id, block_id))""",
            "CREATE INDEX chapter_blocks_block ON chapter_blocks (block_id)",
            "ALTER TABLE payloads ADD COLUMN chapter_id BIGINT REFERENCES chapters (id)",
            "CREATE INDEX payloads_chapter ON payloads (chapter_id) WHERE chapter_id IS NOT NULL",
        ),
    ),
    Migration(
        "0007_audit",
        (
            """CREATE TABLE audit_log (
                id {serial} PRIMARY KEY, ts_utc TEXT NOT NULL, actor TEXT NOT NULL, ip TEXT NOT NULL,
                action TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL, request_id TEXT NOT NULL,
                detail TEXT NOT NULL, key_id TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL)""",
            """CREATE TABLE audit_head (
                id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), last_id BIGINT NOT NULL, hash TEXT NOT NULL,
                pruned_id BIGINT NOT NULL, pruned_hash TEXT NOT NULL, key_id TEXT NOT NULL, mac TEXT NOT NULL)""",
            "CREATE TABLE audit_keys (id TEXT NOT NULL PRIMARY KEY, sealed {blob} NOT NULL)",
            "CREATE TABLE configurations (scope TEXT NOT NULL PRIMARY KEY, options TEXT NOT NULL)",
        ),
        # They keep mistakes away. The chain finds a user who has the right to drop them.
        sqlite=(
            """CREATE TRIGGER audit_log_keep BEFORE UPDATE ON audit_log
                BEGIN SELECT RAISE(ABORT, 'rows of the audit log cannot be changed'); END""",
            """CREATE TRIGGER audit_log_hold BEFORE DELETE ON audit_log
                WHEN OLD.id > COALESCE((SELECT pruned_id FROM audit_head), 0)
                BEGIN SELECT RAISE(ABORT, 'rows of the audit log cannot be deleted'); END""",
            # INSERT OR REPLACE deletes without asking the trigger above.
            """CREATE TRIGGER audit_log_append BEFORE INSERT ON audit_log
                WHEN NEW.id <= (SELECT MAX(id) FROM audit_log)
                BEGIN SELECT RAISE(ABORT, 'rows of the audit log can only be appended'); END""",
            """CREATE TRIGGER audit_head_keep BEFORE DELETE ON audit_head
                BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot be deleted'); END""",
            """CREATE TRIGGER audit_head_advance BEFORE UPDATE ON audit_head
                WHEN NEW.last_id < OLD.last_id OR NEW.pruned_id < OLD.pruned_id
                BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot go back'); END""",
        ),
        postgres=(
            """CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'the audit log can only be appended to'; END $$""",
            """CREATE FUNCTION audit_hold() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF OLD.id > COALESCE((SELECT pruned_id FROM audit_head), 0) THEN
                        RAISE EXCEPTION 'rows of the audit log cannot be deleted';
                    END IF;
                    RETURN OLD;
                END $$""",
            "CREATE TRIGGER audit_log_keep BEFORE UPDATE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
            "CREATE TRIGGER audit_log_hold BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_hold()",
            "CREATE TRIGGER audit_log_whole BEFORE TRUNCATE ON audit_log EXECUTE FUNCTION audit_refuse()",
            "CREATE TRIGGER audit_head_keep BEFORE DELETE ON audit_head FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
            "CREATE TRIGGER audit_head_whole BEFORE TRUNCATE ON audit_head EXECUTE FUNCTION audit_refuse()",
        ),
    ),
    Migration(
        "0008_privacy",
        (
            "ALTER TABLE payloads ADD COLUMN redactions INTEGER",
            "ALTER TABLE payloads ADD COLUMN withheld BOOLEAN NOT NULL DEFAULT FALSE",
        ),
    ),
    Migration(
        "0009_client_keys",
        (
            """CREATE TABLE client_keys (
                id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
                digest {blob}, old_digest {blob}, old_until BIGINT,
                created_at BIGINT NOT NULL, expires_at BIGINT, revoked_at BIGINT,
                requests_per_minute INTEGER, tokens_per_day BIGINT,
                micro_dollars_per_day BIGINT, micro_dollars_per_month BIGINT,
                models TEXT NOT NULL, accounts TEXT NOT NULL, not_accounts TEXT NOT NULL,
                concurrency INTEGER, low_priority BOOLEAN NOT NULL, record TEXT)""",
            "ALTER TABLE requests ADD COLUMN client_id TEXT",
            "ALTER TABLE requests ADD COLUMN client_name TEXT",
            "CREATE INDEX requests_client ON requests (client_id, timestamp) WHERE client_id IS NOT NULL",
        ),
    ),
    Migration(
        "0010_access",
        (
            """CREATE TABLE blocked_addresses (
                network TEXT NOT NULL PRIMARY KEY, created_at BIGINT NOT NULL, reason TEXT NOT NULL)""",
            """CREATE TABLE second_factor (
                id TEXT NOT NULL PRIMARY KEY, seed {blob} NOT NULL, created_at BIGINT NOT NULL, confirmed_at BIGINT,
                last_step BIGINT NOT NULL, failures INTEGER NOT NULL, retry_at BIGINT NOT NULL)""",
            "CREATE TABLE recovery_codes (digest TEXT NOT NULL PRIMARY KEY)",
        ),
    ),
    Migration(
        "0011_usage",
        (
            # What is added up of a quarter of an hour, see measures.py; sums that are nothing are 0.
            """CREATE TABLE usage_slots (
                slot BIGINT NOT NULL, account_used TEXT, model TEXT, session_id TEXT, client_ip TEXT NOT NULL,
                client_id TEXT, project TEXT, agent TEXT, is_inference BOOLEAN NOT NULL,
                requests BIGINT NOT NULL, open BIGINT NOT NULL, ok BIGINT NOT NULL, client_aborts BIGINT NOT NULL,
                refused BIGINT NOT NULL, moved BIGINT NOT NULL, failovers BIGINT NOT NULL,
                input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, cache_read_tokens BIGINT NOT NULL,
                cache_creation_tokens BIGINT NOT NULL, thinking_tokens BIGINT NOT NULL, web_searches BIGINT NOT NULL,
                cost_usd DOUBLE PRECISION NOT NULL, unknown_costs BIGINT NOT NULL,
                first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, switches BIGINT NOT NULL,
                rebilled_tokens BIGINT NOT NULL, rebilled_1h_tokens BIGINT NOT NULL,
                latencies {blob} NOT NULL, first_bytes {blob} NOT NULL)""",
            "CREATE INDEX usage_slots_slot ON usage_slots (slot)",
            "CREATE TABLE usage_todo (slot BIGINT NOT NULL PRIMARY KEY)",
            "INSERT INTO usage_todo SELECT DISTINCT timestamp / 900000 FROM requests",
            "DROP INDEX requests_model",
            "CREATE INDEX requests_failed ON requests (timestamp) WHERE outcome NOT IN ('ok', 'client_abort')",
            "CREATE INDEX requests_moved ON requests (timestamp) WHERE attempts > 1",
            "DROP INDEX windows_reading",
            "CREATE INDEX windows_reading ON windows (account_id, name, at, utilization)",
        ),
        sqlite=(
            """CREATE TRIGGER requests_added AFTER INSERT ON requests
                BEGIN INSERT INTO usage_todo VALUES (NEW.timestamp / 900000) ON CONFLICT DO NOTHING; END""",
            """CREATE TRIGGER requests_changed AFTER UPDATE ON requests
                BEGIN INSERT INTO usage_todo VALUES (NEW.timestamp / 900000) ON CONFLICT DO NOTHING; END""",
            # What was deleted is to be gone from the sums at once: they name sessions and addresses.
            """CREATE TRIGGER requests_deleted AFTER DELETE ON requests
                BEGIN
                    INSERT INTO usage_todo VALUES (OLD.timestamp / 900000) ON CONFLICT DO NOTHING;
                    DELETE FROM usage_slots WHERE slot = OLD.timestamp / 900000;
                END""",
        ),
        postgres=(
            """CREATE FUNCTION usage_note() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    INSERT INTO usage_todo VALUES (COALESCE(NEW.timestamp, OLD.timestamp) / 900000)
                        ON CONFLICT DO NOTHING;
                    IF TG_OP = 'DELETE' THEN
                        DELETE FROM usage_slots WHERE slot = OLD.timestamp / 900000;
                    END IF;
                    RETURN NULL;
                END $$""",
            """CREATE TRIGGER requests_usage AFTER INSERT OR UPDATE OR DELETE ON requests
                FOR EACH ROW EXECUTE FUNCTION usage_note()""",
        ),
    ),
    Migration(
        "0012_money",
        (
            *(
                f"ALTER TABLE requests ADD COLUMN {column}"
                for column in (
                    *("message_id TEXT", "stop_reason TEXT", "refusal TEXT", "speed TEXT", "inference_geo TEXT"),
                    *("web_fetch_requests BIGINT", "input_transformations TEXT", "estimated BOOLEAN"),
                    *("agent_id TEXT", "parent_agent_id TEXT", "waited_ms DOUBLE PRECISION"),
                    *("query TEXT", "api_version TEXT", "betas TEXT"),
                    *("counted_tokens BIGINT", "counted_usd DOUBLE PRECISION"),
                )
            ),
            """CREATE TABLE usage_parts (
                request_id TEXT NOT NULL REFERENCES requests (id) ON DELETE CASCADE, number INTEGER NOT NULL,
                at BIGINT NOT NULL, kind TEXT NOT NULL, model TEXT, calls BIGINT NOT NULL,
                input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, cache_read_tokens BIGINT NOT NULL,
                cache_creation_tokens BIGINT NOT NULL, cost_usd DOUBLE PRECISION,
                PRIMARY KEY (request_id, number))""",
            "CREATE INDEX usage_parts_at ON usage_parts (at)",
            "ALTER TABLE usage_slots ADD COLUMN estimated BIGINT NOT NULL DEFAULT 0",
        ),
    ),
    Migration(
        "0013_scopes",
        (
            "ALTER TABLE accounts ADD COLUMN attention TEXT",
            # In place of `cooldowns`, which stays for processes of the version before that are still running.
            """CREATE TABLE scope_cooldowns (
                account_id TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL, until BIGINT NOT NULL,
                reason TEXT NOT NULL, source TEXT NOT NULL, failures INTEGER NOT NULL,
                PRIMARY KEY (account_id, scope, name))""",
            """INSERT INTO scope_cooldowns
                SELECT account_id, CASE family WHEN '' THEN 'account' ELSE 'family' END, family,
                    until, reason, source, streak FROM cooldowns""",
        ),
    ),
    Migration(
        "0014_owners",
        (
            """CREATE TABLE owners (
                kind TEXT NOT NULL, text TEXT NOT NULL, account_id TEXT NOT NULL, client_id TEXT NOT NULL,
                made_at BIGINT NOT NULL, used_at BIGINT NOT NULL, PRIMARY KEY (kind, text))""",
            "CREATE INDEX owners_made ON owners (kind, made_at)",
            "CREATE INDEX owners_used ON owners (account_id, used_at)",
        ),
    ),
    Migration(
        "0015_stateful",
        (
            "ALTER TABLE client_keys ADD COLUMN stateful BOOLEAN NOT NULL DEFAULT FALSE",
            "ALTER TABLE requests ADD COLUMN previous_message_id TEXT",
            "CREATE INDEX requests_message ON requests (message_id) WHERE message_id IS NOT NULL",
            "ALTER TABLE usage_slots ADD COLUMN lost_thinking_tokens BIGINT NOT NULL DEFAULT 0",
            # What was added up of models that tie thinking to the account lacks what moves have lost of it.
            """INSERT INTO usage_todo SELECT DISTINCT slot FROM usage_slots
                WHERE substr(model, 1, 17) = 'claude-sonnet-5-5' OR substr(model, 1, 16) = 'claude-haiku-5-5'
                ON CONFLICT DO NOTHING""",
        ),
    ),
    Migration(
        "0016_batches",
        (
            """CREATE TABLE batches (
                id TEXT NOT NULL PRIMARY KEY, request_id TEXT NOT NULL, client_id TEXT, made_at BIGINT NOT NULL,
                tokens BIGINT, usd DOUBLE PRECISION, settled TEXT, settled_by TEXT)""",
            "CREATE INDEX batches_made_at ON batches (made_at)",
            # What results have counted before, each time anew, goes on counting.
            """INSERT INTO batches
                SELECT id, id, client_id, timestamp, total_tokens, cost_usd, 'results', id FROM requests
                WHERE client_id IS NOT NULL AND output_tokens IS NOT NULL
                    AND SUBSTR(path, 1, 21) = '/v1/messages/batches/'""",
        ),
    ),
    Migration(
        "0018_tunnels",
        (
            "ALTER TABLE client_keys ADD COLUMN tunnels BOOLEAN NOT NULL DEFAULT FALSE",
            "UPDATE client_keys SET tunnels = TRUE",  # what the keys could do until now; doctor.py names them
            """CREATE TABLE tunnels (
                id TEXT NOT NULL PRIMARY KEY, client_id TEXT NOT NULL, client_name TEXT NOT NULL,
                client_ip TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, address TEXT, run_id TEXT NOT NULL,
                opened_at BIGINT NOT NULL, ended_at BIGINT, sent_bytes BIGINT, received_bytes BIGINT, ended TEXT)""",
            "CREATE INDEX tunnels_opened_at ON tunnels (opened_at)",
        ),
    ),
    Migration(
        "0019_sealed_counts",
        (
            "CREATE TABLE sealed_counts (key_id TEXT NOT NULL PRIMARY KEY, sealed BIGINT NOT NULL)",
            # What was sealed before nobody has counted: at most four values for each block, request and entry there
            # has been, with what was sealed anew.
            """INSERT INTO sealed_counts SELECT id, 4 * (
                    (SELECT COALESCE(MAX(id), 0) FROM blocks) + (SELECT COALESCE(MAX(id), 0) FROM audit_log)
                    + (SELECT COUNT(*) FROM requests)
                    + (SELECT CAST(COALESCE(SUM(requests), 0) AS BIGINT) FROM usage_slots))
                FROM data_keys""",
        ),
    ),
    Migration(
        "0020_signed_rows",
        (
            # Filled where there is a key, when the store is opened.
            """CREATE TABLE row_signatures (
                kind TEXT NOT NULL, row_id TEXT NOT NULL, version BIGINT NOT NULL, mac TEXT NOT NULL,
                PRIMARY KEY (kind, row_id))""",
            "ALTER TABLE audit_head ADD COLUMN signed_rows TEXT NOT NULL DEFAULT ''",
        ),
    ),
    Migration(
        "0021_alerts",
        (
            """CREATE TABLE alerts (
                cause TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL,
                began_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, told_at BIGINT NOT NULL, is_open BOOLEAN NOT NULL,
                is_told BOOLEAN NOT NULL, PRIMARY KEY (cause, subject))""",
        ),
    ),
    Migration(
        "0021_notices",
        (
            """CREATE TABLE notices (
                cause TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, at BIGINT NOT NULL, what TEXT NOT NULL,
                PRIMARY KEY (cause, subject, at))""",
            "CREATE INDEX audit_log_time ON audit_log (ts_utc)",
        ),
    ),
    Migration("0022_proxies", ("ALTER TABLE accounts ADD COLUMN proxy {blob}",)),
    Migration(
        "0023_accounts",
        (
            # As accounts/priority.py has it. The table, since what is updated may be read only half old.
            "CREATE TABLE old_priorities AS SELECT DISTINCT priority FROM accounts",
            """UPDATE accounts SET priority = CASE
                WHEN (SELECT COUNT(*) FROM old_priorities WHERE priority NOT BETWEEN -49 AND 49) = 0
                    THEN 50 + priority
                WHEN priority < 0
                    THEN 50 - (SELECT COUNT(*) FROM old_priorities old
                        WHERE old.priority < 0 AND old.priority >= accounts.priority)
                ELSE 50 + (SELECT COUNT(*) FROM old_priorities old
                    WHERE old.priority > 0 AND old.priority <= accounts.priority) END""",
            "UPDATE accounts SET priority = 1 WHERE priority < 1",
            "UPDATE accounts SET priority = 99 WHERE priority > 99",
            "DROP TABLE old_priorities",
            "ALTER TABLE accounts ADD COLUMN person_id TEXT",
            "ALTER TABLE accounts ADD COLUMN organization_id TEXT",
        ),
    ),
    Migration(
        "0025_client_runs",
        (
            """CREATE TABLE client_runs (
                id TEXT NOT NULL PRIMARY KEY, created_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, ended_at BIGINT,
                client_id TEXT, data_key TEXT, account_id TEXT, account_name TEXT NOT NULL, project TEXT NOT NULL,
                tags TEXT NOT NULL, micro_dollars BIGINT)""",
            "CREATE INDEX client_runs_open ON client_runs (seen_at) WHERE ended_at IS NULL",
            "ALTER TABLE requests ADD COLUMN client_run TEXT",
            "CREATE INDEX requests_client_run ON requests (client_run) WHERE client_run IS NOT NULL",
        ),
    ),
    Migration(
        "0026_request_tags",
        (
            """CREATE TABLE request_tags (
                request_id TEXT NOT NULL REFERENCES requests (id) ON DELETE CASCADE, name TEXT NOT NULL,
                value TEXT NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (request_id, name))""",
            "CREATE INDEX request_tags_value ON request_tags (name, value, request_id)",
            "CREATE INDEX request_tags_at ON request_tags (at)",
        ),
    ),
    Migration(
        "0028_shared",
        (
            """CREATE TABLE session_accounts (
                session TEXT NOT NULL PRIMARY KEY, account_id TEXT NOT NULL, served_at BIGINT NOT NULL,
                number BIGINT NOT NULL)""",
            "CREATE INDEX session_accounts_number ON session_accounts (number)",
        ),
    ),
    Migration(
        "0029_peers",
        (
            "ALTER TABLE runs ADD COLUMN in_flight TEXT",
            """CREATE TABLE probes (
                account_id TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL, until BIGINT NOT NULL,
                owner TEXT NOT NULL, term TEXT NOT NULL, PRIMARY KEY (account_id, scope, name))""",
        ),
    ),
    Migration(
        "0030_limit_shares",
        (
            "ALTER TABLE runs ADD COLUMN sharing BIGINT",
            """CREATE TABLE limit_shares (
                scope TEXT NOT NULL, name TEXT NOT NULL, run_id TEXT NOT NULL, resource TEXT NOT NULL,
                held BIGINT NOT NULL, used BIGINT NOT NULL, wanted BIGINT NOT NULL, spent BIGINT NOT NULL,
                waiting BIGINT, until BIGINT, number BIGINT NOT NULL, PRIMARY KEY (scope, name, run_id))""",
            "CREATE INDEX limit_shares_number ON limit_shares (number)",
        ),
    ),
    Migration(
        "0031_proxies",
        (
            "ALTER TABLE runs ADD COLUMN beat_at BIGINT",
            "ALTER TABLE runs ADD COLUMN name TEXT",
            "ALTER TABLE runs ADD COLUMN worker BIGINT",
            "ALTER TABLE runs ADD COLUMN version TEXT",
            "ALTER TABLE runs ADD COLUMN mitmproxy TEXT",
            "ALTER TABLE runs ADD COLUMN python TEXT",
            "ALTER TABLE runs ADD COLUMN address TEXT",
            "ALTER TABLE runs ADD COLUMN state TEXT",
            "ALTER TABLE runs ADD COLUMN open_requests BIGINT",
            "ALTER TABLE runs ADD COLUMN lag_ms BIGINT",
            "ALTER TABLE runs ADD COLUMN changes TEXT",
            "ALTER TABLE runs ADD COLUMN watching BOOLEAN",
            "ALTER TABLE runs ADD COLUMN running TEXT",
            "CREATE TABLE duties (name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, term TEXT NOT NULL)",
            "CREATE TABLE used_links (nonce TEXT NOT NULL PRIMARY KEY, until BIGINT NOT NULL)",
            "CREATE TABLE ended_sessions (id TEXT NOT NULL PRIMARY KEY, until BIGINT NOT NULL)",
        ),
    ),
)

_BOOK = "CREATE TABLE IF NOT EXISTS migrations (name TEXT NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)"


def pending(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """The steps this database has yet to take. Raises StoreError if it took one that is unknown here."""
    known = {migration.name for migration in migrations}
    applied: set[str] = set()
    if database.table_exists(MigrationRow):
        applied = {row.name for row in MigrationRow.select().bind(database)}
    if unknown := sorted(applied - known):
        raise StoreError(f"the database was changed by a newer ccflare (migration {unknown[-1]}): use that version")
    return [migration for migration in migrations if migration.name not in applied]


def migrate(database: Database, now_ms: int, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Take every pending step in order, all or none. Safe to run in several processes at once.

    A transaction on SQLite has the write lock; PostgreSQL has none of its own, so there the caller has it (see
    postgres.py).
    """
    if not pending(database, migrations):
        return
    with database.atomic():
        execute: Callable[[str], Any] = database.execute_sql
        execute(_BOOK)
        # Another process may have taken some while this one waited for the lock.
        steps = pending(database, migrations)
        for step in steps:
            _take(database, step)
        if steps:
            rows = [{"name": step.name, "applied_at": now_ms} for step in steps]
            MigrationRow.insert_many(rows).execute(database)


def _take(database: Database, migration: Migration) -> None:
    is_sqlite = isinstance(database, SqliteDatabase)
    execute: Callable[[str], Any] = database.execute_sql
    serial, blob = ("INTEGER NOT NULL", "BLOB") if is_sqlite else ("BIGSERIAL", "BYTEA")
    for statement in migration.statements:
        execute(statement.format(serial=serial, blob=blob))
    for statement in migration.sqlite if is_sqlite else migration.postgres:
        execute(statement)
