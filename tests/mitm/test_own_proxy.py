"""What a proxy tells of itself: what has changed, as often as somebody is there to hear it, and no more."""

import json
import socket

from ccflare_core.accounts.peers import Peers
from ccflare_core.exchange.records import Record, RunTold
from ccflare_mitm.own_proxy import FIGURES_SECONDS, OwnProxy, Telling
from exchange_kit import Bench

HOST = socket.gethostname()


class Desk:
    """A proxy that listens at these addresses, and what it has told."""

    def __init__(self, worker: int | None = None) -> None:
        self.bench, self.addresses, self.watched = Bench(), ["127.0.0.1:8080"], False
        self.rows: list[Record] = []
        self.late = 0.0
        self.own = OwnProxy("run-1", worker, lambda: self.addresses)
        self.telling = Telling(
            self.own,
            self.bench.exchanges,
            self.rows.append,
            is_announced=lambda: True,
            is_watched=lambda: self.watched,
            lag=lambda: self.late,
            clock=lambda: self.bench.clock.mono,
            wall=lambda: self.bench.clock.wall,
        )

    def told(self, late: float = 0.0) -> dict[str, object]:
        """What it tells now, with an event loop so late; nothing if there is nothing new."""
        self.rows.clear()
        self.late = late
        self.telling.tell()
        found: dict[str, object] = {}
        for row in self.rows:
            assert isinstance(row, RunTold)
            assert row.run_id == "run-1"
            found |= row.columns
        return found


def test_a_name_has_the_port_once_it_listens_and_a_workers_number() -> None:
    desk = Desk(worker=2)
    assert desk.own.name == f"{HOST}:8080/2"
    desk.addresses = ["[::1]:9090", "127.0.0.1:8081"]
    assert desk.own.name == f"{HOST}:8081/2"
    desk.addresses = []
    assert desk.own.name == f"{HOST}/2"


def test_what_seldom_changes_is_told_at_once_and_figures_now_and_then() -> None:
    desk = Desk()
    first = desk.told(0.25)
    assert (first["state"], first["name"], first["address"]) == ("serving", f"{HOST}:8080", "127.0.0.1:8080")
    assert (first["changes"], first["watching"], first["lag_ms"]) == ("announced", False, 250)
    assert desk.told(0.5) == {}
    desk.bench.clock.pass_(FIGURES_SECONDS)
    assert desk.told(0.5) == {"lag_ms": 500}
    desk.bench.exchanges.is_stopping = True
    assert desk.told()["state"] == "draining"


def test_one_that_does_not_listen_yet_is_starting_and_one_that_stops_keeps_its_name() -> None:
    desk = Desk()
    desk.addresses = []
    assert desk.told()["state"] == "starting"
    desk.addresses = ["127.0.0.1:8080"]
    assert desk.told()["state"] == "serving"
    desk.addresses = []
    assert "name" not in desk.told()


def test_others_hear_of_requests_while_somebody_looks_on() -> None:
    desk = Desk()
    desk.told()
    desk.telling.meet(Peers(True))
    exchange = desk.bench.begin()
    assert desk.told() == {}

    desk.telling.meet(Peers(True, {}, look_on=True))

    told = desk.told()
    (row,) = json.loads(str(told["running"]))
    assert told["open_requests"] == 1
    assert (row["id"], row["proxy"], row["outcome"]) == (exchange.id, f"{HOST}:8080", None)
    desk.telling.meet(Peers(True))
    assert desk.told() == {"running": None}


def test_who_looks_on_here_asks_the_others_to_tell() -> None:
    desk = Desk()
    desk.told()
    desk.watched = True
    assert desk.told() == {}  # there are none
    desk.telling.meet(Peers(True))
    assert desk.told()["watching"] is True
