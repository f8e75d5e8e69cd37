"""Prices in files: the YAML file that adds to the built-in table, and the catalog that LiteLLM publishes.

The YAML file:

    dated: 2026-11-24         # optional: when these prices were read
    claude-opus-6:
      input: 5                # USD per million tokens, all five are needed
      output: 25
      cache_write_5m: 6.25
      cache_write_1h: 10
      cache_read: 0.5
      long:                   # optional: the prices of a request whose prompt has more tokens than `above`
        above: 200000
        input: 10
        ...
      fast:                   # optional: the prices in fast mode
        input: 30
        ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from ccflare_core.anthropic.pricing import Long, Price, PriceList, Tariff
from ccflare_core.errors import ConfigError
from ccflare_core.reading import TEXT_LIMIT, FileWatch, read_bytes
from ccflare_core.yaml_text import Mistakes, Section, compose

CATALOG_LIMIT = 16 * 1024 * 1024
"""Bytes. LiteLLM's catalog, which has all providers, has 2 MiB."""

_DATE: Final = "dated"
_LONG_NAMES = ("above", *Price._fields)
_AMOUNT = re.compile(r"(\d{1,6}(\.\d{0,9})?|\.\d{1,9})", re.ASCII)
_TOKENS = re.compile(r"[1-9]\d{0,8}", re.ASCII)
_ISO_DATE = re.compile(r"\d{4}-\d\d(-\d\d)?", re.ASCII)
_MODEL = re.compile(r"claude-[a-z0-9.-]{1,80}", re.ASCII)

_CATALOG_NAMES = (
    *("input_cost_per_token", "output_cost_per_token", "cache_creation_input_token_cost"),
    *("cache_creation_input_token_cost_above_1hr", "cache_read_input_token_cost"),
)
_LONG_SUFFIX: Final = "_above_200k_tokens"


class PriceFile(NamedTuple):
    """What a file says."""

    tariffs: dict[str, Tariff]
    dated: str | None = None
    left_out: int = 0
    """Models whose prices are incomplete."""


def load(path: Path | None) -> PriceList:
    """The built-in prices with the file's in their place; ConfigError with every mistake and its line."""
    return PriceList(read_file(path).tariffs) if path else PriceList()


def watch(path: Callable[[], Path | None], on_trouble: Callable[[str], None]) -> FileWatch[PriceList]:
    """What takes up new prices as their file changes."""
    return FileWatch(path, load, "the prices stay as they were", on_trouble)


def read_file(path: Path) -> PriceFile:
    """The prices in a YAML file. Raises ConfigError."""
    return parse(read_bytes(path, TEXT_LIMIT), str(path))


def read_source(path: Path) -> PriceFile:
    """The prices in a YAML file or in LiteLLM's catalog. Raises ConfigError."""
    return parse_source(read_bytes(path, CATALOG_LIMIT), str(path))


def parse_source(text: bytes, name: str) -> PriceFile:
    """The prices in a text of either form, called `name` in messages. Raises ConfigError."""
    return parse_catalog(text, name) if text.lstrip().startswith(b"{") else parse(text, name)


def parse(text: bytes, name: str) -> PriceFile:
    """The prices in a YAML text, as the module's docstring shows it; ConfigError names every mistake."""
    if len(text) > TEXT_LIMIT:
        raise ConfigError(f"{name}: the prices are longer than {TEXT_LIMIT // 1024} KiB: shorten them")
    root = compose(text, name)
    if root is None:
        return PriceFile({})
    reader = _Reader()
    entries = reader.mistakes.section(root, "the file").entries
    dated = reader.date(entries.pop(_DATE, None))
    tariffs = {model: reader.tariff(node, model) for model, node in entries.items()}
    reader.mistakes.require_none(name)
    return PriceFile({model: tariff for model, tariff in tariffs.items() if tariff}, dated)


def parse_catalog(text: bytes, name: str) -> PriceFile:
    """The Claude models in LiteLLM's `model_prices_and_context_window.json`. Raises ConfigError."""
    try:
        catalog = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} begins like JSON and is none: give the file as it was published.") from error
    tariffs: dict[str, Tariff] = {}
    left_out = 0
    for model, entry in catalog.items():
        if isinstance(entry, dict) and entry.get("litellm_provider") == "anthropic" and _MODEL.fullmatch(model):
            tariff = _from_catalog(entry)
            if tariff is None:
                left_out += 1
            else:
                tariffs[model] = tariff
    if not tariffs:
        raise ConfigError(f"{name} has no complete price of a Claude model: is it LiteLLM's catalog?")
    return PriceFile(tariffs, left_out=left_out)


