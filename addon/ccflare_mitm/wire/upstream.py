"""Connections to the upstream: TLS for the configured name, used only if the certificate is for that name.

`aim_tls` runs before mitmproxy makes the handshake, `UpstreamProof.flaw` before each request's first byte. The second
trusts nothing of the first: another addon, or another version of mitmproxy, may have come between.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from cryptography import x509
from mitmproxy.connection import Client, Connection
from mitmproxy.proxy.mode_specs import UpstreamMode
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from ccflare_core.anthropic.verdicts import Kind
from ccflare_core.config.settings import Settings
from ccflare_core.config.target import UpstreamTarget
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import PinGuard, spki_pin

VERIFIED = 0
"""OpenSSL's X509_V_OK."""


def target_for(
    settings: Settings, client: Client, proxy: EgressProxy | None = None, login: str | None = None
) -> UpstreamTarget:
    """Where credentials go. The only thing of the client that counts is its ingress, which the owner has configured.

    `proxy` is on the way whatever the ingress is. Without it that of the ingress is, if there is one; `login`
    (`user:password`) is what that one is told.
    """
    mode, modes_proxy = client.proxy_mode, None
    if isinstance(mode, UpstreamMode):
        user, _, password = (login or "").partition(":")
        modes_proxy = EgressProxy(Origin(mode.scheme, *mode.address), user, password)
    target = UpstreamTarget.of(settings.upstream, settings.upstream_pins, proxy or modes_proxy, settings.upstream_path)
    return replace(target, elsewhere_by=modes_proxy)


def aim_tls(data: TlsData, target: UpstreamTarget) -> None:
    """Ask the upstream for its name and protocol, if this handshake is with it; mitmproxy does the rest."""
    server: Any = data.conn
    if target.is_at(server.address):
        server.sni, server.alpn_offers = target.tls_name, target.alpn


def refuse_server_handshake(data: TlsData) -> None:
    """Let a handshake with a server fail: this one trusts nobody."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER)
    data.ssl_conn = SSL.Connection(context)
    data.ssl_conn.set_connect_state()


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server has proved of itself."""

    asked_for: str | None
    """The name that TLS asked for."""
    alpn: bytes | None
    keys: tuple[str, ...]
    """The pins of the chain that it was verified by."""
    names: tuple[str, ...]
    """The DNS names that its own certificate carries."""
    addresses: tuple[str, ...]
    """The IP addresses that it carries."""


class UpstreamProof:
    """Knows what each server has proved, and so whether requests may be sent by a connection.

    That is asked for each request, before a byte of it is sent. A connection that nobody has looked at, because of an
    error, has proved nothing.
    """

    def __init__(self, guard: PinGuard) -> None:
        self._guard = guard
        self._reached: WeakSet[Connection] = WeakSet()
        self._shown: WeakKeyDictionary[Connection, Shown] = WeakKeyDictionary()

    def reached(self, data: TlsData) -> None:
        """TLS with a server begins, so that there is a way to it."""
        self._reached.add(data.conn)

    def is_on_the_way(self, connection: Any) -> bool:
        """Whether a connection that has failed did so at the proxy that it was to go through."""
        return connection.via is not None and connection not in self._reached

    def note(self, data: TlsData) -> None:
        """TLS to a server is established: remember by which chain it was verified, and for which names."""
        connection: Any = data.ssl_conn
        is_verified = SSL._lib.SSL_get_verify_result(connection._ssl) == VERIFIED  # type: ignore[attr-defined]
        chain = connection.get_verified_chain(as_cryptography=True) if is_verified else None
        names, addresses = _names(chain[:1] if chain else ())
        self._shown[data.conn] = Shown(
            asked_for=data.conn.sni,
            alpn=data.conn.alpn,
            keys=tuple(spki_pin(certificate) for certificate in chain or ()),
            names=names,
            addresses=addresses,
        )

    def flaw(self, connection: Connection, target: UpstreamTarget, *, leased: bool) -> Kind | None:
        """Why a request may not be sent by this connection, if so; `leased`: with an account's credential."""
        address = getattr(connection, "address", None)
        shown = self._shown.get(connection)
        if leased or target.is_at(address):
            if not _is_upstream(connection, shown, target):
                return Kind.NOT_TRUSTED
            kept = target.is_kept_by(shown.keys if shown else ())
            return None if self._guard.judge(target.address[0], kept) else Kind.NOT_PINNED
        host = str(address[0]) if address else ""
        return None if self._guard.accepts(host, shown.keys if shown else ()) else Kind.NOT_PINNED


def _is_upstream(connection: Any, shown: Shown | None, target: UpstreamTarget) -> bool:
    """Whether a connection leads to the target, and has proved it if there is TLS."""
    if not target.is_at(connection.address) or connection.tls != bool(target.tls_name):
        return False
    if not target.tls_name:
        return True
    return (
        shown is not None
        and shown.asked_for == target.tls_name
        and target.is_named_by(shown.names, shown.addresses)
        and (not shown.alpn or shown.alpn in target.alpn)
    )


def _names(leaf: Iterable[x509.Certificate]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The DNS names and the addresses of a certificate; none if it is not there or cannot be read."""
    try:
        for certificate in leaf:
            carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = tuple(carried.get_values_for_type(x509.DNSName))
            return names, tuple(map(str, carried.get_values_for_type(x509.IPAddress)))
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        pass
    return (), ()
