"""What an answer cost: prices per model, and their sum over a `Usage` in exact decimals.

The table is the catalog that Claude Code 2.1.330 holds, read in November 2026. A model that is not in it has
no price, and a cost that is not known is None, never 0. A YAML file can add models and replace prices:

    claude-opus-6:
      input: 5              # USD per million tokens, all five are needed
      output: 25
      cache_write_5m: 6.25
      cache_write_1h: 10
      cache_read: 0.5
      long:                 # optional: the prices of a request whose prompt has more tokens than `above`
        above: 200000
        input: 10
        ...
      fast:                 # optional: the prices in fast mode
        input: 30
        ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from ccflare_core.errors import ConfigError
from ccflare_core.usage import Message, Usage

WEB_SEARCH: Final = Decimal("0.01")
"""USD per search."""

US_FACTOR: Final = Decimal("1.1")
"""Times the tokens' price when the answer was made in the United States on request (`inference_geo: us`)."""

BATCH_FACTOR: Final = Decimal("0.5")
"""Times the tokens' price of a message in a batch (`service_tier: batch`)."""

FILE_LIMIT = 256 * 1024

_VARIANT = re.compile(r"([-@]\d{8}|-latest)?(\[1m\])?$")
_AMOUNT = re.compile(r"(\d{1,6}(\.\d{0,9})?|\.\d{1,9})", re.ASCII)
_TOKENS = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class Price(NamedTuple):
    """USD per million tokens."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal


class Long(NamedTuple):
    """The price of a whole request whose prompt has more than `above` tokens, cached ones included."""

    above: int
    price: Price


class Tariff(NamedTuple):
    """All prices of one model; None where a model has no such price."""

    standard: Price
    long: Long | None = None
    fast: Price | None = None


_LONG_NAMES = ("above", *Price._fields)


def _price(text: str) -> Price:
    return Price(*(Decimal(amount) for amount in text.split("/")))


_SONNET = Tariff(_price("3/15/3.75/6/.3"))
_OPUS_4 = Tariff(_price("15/75/18.75/30/1.5"))
_OPUS_4_6 = Tariff(_price("5/25/6.25/10/.5"), fast=_price("30/150/37.5/60/3"))
_OPUS_5 = Tariff(_price("5/25/6.25/10/.5"), fast=_price("10/50/12.5/20/1"))
_FABLE_5 = Tariff(_price("10/50/12.5/20/1"))
_FABLE_5_1 = Tariff(_price("10/50/12.5/20/.25"))
_FABLE_5_2 = Tariff(_price("8/40/10/16/.2"), fast=_price("16/80/20/32/.4"))

TABLE: Final[Mapping[str, Tariff]] = {
    "claude-3-5-haiku": Tariff(_price(".8/4/1/1.6/.08")),
    "claude-haiku-4-5": Tariff(_price("1/5/1.25/2/.1")),
    "claude-haiku-5-5": Tariff(_price(".1/.5/.125/.2/.01"), long=Long(100_000, _price(".5/2.5/.625/1/.05"))),
    "claude-3-5-sonnet": _SONNET,
    "claude-3-7-sonnet": _SONNET,
    "claude-sonnet-4": _SONNET,
    "claude-sonnet-4-0": _SONNET,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-6": _SONNET,
    "claude-sonnet-5": Tariff(_price("2/10/2.5/4/.2")),
    "claude-sonnet-5-5": Tariff(_price("2/10/2.5/4/.1")),
    "claude-opus-4": _OPUS_4,
    "claude-opus-4-0": _OPUS_4,
    "claude-opus-4-1": _OPUS_4,
    "claude-opus-4-5": Tariff(_price("5/25/6.25/10/.5")),
    "claude-opus-4-6": _OPUS_4_6,
    "claude-opus-4-7": _OPUS_4_6,
    "claude-opus-4-8": _OPUS_5,
    "claude-opus-5": _OPUS_5,
    "claude-opus-5-5": Tariff(_price("4/20/5/8/.2"), fast=_price("8/40/10/16/.4")),
    "claude-fable-5": _FABLE_5,
    "claude-fable-5-1": _FABLE_5_1,
    "claude-fable-5-2": _FABLE_5_2,
    "claude-mythos-5": _FABLE_5,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-mythos-5-2": _FABLE_5_2,
}
"""Input / output / cache write for 5 minutes / for 1 hour / cache read, in USD per million tokens."""


class PriceList:
    """The prices in force: the table above, with `extra` models added or replaced."""

    def __init__(self, extra: Mapping[str, Tariff] | None = None) -> None:
        self._tariffs = {**TABLE, **(extra or {})}

    @classmethod
    def load(cls, path: Path | None) -> PriceList:
        """The list with the YAML file's prices in it; ConfigError with every mistake and its line."""
        return cls(read_tariffs(path)) if path else cls()

    def tariff(self, model: str) -> Tariff | None:
        """The model's prices: under its own name, or else under the name without its date."""
        return self._tariffs.get(model) or self._tariffs.get(_VARIANT.sub("", model))

    def cost(self, model: str | None, usage: Usage) -> Decimal | None:
        """What `usage` cost in USD, exactly; None if the model, its mode or the tokens are not known."""
        tariff = self.tariff(model) if model else None
        if tariff is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        read = usage.cache_read_input_tokens or 0
        write_1h = usage.cache_creation_1h_input_tokens or 0
        # What is not said to be for one hour is for five minutes, the API's default.
        unsplit = (usage.cache_creation_input_tokens or 0) - write_1h
        write_5m = max(usage.cache_creation_5m_input_tokens or 0, unsplit)
        price = _price_for(tariff, usage.speed, usage.input_tokens + read + write_1h + write_5m)
        if price is None:
            return None
        tokens = Price(*map(Decimal, (usage.input_tokens, usage.output_tokens, write_5m, write_1h, read)))
        total = sum((count * each for count, each in zip(tokens, price, strict=True)), Decimal(0))
        if usage.inference_geo == "us":
            total *= US_FACTOR
        if usage.service_tier == "batch":
            total *= BATCH_FACTOR
        return total.scaleb(-6) + WEB_SEARCH * (usage.web_search_requests or 0)

    def total(self, messages: Iterable[Message]) -> Decimal | None:
        """What the messages cost together; None if the cost of one is not known."""
        costs = [self.cost(message.model, message.usage) for message in messages]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _price_for(tariff: Tariff, speed: str | None, prompt_tokens: int) -> Price | None:
    if speed == "fast":
        return tariff.fast
    if tariff.long and prompt_tokens > tariff.long.above:
        return tariff.long.price
    return tariff.standard


