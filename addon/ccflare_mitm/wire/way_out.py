"""The proxy on the way of a connection: how mitmproxy is told, whose login it is told, and who is to blame.

mitmproxy has one proxy and one login for everything (`--mode upstream:`, `upstream_auth`), and uses a connection again
for whatever goes to the same host by the same `via`. Here accounts may have proxies of their own, also two logins with
the same proxy. So the address in `via` carries the proxy, and is equal to no other one's.
"""

from typing import Any

from mitmproxy import http

from ccflare_core.http.egress import EgressProxy

LOGIN = "Proxy-Authorization"


class ProxyAddress(tuple[str, int]):
    """Where a proxy listens, as mitmproxy wants it, and which one it is."""

    proxy: EgressProxy

    def __new__(cls, proxy: EgressProxy) -> "ProxyAddress":
        made = super().__new__(cls, proxy.origin[1:])
        made.proxy = proxy
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProxyAddress) and self.proxy == other.proxy

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.proxy)


def via(proxy: EgressProxy | None) -> Any:
    """The same as mitmproxy's `via`."""
    return proxy and (proxy.origin.scheme, ProxyAddress(proxy))


def introduce(flow: http.HTTPFlow) -> None:
    """Tell the proxy that a CONNECT goes to who asks, whatever has been said: mitmproxy has one login for all."""
    address = flow.server_conn.address
    if not isinstance(address, ProxyAddress):
        return
    flow.request.headers.pop(LOGIN, None)
    if (login := address.proxy.authorization) is not None:
        flow.request.headers[LOGIN] = login.decode()
