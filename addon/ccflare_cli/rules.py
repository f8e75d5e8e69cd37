"""`scripts/rules.py`: whether a file of rules can be used, and how it is understood."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, Console, Refused, open_store, read_settings
from ccflare_cli.output import Column, Table, some
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser
from ccflare_core.clients import guardrail_files
from ccflare_core.clients.guardrails import Guardrail
from ccflare_core.db.engine_choice import is_made

_EXAMPLES = """\
examples:
  scripts/rules.py check rules.yaml
  scripts/rules.py check                 the file that ccflare_rules names

a rule:
  night:
    when:                  # optional; all of it has to be met
      project: shop-*      # also client, run, session, tag, agent, class, model
      hours: 22:00-06:00
    accounts: [spare-*]    # the only ones; not_accounts: never these
    prefer: [spare-2]      # asked first, in this order
    models: claude-haiku-* # the only ones
    replace: claude-haiku-4-5
    effort: medium         # at most

Every rule that matches counts: the strictest wins. A running proxy takes a
changed file up within seconds, and keeps the rules it has while there is a
mistake in it.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser("rules.py", "Check the rules for clients, accounts and models.", _EXAMPLES)
    check = add_command(add_group(parser), "check", _check, "show the rules in a file, or all of its mistakes")
    check.add_argument("file", metavar="FILE", type=Path, nargs="?", help="(default: that of ccflare_rules)")
    return parser


def _check(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    path = arguments.file or settings.rules_path
    if path is None:
        raise Refused("Name the file with the rules, or set ccflare_rules to it.")
    rules = guardrail_files.load(path.expanduser()).rules
    names: list[str] | None = None
    if is_made(settings.database):
        with open_store(console, settings, None, read_only=True) as store:
            names = store.accounts.names()
    console.show(arguments, _table(rules, names))
    return OK


def _table(rules: Sequence[Guardrail], accounts: Collection[str] | None) -> Table[Guardrail]:
    """`accounts` are the names of all; None without a database."""
    unmatched = {rule: rule.unmatched(accounts) for rule in rules} if accounts is not None else {}
    notes = [f"{some(len(rules), 'rule')}, without a mistake."] if rules else []
    notes += [f"Rule {rule.name}: no account is called {text}." for rule in rules for text in unmatched.get(rule, ())]
    return Table(
        key="rules",
        title="",
        rows=rules,
        fields=(
            ("rule", lambda rule: rule.name),
            ("when", lambda rule: list(rule.subject)),
            ("effects", lambda rule: list(rule.effects)),
            ("unmatched", lambda rule: list(unmatched[rule]) if rule in unmatched else None),
        ),
        columns=(
            Column("Rule", lambda rule: rule.name, way=wrapped(10)),
            Column("When", lambda rule: "; ".join(rule.subject) or "always", way=wrapped(20)),
            Column("Does", lambda rule: "; ".join(rule.effects), way=wrapped(20)),
        ),
        empty="There is no rule in it.",
        note="\n".join(notes),
    )
