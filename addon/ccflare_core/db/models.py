"""The tables as they are now. How a database got there stands in `migrations.py`; a test keeps the two equal.

Every `*_at`, `at`, `until`, `timestamp` is an integer of ms since the epoch, every `*_ms` a duration in
milliseconds. Columns of tokens and keys hold sealed bytes. The models are bound to no database: a query is
given one when it runs, so that a process can have several open.
"""

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


class AccountRow(Model):
    """A Claude account. The three secrets, and `proxy`, are sealed for their column and this row's id."""

    id = TextField(primary_key=True)
    name = TextField(unique=True)
    kind = TextField()
    priority = IntegerField()
    paused = BooleanField()
    access_token = BlobField(null=True)
    refresh_token = BlobField(null=True)
    api_key = BlobField(null=True)
    expires_at = BigIntegerField(null=True)
    created_at = BigIntegerField()
    updated_at = BigIntegerField()
    login_at = BigIntegerField(null=True)
    login_expires_at = BigIntegerField(null=True)
    needs_login = BooleanField()
    attention = TextField(null=True)
    refresh_digest = TextField(null=True)
    """Tells which refresh token is stored, see oauth_tokens.py; NULL also where nobody has needed it yet."""
    proxy = BlobField(null=True)
    """The URL, sealed as the secrets are, of the proxy that everything of this account goes by."""
    refresh_retry_at = BigIntegerField(null=True)
    """After a refresh that failed: when the next one is tried. For people only."""
    person_id = TextField(null=True)
    organization_id = TextField(null=True)

    class Meta:
        table_name = "accounts"


class RefreshLeaseRow(Model):
    """Which run refreshes an account's tokens at the moment. `term` is a new random word for each lease."""

    account_id = TextField(primary_key=True)
    owner = TextField()
    term = TextField()

    class Meta:
        table_name = "refresh_leases"


class OAuthSessionRow(Model):
    """A login that waits for its code. State and verifier are sealed; the row goes when it is used."""

    id = TextField(primary_key=True)
    account_name = TextField()
    mode = TextField()
    state = BlobField()
    verifier = BlobField()
    created_at = BigIntegerField()
    expires_at = BigIntegerField()

    class Meta:
        table_name = "oauth_sessions"


class DataKeyRow(Model):
    """A key that seals values, wrapped by the key source that is named; see data_keys.py."""

    id = TextField(primary_key=True)
    number = IntegerField()
    """The highest one seals."""
    wrapped = BlobField()
    source = TextField()
    source_at = BigIntegerField()
    """Since when this source: a proxy that was started before cannot use it."""
    created_at = BigIntegerField()

    class Meta:
        table_name = "data_keys"


class SealedCountRow(Model):
    """How many values a data key has sealed, and some more; see sealed_counts.py."""

    key_id = TextField(primary_key=True)
    sealed = BigIntegerField()

    class Meta:
        table_name = "sealed_counts"


class ClientKeyRow(Model):
    """What lets a client use this proxy; see client_keys.py. `digest` is NULL once the key is revoked.

    `old_digest` is that of the secret before the last rotation, valid until `old_until`. Lists are JSON.
    """

    id = TextField(primary_key=True)
    name = TextField(unique=True)
    role = TextField()
    digest = BlobField(null=True)
    old_digest = BlobField(null=True)
    old_until = BigIntegerField(null=True)
    created_at = BigIntegerField()
    expires_at = BigIntegerField(null=True)
    revoked_at = BigIntegerField(null=True)
    requests_per_minute = IntegerField(null=True)
    tokens_per_day = BigIntegerField(null=True)
    micro_dollars_per_day = BigIntegerField(null=True)
    micro_dollars_per_month = BigIntegerField(null=True)
    models = TextField()
    accounts = TextField()
    not_accounts = TextField()
    concurrency = IntegerField(null=True)
    low_priority = BooleanField()
    record = TextField(null=True)
    stateful = BooleanField(default=False)
    tunnels = BooleanField()

    class Meta:
        table_name = "client_keys"


