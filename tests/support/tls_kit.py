"""Certificates of the tests' own: an authority, what it signs, and what it takes back."""

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fake_upstream.certificates import key_usage

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority in a folder; `parent` has signed it, or it has signed itself."""

    def __init__(self, folder: Path, name: str = "tests", parent: "Authority | None" = None) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        builder = _builder(self._name, self._key.public_key(), signer, expired=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(is_ca=True), critical=True)
        self.certificate = builder.sign(signer._key, hashes.SHA256())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.file.chmod(0o644)

    def issue(self, name: str, *, server: bool = False, expired: bool = False) -> Path:
        """A file (0600) with a key and a certificate for it, followed by the authority's own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        signed = (
            _builder(subject, key.public_key(), self, expired=expired)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(key_usage(is_ca=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{name}-{signed.serial_number:x}.pem"
        path.touch(0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + signed.public_bytes(serialization.Encoding.PEM)
            + self.certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def revoke(self, files: Iterable[Path]) -> bytes:
        """A CRL (PEM) that takes these certificates back."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        for file in files:
            serial = x509.load_pem_x509_certificate(file.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2])
            entry = x509.RevokedCertificateBuilder().serial_number(serial.serial_number).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: "Authority", *, expired: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer._name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * DAY)
        .not_valid_after(now - DAY if expired else now + 7 * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key()), critical=False)
    )
