"""`scripts/bench --cluster`: several proxies on one PostgreSQL database under load, and what must hold then.

The server is a temporary one of its own, with fsync on, or an empty database that is named.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from ccflare_core.config.location import Server
from cluster_kit.judgement import Findings
from cluster_kit.rig import Costs, Run, run
from cluster_kit.scale import FULL, Scale
from postgres_kit import Cluster

IDLE_SECONDS = 15.0
"""How long to look at proxies without a request."""


GIVEN = {
    "seconds": (float, "how long requests are begun"),
    "proxies": (int, "how many"),
    "accounts": (int, "how many"),
    "sessions": (int, "how many"),
    "rate": (float, "requests a second, of all sessions"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of this part."""
    group = parser.add_argument_group("cluster")
    group.add_argument("--cluster", action="store_true", help="several proxies on one PostgreSQL database under load")
    for name, (kind, what) in GIVEN.items():
        usual = getattr(FULL, name)
        group.add_argument(f"--{name}", type=kind, metavar="N", help=f"{what} ({usual:g})")
    group.add_argument("--database", metavar="URL", help="an empty database, in place of a temporary server")


def main(options: argparse.Namespace) -> int:
    """Run, and print what came of it; 1 if one of the zeros is none."""
    scale = FULL._replace(**{name: value for name in GIVEN if (value := getattr(options, name)) is not None})
    with _server(options.database) as server, tempfile.TemporaryDirectory(prefix="ccflare-cluster-") as folder:
        done = run(scale, server, Path(folder), idle_seconds=IDLE_SECONDS)
    if options.format == "json":
        print(json.dumps({"scale": scale._asdict(), **_figures(done), "zeros": done.findings.zeros}, indent=2))
    else:
        print(table(done))
    return 1 if any(done.findings.zeros.values()) else 0


@contextlib.contextmanager
def _server(database: str | None) -> Iterator[Server]:
    if database:
        yield Server(database)
        return
    with contextlib.closing(Cluster()) as cluster:
        cluster.execute("ALTER SYSTEM SET fsync = on")
        cluster.execute("SELECT pg_reload_conf()")
        yield cluster.url(schema=cluster.new())


def table(done: Run) -> str:
    """What came of it, for people."""
    scale, found = done.scale, done.findings
    title = (
        f"{scale.proxies} proxies, {scale.accounts} accounts, {scale.sessions} sessions, "
        f"{scale.seconds:.0f} s, {scale.rate:.0f} requests/s"
    )
    zeros = [[f"{number:,}", what] for what, number in found.zeros.items()]
    answers = ", ".join(f"{number:,} {status}" for status, number in found.came.items())
    figures = [[what, _shown(value)] for what, value in _figures(done).items()]
    parts = (
        title,
        tabulate(zeros, ["must be 0", ""], tablefmt="simple", colalign=("right", "left"), disable_numparse=True),
        f"answers: {answers}",
        tabulate(figures, ["", "measured"], tablefmt="simple", colalign=("left", "right"), disable_numparse=True),
        *(str(each) for each in (*found.stale[:5], *found.strayed[:5])),
    )
    return "\n\n".join(parts)


def _figures(done: Run) -> dict[str, float | None]:
    return {**_of_findings(done.findings), **_of_load(done), **_of_idle(done.scale, done.idle)}


def _of_findings(found: Findings) -> dict[str, float | None]:
    return {
        "cooldowns committed": found.cooldowns,
        "requests that met one, known for less": len(found.raced),
        "the longest known of these, ms": 1000 * max(found.raced, default=0.0),
        "too late if only event loops may be": found.late_by_loops,
        "longest lateness of an event loop, ms": 1000 * max(found.longest_late),
        "refreshes": found.refreshes,
        "Gini over accounts": found.gini_accounts,
        "Gini over proxies": found.gini_proxies,
        "turns on another proxy than before": found.moves,
        "of these with the session's account": found.kept,
        "of these before that was written down": found.unwritten,
    }


def _of_load(done: Run) -> dict[str, float | None]:
    load, requests = done.load, sum(done.findings.came.values())
    counts = load.counts
    return {
        "rows written a request": (counts.inserted + counts.updated + counts.deleted) / requests,
        "rows read a request": counts.read / requests,
        "WAL bytes a request": counts.wal_bytes / requests,
        "transactions a request": counts.commits / requests,
        "notices a second": load.announced / load.seconds,
        "CPU ms of a proxy a request": 1000 * load.proxies_cpu / requests,
        "CPU ms of the server a request": 1000 * load.server_cpu / requests,
    }


def _of_idle(scale: Scale, idle: Costs | None) -> dict[str, float | None]:
    if idle is None:
        return {}
    each = idle.seconds * scale.proxies
    return {
        "idle proxy: transactions a second": idle.counts.commits / each,
        "idle proxy: rows read a second": idle.counts.read / each,
        "idle proxy: CPU ms a second": 1000 * idle.proxies_cpu / each,
        "idle proxy: CPU ms of the server a second": 1000 * idle.server_cpu / each,
    }


def _shown(value: float | None) -> str:
    """Three digits that tell something."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
