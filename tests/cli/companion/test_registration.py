"""Runs are begun in the database, kept alive, and ended whatever happens."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_cli.companion.environment import ProxyAddress
from ccflare_cli.companion.registration import Registrar, beating, key_of
from ccflare_cli.console import Refused, read_settings
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.keys import Role
from ccflare_core.errors import StoreError
from ccflare_core.store.client_keys import new_key
from ccflare_core.store.store import Store
from database_kit import KEY, NOW, open_store
from desk import Desk
from harness import eventually
from home_kit import answering

RUN = ClientRun("run-1", NOW, NOW)


@pytest.fixture
def desk() -> Desk:
    return Desk(now=NOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(open_store(tmp_path / "ccflare.db")) as store:
        yield store


@pytest.fixture
def registrar(desk: Desk, store: Store, tmp_path: Path) -> Registrar:
    console = desk.console()
    return Registrar(console, read_settings(console, str(tmp_path / "ccflare.db")), KEY, known_seconds=0.2)


def test_a_sign_of_life_takes_no_data_key(desk: Desk, store: Store, registrar: Registrar) -> None:
    store.client_runs.begin(RUN)
    desk.now = NOW + 120

    Registrar(desk.console(), registrar._settings, KEY).beat(RUN)

    assert [run.seen_at for run in store.client_runs.active()] == [NOW + 120]


def test_signs_of_life_go_on_after_one_that_could_not_be_given() -> None:
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 1:
            raise StoreError("The database is locked.")

    with beating(beat, every=0.0, look=0.01):
        eventually(lambda: len(beats) >= 3)
    number = len(beats)

    assert beats == [1] * number


def test_a_proxy_that_takes_no_notice_of_runs_is_told_of_none(store: Store, registrar: Registrar) -> None:
    with (
        answering(200, b'{"status":"ok"}') as place,
        pytest.raises(Refused, match="takes no notice of runs"),
        registrar.going_on(RUN, ProxyAddress(place)),
    ):
        pytest.fail("the client was started")

    assert store.query("SELECT id FROM client_runs", ()) == []


def test_a_run_that_the_proxy_does_not_learn_of_is_over_again(store: Store, registrar: Registrar) -> None:
    with (
        answering(403, b"{}") as place,
        pytest.raises(Refused, match="works with another database"),
        registrar.going_on(RUN, ProxyAddress(place)),
    ):
        pytest.fail("the client was started")

    assert store.client_runs.active() == []


@pytest.mark.parametrize(("role", "complaint"), [(Role.VIEWER, "is for our pages alone"), (Role.ADMIN, "")])
def test_a_key_for_a_client_has_to_be_for_requests(store: Store, role: Role, complaint: str) -> None:
    secret = store.clients.add(new_key("laptop", NOW, role=role))

    if complaint:
        with pytest.raises(Refused, match=complaint):
            key_of(store, secret, NOW)
    else:
        assert key_of(store, secret, NOW).name == "laptop"
    store.clients.revoke("laptop")
    with pytest.raises(Refused, match="it is a"):
        key_of(store, secret, NOW)
