"""What the fields of fields.py hold: of each name its JSON type, its unit, and what it says. Pure.

The API's document is made of this, and a test holds every answer against it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

type Schema = dict[str, Any]


class Word(NamedTuple):
    """What a field holds. `is_old` tells that another field says the same, and this one stays for who knows it."""

    schema: Schema
    about: str
    is_old: bool = False

    def as_schema(self) -> Schema:
        """For the document."""
        return {**self.schema, "description": self.about, **({"deprecated": True} if self.is_old else {})}


def _or_null(kind: str, **more: object) -> Schema:
    return {"type": [kind, "null"], **more}


TEXT: Final[Schema] = {"type": "string"}
TEXT_OR_NULL: Final = _or_null("string")
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Final = _or_null("string", format="date-time")
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Final = _or_null("integer", minimum=0)
NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
NUMBER_OR_NULL: Final = _or_null("number", minimum=0)
FLAG: Final[Schema] = {"type": "boolean"}


def list_of(schema: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": schema}


def object_of(names: Iterable[str], words: Mapping[str, Word]) -> Schema:
    """An object with these fields, all of them."""
    properties = {name: words[name].as_schema() for name in names}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _words(schema: Schema, **about: str) -> dict[str, Word]:
    return {name: Word(schema, text) for name, text in about.items()}


def _old(schema: Schema, **instead: str) -> dict[str, Word]:
    return {name: Word(schema, f"See {other}.", is_old=True) for name, other in instead.items()}


_TOKENS: Final = {
    "input_tokens": "Tokens of prompts that the cache did not touch.",
    "output_tokens": "Tokens of answers.",
    "cache_read_tokens": "Tokens of prompts that were read from the cache.",
    "cache_creation_tokens": "Tokens of prompts that were written to the cache.",
}

REQUEST: Final[Mapping[str, Word]] = {
    **_words(
        TEXT,
        id="Its id.",
        method="Its method.",
        path="Its path, without the query.",
        client="The client's address.",
    ),
    **_words(TIME, at="When it began."),
    **_words(
        TEXT_OR_NULL,
        account="The account that served it.",
        model="The model that served it, or was asked for.",
        outcome="How it ended: ok, upstream_error, truncated, client_abort, refused, shutdown, crashed; null: not yet.",
        error="What went wrong.",
        session="The client's session.",
        choice_reason="Why the account was chosen.",
        stop_reason="Why the answer ended.",
        refusal="The category of a refusal.",
        request_class="What Claude Code asked it for.",
        agent_id="The subagent's id.",
        client_name="The name of the client key.",
        project="The project that it comes from.",
        agent="The agent's name.",
        proxy="The name of the proxy, or worker, that took it.",
    ),
    **_words(COUNT_OR_NULL, status="The HTTP status that the client got.", **_TOKENS),
    **_words(
        NUMBER_OR_NULL,
        seconds="From its start to its end.",
        first_byte_seconds="From its start to the head of the answer.",
        waited_seconds="For which it was held until an account was free.",
        cost_usd="What it cost, in US dollars; null: nobody knows.",
    ),
    **_words(COUNT, failovers="How often it moved to another account."),
    **_words(FLAG, estimated="Whether the output is an estimate."),
    **_words({"type": "object", "additionalProperties": TEXT}, tags="The values of its tags, by their names."),
}
"""A request."""

_PART: Final = object_of(
    ("kind", "text", "name", "id", "is_error", "about", "cached"),
    {
        **_words(
            TEXT,
            kind="The API's word for it.",
            text="What there is to read.",
            name="A tool's name.",
            id="What connects a call with its result.",
            about="A file in one line.",
            cached="For how long the prompt's cache keeps all up to here.",
        ),
        **_words(FLAG, is_error="Whether it is one."),
    },
)
_TURN: Final[Schema] = {
    "type": "object",
    "properties": {"role": TEXT, "parts": list_of(_PART)},
    "required": ["role", "parts"],
}

RECORDED: Final[Mapping[str, Word]] = {
    **REQUEST,
    **_old(COUNT, timestamp="at, in seconds"),
    **_old(COUNT_OR_NULL, status_code="status"),
    **_old(TEXT_OR_NULL, error_message="error", account_name="account", session_id="session", client_ip="client"),
    **_old(
        NUMBER_OR_NULL,
        response_time_ms="seconds",
        first_byte_ms="first_byte_seconds",
        waited_ms="waited_seconds",
    ),
    **_old(
        COUNT_OR_NULL,
        cache_read_input_tokens="cache_read_tokens",
        cache_creation_input_tokens="cache_creation_tokens",
    ),
    **_words(
        COUNT_OR_NULL,
        thinking_tokens="Tokens of the answer that were thinking.",
        web_search_requests="Web searches.",
        web_fetch_requests="Web fetches.",
    ),
    **_words(
        TEXT_OR_NULL,
        service_tier="As which kind of request it was served.",
        speed="In which mode it was served.",
        inference_geo="Where.",
        message_id="The message's id.",
        previous_message_id="The id of the message that it goes on from.",
        input_transformations="What the API did to its input.",
        parent_agent_id="The id of the agent that has started its own.",
        query="Its query, as far as it is kept.",
        api_version="The API's version that was asked for.",
        betas="The betas that were asked for.",
        user_agent="The client's program.",
        missing="Why there is nothing to read, or not all.",
    ),
    **_words(
        list_of({"type": "object"}),
        attempts_made="What went upstream; times in ms.",
        within_request="What other models and compaction took for the answer.",
    ),
    **_words(_or_null("object"), counts_in_budget="What it counts in its client's budget, if that is something else."),
    **_words(
        list_of(TEXT),
        thread="The ids of the requests before it in its message thread.",
        tools="The names of the tools.",
    ),
    **_words(list_of(_TURN), turns="What was asked.", answer="What came back."),
}
"""A request with its conversation."""

HIT: Final[Mapping[str, Word]] = {
    **_words(TIME, at="When the request began that had it first."),
    **_words(
        TEXT,
        id="That request's id.",
        role="Who has said it: user, assistant, tool or system.",
        kind="The API's word for it.",
        before="What stands before it.",
        match="The text that was found, as it stands there.",
        after="What follows.",
    ),
    **_words(
        TEXT_OR_NULL,
        session="The client's session.",
        thread="The first request of its message thread, if it is a later part of one.",
    ),
}
"""A place where a text was found."""

CONVERSATION: Final[Mapping[str, Word]] = {
    **{name: REQUEST[name] for name in ("id", "at", "session", "project", "model")},
    **_words(TEXT, text="What was said, in lines: the question first, then what came of it, unless all is asked for."),
    **_words(TEXT_OR_NULL, missing="Why there is nothing to read, or not all."),
}
"""What was said in a request, to be read."""

TRAFFIC: Final[Mapping[str, Word]] = {
    **_words(
        COUNT,
        requests="All requests for a model or another resource of an account.",
        open="Of these, requests that have not ended.",
        ok="That ended ok.",
        client_aborts="That the client has left.",
        refused="That were refused here.",
        moved="That moved to another account.",
        failovers="The moves.",
        thinking_tokens="Tokens of answers that were thinking.",
        web_searches="Web searches.",
        estimated="Requests whose output is an estimate.",
        requests_of_unknown_cost="Requests that the cost leaves out.",
        other_requests="Requests that needed no account.",
        **_TOKENS,
    ),
    **_words(
        _or_null("number", minimum=0, maximum=1),
        success_rate="The share of the finished that ended ok.",
        cache_hit_rate="The share of the prompts that came from the cache.",
    ),
    **_words(
        NUMBER_OR_NULL,
        cost_usd="The known part of the cost, in US dollars; null: nothing of it is known.",
        latency_p50_seconds="How long requests took, the median.",
        latency_p95_seconds="The 95th percentile of that.",
        first_byte_p50_seconds="How long their answers took to begin, the median.",
        first_byte_p95_seconds="The 95th percentile of that.",
    ),
    **_words(TIME_OR_NULL, first_at="The first request.", last_at="The last request."),
    **_words(TIME, since="Where the period begins.", until="Where it ends."),
    **_words(
        TEXT_OR_NULL,
        minute="The minute, in the proxy's own time.",
        hour="The hour, in the proxy's own time.",
        day="The day, in the proxy's own time.",
        account="The account.",
        model="The model.",
        session="The session.",
        project="The project.",
        agent="The agent.",
        client="The name of the client key.",
        address="The client's address.",
        tag="The tag, as name=value.",
    ),
    "5min": Word(TEXT_OR_NULL, "Where the five minutes begin, in the proxy's own time."),
}
"""What became of the requests of a period, or of a group in it."""

_LIMIT: Final = object_of(
    ("name", "status", "utilization", "resets_at"),
    {
        **_words(TEXT, name="The limit's name."),
        **_words(TEXT_OR_NULL, status="The upstream's word for it."),
        **_words(NUMBER_OR_NULL, utilization="How full it is; 1 is all of it."),
        **_words(TIME_OR_NULL, resets_at="When it is empty again."),
    },
)

ACCOUNT: Final[Mapping[str, Word]] = {
    **_words(
        TEXT,
        name="Its name.",
        kind="oauth or api_key.",
        state="Its state, by what the database has.",
        token="How its access token stands.",  # noqa: S106 - no password
        reason="What it is doing now, in words.",
    ),
    **_words(
        COUNT,
        priority="0 is used first.",
        requests_24h="Its requests in 24 hours.",
        in_flight="Those it serves, of all proxies on the database.",
    ),
    **_words(
        TEXT_OR_NULL,
        state_reason="Why all of it is cooling.",
        warning="What its owner should do about the login.",
    ),
    **_words(
        TIME_OR_NULL,
        state_until="Until when all of it is cooling.",
        token_expires_at="When its access token ends.",  # noqa: S106 - no password
        login_at="When somebody logged in.",
        login_expires_at="When the login is expected to end.",
        last_used="When it last served.",
        available_at="When it is back, if that comes by itself.",
    ),
    **_words(list_of(TEXT), shares_limits_with="The accounts that have the same limits."),
    **_words(
        NUMBER_OR_NULL,
        utilization_5h="How full the limit of five hours is; 1 is all of it.",
        utilization_7d="How full the limit of seven days is.",
    ),
    **_words(FLAG, available="Whether it could serve a request now."),
    **_words(list_of(_LIMIT), windows="Its limits, as last read."),
}
"""An account."""

WINDOW: Final[Mapping[str, Word]] = {
    **_words(TEXT, account="The account.", window="The limit's name."),
    **_words(NUMBER_OR_NULL, utilization="How full it is; 1 is all of it."),
    **_words(_or_null("number"), per_hour="How much of it is used in an hour, by the last two hours."),
    **_words(TIME_OR_NULL, resets_at="When it is empty again.", full_at="When it is full, if that is before."),
    **_words(TEXT_OR_NULL, forecast="spent, fills, holds, unknown or empty."),
    **_words(COUNT_OR_NULL, turns_left="How many requests like the recent ones go into what is left of it."),
    **_words(
        list_of({"type": "object", "properties": {"at": TEXT, "peak": NUMBER}, "required": ["at", "peak"]}),
        history="The highest utilization of each minute, hour or day, in the proxy's own time.",
    ),
}
"""A limit."""

_SESSION_LIMIT = object_of(
    ("window", "utilization", "resets_at"),
    {
        **_words(TEXT, window="5h or 7d."),
        **_words(NUMBER, utilization="How full it is; 1 is all of it."),
        **_words(TIME_OR_NULL, resets_at="When it is empty again."),
    },
)
SESSION_STATE: Final[Mapping[str, Word]] = {
    **_words(TEXT, session="Its id."),
    **_words(TEXT_OR_NULL, account="The account that has served it last; null: none has yet."),
    **_words(list_of(_SESSION_LIMIT), windows="The limits of that account, as far as they are known."),
    **_words(COUNT, free="Accounts that could serve now.", accounts="Accounts in all."),
    **_words(NUMBER_OR_NULL, cost_usd="What its requests cost, as far as that is known."),
    **_words(COUNT, moved="How often another account has taken over."),
    **_words(list_of(TEXT), alerts="Accounts that need a person, each with what it needs."),
}
"""A session as it stands."""

HEALTH: Final[Mapping[str, Word]] = {
    **_words(TEXT, status="ok: it answers."),
    **_words(FLAG, ready="Whether a request could be routed now."),
    **_words(TEXT, proxy="The name of the proxy, or worker, that answers.", run="The id of its run."),
    **_words(COUNT_OR_NULL, worker="Which of several workers it is; null: it is none."),
    **_words(COUNT, open_exchanges="Requests that have not ended, of this one."),
    **_words(TEXT, changes="How changes by other proxies on the database arrive: announced, or polled each second."),
    **_words(TEXT_OR_NULL, changes_problem="Why they are not announced, though the database could; null: nothing."),
    **_words(TEXT, telemetry="Whether OpenTelemetry arrives: off (it is sent nowhere), works, or failing."),
    **_words(TEXT_OR_NULL, telemetry_problem="Why it does not arrive; null: it does."),
    **_words(COUNT, telemetry_lost="Exchanges of which it did not hear, since the start."),
    **_words(COUNT, rules="How many rules are in force."),
    **_words(TEXT_OR_NULL, rules_problem="Why the file that ccflare_rules names is not in force; null: it is."),
    **_words(list_of({"type": "object"}), accounts="Each account as it stands."),
}
"""The proxy."""

PROXY: Final[Mapping[str, Word]] = {
    **_words(
        TEXT,
        name="Its name: host and port, and the number of a worker, as alpha:8080/2.",
        run="The id of its run.",
        host="The machine.",
        state="starting, serving, draining, silent (no sign of life for 45 s), ended or crashed.",
    ),
    **_words(COUNT, pid="Its process.", requests="The requests that it took in the period."),
    **_words(COUNT_OR_NULL, worker="Which of several workers it is; null: it is none.", open_requests="As last told."),
    **_words(
        TEXT_OR_NULL,
        version="Of ccflare, with a mark of its files.",
        mitmproxy="Of mitmproxy.",
        python="Of Python.",
        address="Where it listens.",
        changes="How changes by others arrive: announced, or polled each second.",
    ),
    **_words(TIME, started_at="When it began."),
    **_words(TIME_OR_NULL, ended_at="When it ended, or gave its last sign of life; null: it has not ended."),
    **_words(
        NUMBER_OR_NULL,
        seen_seconds="Since its last sign of life; null: it is gone.",
        loop_lag_seconds="How late its event loop was, as last told.",
    ),
    **_words(FLAG, has_upkeep="Whether it does what one of all does: retention, and alerts about the record."),
}
"""A proxy on the database."""

OPTION: Final[Mapping[str, Word]] = {
    **_words(TEXT, name="Its name.", applies="When a change of it applies."),
    **_words({"type": ["string", "integer", "boolean", "null"]}, value="What it holds; null: that is not shown."),
    **_words({"type": ["string", "integer", "boolean"]}, default="What it holds if nobody says anything."),
    **_words(FLAG, is_default="Whether it holds that."),
}
"""An option."""
