"""Questions on connections of their own: where the proxy refuses somebody it does not know, it ends the connection."""

from harness import Proxy, eventually, via_base_url

REFUSED_AS_UNKNOWN = (401, 429)
"""The second one once that has happened too often."""


def wait_for_key(proxy: Proxy, secret: str) -> None:
    """Return when the proxy has heard of a client key that was added while it runs."""

    def status() -> int:
        with via_base_url(proxy) as client:
            return client.request("GET", "/ccflare/ready", ((b"x-api-key", secret.encode()),)).status

    eventually(status, lambda status: status not in REFUSED_AS_UNKNOWN)
