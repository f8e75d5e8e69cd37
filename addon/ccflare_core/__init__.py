"""The domain of ccflare. Imports neither mitmproxy nor a wing (`ccflare_mitm`, `ccflare_cli`).

Each room is a package, and imports only rooms that stand before it in ROOMS. From the ground up:

    errors, files, process, program, reading, text, workers, yaml_text    the ground: what every room may use
    http          headers, addresses, origins, codings, event streams; our own client
    anthropic     what a path, a request, an answer, a limit and a token mean
    config        the table of options, settings, where the database is
    secrets       sealing, the key's sources, what a secret looks like
    clients       who may ask, and how much
    accounts      the pool: which account serves, which are cooling; tokens
    db            engines, tables, migrations
    audit         the chain of audit rows, its check, and signed rows
    exchange      one exchange from its request to its outcome, and its records
    reports       questions to the record
    transcripts   recorded bodies: blocks, search, export
    telemetry     what OpenTelemetry gets of finished exchanges
    store         the database's owner
    simulation    the recorded traffic once more, with other accounts, rules or settings
    writer        the thread that writes

A request's life, in the order of reading: `anthropic.routes` (what the path means), `clients.admission` (may it go
on), `anthropic.request` (what it asks for), `accounts.pool` (which account), `exchange.exchange` (the decisions
between its attempts), `anthropic.verdicts` (what an answer means), `exchange.failover` (what follows from it),
`exchange.recorder` (what is kept), `writer.writer` and `store.ledger` (how it is written down).
"""

from typing import NamedTuple

__version__ = "0.1.0"
"""As in pyproject.toml."""


class Range(NamedTuple):
    """The versions from `oldest` on, and `before` that one."""

    oldest: tuple[int, ...]
    before: tuple[int, ...]


MITMPROXY = Range((12, 2), (12, 4))
"""What this is made for and tested with. As in pyproject.toml."""

ROOMS = (
    "http",
    "anthropic",
    "config",
    "secrets",
    "clients",
    "accounts",
    "db",
    "audit",
    "exchange",
    "reports",
    "transcripts",
    "telemetry",
    "store",
    "simulation",
    "writer",
)
"""The rooms in their order: each imports only what stands before it, and the ground."""
