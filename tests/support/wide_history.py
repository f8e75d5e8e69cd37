"""A past whose tables are as wide and as long as they get: long names, large figures, everything that can happen."""

from typing import Any

from ccflare_core.accounts.account import Kind
from ccflare_core.exchange.records import PartUsed, Payload, RunTold
from ccflare_core.http.addresses import Network
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.runs import Program
from history import NOON, History

MAIN = "claude-max-of-the-platform-team@example.com"
"""The account that has most."""
_ACCOUNTS = (MAIN, "max-2", "claude-max-of-the-platform-team@example.org", "key-for-nights-and-weekends.batch")
_KEYS = ("continuous-integration-of-the-main-repository", "laptop")
_MODELS = ("claude-opus-5-5-20261101-with-a-long-name", "claude-haiku-4-5", "claude-nobody-knows-its-price-20270101")
_PROJECTS = ("a-repository-with-quite-a-long-name-for-a-project", "shop", "店舗管理システムの新しい版")
_PATHS = ("/v1/messages", "/v1/messages/batches/msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d/results")
_ERROR = (
    "The upstream broke off in the middle of its answer, after 12,345 bytes and 4 events, and nobody can tell why; "
    "the client has got what had come by then and will repeat its request by itself"
)
_SESSION = "4f1c0a3e-1111-4222-8333-00000000{:04d}"


def write_wide_past(past: History) -> None:
    """A hundred requests of the last days, with accounts, keys, limits, cooldowns, agents and failures."""
    for number, name in enumerate(_ACCOUNTS):
        is_key = number == 3
        fields: dict[str, Any] = {"kind": Kind.API_KEY, "api_key": "sk-ant-api03-K", "access_token": None}
        login = {"login_at": NOON - (23 + number) * 86_400, "refresh_token": f"sk-ant-ort01-R{number}"}
        past.account(name, priority=number * 20 + 1, **(fields | {"expires_at": None} if is_key else login))
    for number in (1, 2):
        run, host = f"run-{number}", f"a-machine-whose-name-is-as-long-as-names-can-be-{number}.example.internal"
        past.store.runs.start(run, host, 123_456 + number, Program("10.11.12 (abcdef01)", "12.3.4", "3.14.15", number))
        told = {"name": f"{host}:18080/{number}", "open_requests": 1_234, "lag_ms": 1_234, "changes": "announced"}
        past.store.write([RunTold(run, {**told, "address": "[2001:db8:1234:5678:9abc:def0:1234:5678]:18080"})])
    for key in _KEYS:
        models = ("claude-haiku-*", "claude-sonnet-5-5") if key == _KEYS[0] else ()
        past.store.clients.add(new_key(key, NOON, models=models, requests_per_minute=60, concurrency=4))
    past.store.blocklist.block(Network.parse("2001:db8:1234:5678::/64"), "guesses keys again and again, since Monday")
    past.store.accounts.update(_ACCOUNTS[1].upper(), paused=True)
    _limits(past)
    for number in range(120):
        _request(past, number)


def _limits(past: History) -> None:
    for name in _ACCOUNTS[:3]:
        for hours in range(60):
            past.window(name, "5h", hours % 5 / 4, NOON + 3568, at=NOON - hours * 3600)
        past.window(name, "7d", 0.69, NOON + 5 * 86_400 + 16 * 3600)
        past.window(name, "7d_opus", 0.42, NOON + 5 * 86_400)
        past.window(name, "overage", 0.05, NOON + 20 * 86_400)
    past.cooldown(MAIN, NOON + 3568, "5h window spent")
    past.cooldown(_ACCOUNTS[2], NOON + 7200, "weekly opus bucket spent", family="opus")


def _request(past: History, number: int) -> None:
    model, account = _MODELS[number % 3], _ACCOUNTS[number % 4]
    is_ok = number % 5 < 4
    used: dict[str, Any] = {"input_tokens": 1_234 + number, "output_tokens": 98_765, "estimated": number % 40 == 0}
    used |= {"cache_read_input_tokens": 1_234_567, "cache_creation_input_tokens": 56_789}
    used |= {"cost_usd": None if number % 3 == 2 else 1234.5678, "failover_attempts": number % 2, "attempts": 2}
    agent = None if number % 4 else ("agent-of-a-long-descent-" + "0123456789abcdef" * (1 + number % 2))
    refused: dict[str, Any] = {"stop_reason": "refusal", "refusal": "cyber"} if number % 30 == 1 else {}
    request_id = past.exchange(
        NOON - number * 3600,
        account,
        path=_PATHS[number % 10 == 9],
        session=_SESSION.format(number // 8),
        client="2001:db8:1234:5678:9abc:def0:1234:5678",
        key=_KEYS[number % 2],
        model=model,
        outcome="ok" if is_ok else "upstream_error",
        project=_PROJECTS[number % 3],
        agent="reviewer-of-the-security-of-changes" if number % 6 == 0 else None,
        status_code=200 if is_ok else 529,
        error_message=None if is_ok else f"{_ERROR} ({number % 7})",
        response_time_ms=123_456.0 + number * 900,
        first_byte_ms=4_321.0,
        upstream_request_id=f"req_011CUpstream{number:04d}",
        request_class="subagent" if agent else "main",
        agent_id=agent,
        parent_agent_id=None,
        tags={"ticket-of-the-tracker-of-changes": f"SECURITY-{number // 4} " + "review of the gate " * 2},
        **refused,
        **(used if is_ok else {}),
    )
    past.attempt(request_id, NOON - number * 3600, account, "window_spent", "the 5h window is spent until 14:20", 429)
    if number % 20 == 0:
        at_ms = round((NOON - number * 3600) * 1000)
        past.store.write(
            [PartUsed(request_id, 1, at_ms, "advisor_message", _MODELS[0], 3, 1_234_567, 98_765, 12_345_678, 0, 12.5)]
        )
        said = (
            b'{"messages":[{"role":"user","content":"Look for the pool of connections, and for what waits for it."}]}'
        )
        past.store.write([Payload(request_id, "request", "application/json", "", said, len(said), False, "s")])
