"""Where an account's credential goes: one value, from the options, that no client can influence. Pure.

`UpstreamTarget` is made of the owner's options alone. Code that sends a credential takes the address, the name that the
certificate must carry, the protocol, the Host and the way there from it, and from nothing else; what a connection needs
besides becomes another field of it. The path that `ccflare_upstream` may have is put before a request's own when that
goes out; what is admitted and recorded is the client's.

What comes from a client, or by what it does, and could steer a connection to the upstream if one let it:

- the server name (SNI) of its TLS to us: mitmproxy takes it inside a tunnel, with `--mode upstream:` as well, and in
  reverse mode with `keep_host_header`, for the name that the upstream's certificate has to carry;
- the protocols (ALPN) that its TLS offers: mitmproxy offers the same upstream;
- the host and port of its CONNECT, also in capitals: the address of the connection that mitmproxy opens ahead of any
  request, and the CONNECT that another proxy on the way gets to see;
- the authority of its CONNECT in reverse mode, where there is no such thing;
- the Host of its request, an absolute target, the `:authority` and `:scheme` of HTTP/2: where mitmproxy sends it, and
  the Host that it says there;
- its path: whether a credential is put in at all (`routes`);
- the address of ours that it has reached (`sockname`): the upstream's in mitmproxy's transparent modes, which do not
  start;
- a connection that an earlier request of it, or its tunnel, has left open: used again for the next one;
- its Proxy-Authorization: what another proxy on the way could be told.

The owner decides on the rest, and that steers no credential either: what `--mode reverse:` names is where mitmproxy's
own layer would connect to; the proxy on the way is the account's own, or that of `ccflare_egress_proxy`, or else that
of `--mode upstream:`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Self

from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.origins import Origin
from ccflare_core.http.pins import Pins

HTTP1 = b"http/1.1"
"""What is spoken to the upstream, whatever the client speaks.

The clients that there are speak it themselves, and so their heads stay as they are, byte for byte; those that offer it
beside HTTP/2 are taken at that. One that speaks nothing but HTTP/2 pays with a connection, and a handshake, for each
request: mitmproxy puts none of them on an HTTP/1 connection that has carried another.
"""

DEFAULT_PORTS = {"http": 80, "https": 443}


FORM = "http:// or https:// with a host and maybe a port and a path, without query or credentials"

_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
"""No dot segment, no empty one, nothing escaped: what no two servers read differently."""


def parse_upstream(text: str) -> tuple[Origin, str] | None:
    """The origin that `ccflare_upstream` names, and the path before every path ("" for none); None if it is no such."""
    scheme, mark, rest = text.removesuffix("/").partition("://")
    place, slash, path = rest.partition("/")
    origin = Origin.parse(f"{scheme}{mark}{place}")
    return (origin, slash + path) if origin and _PATH.fullmatch(slash + path) else None


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """See the module."""

    scheme: str
    address: tuple[str, int]
    tls_name: str
    """What TLS asks for, and what the certificate must carry; "" without TLS."""
    alpn: tuple[bytes, ...]
    """What TLS offers to speak."""
    egress_proxy: EgressProxy | None
    pins: frozenset[str]
    """The keys of which its verified chain must have one; none: any will do."""
    prefix: str = ""
    """What stands before the path of each request there."""
    elsewhere_by: EgressProxy | None = None
    """The proxy on the way to other hosts."""

    @classmethod
    def of(cls, origin: Origin, pins: Pins, egress_proxy: EgressProxy | None = None, prefix: str = "") -> Self:
        """The target that `ccflare_upstream` and its pins make."""
        is_tls = origin.scheme == "https"
        return cls(
            scheme=origin.scheme,
            address=(origin.host, origin.port),
            tls_name=origin.host if is_tls else "",
            alpn=(HTTP1,) if is_tls else (),
            egress_proxy=egress_proxy,
            pins=pins.of_host.get(origin.host, frozenset()),
            prefix=prefix,
        )

    def by(self, proxy: EgressProxy | None) -> Self:
        """The same by an account's own proxy, if it has one."""
        return self if proxy is None else replace(self, egress_proxy=proxy)

    def way(self, scheme: str, address: tuple[str, int]) -> EgressProxy | None:
        """The proxy on the way to this place, the target or another one."""
        return self.egress_proxy if (scheme, address) == (self.scheme, self.address) else self.elsewhere_by

    @property
    def authority(self) -> str:
        """The Host that requests say there."""
        host, port = self.address
        host = f"[{host}]" if ":" in host else host
        return host if port == DEFAULT_PORTS[self.scheme] else f"{host}:{port}"

    def is_at(self, address: tuple[str | int, ...] | None) -> bool:
        """Whether a connection to this address leads here, however the host is written."""
        return address is not None and (str(address[0]).lower(), address[1]) == self.address

    def is_kept_by(self, keys: Iterable[str]) -> bool:
        """Whether a verified chain with these pins has a key that is expected."""
        return not self.pins or not self.pins.isdisjoint(keys)

    def is_named_by(self, names: Iterable[str], addresses: Iterable[str]) -> bool:
        """Whether a certificate for these DNS names and IP addresses (RFC 9525) is the upstream's."""
        try:
            wanted = ip_address(self.tls_name)
        except ValueError:
            return any(_covers(name.lower(), self.tls_name) for name in names)
        return any(ip_address(address) == wanted for address in addresses)


def _covers(pattern: str, name: str) -> bool:
    """Whether a DNS name of a certificate is this name; a star in it stands for one whole label, the first."""
    first, _, rest = name.partition(".")
    return pattern == name or (bool(first) and "." in rest and pattern == f"*.{rest}")
