"""`scripts/keys.py client …`: client keys, their roles and limits. A running proxy sees a change within a second."""

import argparse
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.console import OK, Console, Refused, open_made_store, open_store, proxy_address, read_settings
from ccflare_cli.output import DASH, Column, Table, count, iso, moment, money, named
from ccflare_cli.parsing import Parser, add_command, add_group, dollars, one_of, whole_number
from ccflare_core.clients.keys import ClientKey, Permission, Role, valid_key_name
from ccflare_core.db.engine_choice import is_made
from ccflare_core.secrets.key_sources import choose
from ccflare_core.secrets.redact import holds_secret
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from ccflare_core.text import composed

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_RECORD = ("off", "metadata", "redacted", "full")
_NONE = "none"
_NEEDS_TUNNELS = (
    "It opens no tunnels to other hosts. Claude Code with HTTPS_PROXY needs them, for its git, npm and Bash tools use "
    "the proxy too: --tunnels allows them."
)


_HOW_TO_USE = """\
To use it, with the key in the place of KEY:
  Claude Code  ANTHROPIC_BASE_URL={scheme}://{address} ANTHROPIC_AUTH_TOKEN=KEY
  SDKs         ANTHROPIC_BASE_URL={scheme}://{address} ANTHROPIC_API_KEY=KEY
  curl         curl {scheme}://{address}/v1/models --header 'x-api-key: KEY'
  HTTPS proxy  HTTPS_PROXY={scheme}://key:KEY@{address}"""
_HOW_TO_LOOK = """\
It sends no requests, but shows what they were. To use it, with the key in the place of KEY:
  Browser      {scheme}://{address}/ccflare/login
  curl         curl {scheme}://{address}/ccflare/api/v1/stats --header 'x-api-key: KEY'"""
