"""`scripts/keys.py mfa`: the second factor that administrative requests over HTTP have to show."""

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from ccflare_cli.console import OK, REFUSED, Console, Refused, open_store, read_settings
from ccflare_cli.output import DASH, Column, Table, count, named
from ccflare_cli.parsing import Parser, add_command, add_group
from ccflare_core.clients.totp import LOST
from ccflare_core.db.engine_choice import is_made
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.store import Store

_ON = "on"
_CODE = "Code from the app: "


class FactorRow(NamedTuple):
    """The second factor as a person sees it."""

    state: str
    recovery_codes: int


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `mfa` and what follows it."""
    group = commands.add_parser("mfa", help="manage the second factor (TOTP) for administrative requests")
    nested = add_group(group)
    command = partial(add_command, nested)
    command("status", _status, "show whether one-time codes are required")
    command("enable", _enable, "make a seed for an authenticator app, and show it once")
    command("confirm", _confirm, "enter a first code; from then on one-time codes are required")
    command("recovery", _recovery, "make new recovery codes; the old ones end")
    command("disable", _disable, "require no one-time codes any more")


def _status(console: Console, arguments: argparse.Namespace) -> int:
    with _store(console, arguments) as store:
        factor = store.factors.get()
    if factor is None:
        shown = FactorRow("off", 0)
    elif factor is LOST:
        shown = FactorRow("changed outside of ccflare: disable it", 0)
    else:
        shown = FactorRow(_ON if factor.is_confirmed else "waits for `mfa confirm`", len(factor.recovery))
    table = Table(
        key="mfa",
        title="",
        rows=[shown],
        fields=named("state", "recovery_codes"),
        columns=(
            Column("Second factor", lambda row: row.state),
            Column(
                "Recovery codes left", lambda row: count(row.recovery_codes) if row.state == _ON else DASH, right=True
            ),
        ),
        empty="",
    )
    console.show(arguments, table)
    return OK


def _enable(console: Console, arguments: argparse.Namespace) -> int:
    with _store(console, arguments) as store:
        secret = store.factors.enable()
    console.say(f"Type this into an authenticator app: {secret.text}")
    console.say("Or make a QR code of this:")
    console.write(secret.uri("administration"))  # in one piece, however long
    console.complain(f"It is not shown again. Nothing is asked for yet: run `{typed('keys mfa confirm')}` with a code.")
    return OK


def _confirm(console: Console, arguments: argparse.Namespace) -> int:
    with _store(console, arguments) as store:
        store.factors.waiting()
        codes = store.factors.confirm(console.secret(_CODE))
    if codes is None:
        console.complain("This code is wrong, used, or too early: wait for the next one, and check both clocks.")
        return REFUSED
    console.say("From now on administrative requests need a code, in the header x-ccflare-otp.")
    _say_recovery(console, codes)
    return OK


def _recovery(console: Console, arguments: argparse.Namespace) -> int:
    with _store(console, arguments) as store:
        _say_recovery(console, store.factors.renew_recovery())
    return OK


def _disable(console: Console, arguments: argparse.Namespace) -> int:
    with _store(console, arguments) as store:
        store.factors.disable()
    console.say("Administrative requests need no code any more.")
    return OK


def _say_recovery(console: Console, codes: Sequence[str]) -> None:
    console.say("For the day the app is lost, each of these is good once:")
    console.write("\n".join(f"  {code}" for code in codes))
    console.complain("They are not shown again. Keep them where the app is not.")


def _store(console: Console, arguments: argparse.Namespace) -> AbstractContextManager[Store]:
    settings = read_settings(console, arguments.database)
    if not is_made(settings.database):
        raise Refused(f"There is nothing to protect: {settings.database} does not exist yet.")
    return open_store(console, settings, choose(settings, console.environ))
