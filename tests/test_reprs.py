"""No secret is in what Python shows of a value: reprs end up in logs, tracebacks and failed assertions."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import ccflare_cli
import ccflare_core
from ccflare_core.accounts.account import Account, Kind, inject
from ccflare_core.secrets.key_sources import GivenKey, KeyFile
from ccflare_core.secrets.vault import Vault
from database_kit import an_account

PLANTED = "PLANTED-secret"
SECRET = re.compile(
    r"(?:^|_)(?:secret|token|api_key|verifier|spent|password|passphrase|pin|prompt|body|data|headers|environ)$"
)
HARMLESS = {
    ("ccflare_cli.console.Console", "ask_secret"): "a function",
    ("ccflare_cli.companion.here.Here", "data"): "a folder",
    ("anthropic.answers.Answer", "body"): "an answer of our own",
    ("anthropic.answers.Answer", "headers"): "its headers",
    ("clients.sharing.Claim", "spent"): "a number",
    ("clients.sharing.Line", "spent"): "a number",
    ("reports.composition.Prompt", "has_body"): "whether there is one",
    ("secrets.spans.Redacted", "data"): "what is left when the secrets are out",
    ("config.settings.Settings", "pkcs11_token"): "the label of a device",
}


def values() -> Iterator[type[Any]]:
    """Every dataclass and NamedTuple of the core and of the scripts."""
    for found in (
        *pkgutil.walk_packages(ccflare_core.__path__, "ccflare_core."),
        *pkgutil.walk_packages(ccflare_cli.__path__, "ccflare_cli."),
    ):
        for value in vars(importlib.import_module(found.name)).values():
            is_own = inspect.isclass(value) and value.__module__ == found.name
            if is_own and (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
                yield value


def title(kind: type[Any]) -> str:
    return f"{kind.__module__.removeprefix('ccflare_core.')}.{kind.__name__}"


def names(kind: type[Any]) -> list[str]:
    return list(kind._fields if hasattr(kind, "_fields") else [field.name for field in dataclasses.fields(kind)])


def secrets(kind: type[Any]) -> list[str]:
    """Its fields that can hold a secret."""
    return [name for name in names(kind) if SECRET.search(name) and (title(kind), name) not in HARMLESS]


def filled(kind: type[Any]) -> Any:
    """A value with the planted secret in every field that can hold one."""
    contents = {name: PLANTED if name in secrets(kind) else None for name in names(kind)}
    if hasattr(kind, "_make"):
        return kind._make(contents[name] for name in names(kind))
    value = object.__new__(kind)
    for name, content in contents.items():
        object.__setattr__(value, name, content)
    return value


KINDS = {title(kind): kind for kind in values()}
HOLDERS = [name for name, kind in KINDS.items() if secrets(kind)]


@pytest.mark.parametrize("name", HOLDERS)
def test_r25_no_value_shows_its_secrets(name: str) -> None:
    value = filled(KINDS[name])
    shown = f"{value!r} {value} {RuntimeError(value)} {[value]} {{{value!r}}}"
    assert PLANTED not in shown


def test_r25_the_sweep_finds_those_that_have_some() -> None:
    assert set(HOLDERS) >= {
        "accounts.account.Account",
        "accounts.account.Credential",
        "anthropic.oauth.Tokens",
        "exchange.records.Payload",
        "accounts.successors.Pair",
    }
    assert {name for name, _ in HARMLESS} <= set(KINDS)


def test_r25_what_holds_keys_shows_none() -> None:
    key = bytes(range(65, 97))
    for value in (GivenKey(key), KeyFile, Vault([key]), Vault([key]).seal, an_account(), [an_account()]):
        assert key.decode() not in repr(value)
        assert key.hex() not in repr(value)
        assert "PLANTED" not in repr(value)


def test_r26_a_token_that_cannot_be_sent_is_not_in_the_error() -> None:
    account = Account("1", "one", Kind.OAUTH, access_token=f"{PLANTED}\r\nx-injected: 1")
    with pytest.raises(ValueError, match="no header may hold") as problem:
        inject((), account.credential())
    assert PLANTED not in f"{problem.value} {problem.value!r}"