class BlockedAddressRow(Model):
    """A network (CIDR, as access.py writes it) that may not connect."""

    network = TextField(primary_key=True)
    created_at = BigIntegerField()
    reason = TextField()

    class Meta:
        table_name = "blocked_addresses"


class SecondFactorRow(Model):
    """What administrative requests have to show besides a key; see second_factor.py. There is one row at most."""

    id = TextField(primary_key=True)
    seed = BlobField()
    created_at = BigIntegerField()
    confirmed_at = BigIntegerField(null=True)
    last_step = BigIntegerField()
    failures = IntegerField()
    retry_at = BigIntegerField()

    class Meta:
        table_name = "second_factor"


class RecoveryCodeRow(Model):
    """A code that can stand in for the second factor once, as a keyed hash."""

    digest = TextField(primary_key=True)

    class Meta:
        table_name = "recovery_codes"


class CooldownRow(Model):
    """Until when a part of an account (see `cooldowns.Part`) is left alone, and why."""

    account_id = TextField()
    scope = TextField()
    name = TextField()
    until = BigIntegerField()
    reason = TextField()
    source = TextField()
    failures = IntegerField()

    class Meta:
        table_name = "scope_cooldowns"
        primary_key = CompositeKey("account_id", "scope", "name")


class SessionAccountRow(Model):
    """Which account has served a session last; see store/affinity.py. Rows with a higher number were written later.

    `session` is a digest of the session's id.
    """

    session = TextField(primary_key=True)
    account_id = TextField()
    served_at = BigIntegerField()
    number = BigIntegerField()

    class Meta:
        table_name = "session_accounts"


class OwnerRow(Model):
    """Which account made what an id stands for, and for which client key; "" is nobody's, see accounts/owners.py."""

    kind = TextField()
    text = TextField()
    account_id = TextField()
    client_id = TextField()
    made_at = BigIntegerField()
    used_at = BigIntegerField()

    class Meta:
        table_name = "owners"
        primary_key = CompositeKey("kind", "text")


class RunRow(Model):
    """One life of one proxy process. All from `beat_at` on is NULL where an older version runs.

    `heartbeat_at` is by the process's own clock, `beat_at` by the one that all share, see StoreContext.now.
    """

    id = TextField(primary_key=True)
    host = TextField()
    pid = IntegerField()
    started_at = BigIntegerField()
    heartbeat_at = BigIntegerField()
    ended_at = BigIntegerField(null=True)
    in_flight = TextField(null=True)
    """How many requests it has in flight with each account, as JSON; NULL is none, or nobody to tell."""
    beat_at = BigIntegerField(null=True)
    name = TextField(null=True)
    """What people call it: host, port and the number of a worker, as `alpha:8080/2`."""
    worker = BigIntegerField(null=True)
    version = TextField(null=True)
    mitmproxy = TextField(null=True)
    python = TextField(null=True)
    address = TextField(null=True)
    """Where it listens; NULL while it does not."""
    state = TextField(null=True)
    """Of reports/proxies.py, as it last told or, where it died, as others found it."""
    open_requests = BigIntegerField(null=True)
    lag_ms = BigIntegerField(null=True)
    changes = TextField(null=True)
    watching = BooleanField(null=True)
    """Whether somebody looks on there at what goes on, so that the others tell what is open with them."""
    running = TextField(null=True)
    """That, as a JSON list with the fields of the API; NULL while nobody looks on."""
    sharing = BigIntegerField(null=True)
    """How it keeps limits: 1 by itself, 2 by shares; NULL is a version that knows of no shares."""

    class Meta:
        table_name = "runs"


class DutyRow(Model):
    """Which run does what is to be done by one proxy of all on the database; see store/duties.py."""

    name = TextField(primary_key=True)
    owner = TextField()
    term = TextField()

    class Meta:
        table_name = "duties"


