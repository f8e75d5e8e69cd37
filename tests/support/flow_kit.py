"""Flows as mitmproxy hands them to the hooks."""

from typing import Any

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow, tutils

BODY = b'{"model": "claude-opus-4-8", "messages": [], "stream": true}'


def client(*, mode: str = "regular", tls: bool = False, peer: str = "127.0.0.1") -> Client:
    return Client(
        peername=(peer, 50_000),
        sockname=("127.0.0.1", 8080),
        proxy_mode=ProxyMode.parse(mode),
        timestamp_start=0,
        timestamp_tls_setup=1.0 if tls else None,
    )


def asked(
    path: str = "/v1/messages",
    method: str = "POST",
    address: tuple[str, str, int] = ("http", "127.0.0.1", 8080),
    body: bytes = BODY,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    **connection: Any,
) -> http.HTTPFlow:
    """A flow as mitmproxy hands it to the hooks."""
    scheme, host, port = address
    request = tutils.treq(
        method=method.encode(),
        scheme=scheme.encode(),
        host=host,
        port=port,
        path=path.encode(errors="surrogateescape"),
        headers=http.Headers(((b"Host", host.encode()), (b"authorization", b"Bearer the-clients-own"), *headers)),
        content=body,
    )
    flow: http.HTTPFlow = tflow.tflow(client_conn=client(**connection), req=request)
    return flow
