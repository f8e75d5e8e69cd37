"""The fake upstream as a process: it prints its port and serves until it is told to stop."""

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fake_upstream.script import limit_after
from fake_upstream.server import FakeUpstream


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A simulated api.anthropic.com; prints its port and serves until SIGTERM."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="serve TLS; ca.pem is written there")
    parser.add_argument("--http2", action="store_true", help="offer HTTP/2 too (with --tls)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="CREDENTIAL=N", help="limit it after N requests"
    )
    parser.add_argument("--reset-after", type=float, default=3600, metavar="SECONDS", help="when the limit resets")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input ends")
    return parser.parse_args(argv)


async def _serve(upstream: FakeUpstream, *, stop_with_stdin: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:

        def read() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=read, daemon=True).start()
    print(upstream.port, flush=True)
    await upstream.serve(stop)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve as a process."""
    options = _arguments(argv)
    upstream = FakeUpstream(
        tls=options.tls is not None, http2=options.http2, port=options.port, folder=options.tls, log=False
    )
    reset = time.time() + options.reset_after
    for limit in options.limit:
        credential, _, served = limit.rpartition("=")
        upstream.always(limit_after(int(served), reset), credential=credential)
    asyncio.run(_serve(upstream, stop_with_stdin=options.stop_with_stdin))