class LimitShareRow(Model):
    """What a run holds of a limit that all proxies keep together; see store/limit_shares.py.

    In the row without a run stands what belongs to none: of what may be spent, what ended runs have (`held`); of a
    rate, how many thousandths of requests its free part lacks (`used`). In the one without a scope stands the last
    `number` that was given to a row.
    """

    scope = TextField()
    name = TextField()
    run_id = TextField()
    resource = TextField()
    held = BigIntegerField()
    used = BigIntegerField()
    wanted = BigIntegerField()
    spent = BigIntegerField()
    waiting = BigIntegerField(null=True)
    until = BigIntegerField(null=True)
    """When the window ends."""
    number = BigIntegerField(index=True)
    """Higher with each transaction."""

    class Meta:
        table_name = "limit_shares"
        primary_key = CompositeKey("scope", "name", "run_id")


class ProbeRow(Model):
    """Which run may send the first request after a rest of a part of an account; see store/probes.py.

    `until` is when that rest has ended, `term` a new random word for each claim.
    """

    account_id = TextField()
    scope = TextField()
    name = TextField()
    until = BigIntegerField()
    owner = TextField()
    term = TextField()

    class Meta:
        table_name = "probes"
        primary_key = CompositeKey("account_id", "scope", "name")


class UsedLinkRow(Model):
    """A link to the dashboard that somebody has used, until it would be over anyway."""

    nonce = TextField(primary_key=True)
    until = BigIntegerField()

    class Meta:
        table_name = "used_links"


class EndedSessionRow(Model):
    """A session of a browser that has logged out, until it would be over anyway."""

    id = TextField(primary_key=True)
    until = BigIntegerField()

    class Meta:
        table_name = "ended_sessions"


class ClientRunRow(Model):
    """A run of a client that `ccflare run` has started. `data_key` is what its temporary key is made with, if any.

    It stays when the run has ended, for what was recorded in it. `tags` is JSON.
    """

    id = TextField(primary_key=True)
    created_at = BigIntegerField()
    seen_at = BigIntegerField()
    ended_at = BigIntegerField(null=True)
    client_id = TextField(null=True)
    data_key = TextField(null=True)
    account_id = TextField(null=True)
    account_name = TextField()
    project = TextField()
    tags = TextField()
    micro_dollars = BigIntegerField(null=True)

    class Meta:
        table_name = "client_runs"


class RequestRow(Model):
    """One exchange with a client. `outcome` is NULL while it goes on; a NULL count or cost is unknown, not 0.

    `account_used` is an account's id, `account_name` the name that it had then. `model` is the model that answered,
    `original_model` the one that was asked for if an agent's definition has replaced it.
    """

    id = TextField(primary_key=True)
    timestamp = BigIntegerField()
    method = TextField()
    path = TextField()
    account_used = TextField(null=True)
    account_name = TextField(null=True)
    status_code = IntegerField(null=True)
    success = BooleanField(null=True)
    error_message = TextField(null=True)
    response_time_ms = DoubleField(null=True)
    first_byte_ms = DoubleField(null=True)
    failover_attempts = IntegerField()
    attempts = IntegerField()
    model = TextField(null=True)
    outcome = TextField(null=True)
    client_ip = TextField()
    user_agent = TextField()
    session_id = TextField(null=True)
    door = TextField()
    stream = BooleanField(null=True)
    choice_reason = TextField()
    run_id = TextField()
    upstream_request_id = TextField(null=True)
    prompt_tokens = BigIntegerField(null=True)
    completion_tokens = BigIntegerField(null=True)
    total_tokens = BigIntegerField(null=True)
    input_tokens = BigIntegerField(null=True)
    output_tokens = BigIntegerField(null=True)
    cache_read_input_tokens = BigIntegerField(null=True)
    cache_creation_input_tokens = BigIntegerField(null=True)
    cache_creation_5m_input_tokens = BigIntegerField(null=True)
    cache_creation_1h_input_tokens = BigIntegerField(null=True)
    thinking_tokens = BigIntegerField(null=True)
    web_search_requests = BigIntegerField(null=True)
    service_tier = TextField(null=True)
    cost_usd = DoubleField(null=True)
    request_bytes = BigIntegerField(null=True)
    response_bytes = BigIntegerField(null=True)
    project = TextField(null=True)
    working_directory = TextField(null=True)
    agent = TextField(null=True)
    request_class = TextField(null=True)
    original_model = TextField(null=True)
    client_id = TextField(null=True)
    """Which client key asked; NULL: none did."""
    client_name = TextField(null=True)
    message_id = TextField(null=True)
    previous_message_id = TextField(null=True)
    stop_reason = TextField(null=True)
    refusal = TextField(null=True)
    """The category of a refusal."""
    speed = TextField(null=True)
    inference_geo = TextField(null=True)
    web_fetch_requests = BigIntegerField(null=True)
    input_transformations = TextField(null=True)
    """What the API did to the input, as `thinking_dropped 2`; empty is nothing, NULL that it did not say."""
    estimated = BooleanField(null=True)
    """Whether the output, and with it the cost, is an estimate, since the answer broke off before it was counted."""
    agent_id = TextField(null=True)
    parent_agent_id = TextField(null=True)
    """Claude Code's own ids of a subagent and of the one that has started it."""
    waited_ms = DoubleField(null=True)
    """How long the request was held until an account was free; NULL if it was not."""
    query = TextField(null=True)
    api_version = TextField(null=True)
    betas = TextField(null=True)
    """With what the request was made besides its body: what repeating it takes."""
    counted_tokens = BigIntegerField(null=True)
    counted_usd = DoubleField(null=True)
    """What a budget counts in place of the tokens and the cost, where those are not known or are an estimate."""
    client_run = TextField(null=True)
    """The run of a client that it was in; see client_runs.py."""

    class Meta:
        table_name = "requests"


