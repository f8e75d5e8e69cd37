"""A run from its start to its end: the server's tables, the upstream, the proxies, the sessions."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.config.location import Server
from ccflare_core.store.store import Store
from cluster_kit.judgement import Findings, judge
from cluster_kit.record import Counts, Witness, backends, counts, recorded
from cluster_kit.scale import Asked, Late, LateProxy, Refreshes, Scale, Sent, account_name, rows_of, tokens
from database_kit import KEY, KEY_VARIABLE
from fake_upstream import TOKEN
from harness import Proxy, eventually

HERE = Path(__file__).parent
PATIENCE_SECONDS = 180.0
"""How long the last answers may take after the load's time."""


class Costs(NamedTuple):
    """What so many seconds have cost."""

    seconds: float
    counts: Counts
    announced: int
    """Notices."""
    proxies_cpu: float
    """Seconds."""
    server_cpu: float


class Run(NamedTuple):
    """What came of it."""

    scale: Scale
    findings: Findings
    load: Costs
    """Of the time under load."""
    idle: Costs | None
    """Of the time before it, if that was measured."""


def run(scale: Scale, server: Server, folder: Path, *, idle_seconds: float = 0.0) -> Run:
    """Do it all, on an empty database. RuntimeError if a process fails."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_upstream(scale, folder))
        _add_accounts(scale, server)
        proxies = [
            _proxy(scale, server, f"http://127.0.0.1:{port}", folder / f"proxy-{n}") for n in range(scale.proxies)
        ]
        for proxy in proxies:
            stack.callback(proxy.close)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Proxy.start, proxies))
        witness = stack.enter_context(Witness(server))
        meter = _Meter(server, witness, [proxy.pid for proxy in proxies])
        idle = meter.over(lambda: time.sleep(idle_seconds)) if idle_seconds else None
        load = meter.over(lambda: _play(scale, [proxy.port for proxy in proxies], folder))
        for proxy in proxies:
            proxy.stop()
    asked, upstream_late, refreshes = _told_by_upstream(folder)
    findings = judge(
        rows_of(Sent, _read(folder / "sent.json")),
        asked,
        witness.cooldowns(),
        witness.placed(),
        recorded(server),
        refreshes,
        [_lateness(_read(folder / f"proxy-{n}" / "late.json")) for n in range(scale.proxies)],
        [upstream_late, witness.late],
    )
    return Run(scale, findings, load, idle)


def _told_by_upstream(folder: Path) -> tuple[list[Asked], list[Late], Refreshes]:
    told = _read(folder / "asked.json")
    return rows_of(Asked, told["asked"]), rows_of(Late, told["late"]), Refreshes(*told["refreshes"])


def _lateness(told: dict[str, list[list[float]]]) -> LateProxy:
    return LateProxy(rows_of(Late, told["loop"]), rows_of(Late, told["thread"]))


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _add_accounts(scale: Scale, server: Server) -> None:
    with contextlib.closing(Store.open(server, KEY)) as store:
        now = time.time()
        for number in range(scale.accounts):
            name = account_name(number)
            access, refresh = tokens(name, 0)
            # Not all at once, as no logins are.
            ends = now + scale.token_seconds * (0.5 + 0.5 * number / scale.accounts)
            account = Account(name, name, Kind.OAUTH, access_token=access, refresh_token=refresh, expires_at=ends)
            store.accounts.add(replace(account, created_at=now))


def _proxy(scale: Scale, server: Server, upstream: str, folder: Path) -> Proxy:
    return Proxy(
        upstream,
        folder=folder,
        database=server,
        environment={**KEY_VARIABLE, "PYTHONUNBUFFERED": ""},
        arguments=("-s", str(HERE / "beat.py")),
        ccflare_token_url=upstream + TOKEN,
        ccflare_refresh_before_seconds=scale.refresh_before,
    )


@contextlib.contextmanager
def _upstream(scale: Scale, folder: Path) -> Iterator[int]:
    """Its port."""
    job = {**scale._asdict(), "file": str(folder / "asked.json")}
    with _process("upstream", job) as process:
        assert process.stdout is not None
        if not (line := process.stdout.readline()):
            raise RuntimeError("the scripted upstream did not start")
        yield int(line)
        process.terminate()
        if process.wait(60):
            raise RuntimeError("the scripted upstream failed")


def _play(scale: Scale, ports: list[int], folder: Path) -> None:
    job = {**scale._asdict(), "ports": ports, "file": str(folder / "sent.json")}
    with _process("sessions", job) as process:
        if process.wait(scale.seconds + PATIENCE_SECONDS):
            raise RuntimeError("the load failed")


@contextlib.contextmanager
def _process(role: str, job: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    command = [sys.executable, str(HERE), role]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, start_new_session=True, env=environment
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class _Meter:
    """Measures what something costs."""

    def __init__(self, server: Server, witness: Witness, pids: list[int]) -> None:
        self._server = server
        self._witness = witness
        self._pids = pids

    def over(self, act: Callable[[], object]) -> Costs:
        """What it costs to do this."""
        before, began = self._look(), time.monotonic()
        act()
        seconds = time.monotonic() - began
        eventually(lambda: time.monotonic() - began > seconds + 1.5)  # the server's counts are up to a second late
        after = self._look()
        counted = Counts(*(b - a for a, b in zip(before[0], after[0], strict=True)))
        return Costs(seconds, counted, *(b - a for a, b in zip(before[1:], after[1:], strict=True)))

    def _look(self) -> tuple[Any, ...]:
        server = sum(map(_cpu_seconds, backends(self._server)))
        return counts(self._server), self._witness.announced, sum(map(_cpu_seconds, self._pids)), server


def _cpu_seconds(pid: int) -> float:
    """What a process of this machine has spent; 0 of one that is elsewhere or gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
