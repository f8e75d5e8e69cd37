"""The certificate authorities that a client has to trust: mitmproxy's, and a file with the system's as well.

SSL_CERT_FILE takes the place of all authorities that a program would trust, so mitmproxy's alone would make every
other host fail.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import certifi

from ccflare_cli.console import Refused
from ccflare_core.errors import ConfigError
from ccflare_core.files import make_private_folder, write_whole
from ccflare_core.reading import read_bytes

AUTHORITY = "mitmproxy-ca-cert.pem"
"""The certificate without its key, as mitmproxy names it in its folder."""
_LIMIT = 16 * 1024**2
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo, NixOS
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, Alpine, FreeBSD
)


def own_authority(confdir: Path, *, may_come: bool = False) -> Path:
    """mitmproxy's certificate. Raises Refused if there is none yet, unless it `may_come` later."""
    path = confdir / AUTHORITY
    if not (may_come or path.is_file()):
        raise Refused(
            f"There is no certificate {path} yet: the proxy makes it when it starts for the first time, so start it "
            "once."
        )
    return path


def write_bundle(bundle: Path, authority: Path, environ: Mapping[str, str], system: tuple[str, ...] = _SYSTEM) -> None:
    """Make `bundle` hold the system's authorities and this one, or leave it if it does. Raises Refused.

    A file that SSL_CERT_FILE names counts as the system's: it may have a company's.
    """
    try:
        certificates = _certificates(_trusted(bundle, environ, system)) + _certificates(authority)
        content = b"\n".join(dict.fromkeys(certificates)) + b"\n"
        if not (bundle.is_file() and read_bytes(bundle, _LIMIT) == content):
            make_private_folder(bundle.parent)
            write_whole(bundle, content)
    except ConfigError as error:
        raise Refused(f"{error}.") from None
    except OSError as error:
        raise Refused(f"{bundle} cannot be written ({error.strerror}): check the rights of its folder.") from None


def _trusted(bundle: Path, environ: Mapping[str, str], system: tuple[str, ...]) -> Path:
    own = environ.get("SSL_CERT_FILE", "")
    named = [Path(own)] if own and Path(own) != bundle else []
    found = (path for path in (*named, *map(Path, system)) if path.is_file())
    return next(found, Path(certifi.where()))


def _certificates(path: Path) -> list[bytes]:
    """What else is in the file, a private key say, is left out."""
    found = _CERTIFICATE.findall(read_bytes(path, _LIMIT))
    if not found:
        raise Refused(f"{path} has no certificate in it: name another file, or have it made anew.")
    return [each.replace(b"\r", b"") for each in found]
