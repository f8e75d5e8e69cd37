"""Exchanges that have ended, as OpenTelemetry is told of them, without a proxy."""

from dataclasses import replace
from typing import Any

from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.final_row import final_columns
from ccflare_core.exchange.steps import Opening
from ccflare_core.http.origins import Origin
from ccflare_core.telemetry.finished import Finished
from exchange_kit import ASKED, END, OPUS, START, STREAM, Bench, Reply, deliver, limited

UPSTREAM = Origin("https", "api.anthropic.com", 443)
ONE = Reply(200, STREAM, START + END)
REFUSED = limited()


def story(bodies: tuple[bytes, bytes] | None = None, **opening: Any) -> Exchange:
    """A streamed request that a limited account gave to another one after half a second; 1.75 s in all."""
    asked: Opening = replace(ASKED, **opening)
    body, answer = bodies or (b'{"model":"claude-opus-4-8"}', ONE.body)
    bench = Bench("ab")
    exchange = bench.exchanges.begin(asked)
    exchange.admit(OPUS, body, "")
    exchange.next_step()
    bench.clock.pass_(0.5)
    exchange.judge(*REFUSED[:2], REFUSED.event)
    bench.clock.pass_(0.25)
    exchange.judge(200, STREAM, None)
    bench.clock.pass_(1.0)
    deliver(exchange, ONE._replace(body=answer))
    return exchange


def finished(exchange: Exchange, *, with_bodies: bool = False) -> Finished:
    """What OpenTelemetry is told of it."""
    return Finished.of(exchange, final_columns(exchange), with_bodies=with_bodies)


def moved(**opening: Any) -> Finished:
    """The same of `story`."""
    return finished(story(**opening))