_NOBODY = (
    "It was the last one that was valid, so nobody is served now: add another key, or set ccflare_open_loopback to "
    "serve this machine's own programs without one."
)


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add `client` with its own commands to those of `keys.py`."""
    client = subparsers.add_parser("client", help="manage client keys: who may use the proxy, and how much")
    commands = add_group(client)
    add = _command(commands, "add", _add, "make a client key and show it once")
    _add_fields(add, again="")
    listed = add_command(commands, "list", _list, "list the client keys, with their limits and what they have used")
    listed.add_argument("--all", action="store_true", help="also those that are revoked")
    _command(commands, "revoke", _revoke, "end a client key for good")
    rotate = _command(commands, "rotate", _rotate, "give a client key a new secret and show it once")
    rotate.add_argument(
        "--grace",
        type=_span,
        default=0.0,
        metavar="SPAN",
        help="how long the old secret stays valid: 1h (default: not at all)",
    )
    change = _command(commands, "change", _change, "change the role and the limits of a client key")
    _add_fields(change, again=f"; {_NONE}: no limit")


def _command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    function: Callable[[Console, argparse.Namespace], int],
    text: str,
) -> Parser:
    command = add_command(commands, name, function, text)
    command.add_argument("name", metavar="NAME", type=_name, help="the client key's name")
    return command


def _add_fields(parser: Parser, again: str) -> None:
    """Options for what a key may. Those that are not given are not in the namespace."""
    number = _or_none(whole_number(1, 10_000_000))

    def option(name: str, kind: Callable[[str], Any], text: str, **more: Any) -> None:
        parser.add_argument(name, type=kind, default=argparse.SUPPRESS, help=text, **more)

    def switch(name: str, text: str) -> None:
        option(name, _switch, text, nargs="?", const=True, metavar="yes|no")

    option("--role", one_of(Role), "what it may do (default: client)", choices=list(Role))
    option(
        "--expires", _or_none(_moment), f"when it ends: 30d, 12h, or a date such as 2027-01-31{again}", metavar="WHEN"
    )
    option("--requests-per-minute", number, f"at most so many requests a minute{again}", metavar="N")
    option(
        "--tokens-per-day",
        _or_none(whole_number(1, 99_999_999_999)),
        f"at most so many tokens a day{again}",
        metavar="N",
    )
    option("--dollars-per-day", _or_none(dollars), f"at most so many dollars a day{again}", metavar="X")
    option("--dollars-per-month", _or_none(dollars), f"at most so many dollars a calendar month{again}", metavar="X")
    option("--models", _words, f"only these models, such as claude-haiku-*{again}", metavar="A,B")
    option("--accounts", _words, f"only these accounts{again}", metavar="A,B")
    option("--not-accounts", _words, f"all accounts but these{again}", metavar="A,B")
    option("--concurrency", number, f"at most so many open requests at once{again}", metavar="N")
    switch("--low-priority", f"yes: leave accounts that are 80 %% full to others{again}")
    switch("--stateful", "yes: it may use Managed Agents (default: no)")
    switch("--tunnels", "yes: it may open tunnels to other hosts (default: no)")
    option("--record", _record, f"how its requests are recorded: {', '.join(_RECORD)}{again}", metavar="MODE")


class FromNow(NamedTuple):
    """A time given as so many seconds from now."""

    seconds: float


_FIELDS = (
    "role",
    "expires",
    "requests_per_minute",
    "tokens_per_day",
    "dollars_per_day",
    "dollars_per_month",
    "models",
    "accounts",
    "not_accounts",
    "concurrency",
    "low_priority",
    "tunnels",
    "record",
    "stateful",
)


def _given(arguments: argparse.Namespace, now: float) -> dict[str, Any]:
    """The fields of a key that the command line sets."""
    given = {name: getattr(arguments, name) for name in _FIELDS if hasattr(arguments, name)}
    if "expires" in given:
        when = given.pop("expires")
        given["expires_at"] = now + when.seconds if isinstance(when, FromNow) else when
        if given["expires_at"] is not None and given["expires_at"] <= now:
            raise Refused("That time is over: `revoke` ends a key at once.")
    return given


def _add(console: Console, arguments: argparse.Namespace) -> int:
    now = console.now()
    given = _given(arguments, now)
    if any(value in (None, ()) for value in given.values()):
        raise Refused(
            f"A new key has no limits but those that you give: leave an option out instead of giving it {_NONE} "
            "(`--not-accounts '*'` is how no account serves a key)."
        )
    if holds_secret(arguments.name):
        raise Refused("This name has the form of a key or token, and names are shown everywhere: choose another.")
    with _opened(console, arguments, make=True) as store:
        is_first = not store.clients.all()
        secret = store.clients.add(_consistent(new_key(arguments.name, now, **given)))
    console.write(secret)
    scheme = read_settings(console, arguments.database).own_scheme
    console.complain(f"That is the key {arguments.name}. It is not shown again: only a digest of it is kept.")
    if Permission.API_REQUEST in given.get("role", Role.CLIENT).permissions:
        console.complain(_HOW_TO_USE.format(scheme=scheme, address=proxy_address(console)))
        if not given.get("tunnels"):
            console.complain(_NEEDS_TUNNELS)
    else:
        console.complain(_HOW_TO_LOOK.format(scheme=scheme, address=proxy_address(console)))
    if is_first:
        console.complain("It is the first one: from now on every request needs a key.")
    return OK


def _consistent(key: ClientKey) -> ClientKey:
    """The same key. Raises Refused if what it may do does not go together."""
    if key.stateful and key.counts_models:
        raise Refused(
            "What managed agents run and cost is not seen here: a key with --stateful can have no list of models, and "
            "no budget of tokens or dollars."
        )
    return key


def _revoke(console: Console, arguments: argparse.Namespace) -> int:
    with _opened(console, arguments) as store:
        store.clients.revoke(arguments.name)
        is_anybody_served = any(_is_served(key, console.now()) for key in store.clients.all())
    console.say(f"Revoked the key {arguments.name}.")
    if not is_anybody_served and not read_settings(console, arguments.database).open_loopback:
        console.complain(_NOBODY)
    return OK


def _is_served(key: ClientKey, now: float) -> bool:
    return key.is_valid(now) and Permission.API_REQUEST in key.role.permissions


def _rotate(console: Console, arguments: argparse.Namespace) -> int:
    with _opened(console, arguments) as store:
        secret = store.clients.rotate(arguments.name, arguments.grace)
    console.write(secret)
    until = f"until {moment(console.now() + arguments.grace, console.now())}" if arguments.grace else "no longer"
    console.complain(f"That is the key {arguments.name} now. The old secret is valid {until}.")
    return OK


def _change(console: Console, arguments: argparse.Namespace) -> int:
    given = _given(arguments, console.now())
    if not given:
        raise Refused("Say what to change; --help shows what can be.")
    with _opened(console, arguments) as store:
        _consistent(replace(store.clients.by_name(arguments.name), **given))
        store.clients.change(arguments.name, **given)
    console.say(f"Changed the key {arguments.name}.")
    return OK


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A key, and what it has used as far as that is recorded."""

    key: ClientKey
    requests: int
    cost_usd: float | None
    used_at: float | None
    unknown_costs: int = 0


