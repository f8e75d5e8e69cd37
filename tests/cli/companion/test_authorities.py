"""The file of authorities that Python programs are given."""

import ssl
from pathlib import Path

import certifi
import pytest

from ccflare_cli.companion.authorities import own_authority, write_bundle
from ccflare_cli.console import Refused
from harness import authority


@pytest.fixture
def own() -> Path:
    return own_authority(authority())


def trusted(bundle: Path) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bundle)
    return len(context.get_ca_certs())


def test_bundle_has_the_systems_authorities_and_ours(tmp_path: Path, own: Path) -> None:
    bundle = tmp_path / "data" / "bundle.pem"

    write_bundle(bundle, own, {}, (certifi.where(),))

    assert trusted(bundle) == trusted(Path(certifi.where())) + 1
    assert bundle.stat().st_mode & 0o777 == 0o600


def test_bundle_is_left_alone_where_it_is_as_it_should_be(tmp_path: Path, own: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    write_bundle(bundle, own, {})
    before = bundle.stat()

    write_bundle(bundle, own, {"SSL_CERT_FILE": str(bundle)})

    assert bundle.stat().st_ino == before.st_ino, "an own bundle in the environment is no authority of the system's"


def test_bundle_is_made_of_what_the_user_trusts_instead(tmp_path: Path, own: Path) -> None:
    bundle, company = tmp_path / "bundle.pem", tmp_path / "company.pem"
    company.write_bytes(own.read_bytes())

    write_bundle(bundle, own, {"SSL_CERT_FILE": str(company)})

    assert trusted(bundle) == 1


def test_bundle_falls_back_to_the_authorities_of_certifi(tmp_path: Path, own: Path) -> None:
    write_bundle(tmp_path / "bundle.pem", own, {}, ("/nowhere",))

    assert trusted(tmp_path / "bundle.pem") > 50


def test_a_private_key_beside_a_certificate_is_not_copied(tmp_path: Path, own: Path) -> None:
    both = own.with_name("mitmproxy-ca.pem")
    assert b"PRIVATE KEY" in both.read_bytes()

    write_bundle(tmp_path / "bundle.pem", both, {})

    assert b"PRIVATE" not in (tmp_path / "bundle.pem").read_bytes()


def test_without_certificates_there_is_a_sentence(tmp_path: Path, own: Path) -> None:
    with pytest.raises(Refused, match="the proxy makes it when it starts"):
        own_authority(tmp_path)
    (tmp_path / "empty.pem").touch()
    with pytest.raises(Refused, match="no certificate in it"):
        write_bundle(tmp_path / "bundle.pem", tmp_path / "empty.pem", {})
