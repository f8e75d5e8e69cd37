"""`scripts/doctor.py`: checks the security and health of this installation; each point is tried for real."""

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ccflare_cli.cells import wrapped
from ccflare_cli.console import OK, REFUSED, Console, fetcher, proxy_address, read_settings
from ccflare_cli.doctor import alert_checks, client_checks, host_checks, installation, proxy_checks, store_checks
from ccflare_cli.doctor.installation import Ingress
from ccflare_cli.doctor.results import AREAS, Level, Result, Results, fail, worst
from ccflare_cli.output import Column, Table, named
from ccflare_cli.page import Tone
from ccflare_cli.parsing import Parser, dispatch, script_parser
from ccflare_core.config.settings import Settings
from ccflare_core.errors import CCFlareError
from ccflare_core.program import typed
from ccflare_core.store.store import Store

_EXAMPLES = """\
examples:
  scripts/doctor.py                  all that can be checked on this machine
  scripts/doctor.py --online         the upstream too: certificates, pins, clock
  scripts/doctor.py --test-alert     the same, and sends a test alert
  scripts/doctor.py --log proxy.log  whether this file holds a secret
  scripts/doctor.py --only files --only code --format json

Nothing is changed. The exit code is 1 if a check fails, and 0 if all is well or
there are only warnings.
"""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the checks and give the exit code: 0 ok or warnings, 1 something fails, 2 misused."""
    return dispatch(_parser(), argv, console, _run)


def _parser() -> Parser:
    parser = script_parser("doctor.py", "Check the security and health of this installation.", _EXAMPLES)
    parser.add_argument(
        "--only", action="append", choices=AREAS, metavar="AREA", help=f"only this area; repeatable: {', '.join(AREAS)}"
    )
    parser.add_argument("--online", action="store_true", help="ask the upstream too, without a credential")
    parser.add_argument(
        "--log",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="look for secrets in this log file; repeatable",
    )
    parser.add_argument("--test-alert", action="store_true", help="send a test alert to where alerts go")
    parser.add_argument("--quiet", action="store_true", help="show only warnings and failures")
    return parser


def _run(console: Console, arguments: argparse.Namespace) -> int:
    wanted = frozenset(arguments.only or AREAS)
    results = [result for result in Examination(console, arguments).all(wanted) if result.area in wanted]
    shown = [result for result in results if not arguments.quiet or result.level is not Level.OK]
    if shown or arguments.format == "json":
        console.show(arguments, _table(shown, results))
    return REFUSED if worst(results) is Level.FAIL else OK


_TONES = {Level.OK: Tone.GOOD, Level.WARN: Tone.CARE, Level.FAIL: Tone.BAD}


def _remedy(result: Result) -> str:
    return f"→ {result.remedy}" if result.remedy else ""


def _table(shown: list[Result], all_: list[Result]) -> Table[Result]:
    counts = [f"{sum(result.level is level for result in all_)} {level.value}" for level in Level]
    return Table(
        key="checks",
        title="",
        rows=shown,
        fields=(
            ("check", lambda result: result.check),
            ("level", lambda result: result.level.value),
            *named("found", "remedy"),
        ),
        columns=(
            Column("Check", lambda result: result.check),
            Column("", lambda result: result.level.value, tone=lambda result: _TONES[result.level]),
            Column("Found", lambda result: result.found, way=wrapped(24)),
            Column("What to do", lambda result: result.remedy, way=wrapped(24), brief=_remedy, under="Found"),
        ),
        note=", ".join(counts),
    )


class Examination:
    """All checks, from the host to the running proxy. One that cannot be made does not keep others from being made."""

    def __init__(self, console: Console, arguments: argparse.Namespace) -> None:
        self._console = console
        self._arguments = arguments
        self._now = console.now()
        self._problems: list[str] = []
        self._sources = host_checks.option_sources(console.environ, self._problems)
        self._merged = {name: value for each in self._sources.values() for name, value in each.items()}

    def all(self, wanted: frozenset[str]) -> list[Result]:
        """Every result, as far as it takes to know about the wanted areas."""
        settings = self._settings()
        results = [
            *host_checks.host(self._console.environ, self._merged),
            *host_checks.options(self._sources, self._problems, self._merged),
            *host_checks.sources(self._console.environ),
            *host_checks.rules(settings.rules_path if settings else None),
            *host_checks.files(settings, self._merged, self._console.environ),
        ]
        if settings is not None:
            place = proxy_address(self._console)
            results += client_checks.clients(settings, self._console.environ, place)
        if "code" in wanted:
            results += host_checks.code()
        stored = {"keys", "database", "accounts", "access", "activity", "proxy"}
        if self._arguments.online:
            stored.add("upstream")
        if wanted & stored or self._arguments.log:
            results += self._stored(settings)
        if settings is not None and self._arguments.online:
            results += self._online(settings)
        if settings is not None and self._arguments.test_alert:
            results += alert_checks.try_alerts(settings, self._console.environ, self._fetch(settings), self._now)
        return results

    def _online(self, settings: Settings) -> list[Result]:
        try:
            return list(proxy_checks.upstream(settings, self._fetch(settings), self._now))
        except CCFlareError as error:
            return [fail("upstream.tls", str(error), "correct the option")]

    def _fetch(self, settings: Settings) -> proxy_checks.Fetch:
        return partial(fetcher, self._console, settings)

    def _settings(self) -> Settings | None:
        try:
            return read_settings(self._console, self._arguments.database)
        except CCFlareError as error:
            self._problems += [line for line in str(error).splitlines() if line not in self._problems]
            return None

    def _stored(self, settings: Settings | None) -> list[Result]:
        results: list[Result] = []
        if settings is None:
            return [fail("database.opens", "the options say nothing that could be opened", "correct them first")]
        source = store_checks.key_source(self._console, settings, results)
        known: list[bytes] = []
        if source is not None:
            with store_checks.opened(self._console, settings, source, results) as store:
                if store is not None:
                    results += self._in_store(store, settings)
                    known = store_checks.secrets(store)
        results += host_checks.logs(self._arguments.log, known)
        return results

    def _in_store(self, store: Store, settings: Settings) -> list[Result]:
        now = self._now
        parts: tuple[Iterable[Result], ...] = (
            store_checks.database(store, settings, now),
            store_checks.audit(store, settings),
            store_checks.signed_rows(store),
            store_checks.keys(store, now),
            store_checks.accounts(store, now),
            host_checks.rules_accounts(settings.rules_path, store.accounts.names),
            self._access(store, settings),
            store_checks.activity(store, settings, now),
            proxy_checks.proxies(store, now),
            proxy_checks.ways(store, settings, self._fetch(settings)) if self._arguments.online else (),
        )
        results: list[Result] = []
        for part in parts:
            try:
                results += part
            except CCFlareError as error:
                remedy = f"see `{typed('audit verify')}`, or restore a backup"
                results.append(fail("database.reads", str(error), remedy))
        return results

    def _access(self, store: Store, settings: Settings) -> Results:
        host = str(self._merged.get("listen_host", "127.0.0.1"))
        keys = store_checks.valid_keys(store, self._now)
        has_tls = settings.requires_client_tls or settings.insecure_remote
        yield from installation.ingress(Ingress(host, settings.allow_remote, has_tls, keys))
        yield from store_checks.client_keys(store, self._now)
        yield from store_checks.tunnels(store, self._now)
        yield from store_checks.second_factor(store, self._now, is_remote=settings.allow_remote)