class UsagePartRow(Model):
    """What was used within a request and is not in its tokens: an advisor's calls, or compaction's, of one model.

    Its cost is in the request's.
    """

    request = ForeignKeyField(RequestRow, on_delete="CASCADE", backref="+")
    number = IntegerField()
    at = BigIntegerField()
    kind = TextField()
    model = TextField(null=True)
    calls = BigIntegerField()
    input_tokens = BigIntegerField()
    output_tokens = BigIntegerField()
    cache_read_tokens = BigIntegerField()
    cache_creation_tokens = BigIntegerField()
    cost_usd = DoubleField(null=True)

    class Meta:
        table_name = "usage_parts"
        primary_key = CompositeKey("request", "number")


class RequestTagRow(Model):
    """A tag of a request that began `at` then, its client's own or its run's; see store/request_tags.py."""

    request = ForeignKeyField(RequestRow, on_delete="CASCADE", backref="+")
    name = TextField()
    value = TextField()
    at = BigIntegerField()

    class Meta:
        table_name = "request_tags"
        primary_key = CompositeKey("request", "name")


class BatchRow(Model):
    """A batch of messages, and what it counts in the budget of the client key that made it: see store/batches.py.

    `id` is the exchange's where the upstream has told none. `settled` is NULL while `tokens` and `usd` are an estimate,
    "ended" where they are the part of it that succeeded, "results" where the results told them, and "late" where these
    came too late to count. `settled_by` is the exchange that the results went through first.
    """

    id = TextField(primary_key=True)
    request_id = TextField()
    client_id = TextField(null=True)
    made_at = BigIntegerField()
    tokens = BigIntegerField(null=True)
    usd = DoubleField(null=True)
    settled = TextField(null=True)
    settled_by = TextField(null=True)

    class Meta:
        table_name = "batches"


class TunnelRow(Model):
    """A tunnel to another host that a client key has opened; `ended_at` is NULL while it is open.

    `address` is the one that was looked up and connected to, NULL where another proxy on the way looks it up.
    """

    id = TextField(primary_key=True)
    client_id = TextField()
    client_name = TextField()
    client_ip = TextField()
    host = TextField()
    port = IntegerField()
    address = TextField(null=True)
    run_id = TextField()
    opened_at = BigIntegerField()
    ended_at = BigIntegerField(null=True)
    sent_bytes = BigIntegerField(null=True)
    received_bytes = BigIntegerField(null=True)
    ended = TextField(null=True)

    class Meta:
        table_name = "tunnels"


