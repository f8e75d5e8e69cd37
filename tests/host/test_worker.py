"""A worker does as its supervisor says, and ends when that has ended."""

import asyncio
import socket
from pathlib import Path

import pytest

from ccflare_core.errors import ConfigError
from ccflare_core.workers import SERVING, STOP, VARIABLE, Place
from ccflare_mitm.host.worker import Worker


def pair() -> tuple[socket.socket, socket.socket, Worker]:
    """The supervisor's end, the worker's, and the second of its workers."""
    supervisor, own = socket.socketpair()
    own.setblocking(False)
    return supervisor, own, Worker(Place(2, False, own.fileno()), own)


async def test_worker_stops_when_told_and_hurries_when_told_again() -> None:
    supervisor, own, worker = pair()
    with supervisor, own:
        stopped = asyncio.Event()
        worker.heed(stopped.set)
        supervisor.send(STOP)
        await asyncio.wait_for(stopped.wait(), 30)
        assert not worker.hurry.is_set()

        supervisor.send(STOP)

        await asyncio.wait_for(worker.hurry.wait(), 30)
        asyncio.get_running_loop().remove_reader(own)


async def test_worker_stops_without_a_hurry_when_its_supervisor_has_died() -> None:
    supervisor, own, worker = pair()
    with own:
        stopped = asyncio.Event()
        worker.heed(stopped.set)

        supervisor.close()

        await asyncio.wait_for(stopped.wait(), 30)
        assert not worker.hurry.is_set()
        with pytest.raises(ConfigError, match="the supervisor of the workers has ended"):
            worker.serves()


async def test_worker_tells_that_it_serves() -> None:
    supervisor, own, worker = pair()
    with supervisor, own:
        worker.serves()

        assert supervisor.recv(10) == SERVING


async def test_worker_has_files_of_its_own() -> None:
    supervisor, own, worker = pair()
    with supervisor, own:
        assert worker.own_file(Path("/log/proxy.log")) == Path("/log/proxy.2.log")
        assert worker.own_file(Path("/log/proxy")) == Path("/log/proxy.2")


def test_process_is_a_worker_only_by_its_variable_which_is_taken_away() -> None:
    assert Worker.of({}) is None
    for text in ("2", "x y z", "1 0 999999"):
        environ = {VARIABLE: text}
        with pytest.raises(ConfigError, match="`--workers` sets it, and nobody else"):
            Worker.of(environ)
        assert environ == {}


def test_places_are_read_as_they_are_written() -> None:
    assert Place.parse(str(Place(3, True, 7))) == Place(3, True, 7)
