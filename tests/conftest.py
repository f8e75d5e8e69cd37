"""Fixtures for every test: upstreams that run beside it, and proxies that are gone after it."""

import itertools
import logging
import os
import shutil
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import clients_kit
import front_kit
import postgres_kit
from ccflare_core.config.location import Location, Server
from ccflare_core.db.engine_choice import open_engine
from fake_upstream import FakeUpstream
from harness import RUNNING, Proxy, StartProxy
from postgres_kit import Cluster

# How long an example takes says something about the machine, not about the code; pytest's time limit holds anyway.
settings.register_profile("ccflare", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same few examples each time: enough to see what is reached, and the count does not waver.
settings.register_profile("coverage", settings.get_profile("ccflare"), max_examples=10, derandomize=True, database=None)
settings.load_profile("ccflare")

# Neither is a Python package. Where CI runs they are always there, so nothing is left out silently.
HSM_IS_MISSING = not os.environ.get("CI") and (find_spec("pkcs11") is None or shutil.which("softhsm2-util") is None)
POSTGRES_IS_MISSING = not os.environ.get("CI") and not postgres_kit.IS_HERE
POOLER_IS_MISSING = not os.environ.get("CI") and not postgres_kit.POOLER_IS_HERE
FRONTS_ARE_MISSING = not os.environ.get("CI") and not front_kit.ARE_HERE
COMPLETION_IS_MISSING = not os.environ.get("CI") and find_spec("argcomplete") is None
OTEL_IS_MISSING = not os.environ.get("CI") and find_spec("oteltap") is None
MCP_IS_MISSING = not os.environ.get("CI") and find_spec("mcp") is None
PLOT_IS_MISSING = not os.environ.get("CI") and find_spec("matplotlib") is None
BROWSER_IS_MISSING = not os.environ.get("CI") and (find_spec("playwright") is None or shutil.which("chromium") is None)
# These are somebody else's programs, so no change waits for them.
CLIENTS_ARE_MISSING = not clients_kit.are_installed()
SCHEMATHESIS_IS_MISSING = find_spec("schemathesis") is None
collect_ignore = ["cli/stats/test_plot.py"] * PLOT_IS_MISSING
collect_ignore += ["cli/test_completion.py", "cli/companion/test_completion.py"] * COMPLETION_IS_MISSING
collect_ignore += ["cli/mcp/test_server.py", "e2e/test_mcp_live.py"] * MCP_IS_MISSING
collect_ignore += [
    *(f"telemetry/test_{name}.py" for name in ("measuring", "receiver", "telemetry", "tracing")),
    "e2e/test_telemetry_live.py",
] * OTEL_IS_MISSING
collect_ignore += ["e2e/test_api_schema.py"] * SCHEMATHESIS_IS_MISSING
collect_ignore += ["security/test_hsm.py"] * HSM_IS_MISSING
collect_ignore += ["db/test_postgres.py", "db/test_server_url.py", "db/test_tls.py"] * POSTGRES_IS_MISSING
collect_ignore += ["db/test_pgbouncer.py"] * POOLER_IS_MISSING
collect_ignore += ["e2e/test_fronts.py"] * FRONTS_ARE_MISSING
collect_ignore += ["e2e/test_browser.py", "e2e/test_browser_proxies.py"] * BROWSER_IS_MISSING
collect_ignore += [
    "e2e/test_real_clients.py",
    "anthropic/test_sdk_kinds.py",
    "anthropic/test_sdk_paths.py",
] * CLIENTS_ARE_MISSING


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    told = ["without SoftHSM2: tests/security/test_hsm.py is left out"] if HSM_IS_MISSING else []
    told += ["without a PostgreSQL server: the tests that need one are left out"] if POSTGRES_IS_MISSING else []
    told += ["without PgBouncer: tests/db/test_pgbouncer.py is left out"] if POOLER_IS_MISSING else []
    told += ["without nginx and HAProxy: tests/e2e/test_fronts.py is left out"] if FRONTS_ARE_MISSING else []
    told += ["without matplotlib: tests/cli/stats/test_plot.py is left out"] if PLOT_IS_MISSING else []
    told += ["without schemathesis: tests/e2e/test_api_schema.py is left out"] if SCHEMATHESIS_IS_MISSING else []
    told += ["without argcomplete: tests/**/test_completion.py are left out"] if COMPLETION_IS_MISSING else []
    told += ["without mcp: test_server.py and test_mcp_live.py of it are left out"] if MCP_IS_MISSING else []
    told += (
        ["without oteltap: most of tests/telemetry and test_telemetry_live.py are left out"] if OTEL_IS_MISSING else []
    )
    told += ["without Chromium and Playwright: tests/e2e/test_browser.py is left out"] if BROWSER_IS_MISSING else []
    without_clients = "without the real clients (`scripts/test --clients` brings them)"
    told += [f"{without_clients}: test_real_clients.py, test_sdk_*.py are left out"] if CLIENTS_ARE_MISSING else []
    return told


def pytest_configure(config: pytest.Config) -> None:
    """Name our mark, and have the programs that tests start heed the signals that this one was told to ignore.

    `nohup` has it ignore SIGHUP, and a shell's `&` SIGINT.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # which they do not inherit
    config.addinivalue_line("markers", "postgres: needs the programs of a PostgreSQL server")
    logging.getLogger("peewee").setLevel(logging.INFO)  # else each statement takes part in what a failure shows


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here."""
    left_out = [item for item in items if POSTGRES_IS_MISSING and item.get_closest_marker("postgres")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


LOG_CHARACTERS = 4000
"""How much of a proxy's log a failure shows: its end."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the proxies have said that it may be about."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {proxy.folder.name}", proxy.log()[-LOG_CHARACTERS:]) for proxy in RUNNING]
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server. Whoever stops it starts it again."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def server(cluster: Cluster) -> Server:
    """A database of the test's own on it."""
    return cluster.url(schema=cluster.new())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and no row."""
    path = tmp_path_factory.mktemp("made") / "ccflare.db"
    open_engine(path, now_ms=0, read_only=False).close()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A database without a row, once a file, once on a server, where no tables are yet either."""
    if request.param == "sqlite":
        return Path(shutil.copy2(request.getfixturevalue("made"), tmp_path / "ccflare.db"))
    server: Server = request.getfixturevalue("server")
    return server


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are told in UTC, wherever the test runs."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream on plain HTTP/1.1."""
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def tls_upstream() -> Iterator[FakeUpstream]:
    """A fake upstream on TLS that offers HTTP/2 and HTTP/1.1."""
    with FakeUpstream(tls=True, http2=True) as server:
        yield server


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Start proxies: `start_proxy(upstream, accounts={"name": "secret"}, **options of Proxy)`.

    A secret that begins with `sk-ant-api` is an API key, any other an access token. With `ranked` the order
    of the accounts is their priority.
    """
    numbers = itertools.count(1)
    with ExitStack() as running:

        def start(
            upstream: FakeUpstream | str | None = None,
            *,
            accounts: dict[str, str] | None = None,
            ranked: bool = False,
            **options: Any,
        ) -> Proxy:
            proxy = Proxy(upstream, folder=tmp_path / f"proxy-{next(numbers)}", **options)
            running.callback(proxy.close)
            for place, (name, secret) in enumerate((accounts or {}).items()):
                add = proxy.add_api_key if secret.startswith("sk-ant-api") else proxy.add_tokens
                add(name, secret, priority=50 + place * ranked)
            return running.enter_context(proxy)

        yield start