def _from_catalog(entry: Mapping[str, Any]) -> Tariff | None:
    """An entry's prices; None if one is missing, for none can be told from the others."""
    standard = _catalog_price(entry, "")
    if not any(f"{name}{_LONG_SUFFIX}" in entry for name in _CATALOG_NAMES):
        return Tariff(standard) if standard else None
    long = _catalog_price(entry, _LONG_SUFFIX)
    return Tariff(standard, Long(200_000, long)) if standard and long else None


def _catalog_price(entry: Mapping[str, Any], suffix: str) -> Price | None:
    amounts = [entry.get(f"{name}{suffix}") for name in _CATALOG_NAMES]
    found = [
        amount.scaleb(6).normalize()
        for amount in amounts
        if isinstance(amount, Decimal) and amount.is_finite() and 0 <= amount < 1
    ]
    return Price(*found) if len(found) == len(amounts) else None


def written(tariffs: Mapping[str, Tariff], dated: str, source: str) -> str:
    """The prices as a YAML file."""
    lines = [f"# USD per million tokens. From {source}.", f"{_DATE}: {dated}"]
    for model, tariff in sorted(tariffs.items()):
        lines += [f"{model}:", *_lines(tariff.standard, 2)]
        if tariff.long:
            lines += ["  long:", f"    above: {tariff.long.above}", *_lines(tariff.long.price, 4)]
        if tariff.fast:
            lines += ["  fast:", *_lines(tariff.fast, 4)]
    return "\n".join(lines) + "\n"


def _lines(price: Price, indent: int) -> list[str]:
    return [f"{' ' * indent}{name}: {amount:f}" for name, amount in zip(Price._fields, price, strict=True)]


class _Reader:
    """Turns nodes into prices and notes the mistakes with their lines, so that all are told at once."""

    def __init__(self) -> None:
        self.mistakes = Mistakes()

    def date(self, node: Node | None) -> str | None:
        if node is None:
            return None
        if isinstance(node, ScalarNode) and _ISO_DATE.fullmatch(node.value):
            return str(node.value)
        self.mistakes.note(node, f"{_DATE} must be a date such as 2026-11-24")
        return None

    def tariff(self, node: Node, model: str) -> Tariff | None:
        section = self.mistakes.section(node, model, (*Price._fields, "long", "fast"))
        standard = self._price(section)
        long, fast = section.entries.get("long"), section.entries.get("fast")
        long_price = self._long(self.mistakes.section(long, f"long of {model}", _LONG_NAMES)) if long else None
        fast_price = self._price(self.mistakes.section(fast, f"fast of {model}", Price._fields)) if fast else None
        return Tariff(standard, long_price, fast_price) if standard else None

    def _long(self, section: Section) -> Long | None:
        price = self._price(section, _LONG_NAMES)
        above = self._number(section, "above", _TOKENS, "a whole number of tokens, such as 200000")
        return Long(int(above), price) if price and above else None

    def _price(self, section: Section, needed: Sequence[str] = Price._fields) -> Price | None:
        missing = [name for name in needed if name not in section.entries]
        if missing and isinstance(section.node, MappingNode):
            self.mistakes.note(section.node, f"{section.owner} lacks {', '.join(missing)}; none has a default")
        wanted = "USD per million tokens, such as 2.5"
        found = [self._number(section, name, _AMOUNT, wanted) for name in Price._fields]
        amounts = [amount for amount in found if amount is not None]
        return Price(*amounts) if len(amounts) == len(found) else None

    def _number(self, section: Section, name: str, form: re.Pattern[str], wanted: str) -> Decimal | None:
        node = section.entries.get(name)
        if isinstance(node, ScalarNode) and form.fullmatch(node.value):
            return Decimal(node.value)
        if node is not None:
            self.mistakes.note(node, f"{name} of {section.owner} must be {wanted}")
        return None
