"""`scripts/stats.py`: statistics of recorded requests. It only reads, also while the proxy runs."""

import argparse
from collections.abc import Sequence
from functools import partial

from ccflare_cli.completion import complete
from ccflare_cli.console import OK, Console, Refused, guarded, read_settings
from ccflare_cli.output import render
from ccflare_cli.parsing import Parser, one_of, script_parser, tag, whole_number
from ccflare_cli.periods import WHEN, span
from ccflare_cli.stats.composition import session_tables
from ccflare_cli.stats.plot import picture
from ccflare_cli.stats.views import LIMIT, SPLITS, TIMES, UNSPLIT, VIEWS, Question, Views
from ccflare_cli.watching import watch
from ccflare_core.anthropic import price_files
from ccflare_core.config.settings import Settings
from ccflare_core.reports.traffic import By
from ccflare_core.store.store import Store

_EXAMPLES = """\
examples:
  scripts/stats.py                          the last 24 hours at a glance
  scripts/stats.py --since 7d --by day      a week, day by day
  scripts/stats.py accounts --by hour       each account, hour by hour
  scripts/stats.py requests --limit 5 --format json
  scripts/stats.py cache --by session       each session's prompt caching
  scripts/stats.py windows --watch 10       how full the limits are, live
  scripts/stats.py models --tag ticket=12   what a ticket has cost, by model
  scripts/stats.py timeline --since 30d --plot month.svg
  scripts/stats.py compare --since 7d       this week beside the one before
  scripts/stats.py advise                   what to change, by the last 30 days
  scripts/stats.py advise --session 4f1c    where the tokens of a session go

views:
  summary    totals, limits and accounts, at a glance
  accounts   requests, tokens, costs, limits and login of each account
  models     the same of each model, and what others did within its answers
  sessions   the same of each session
  projects   the same of each project, which Claude Code's requests name
  agents     the same of each agent, and the sessions' subagents as a tree
  clients    the same of each client key
  tags       the same of each tag; a request counts for each of its tags
  cache      what prompt caching saved, and what moving a session cost
  windows    how full the limits of the accounts are, and until when they last
  timeline   requests, tokens and costs over time
  compare    the period beside the one before it
  requests   the last requests, one by one
  errors     what failed, the same failures in one row
  proxies    all proxies and workers on the database, and how each is
  advise     what the record says one should change, and what that is worth
"""
_PERIODS = {"advise": "30d"}
"""From when on a view looks that is not about the last day."""
_DAY = "24h"


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Answer one question and give the exit code: 0 answered, 1 no database to ask, 2 misused."""
    parser = _parser()
    complete(parser)
    arguments = parser.parse_args(argv)
    arguments.since = arguments.since or span(_PERIODS.get(arguments.view, _DAY))
    if mistake := _mistake(arguments):
        parser.error(mistake)
    console = console or Console.real()
    return guarded(console, partial(_run, console, arguments))


def _mistake(arguments: argparse.Namespace) -> str | None:
    """What does not go together."""
    view, by = arguments.view, arguments.by
    if by and view in UNSPLIT:
        return f"--by cannot split {view}"
    if by and by is SPLITS.get(view):
        return f"{view} are split by {by} already"
    if by and view in TIMES and not by.is_time:
        return f"{view} go by {', '.join(each for each in By if each.is_time)}"
    if by in (By.MODEL, By.TAG) and view == "cache":
        return f"--by cannot split cache by {by}: see {by}s"
    if view == "compare" and arguments.since.is_all:
        return "compare needs a beginning: before `all` there is nothing"
    if arguments.tag and view == "windows":
        return "--tag picks requests, and windows are the limits of accounts"
    if arguments.tag and view == "proxies":
        return "--tag picks requests, and proxies take all of them"
    if arguments.proxy and view != "requests":
        return "--proxy goes with requests"
    if arguments.tag and view == "advise":
        return "--tag picks requests, and advice is about all of them"
    if arguments.plot and view not in TIMES:
        return f"--plot draws {' and '.join(TIMES)}"
    if arguments.session and (view != "advise" or arguments.watch):
        return "--session goes with advise, once"
    if arguments.watch and (arguments.plot or arguments.format != "table"):
        return "--watch shows tables, and writes no files"
    return None


def _parser() -> Parser:
    parser = script_parser(
        "stats.py", "Show statistics of recorded requests: tokens, costs, limits, failures.", _EXAMPLES
    )
    parser.add_argument(
        "view", nargs="?", choices=VIEWS, default="summary", metavar="VIEW", help="see below (default: summary)"
    )
    parser.add_argument(
        "--since",
        type=span,
        metavar="WHEN",
        help=f"from this time: {WHEN}, or all (default: {_DAY}, of advise {_PERIODS['advise']})",
    )
    parser.add_argument("--until", type=span, metavar="WHEN", help="up to this time (default: now)")
    parser.add_argument("--by", type=one_of(By), choices=list(By), metavar="WHAT", help=f"split by {', '.join(By)}")
    parser.add_argument("--tag", type=tag, metavar="NAME=VALUE", help="only requests with this tag")
    parser.add_argument("--proxy", metavar="NAME", help="with requests: only those of this proxy, or of this host")
    parser.add_argument(
        "--limit",
        type=whole_number(1, 100_000),
        metavar="N",
        help=f"show at most N rows (default: {LIMIT} sessions, addresses, tags, requests or errors; else all)",
    )
    parser.add_argument(
        "--all", action="store_true", help="count requests that needed no account too, such as telemetry"
    )
    parser.add_argument(
        "--session", metavar="ID", help="with advise: where the tokens of this session go (its id, or the beginning)"
    )
    parser.add_argument("--watch", type=whole_number(1, 86_400), metavar="N", help="show it again every N seconds")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw timeline or windows into an svg or png file")
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    settings = read_settings(console, arguments.database)
    if arguments.session:
        console.show(arguments, *session_tables(console, settings, arguments.session))
        return OK
    answer = partial(_answer, settings, arguments, console)
    if arguments.watch:
        return watch(console, arguments.watch, answer)
    console.write(answer())
    return OK


def _answer(settings: Settings, arguments: argparse.Namespace, console: Console) -> str:
    """The answer as text, from a database that is open for no longer than that takes."""
    asked = _question(arguments, console.now())
    store = Store.open(settings.database, None, read_only=True)
    try:
        with store.snapshot():
            views = Views(store, price_files.load(settings.prices_path), arguments.tag)
            if (
                asked.view not in ("accounts", "windows", "proxies")
                and arguments.format in ("table", "markdown")
                and views.is_empty()
            ):
                told = f"Nothing is recorded yet in {settings.database}: send a request through the proxy first."
                return console.page(arguments).folded(told)
            if arguments.plot:
                views.plot(asked, arguments.plot)
                return f"{arguments.plot} is written."
            return render(views.tables(asked), arguments.format, console.page(arguments))
    finally:
        store.close()


def _question(arguments: argparse.Namespace, now: float) -> Question:
    period = arguments.since.period(now, arguments.until)
    if period.since >= period.until:
        raise Refused("The period is empty: --until must lie after --since.")
    when = arguments.since.words(arguments.until)
    return Question(arguments.view, period, when, arguments.by, arguments.limit, now, arguments.all, arguments.proxy)