def read_tariffs(path: Path) -> dict[str, Tariff]:
    """The prices in a YAML file, as the module's docstring shows it; ConfigError names every mistake."""
    root = _compose(path)
    if root is None:
        return {}
    reader = _Reader()
    models = reader.section(root, "the file").entries
    tariffs = {model: reader.tariff(node, model) for model, node in models.items()}
    if reader.mistakes:
        raise ConfigError(*(f"{path} line {line}: {text}." for line, text in sorted(reader.mistakes)))
    return {model: tariff for model, tariff in tariffs.items() if tariff}


def _compose(path: Path) -> Node | None:
    """The file as a tree, whose nodes know their lines and keep each amount as it was written."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"The price file {path} cannot be read: {error.strerror}.") from error
    if len(text) > FILE_LIMIT:
        raise ConfigError(f"The price file {path} is longer than {FILE_LIMIT // 1024} KiB; shorten it.")
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: this is not YAML ({problem or 'it cannot be read'}).") from error
    return root


class _Section(NamedTuple):
    """A mapping in the file, and what to call it in a message."""

    owner: str
    node: Node
    entries: dict[str, Node]


class _Reader:
    """Turns nodes into prices and notes the mistakes with their lines, so that all are told at once."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[int, str]] = []

    def section(self, node: Node, owner: str, names: Sequence[str] = ()) -> _Section:
        """What a mapping holds by name; with `names`, no others may stand in it."""
        found: dict[str, Node] = {}
        if not isinstance(node, MappingNode):
            self._note(node, f"{owner} must hold names and values, one `name: value` a line")
            return _Section(owner, node, found)
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else None
            if name is None:
                self._note(key, f"a name in {owner} must be plain text")
            elif name in found:
                self._note(key, f"{name} stands twice in {owner}; remove one")
            elif names and name not in names:
                self._note(key, f"{owner} has no {name}; what may stand here is {', '.join(names)}")
            else:
                found[name] = value
        return _Section(owner, node, found)

    def tariff(self, node: Node, model: str) -> Tariff | None:
        section = self.section(node, model, (*Price._fields, "long", "fast"))
        standard = self._price(section)
        long, fast = section.entries.get("long"), section.entries.get("fast")
        long_price = self._long(self.section(long, f"long of {model}", _LONG_NAMES)) if long else None
        fast_price = self._price(self.section(fast, f"fast of {model}", Price._fields)) if fast else None
        return Tariff(standard, long_price, fast_price) if standard else None

    def _long(self, section: _Section) -> Long | None:
        price = self._price(section, _LONG_NAMES)
        above = self._number(section, "above", _TOKENS, "a whole number of tokens, such as 200000")
        return Long(int(above), price) if price and above else None

    def _price(self, section: _Section, needed: Sequence[str] = Price._fields) -> Price | None:
        missing = [name for name in needed if name not in section.entries]
        if missing and isinstance(section.node, MappingNode):
            self._note(section.node, f"{section.owner} lacks {', '.join(missing)}; none has a default")
        wanted = "USD per million tokens, such as 2.5"
        found = [self._number(section, name, _AMOUNT, wanted) for name in Price._fields]
        amounts = [amount for amount in found if amount is not None]
        return Price(*amounts) if len(amounts) == len(found) else None

    def _number(self, section: _Section, name: str, form: re.Pattern[str], wanted: str) -> Decimal | None:
        node = section.entries.get(name)
        if isinstance(node, ScalarNode) and form.fullmatch(node.value):
            return Decimal(node.value)
        if node is not None:
            self._note(node, f"{name} of {section.owner} must be {wanted}")
        return None

    def _note(self, node: Node, text: str) -> None:
        self.mistakes.append((node.start_mark.line + 1, text))
