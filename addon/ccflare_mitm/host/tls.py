"""TLS to clients, which must show a certificate of an authority of ours if there is one. To upstreams: `upstream`."""

import os
from pathlib import Path
from typing import Any

from cryptography import x509
from mitmproxy import ctx
from mitmproxy.addons.tlsconfig import alpn_select_callback
from mitmproxy.net import tls as net_tls
from mitmproxy.options import CONF_BASENAME
from mitmproxy.tls import TlsData
from OpenSSL import SSL
from OpenSSL.crypto import X509StoreFlags

from ccflare_core.config.target import HTTP1
from ccflare_core.errors import ConfigError

CLIENT_CIPHERS = ":".join(
    f"{exchange}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for exchange in ("ECDHE-ECDSA", "ECDHE-RSA")
)
"""What clients may use on TLS 1.2: forward secrecy and authenticated encryption (Mozilla's "intermediate").

mitmproxy's own list has AES-CBC, 3DES and plain RSA in it.
"""


def check_ca_folder(confdir: str) -> None:
    """See that mitmproxy can make its authority in this folder, if it is not there. Raises ConfigError.

    mitmproxy does it once it listens, and shows a traceback if it cannot.
    """
    folder = Path(confdir).expanduser()
    if os.access(folder / f"{CONF_BASENAME}-ca.pem", os.F_OK):
        return
    nearest = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"confdir: mitmproxy keeps its certificates in {folder}, which cannot be written: correct its rights, or "
            "name another folder with --set confdir=FOLDER"
        )


CRL = b"-----BEGIN X509 CRL-----"


class ClientAuthority:
    """The authorities of a PEM file, one of which must have signed each client's certificate.

    mitmproxy's own `request_client_cert` accepts any certificate, and none. If there are CRLs in the file, every
    authority needs a current one. It is read anew for each handshake. Raises ConfigError if it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            x509.load_pem_x509_certificates(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"ccflare_client_ca: {path} cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise ConfigError(f"ccflare_client_ca: {path} holds no certificates in PEM.") from error
        self.path = path

    def demand_certificate(self, data: TlsData) -> None:
        """Give this client a handshake that fails unless it shows a certificate of ours."""
        tlsconfig: Any = ctx.master.addons.get("tlsconfig")
        tlsconfig.tls_start_client(data)
        made: Any = data.ssl_conn
        shown = tlsconfig.get_cert(data.context)
        connection = SSL.Connection(self._demanding(tlsconfig, shown))
        connection.use_certificate(shown.cert.to_cryptography())
        connection.use_privatekey(shown.privatekey)
        connection.set_app_data(made.get_app_data())
        connection.set_accept_state()
        data.ssl_conn = connection

    def _demanding(self, tlsconfig: Any, shown: Any) -> SSL.Context:
        """A context for one connection: mitmproxy's are shared, and trust the chain of the proxy's certificate."""
        context: SSL.Context = net_tls.create_client_proxy_context.__wrapped__(
            method=net_tls.Method.TLS_SERVER_METHOD,
            min_version=net_tls.Version[ctx.options.tls_version_client_min],
            max_version=net_tls.Version[ctx.options.tls_version_client_max],
            cipher_list=tuple((ctx.options.ciphers_client or CLIENT_CIPHERS).split(":")),
            ecdh_curve=net_tls.get_curve(ctx.options.tls_ecdh_curve_client),
            chain_file=None,
            request_client_cert=False,
            alpn_select_callback=alpn_select_callback,
            extra_chain_certs=tuple(cert for cert in shown.chain_certs if cert != shown.cert),
            dhparams=tlsconfig.certstore.dhparams,
        )
        context.load_verify_locations(str(self.path))
        context.load_client_ca(str(self.path).encode())
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        store = context.get_cert_store()
        if store is not None and CRL in self.path.read_bytes():
            store.set_flags(X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)
        return context


def prefer_http1(data: TlsData) -> None:
    """Agree with a client on the protocol that is spoken upstream, if it offers that among others.

    mitmproxy does the same once it knows what the upstream speaks; else the client's first choice wins.
    """
    agreement = data.ssl_conn.get_app_data() if data.ssl_conn is not None else None
    if isinstance(agreement, dict):
        agreement["server_alpn"] = HTTP1


def refuse_handshake(data: TlsData) -> None:
    """Give the other side a handshake that cannot succeed: ours has no certificate."""
    data.ssl_conn = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
    data.ssl_conn.set_accept_state()
