"""The proxy of one account, as `accounts.py set` is told it."""

import argparse

from ccflare_cli.console import Console, Refused
from ccflare_core.http.egress import EgressProxy

NONE, STDIN = "none", "-"


def proxy_argument(text: str) -> str:
    """The argument as it is; argparse refuses one that holds a password, or is no proxy."""
    if text in (NONE, STDIN):
        return text
    if "@" in text:
        raise argparse.ArgumentTypeError(
            "user and password are not taken from the command line, where every user of this machine can read them; "
            "write - and give the whole URL on standard input"
        )
    try:
        EgressProxy.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; - and none are allowed, too") from None
    return text


def read_proxy(console: Console, argument: str) -> EgressProxy | None:
    """The proxy that it means; None for none."""
    if argument == NONE:
        return None
    text = console.secret("URL of the proxy: ") if argument == STDIN else argument
    try:
        return EgressProxy.parse(text)
    except ValueError as error:
        raise Refused(
            f"What came on stdin cannot be used: {error}; USER:PASSWORD@ may stand before its host."
        ) from None
