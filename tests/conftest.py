"""Fixtures for every test: upstreams that run beside it, and proxies that are gone after it."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import FakeUpstream
from harness import Proxy, StartProxy

# SoftHSM2 is no Python package. Where CI runs it is always there, so nothing is left out silently.
HSM_IS_MISSING = not os.environ.get("CI") and (find_spec("pkcs11") is None or shutil.which("softhsm2-util") is None)
collect_ignore = ["security/test_hsm.py"] if HSM_IS_MISSING else []


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return ["without SoftHSM2: tests/security/test_hsm.py is left out"] if HSM_IS_MISSING else []


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