def _list(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    rows: list[ClientRow] = []
    if is_made(settings.database):
        with open_store(console, settings, None, read_only=True) as store:
            uses = store.clients.uses()
            rows = [ClientRow(key, *uses.get(key.id, (0, None, None))) for key in store.clients.all()]
    shown = [row for row in rows if arguments.all or row.key.revoked_at is None]
    table = client_table(shown, now)
    if rows and not shown:
        table = replace(table, empty="Every client key is revoked, so nobody is served: add another one.")
    console.show(arguments, table)
    return OK


def client_table(rows: list[ClientRow], now: float) -> Table[ClientRow]:
    """The client keys for people and programs."""
    return Table(
        key="clients",
        title="",
        rows=rows,
        fields=(
            *((name, partial(_field, name)) for name in ("id", "name", "role")),
            ("state", lambda row: state(row.key, now)),
            *((name, partial(_time, name)) for name in ("created_at", "expires_at", "revoked_at")),
            *((name, partial(_field, name)) for name in _FIELDS[2:]),
            ("used_at", lambda row: iso(row.used_at)),
            *named("requests", "cost_usd", "unknown_costs"),
        ),
        columns=(
            Column("Key", lambda row: row.key.name, way=shortened(14)),
            Column("Role", lambda row: row.key.role.value),
            Column("State", lambda row: state(row.key, now), way=wrapped(10)),
            Column("Limits", lambda row: limits(row.key), way=wrapped(18)),
            Column("Last used", lambda row: moment(row.used_at, now), rank=2, way=wrapped(10)),
            Column("Requests", lambda row: count(row.requests), right=True, rank=1),
            Column(
                "Spent", lambda row: money(row.cost_usd or 0.0, row.unknown_costs) if row.requests else DASH, right=True
            ),
        ),
        empty="There is no client key: programs on this machine need none until the first one is made.",
    )


def state(key: ClientKey, now: float) -> str:
    """Whether a key is valid, and until when."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "valid"
    return f"valid until {moment(key.expires_at, now)}" if key.is_valid(now) else "expired"


def limits(key: ClientKey) -> str:
    """What holds a key back, in few words."""
    told = (
        (key.requests_per_minute, f"{key.requests_per_minute}/min"),
        (key.tokens_per_day, f"{count(key.tokens_per_day)} tokens/day"),
        (key.dollars_per_day, f"${key.dollars_per_day}/day"),
        (key.dollars_per_month, f"${key.dollars_per_month}/month"),
        (key.concurrency, f"{key.concurrency} at once"),
        (key.models, f"models {','.join(key.models)}"),
        (key.accounts, f"accounts {','.join(key.accounts)}"),
        (key.not_accounts, f"not {','.join(key.not_accounts)}"),
        (key.low_priority, "low priority"),
        (key.tunnels, "tunnels"),
        (key.record, f"record {key.record}"),
        (key.stateful, "managed agents"),
    )
    return ", ".join(text for is_set, text in told if is_set) or DASH


def _field(name: str, row: ClientRow) -> object:
    value = getattr(row.key, name)
    return float(value) if isinstance(value, Decimal) else list(value) if isinstance(value, tuple) else value


def _time(name: str, row: ClientRow) -> str | None:
    at: float | None = getattr(row.key, name)
    return iso(at)


def _opened(console: Console, arguments: argparse.Namespace, *, make: bool = False) -> AbstractContextManager[Store]:
    settings = read_settings(console, arguments.database)
    source = choose(settings, console.environ)
    if make:
        return open_store(console, settings, source)
    return open_made_store(console, settings, source, "There are no client keys")


# What can be said on the command line


def _name(text: str) -> str:
    if not valid_key_name(text):
        raise argparse.ArgumentTypeError("give a name of 1-64 letters, digits and _.@+-, a letter or digit first")
    return text


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == _NONE else read(text)


def _span(text: str) -> float:
    match = re.fullmatch(r"([1-9]\d{0,4})([mhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError("give a span such as 30m, 12h, 30d or 4w")
    return float(int(match[1]) * _UNITS[match[2]])


def _moment(text: str) -> FromNow | float:
    """A span from now, or the beginning of a day in local time."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d"))
    except (ValueError, OverflowError):
        return FromNow(_span(text))


def _words(text: str) -> tuple[str, ...]:
    words = () if text == _NONE else tuple(word.strip() for word in composed(text).split(","))
    if not all(word and word.isprintable() and len(word) <= 100 for word in words):
        raise argparse.ArgumentTypeError("give names or patterns with a comma between them")
    return words


def _switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError("give yes or no")
    return text == "yes"


def _record(text: str) -> str | None:
    if text in _RECORD:
        return text
    if text == _NONE:
        return None
    raise argparse.ArgumentTypeError(f"give one of {', '.join(_RECORD)}")
