"""What the doctor finds of changes that are to be announced, on a real server."""

import contextlib

import pytest

from ccflare_cli.doctor.results import Level
from ccflare_cli.doctor.store_checks import announcements
from ccflare_core.config.location import Server
from ccflare_core.config.settings import Settings
from ccflare_core.store.store import Store
from database_kit import KEY, open_store
from postgres_kit import Cluster

pytestmark = pytest.mark.postgres


def test_doctor_tries_whether_changes_are_announced_where_a_proxy_would_listen(
    cluster: Cluster, server: Server
) -> None:
    open_store(server).close()
    elsewhere = cluster.url("template1")
    away = Server(f"postgresql://ccflare@127.0.0.1:{cluster.port}/nowhere")
    found = []
    with contextlib.closing(Store.open(server, KEY, read_only=True)) as store:
        for listen_at in ("", elsewhere.text, away.text):
            values = {"ccflare_database": server.text, "ccflare_notify_database": listen_at}
            found.append(announcements(store, Settings.build(values)))
    assert [each.level for each in found] == [Level.OK, Level.WARN, Level.WARN]
    assert f"nothing that is announced comes through {elsewhere}" in found[1].found
    assert "no such database" in found[2].found
