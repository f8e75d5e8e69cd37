"""`scripts/prices.py`: what tokens cost, and how to learn new prices. Nothing is fetched unless it is asked for."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ccflare_cli.cells import shortened, wrapped
from ccflare_cli.console import OK, Console, Refused, fetcher, read_settings
from ccflare_cli.output import DASH, Column, Table, named, some
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_core.anthropic import price_files
from ccflare_core.anthropic.price_files import CATALOG_LIMIT, PriceFile
from ccflare_core.anthropic.pricing import TABLE, TABLE_DATE, Price, Tariff
from ccflare_core.config.settings import Settings
from ccflare_core.files import write_whole
from ccflare_core.http.messages import Request, check_url
from ccflare_core.text import worded

_FETCH_SECONDS = 60.0
_BUILT_IN = "built in"
_EXAMPLES = """\
examples:
  scripts/prices.py show
  scripts/prices.py update prices.yaml
  scripts/prices.py update https://example.com/prices.yaml --yes

format of ccflare_prices, in USD per million tokens:
  dated: 2026-11-24       # optional: when these prices were read
  claude-opus-6:          # a model's name, without its date
    input: 5              # all five are needed
    output: 25
    cache_write_5m: 6.25
    cache_write_1h: 10
    cache_read: 0.5
    long:                 # optional: for prompts of more tokens than `above`
      above: 200000
      input: 10           # and the other four
    fast:                 # optional: fast mode
      input: 30           # and the other four

The source is a YAML file of this format, or the catalog of all models that
LiteLLM publishes. Costs that are recorded already do not change. A running
proxy uses new prices within seconds.
"""


class PriceRow(NamedTuple):
    """A model's prices and where they come from."""

    model: str
    tariff: Tariff
    source: str


class PriceChange(NamedTuple):
    """What an update would do to one price of one model."""

    model: str
    price: str
    before: str
    after: str


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser("prices.py", "Show and update what tokens cost.", _EXAMPLES)
    commands = add_group(parser)
    add_command(commands, "show", _show, "show the prices in use, in USD per million tokens")
    update = add_command(commands, "update", _update, "copy prices from a file or a URL into the price file")
    update.add_argument("source", metavar="FILE|URL", help="a YAML file, or LiteLLM's catalog in JSON")
    update.add_argument(
        "--to", metavar="FILE", type=Path, help="the price file to write (default: that of ccflare_prices)"
    )
    update.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")
    return parser


def _show(console: Console, arguments: argparse.Namespace) -> int:
    path = read_settings(console, arguments.database).prices_path
    own = price_files.read_file(path) if path else PriceFile({})
    rows = [
        PriceRow(model, tariff, "file" if model in own.tariffs else _BUILT_IN)
        for model, tariff in sorted({**TABLE, **own.tariffs}.items())
    ]
    note = f"The built-in prices were read in {TABLE_DATE}."
    if path:
        note += f" Those of {path} are " + (f"dated {own.dated}." if own.dated else "not dated.")
    console.show(arguments, _price_table(rows, note))
    return OK


def _price_table(rows: Sequence[PriceRow], note: str) -> Table[PriceRow]:
    def amount(name: str) -> Column[PriceRow]:
        headings = {"cache_write_5m": "Write 5 min", "cache_write_1h": "Write 1 h", "cache_read": "Read"}
        heading = headings.get(name, name.capitalize())
        return Column(heading, lambda row: f"{getattr(row.tariff.standard, name):f}", right=True)

    def flat(price: Price | None) -> dict[str, float] | None:
        return {name: float(each) for name, each in price._asdict().items()} if price else None

    return Table(
        key="prices",
        title="USD per million tokens",
        rows=rows,
        fields=(
            ("model", lambda row: row.model),
            ("standard", lambda row: flat(row.tariff.standard)),
            ("long_above", lambda row: row.tariff.long.above if row.tariff.long else None),
            ("long", lambda row: flat(row.tariff.long.price if row.tariff.long else None)),
            ("fast", lambda row: flat(row.tariff.fast)),
            ("source", lambda row: row.source),
        ),
        columns=(
            Column("Model", lambda row: row.model, way=shortened(18)),
            *map(amount, Price._fields),
            Column("Long prompts", _long, rank=1, way=wrapped(14)),
            Column("Fast", lambda row: _in_and_out(row.tariff.fast), rank=2, way=wrapped(9)),
            Column("From", lambda row: row.source, rank=3),
        ),
        note=note,
    )