class UsageSlotRow(Model):
    """What the requests of a quarter of an hour add up to, by the combinations of DIMENSIONS; see measures.py.

    `slot` counts the quarters since the epoch. The last two columns are packed durations.
    """

    slot = BigIntegerField()
    account_used = TextField(null=True)
    model = TextField(null=True)
    session_id = TextField(null=True)
    client_ip = TextField()
    client_id = TextField(null=True)
    project = TextField(null=True)
    agent = TextField(null=True)
    is_inference = BooleanField()
    requests = BigIntegerField()
    open = BigIntegerField()
    ok = BigIntegerField()
    client_aborts = BigIntegerField()
    refused = BigIntegerField()
    moved = BigIntegerField()
    failovers = BigIntegerField()
    input_tokens = BigIntegerField()
    output_tokens = BigIntegerField()
    cache_read_tokens = BigIntegerField()
    cache_creation_tokens = BigIntegerField()
    thinking_tokens = BigIntegerField()
    web_searches = BigIntegerField()
    cost_usd = DoubleField()
    unknown_costs = BigIntegerField()
    estimated = BigIntegerField()
    first_ms = BigIntegerField()
    last_ms = BigIntegerField()
    switches = BigIntegerField()
    rebilled_tokens = BigIntegerField()
    rebilled_1h_tokens = BigIntegerField()
    lost_thinking_tokens = BigIntegerField()
    latencies = BlobField()
    first_bytes = BlobField()

    class Meta:
        table_name = "usage_slots"
        primary_key = False


class UsageTodoRow(Model):
    """A slot of which `usage_slots` says nothing, or nothing true any more. Triggers on `requests` write it."""

    slot = BigIntegerField(primary_key=True)

    class Meta:
        table_name = "usage_todo"


class AttemptRow(Model):
    """One try upstream within an exchange. `windows` is a JSON list, see ledger.py."""

    id = AutoField()
    request = ForeignKeyField(RequestRow, on_delete="CASCADE", backref="+")
    number = IntegerField()
    account_id = TextField(null=True)
    account_name = TextField()
    status_code = IntegerField(null=True)
    verdict = TextField()
    reason = TextField()
    windows = TextField()
    started_at = BigIntegerField()
    duration_ms = DoubleField()

    class Meta:
        table_name = "attempts"


class WindowRow(Model):
    """One reading of one limit window of an account. `utilization` is a fraction and may exceed 1."""

    id = AutoField()
    account_id = TextField()
    name = TextField()
    at = BigIntegerField()
    utilization = DoubleField(null=True)
    status = TextField(null=True)
    resets_at = BigIntegerField(null=True)

    class Meta:
        table_name = "windows"


class SegmentRow(Model):
    """A segment: up to some hundred bodies of one session, whose needed blocks are noted together."""

    id = AutoField()
    term = BigIntegerField()
    """The fencing token: a random number that its writer knows. 0: no more bodies are added."""
    is_stale = BooleanField()
    """Bodies were deleted: it may name blocks that none of the others needs."""

    class Meta:
        table_name = "chapters"


class BlockRow(Model):
    """A part of bodies, sealed for its address, see packing.py."""

    id = AutoField()
    address = BlobField()
    body = BlobField()

    class Meta:
        table_name = "blocks"


class SegmentBlockRow(Model):
    """That a body of the segment needs the block."""

    segment = ForeignKeyField(SegmentRow, column_name="chapter_id", backref="+")
    block = ForeignKeyField(BlockRow, backref="+")

    class Meta:
        table_name = "chapter_blocks"
        primary_key = CompositeKey("segment", "block")


class PayloadRow(Model):
    """A body (`part` is "request" or "response") in a format of packing.py, sealed for its place."""

    request = ForeignKeyField(RequestRow, on_delete="CASCADE", backref="+")
    part = TextField()
    format = TextField()
    content_type = TextField()
    content_encoding = TextField()
    size = BigIntegerField()
    truncated = BooleanField()
    redactions = IntegerField(null=True)
    """How many secrets were blanked; NULL if the body was not searched."""
    withheld = BooleanField()
    """Whether the body was to be searched and could not be, and so is not kept."""
    body = BlobField()
    segment = ForeignKeyField(SegmentRow, column_name="chapter_id", null=True, backref="+")
    """Where the body's blocks are noted; NULL if it has none."""

    class Meta:
        table_name = "payloads"
        primary_key = CompositeKey("request", "part")


