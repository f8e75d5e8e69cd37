"""`ccflare run`: starts a client that goes through the proxy, if need be with the proxy, and pins what it may do."""

import argparse
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ccflare_cli import ROOT
from ccflare_cli.companion import claude_code
from ccflare_cli.companion.authorities import own_authority, write_bundle
from ccflare_cli.companion.child import run_in_foreground
from ccflare_cli.companion.env import BUNDLE
from ccflare_cli.companion.environment import (
    CREDENTIALS,
    ProxyAddress,
    Variables,
    client_variables,
    key_in,
    label_in,
)
from ccflare_cli.companion.here import add_proxy_options, data_folder, given_key, wants_key
from ccflare_cli.companion.program import carried, own_command
from ccflare_cli.companion.registration import Registrar, Ticket, key_of
from ccflare_cli.companion.starting import check_proxy, ensure_proxy
from ccflare_cli.console import Console, Refused, proxy_address, read_settings
from ccflare_cli.doctor.host_checks import confdir
from ccflare_cli.parsing import Parser, dispatch, dollars, script_parser, tag
from ccflare_core.clients.client_runs import ClientRun, new_id
from ccflare_core.clients.keys import PREFIX as KEY_PREFIX
from ccflare_core.clients.tags import MOST_TAGS, split
from ccflare_core.config import settings
from ccflare_core.config.environment import of_others
from ccflare_core.config.settings import Settings
from ccflare_core.db.engine_choice import is_made
from ccflare_core.program import typed
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.store import Store

_EXAMPLES = """\
examples:
  scripts/run.py claude
  scripts/run.py --account work claude           that account alone serves it
  scripts/run.py --project site --budget 5 claude -p 'Fix the tests.'
  scripts/run.py python -m agent

The client's own exit code is that of this command. A login or a key of its own stays as it
is. If no proxy runs, one is started, and goes on running when the client has ended.
"""
_LONGEST_PROJECT = 100


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the client and give its exit code; 1 if it was refused, 2 if misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("run.py", "Start a client that goes through the proxy.", _EXAMPLES)
    parser.add_argument("--account", metavar="NAME", help="have this account alone serve it; it is never moved")
    parser.add_argument("--project", type=_project, metavar="NAME", help="record this as its project")
    parser.add_argument(
        "--tag", type=tag, action="append", default=[], metavar="NAME=VALUE", help="remember this of it; up to 4"
    )
    parser.add_argument("--budget", type=dollars, metavar="DOLLARS", help="serve it no more once it has cost so much")
    add_proxy_options(parser)
    parser.add_argument("client", nargs=argparse.REMAINDER, metavar="CLIENT [ARGUMENT ...]", help="what to start")
    return parser


def _project(text: str) -> str:
    if 0 < len(text) <= _LONGEST_PROJECT and text.isprintable():
        return text
    raise argparse.ArgumentTypeError(f"give 1 to {_LONGEST_PROJECT} characters that can be printed")


def _run(console: Console, arguments: argparse.Namespace) -> int:
    words = arguments.client[1:] if arguments.client[:1] == ["--"] else arguments.client
    _check(console, arguments, words)
    found = read_settings(console, arguments.database)
    address = ProxyAddress(arguments.address or proxy_address(console), found.requires_client_tls)
    _ensure_proxy(console, arguments, found, address)
    if not is_made(found.database):
        raise Refused(f"There is no database {found.database}, so the proxy at {address.place} has another one.")
    registrar = Registrar(console, found, choose(found, console.environ))
    secret = given_key(console) if arguments.key else key_in(console.environ)
    with registrar.store() as store:
        run = _narrowed(console, arguments, store, secret if wants_key(console, found) else None)
    with registrar.going_on(run, address) as ticket:
        environ = _environment(console, found, address, ticket)
        return run_in_foreground([_program(words[0], environ), *words[1:]], environ)


def _check(console: Console, arguments: argparse.Namespace, words: Sequence[str]) -> None:
    """Raises Refused, before anything is started."""
    if not words:
        raise Refused(
            f"Say which client to start, such as `{typed('run')} claude`; the proxy is started by `{typed('proxy')}`."
        )
    if len(arguments.tag) > MOST_TAGS or len(dict(map(split, arguments.tag))) < len(arguments.tag):
        raise Refused(f"Give {MOST_TAGS} tags at most, and each name once.")
    if label := label_in(console.environ):
        raise Refused(f"This shell is in {label} already: what it starts is in it too, so start `{words[0]}` as it is.")
    _program(words[0], console.environ)


def _program(name: str, environ: Mapping[str, str]) -> str:
    """The file that a name means, as a shell finds it."""
    path = shutil.which(name, path=environ.get("PATH", os.defpath))
    if path is None:
        starts = f"; `{typed('proxy')} {name}` starts the proxy" if name in ("web", "console") else ""
        raise Refused(f"There is no program {shlex.quote(name)}{starts}.")
    return path


def _ensure_proxy(console: Console, arguments: argparse.Namespace, found: Settings, address: ProxyAddress) -> None:
    if arguments.address:
        check_proxy(address)
        return
    environ = dict(console.environ) | ({"ccflare_DB_PATH": arguments.database} if arguments.database else {})
    started = ensure_proxy(address, data_folder(found), partial(own_command, "run", "proxy"), environ)
    if started:
        console.complain(
            f"The proxy was started, and goes on running when this has ended: `kill {started.process.pid}` ends it. "
            f"Its log is {started.log}."
        )


def _narrowed(console: Console, arguments: argparse.Namespace, store: Store, secret: str | None) -> ClientRun:
    """The run that is asked for: with the client key of this secret, the owner's own ("") or without one (None)."""
    now = console.now()
    run = ClientRun(
        id=new_id(),
        created_at=now,
        seen_at=now,
        project=arguments.project or "",
        tags=tuple(arguments.tag),
        dollars=arguments.budget,
    )
    key = key_of(store, secret, now) if secret else None
    if secret is not None:
        run = replace(run, key_id=key.id if key else run.id, is_keyed=True)
    if key is not None and not key.tunnels:
        console.complain(
            f"The client key {key.name} opens no tunnels to other hosts, so what is not the API is closed."
        )
    if arguments.account:
        account = store.accounts.by_name(arguments.account, secrets=False)
        if key is not None and not key.may_use_account(account.name):
            raise Refused(f"The client key {key.name} may not use the account {account.name}.")
        run = replace(run, account_id=account.id, account=account.name)
    return run


def _environment(console: Console, found: Settings, address: ProxyAddress, ticket: Ticket) -> dict[str, str]:
    """The client's: ours without what is secret in it, and with what leads through the proxy."""
    authority = own_authority(confdir(settings.defaults(console.environ, ROOT)))
    bundle = data_folder(found) / BUNDLE
    write_bundle(bundle, authority, console.environ)
    labelled = replace(address, label=ticket.run.id, key=ticket.key)
    has_login = claude_code.has_login(console.environ)
    wanted = client_variables(labelled, authority, bundle, console.environ, has_login=has_login)
    return _changed(of_others(console.environ) | carried(console.environ, found).variables, wanted)


def _changed(environ: Mapping[str, str], wanted: Variables) -> dict[str, str]:
    """A key of ours is in the proxy's address alone: another one beside it would make both count for nothing."""
    ours = {name for name in CREDENTIALS if environ.get(name, "").strip().startswith(KEY_PREFIX)}
    left_out = {*wanted.unset, *ours}
    return {name: value for name, value in environ.items() if name not in left_out} | dict(wanted.set)
