"""`scripts/audit.py`: shows and verifies the audit log, and collects evidence after an incident."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ccflare_cli.audit import incident
from ccflare_cli.audit.rows import find_rows, row_table
from ccflare_cli.console import OK, REFUSED, Console, Refused, open_made_store, open_store, read_settings
from ccflare_cli.output import count, some
from ccflare_cli.parsing import Parser, add_command, add_group, dispatch, script_parser, whole_number
from ccflare_cli.pasting import unwrapped
from ccflare_cli.periods import WHEN, span
from ccflare_core.audit.check import Check, Verification
from ccflare_core.secrets.key_sources import choose

_LIMIT = 50
_TELL_SECONDS = 2.0
_NOTHING = "There is no audit log"
_EXAMPLES = """\
examples:
  scripts/audit.py show
  scripts/audit.py show --action account --since 7d
  scripts/audit.py show --action '*.refresh' --outcome failed --format json
  scripts/audit.py show --secret - < key.txt      what was done with this key
  scripts/audit.py verify
  scripts/audit.py who-used max-1 --between 2026-11-01T14:00 2026-11-01T18:00
  scripts/audit.py bundle evidence.zip --between 7d now
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 refused or something is wrong with the log, 2 misused."""
    return dispatch(_parser(), argv, console)


def _parser() -> Parser:
    parser = script_parser(
        "audit.py", "Show and verify the audit log, and collect evidence after an incident.", _EXAMPLES
    )
    commands = add_group(parser)
    show = add_command(commands, "show", _show, "show entries, the newest last")
    for name, what in (
        ("action", "what was done: account, account.add, 'key.*'"),
        ("actor", "who did it: proxy, 'cli:*'"),
    ):
        show.add_argument(f"--{name}", metavar="PATTERN", help=f"{what}; * stands for anything")
    show.add_argument("--target", metavar="PATTERN", help="to which account, key …")
    show.add_argument("--ip", metavar="PATTERN", help="from which address")
    show.add_argument("--outcome", choices=("ok", "denied", "failed"), help="with this outcome")
    show.add_argument("--secret", choices=("-",), help="about the secret that is given on standard input")
    for name, text in (("since", "from"), ("until", "up to")):
        show.add_argument(
            f"--{name}",
            type=span,
            metavar="WHEN",
            help=f"{text} this time: {WHEN}",
        )
    show.add_argument(
        "--limit", type=whole_number(1, 1_000_000), default=_LIMIT, metavar="N", help="at most N entries (default: 50)"
    )
    verify = add_command(
        commands, "verify", _verify, "check that no entry was changed, deleted, moved, inserted or cut off"
    )
    verify.add_argument(
        "--file", metavar="PATH", type=Path, help="the second copy of the log (default: ccflare_audit_file)"
    )
    verify.add_argument(
        "--anchor",
        metavar="TEXT",
        action="append",
        default=[],
        help="an anchor that the second copy of the log had; repeatable",
    )
    incident.add_commands(commands)
    restart = add_command(commands, "restart", _restart, "continue a broken log; `verify` goes on reporting the break")
    restart.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")
    return parser


def _show(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    source = choose(settings, console.environ) if arguments.secret else None
    with open_made_store(console, settings, source, _NOTHING, read_only=True) as store:
        secret = unwrapped(console.secret("Secret: ")) if arguments.secret else ""
        marks = [store.audit.signer.digest(secret, key) for key in store.audit.signer.key_ids()] if secret else []
        rows = find_rows(store, arguments, now, marks)
    console.show(arguments, row_table(rows, now))
    return OK


def _verify(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    if arguments.file is not None and not arguments.file.exists():
        raise Refused(f"There is no file {arguments.file}; name the second copy of the audit log.")
    file = arguments.file or settings.audit_path
    with (
        open_made_store(console, settings, choose(settings, console.environ), _NOTHING, read_only=True) as store,
        store.snapshot(),
    ):
        used = store.query("SELECT (SELECT COUNT(*) FROM accounts) + (SELECT COUNT(*) FROM runs)")
        check = Check(store.audit, _teller(console))
        report = check.run(file, tuple(arguments.anchor), is_used=bool(used[0][0]))
    if arguments.format == "json":
        told = {name: getattr(report, name) for name in Verification.__dataclass_fields__}
        console.write(json.dumps({"intact": report.problem is None, **told}, indent=2))
    elif report.problem is None:
        console.say(_summary(report, file))
    if report.problem is not None:
        console.complain(f"The audit log is not what was written: {report.problem}.")
    return OK if report.problem is None else REFUSED


def _teller(console: Console) -> Callable[[int, int], None]:
    """Tells of long work every two seconds."""
    told_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_SECONDS:
            told_at = time.monotonic()
            console.complain(f"{count(done)} of {count(total)} rows are checked …")

    return tell


def _summary(report: Verification, file: Path | None) -> str:
    if not report.rows:
        return "The audit log is empty."
    first, last = report.first_id, report.last_id
    text = f"The audit log is whole: {f'row {first}' if first == last else f'rows {first} to {last}'}."
    if file is None or not file.exists():
        return f"{text}\nThere is no second copy to compare it with."
    lacks = report.rows - report.in_file
    text += f"\n{file} has {'all of them' if not lacks else f'all but {count(lacks)} of them'}"
    for number, what in (
        (report.aside, "written while the table could not be"),
        (report.replaced, "about what a restored backup has replaced"),
        (report.damaged, "damaged"),
    ):
        text += f", and {some(number, 'line')} {what}" if number else ""
    return f"{text}."


def _restart(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    if not arguments.yes:
        raise Refused("This goes on with a log that does not hold together; --yes does it, after you know why.")
    with open_store(console, settings, choose(settings, console.environ)) as store:
        with store.snapshot():
            problem = Check(store.audit).run().problem
        if problem is None:
            raise Refused("The audit log holds together; nothing was changed.")
        store.restart_audit(problem)
    console.say(f"The audit log goes on. What was found is its newest entry: {problem}.")
    return OK