class AuditRow(Model):
    """An entry of the audit log (chain.py). Triggers refuse to change or delete a row; `hash` signs all the others."""

    id = AutoField()
    ts_utc = TextField()
    actor = TextField()
    ip = TextField()
    action = TextField()
    target = TextField()
    outcome = TextField()
    request_id = TextField()
    detail = TextField()
    key_id = TextField()
    prev_hash = TextField()
    hash = TextField()

    class Meta:
        table_name = "audit_log"


class AuditHeadRow(Model):
    """The only row of its table: where the audit log ends, and where it begins since its oldest rows were deleted."""

    id = IntegerField(primary_key=True)
    last_id = BigIntegerField()
    hash = TextField()
    pruned_id = BigIntegerField()
    pruned_hash = TextField()
    key_id = TextField()
    mac = TextField()
    signed_rows = TextField(default="")

    class Meta:
        table_name = "audit_head"


class AuditKeyRow(Model):
    """The sealed audit key of a data key that was retired: it checks what it has signed."""

    id = TextField(primary_key=True)
    sealed = BlobField()

    class Meta:
        table_name = "audit_keys"


class RowSignatureRow(Model):
    """The MAC of a row that decides who may do what, see signed_rows.py; `kind` is its table, `row_id` its key."""

    kind = TextField()
    row_id = TextField()
    version = BigIntegerField()
    mac = TextField()

    class Meta:
        table_name = "row_signatures"
        primary_key = CompositeKey("kind", "row_id")


class ConfigurationRow(Model):
    """The options that were last in use at one place (host and port), as a JSON object."""

    scope = TextField(primary_key=True)
    options = TextField()

    class Meta:
        table_name = "configurations"


class NoticeRow(Model):
    """Something unusual that was told, see anomalies.py: by it no proxy tells it a second time."""

    cause = TextField()
    subject = TextField()
    name = TextField()
    at = BigIntegerField()
    what = TextField()

    class Meta:
        table_name = "notices"
        primary_key = CompositeKey("cause", "subject", "at")


class AlertRow(Model):
    """A condition that alerts are about, see alerts.py: by it each is told once. `told_at` is 0 until it is told."""

    cause = TextField()
    subject = TextField()
    name = TextField()
    what = TextField()
    began_at = BigIntegerField()
    seen_at = BigIntegerField()
    told_at = BigIntegerField()
    is_open = BooleanField()
    is_told = BooleanField()
    """Whether its beginning was told, and so is to be its end."""

    class Meta:
        table_name = "alerts"
        primary_key = CompositeKey("cause", "subject")


class MigrationRow(Model):
    """A migration that this database has been through."""

    name = TextField(primary_key=True)
    applied_at = BigIntegerField()

    class Meta:
        table_name = "migrations"


TABLES: tuple[type[Model], ...] = (
    AccountRow,
    RefreshLeaseRow,
    OAuthSessionRow,
    DataKeyRow,
    SealedCountRow,
    ClientKeyRow,
    ClientRunRow,
    BlockedAddressRow,
    SecondFactorRow,
    RecoveryCodeRow,
    CooldownRow,
    SessionAccountRow,
    OwnerRow,
    RunRow,
    DutyRow,
    LimitShareRow,
    ProbeRow,
    UsedLinkRow,
    EndedSessionRow,
    RequestRow,
    UsagePartRow,
    RequestTagRow,
    BatchRow,
    TunnelRow,
    UsageSlotRow,
    UsageTodoRow,
    AttemptRow,
    WindowRow,
    SegmentRow,
    BlockRow,
    SegmentBlockRow,
    PayloadRow,
    AuditRow,
    AuditHeadRow,
    AuditKeyRow,
    RowSignatureRow,
    ConfigurationRow,
    NoticeRow,
    AlertRow,
    MigrationRow,
)
