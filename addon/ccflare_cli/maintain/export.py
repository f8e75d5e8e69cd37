"""`scripts/maintain.py export`: recorded requests for other programs."""

import argparse
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccflare_cli.console import OK, Console, Refused, check_made, open_sealed, read_settings, reading_stages
from ccflare_cli.ids import find_session
from ccflare_cli.output import some
from ccflare_cli.parsing import Parser, tag
from ccflare_cli.periods import WHEN, span
from ccflare_cli.progress import progress
from ccflare_core.db.models import RequestRow
from ccflare_core.files import draft, publish
from ccflare_core.reports.tags import tags_of
from ccflare_core.store.history import Selection
from ccflare_core.store.store import Store
from ccflare_core.transcripts import exports

_FORMS = ("jsonl", "har", "csv")


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The command. Its formats are others than those of tables."""
    text = "write recorded requests with their bodies as JSON lines or HAR, or their figures as CSV"
    export = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    export.set_defaults(command=_export)
    export.add_argument(
        "--database", metavar="PATH|URL", default=argparse.SUPPRESS, help="the database to use (default: the proxy's)"
    )
    export.add_argument("--format", choices=_FORMS, default="jsonl", help="what to write (default: jsonl)")
    export.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the file to write, which only you can read (default: standard output)",
    )
    export.add_argument("--session", metavar="ID", help="only this session: its id, or the beginning")
    export.add_argument("--client", metavar="CLIENT", help="only this client")
    export.add_argument("--tag", type=tag, metavar="NAME=VALUE", help="only what has this tag")
    for name, what in (("since", "from"), ("until", "up to")):
        export.add_argument(
            f"--{name}",
            type=span,
            metavar="WHEN",
            help=f"{what} this time: {WHEN}",
        )


def _export(console: Console, arguments: argparse.Namespace) -> int:
    settings, now = read_settings(console, arguments.database), console.now()
    check_made(settings)
    since, until = (each and each.period(now).since for each in (arguments.since, arguments.until))
    target: Path | None = arguments.output
    if target is not None and target.exists():
        raise Refused(f"{target}: there is a file already; name another one.")
    with open_sealed(console, settings) as store:
        session = find_session(store, arguments.session) if arguments.session else None
        selection = Selection(since, until, session, arguments.client, arguments.tag)
        extent = store.history.extent(selection)
        if not extent.requests:
            raise Refused("Nothing was exported: no recorded request fits.")
        told = {name: value for name, value in selection._asdict().items() if value is not None}
        detail = {"format": arguments.format, "requests": extent.requests, **told}
        upstream = str(settings.upstream).removesuffix(":443") + settings.upstream_path
        with reading_stages(console, store, str(target or "stdout"), **detail) as results, progress(console) as show:
            pieces = _pieces(store, selection, arguments.format, upstream)
            results["requests"] = number = _write(console, target, _counted(pieces, extent.requests, show))
    if target is not None:
        console.say(f"{target}: {some(number, 'request')}.")
    return OK


def _counted(pieces: Iterator[tuple[str, int]], total: int, show: Any) -> Iterator[tuple[str, int]]:
    done = 0
    for text, number in pieces:
        done += number
        show(done, total)
        yield text, number


def _write(console: Console, target: Path | None, pieces: Iterator[tuple[str, int]]) -> int:
    if target is None:
        return sum(_said(console, text, number) for text, number in pieces)
    try:
        with draft(target) as path:
            with path.open("w", encoding="utf-8") as file:
                done = sum(number for text, number in pieces if file.write(text) or True)
                file.flush()
                os.fsync(file.fileno())
            if not publish(path, target):
                raise Refused(f"{target}: there is a file already; name another one.")
    except OSError as error:
        raise Refused(f"{target}: it cannot be written ({error.strerror or error}); name another file.") from error
    return done


def _said(console: Console, text: str, number: int) -> int:
    console.stdout.write(text)
    return number


def _pieces(store: Store, selection: Selection, form: str, upstream: str) -> Iterator[tuple[str, int]]:
    """The export as texts, and how many requests are in each."""
    if form == "csv":
        yield _csv([*RequestRow._meta.sorted_field_names, "tags"]), 0
    elif form == "har":
        yield exports.HAR_BEGIN, 0
    comma = ""
    for row in _rows(store, selection):
        if form == "csv":
            yield _csv([*(row | {"tags": json.dumps(row["tags"], ensure_ascii=False)}).values()]), 1
            continue
        request, answer = (store.body(row["id"], part) for part in ("request", "response"))
        if form == "har":
            yield comma + json.dumps(exports.har_entry(row, upstream, request, answer), ensure_ascii=False), 1
            comma = ",\n"
        else:
            attempts = store.history.attempts(row["id"])
            yield json.dumps(exports.record(row, attempts, request, answer), ensure_ascii=False) + "\n", 1
    if form == "har":
        yield exports.HAR_END, 0


def _rows(store: Store, selection: Selection) -> Iterator[dict[str, Any]]:
    """The requests as the columns of their table, and with their tags."""
    for ids in store.history.ids(selection):
        tags = tags_of(store.query, ids)
        yield from (row | {"tags": tags.get(row["id"], {})} for row in store.history.rows(ids))


def _csv(values: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()