def _in_and_out(price: Price | None) -> str:
    return f"{price.input:f} in, {price.output:f} out" if price else DASH


def _long(row: PriceRow) -> str:
    return f"{_in_and_out(row.tariff.long.price)} above {row.tariff.long.above}" if row.tariff.long else DASH


def _update(console: Console, arguments: argparse.Namespace) -> int:
    target = arguments.to.expanduser().absolute() if arguments.to else None
    settings = read_settings(console, arguments.database)
    target = target or settings.prices_path
    if target is None:
        raise Refused("Set ccflare_prices to the file that holds your prices, or name one with --to.")
    new = _read(console, settings, arguments.source)
    own = price_files.read_file(target) if target.exists() else PriceFile({})
    changes = _changes({**TABLE, **own.tariffs}, new.tariffs)
    console.show(arguments, _change_table(changes, new))
    if not changes:
        return OK
    if not arguments.yes:
        console.complain(f"Nothing was changed: --yes writes this to {target}.")
        return OK
    today = datetime.fromtimestamp(console.now(), UTC).date().isoformat()
    # What is as in the built-in table stays out of the file: a later version may know better.
    differing = {model: each for model, each in {**own.tariffs, **new.tariffs}.items() if TABLE.get(model) != each}
    _write(target, price_files.written(differing, new.dated or today, _shown(arguments.source)))
    console.complain(f"Written to {target}. Set ccflare_prices to it if that is not so yet.")
    return OK


def _read(console: Console, settings: Settings, source: str) -> PriceFile:
    if "://" not in source:
        return price_files.read_source(Path(source).expanduser())
    try:
        check_url(source)
    except ValueError as error:
        raise Refused(f"This address cannot be used: {error}.") from None
    client = fetcher(console, settings, total_seconds=_FETCH_SECONDS, max_bytes=CATALOG_LIMIT)
    answer = asyncio.run(client.send(Request("GET", source, (), b"")))
    if answer.status != 200:
        raise Refused(f"{_shown(source)} answered {answer.status}: give the address of the file itself.")
    return price_files.parse_source(answer.body, _shown(source))


def _shown(source: str) -> str:
    """The source without what may be private in it: an address loses its query."""
    if "://" not in source:
        return Path(source).name
    url = urlsplit(source)
    return f"{url.scheme}://{url.hostname}{url.path}"


def _changes(before: Mapping[str, Tariff], after: Mapping[str, Tariff]) -> list[PriceChange]:
    found = []
    for model, tariff in sorted(after.items()):
        old, new = _amounts(before.get(model)), _amounts(tariff)
        found += [
            PriceChange(model, name, old.get(name, DASH), new.get(name, DASH))
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
    return found


def _amounts(tariff: Tariff | None) -> dict[str, str]:
    """Every price of a model by a name for people."""
    if tariff is None:
        return {}
    found = {name: f"{amount.normalize():f}" for name, amount in tariff.standard._asdict().items()}
    if tariff.long:
        found["long above"] = str(tariff.long.above)
        found |= {f"long {name}": f"{amount.normalize():f}" for name, amount in tariff.long.price._asdict().items()}
    if tariff.fast:
        found |= {f"fast {name}": f"{amount.normalize():f}" for name, amount in tariff.fast._asdict().items()}
    return found


def _change_table(changes: Sequence[PriceChange], new: PriceFile) -> Table[Any]:
    parts = [f"{some(len(new.tariffs), 'model')} read."]
    if new.left_out:
        parts.append(f"{new.left_out} were left out: their prices are incomplete.")
    return Table(
        key="changes",
        title="",
        rows=changes,
        fields=named(*PriceChange._fields),
        columns=(
            Column("Model", lambda change: change.model, way=shortened(18)),
            Column("Price", lambda change: worded(change.price), way=wrapped(10)),
            Column("Before", lambda change: change.before, right=True),
            Column("After", lambda change: change.after, right=True),
        ),
        empty="All of these prices are in force already.",
        note=" ".join(parts),
    )


def _write(target: Path, text: str) -> None:
    """Put the file in the place of the old one, whole or not at all."""
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise Refused(f"{target} cannot be written ({error.strerror}); name another file with --to.") from None
