"""TLS to the server: whose certificate is taken, also on the connection that hears; with a pooler in test_pgbouncer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccflare_core.config.location import Server
from ccflare_core.db import server_url
from ccflare_core.db.announcements import Channel
from ccflare_core.db.engine_choice import hear
from ccflare_core.errors import StoreError
from database_kit import open_store
from postgres_kit import Cluster, check_both_are_encrypted, verified
from tls_kit import Authority

pytestmark = pytest.mark.postgres

NAME = "localhost"
CHANNEL = Channel.of("0123456789abcdef", "here")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[Cluster]:
    """A server with a certificate for its name."""
    with contextlib.closing(Cluster(tls=authority.issue(NAME, server=True))) as cluster:
        yield cluster


def test_right_certificate_lets_both_connections_in(guarded: Cluster, authority: Authority) -> None:
    check_both_are_encrypted(guarded, verified(guarded.url(schema=guarded.new()), authority.file))


def test_off_this_machine_that_is_how_it_is_without_a_word(
    guarded: Cluster, cluster: Cluster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_url, "is_this_machine", lambda host: False)
    location = verified(guarded.url(schema=guarded.new()), authority.file)
    check_both_are_encrypted(guarded, Server(location.text.replace("sslmode=verify-full&", "")))
    refused(cluster.url(schema=cluster.new()), "offers no TLS")


def test_wrong_name_authority_file_or_server_is_refused_in_a_sentence(
    guarded: Cluster, cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    url, other = guarded.url(), Authority(tmp_path, "other")
    refused(verified(url, authority.file, "127.0.0.1"), "is for another name: connect by that name")
    refused(verified(url, other.file), "cannot be verified: give the file of the authority")
    refused(verified(url, tmp_path / "nowhere.pem"), "no file with the authority .*: see sslrootcert")
    refused(verified(cluster.url(), authority.file), "offers no TLS: switch it on there")


def test_expired_certificate_is_refused(authority: Authority) -> None:
    with contextlib.closing(Cluster(tls=authority.issue(NAME, server=True, expired=True))) as cluster:
        refused(verified(cluster.url(), authority.file), "see whether it has expired")


def refused(location: Server, sentence: str) -> None:
    """The store and the connection that hears say the same."""
    with pytest.raises(StoreError, match=sentence) as store:
        open_store(location)
    with pytest.raises(StoreError, match=sentence) as hearing:
        hear(location, CHANNEL, "ccflare_database")
    assert str(store.value) == str(hearing.value)
    assert str(store.value).startswith(f"{location}: ")
