"""Fixtures for every test: upstreams that run beside it, and proxies that are gone after it."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import FakeUpstream
from harness import Proxy, StartProxy


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream on plain HTTP/1.1."""
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def tls_upstream() -> Iterator[FakeUpstream]:
    """A fake upstream on TLS that offers HTTP/2 and HTTP/1.1."""
    with FakeUpstream(tls=True, http2=True) as server:
        yield server


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Start proxies: `start_proxy(upstream, accounts={"name": "secret"}, **options of Proxy)`.

    A secret that begins with `sk-ant-api` is an API key, any other an access token. With `ranked` the order
    of the accounts is their priority.
    """
    numbers = itertools.count(1)
    with ExitStack() as running:

        def start(
            upstream: FakeUpstream | str | None = None,
            *,
            accounts: dict[str, str] | None = None,
            ranked: bool = False,
            **options: Any,
        ) -> Proxy:
            proxy = Proxy(upstream, folder=tmp_path / f"proxy-{next(numbers)}", **options)
            running.callback(proxy.close)
            for priority, (name, secret) in enumerate((accounts or {}).items()):
                add = proxy.add_api_key if secret.startswith("sk-ant-api") else proxy.add_tokens
                add(name, secret, priority=priority if ranked else 0)
            return running.enter_context(proxy)

        yield start
