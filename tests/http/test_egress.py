"""A proxy on the way out: how it is written, and our own client's way through it, past real proxies."""

import asyncio
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ccflare_core.anthropic.oauth import Endpoints, refresh_request
from ccflare_core.errors import TokenUnavailable
from ccflare_core.http.client import Fetcher
from ccflare_core.http.egress import EgressProxy, is_open_proxy
from ccflare_core.http.messages import Request, Response
from ccflare_core.http.origins import Origin
from ccflare_core.http.pinning import PinGuard
from ccflare_core.http.pins import Pins
from connect_proxy import ConnectProxy
from fake_upstream import FakeUpstream, json_answer

PASSWORD = "p@ss:w/ord é"
LOGIN = f"somebody:{PASSWORD}"
PIN = f"sha256/{'A' * 43}="

# --- how it is written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("HTTPS://Proxy.Example/", "https://proxy.example:443"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://me:secret@proxy.example:3128", "http://proxy.example:3128"),
    ],
)
def test_a_proxy_is_shown_without_its_login(text: str, shown: str) -> None:
    assert str(EgressProxy.parse(text)) == shown
    assert "secret" not in repr(EgressProxy.parse(text))


def test_a_proxys_url_is_read_as_it_was_written() -> None:
    proxy = EgressProxy(Origin("http", "proxy.example", 3128), "somebody", PASSWORD)

    assert EgressProxy.parse(proxy.url) == proxy
    assert EgressProxy.parse("http://me@proxy.example:3128").authorization == b"Basic bWU6"
    assert EgressProxy.parse("http://proxy.example:3128").authorization is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "proxy.example:3128", "socks5://proxy.example:1080", "http://", "http://:secret@proxy.example"),
        *("http://me:secret@", "http://me:secret@proxy.example/path", "http://me:sec%0Aret@proxy.example", "none"),
        *("http://proxy.example:0", "http://proxy.example:65536", "http://me:%ffsecret@proxy.example"),
    ],
)
def test_what_is_no_proxy_is_refused_without_a_quotation(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a proxy is http:// or https://") as refused:
        EgressProxy.parse(text)
    assert "secret" not in str(refused.value)


def test_only_a_url_without_a_login_may_be_seen_by_all() -> None:
    assert is_open_proxy("http://proxy.example:3128")
    assert not any(map(is_open_proxy, ("http://me:secret@proxy.example:3128", "http://@proxy.example", "proxy")))


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("upstream:http://proxy.example:3128", "http://proxy.example:3128"),
        ("upstream:https://proxy.example@127.0.0.1:8081", "https://proxy.example:443"),
        ("upstream:proxy.example:3128", "http://proxy.example:3128"),
        ("regular", None),
        ("reverse:https://api.anthropic.com", None),
        ("regular@8081", None),
        ("upstream:", None),
    ],
)
def test_a_mode_of_mitmproxys_names_a_proxy_or_none(spec: str, shown: str | None) -> None:
    found = EgressProxy.of_mode(spec)

    assert (found and str(found)) == shown


def test_mitmproxys_upstream_auth_is_the_proxys_login() -> None:
    found = EgressProxy.of_mode("upstream:http://proxy.example:3128", "me:a:b")

    assert found is not None
    assert (found.user, found.password) == ("me", "a:b")


# --- the way through it


@pytest.fixture(scope="module")
def api() -> Iterator[FakeUpstream]:
    with FakeUpstream(tls=True) as upstream:
        upstream.always(json_answer({"fine": True}))
        yield upstream


def request(api: FakeUpstream, proxy: EgressProxy | None = None) -> Request:
    return Request("GET", f"{api.url}/v1/models", proxy=proxy)


def fetcher(api: FakeUpstream, through: ConnectProxy | None, url: str = "", **options: object) -> Fetcher:
    proxy = EgressProxy.parse(url or through.url) if through else None
    return Fetcher(ca_file=api.ca_file, proxy=lambda: proxy, **options)  # type: ignore[arg-type]


async def fetch(api: FakeUpstream, through: ConnectProxy, url: str = "", **options: object) -> Response:
    return await fetcher(api, through, url, **options).send(request(api))


async def failure(api: FakeUpstream, through: ConnectProxy, url: str = "", **options: object) -> str:
    """The sentence; the upstream has seen no request, and nothing that hangs on to it has the password."""
    before = len(api.requests)
    with pytest.raises(TokenUnavailable) as caught:
        await fetch(api, through, url, **options)
    assert len(api.requests) == before
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def through_login(proxy: ConnectProxy, password: str = PASSWORD) -> str:
    return replace(EgressProxy.parse(proxy.url), user="somebody", password=password).url


async def test_our_client_goes_through_a_proxy_by_connect(api: FakeUpstream) -> None:
    with ConnectProxy(api.port) as proxy:
        answer = await fetch(api, proxy)

    assert (answer.status, answer.body) == (200, b'{"fine":true}')
    assert proxy.heads == [f"CONNECT localhost:{api.port} HTTP/1.1\r\nHost: localhost:{api.port}\r\n\r\n".encode()]
    assert api.server_names[-1] == "localhost"


async def test_our_client_tells_a_proxy_who_it_is(api: FakeUpstream) -> None:
    with ConnectProxy(api.port, login=LOGIN) as proxy:
        assert (await fetch(api, proxy, through_login(proxy))).status == 200
        told = await failure(api, proxy, through_login(proxy, "wrong"))
        assert await failure(api, proxy) == told

    assert told == (
        f"localhost is behind the proxy {proxy.url}, which refused the tunnel "
        "(407: it wants another user and password); correct its user and password"
    )


async def test_our_client_reaches_a_proxy_by_tls_if_it_is_so(api: FakeUpstream) -> None:
    """TLS inside of TLS, each with a certificate that is verified."""
    with ConnectProxy(api.port, login=LOGIN, shows=api) as proxy, FakeUpstream(tls=True) as other:
        assert proxy.url.startswith("https:")
        assert (await fetch(api, proxy, through_login(proxy))).status == 200
        with ConnectProxy(api.port, shows=other) as impostor:
            told = await failure(api, impostor)
    assert told.startswith(f"localhost is behind the proxy {impostor.url}, which has a certificate that is not trusted")
    assert impostor.heads == []


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (403, " (403: it forbids it)"),
        (502, " (502: it does not reach the host)"),
        (504, " (504: it does not reach the host in time)"),
        (302, ""),
        (418, ""),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_named(api: FakeUpstream, status: int, why: str) -> None:
    with ConnectProxy(api.port) as proxy:
        proxy.status = status
        told = await failure(api, proxy)
    assert told == f"localhost is behind the proxy {proxy.url}, which refused the tunnel{why}; try again later"


async def test_a_proxy_that_is_away_is_named(api: FakeUpstream) -> None:
    with ConnectProxy(api.port) as proxy:
        proxy.stop()
        assert (await failure(api, proxy)).startswith(f"localhost is behind the proxy {proxy.url}, which cannot be")


async def test_a_server_in_the_proxys_place_that_is_none_is_named(api: FakeUpstream) -> None:
    """It speaks TLS alone."""
    with ConnectProxy(api.port, shows=api) as proxy:
        told = await failure(api, proxy, f"http://127.0.0.1:{proxy.port}", connect_seconds=2)
    assert told.startswith(f"localhost is behind the proxy http://127.0.0.1:{proxy.port}, which ")


async def test_a_proxy_that_never_answers_is_named(api: FakeUpstream) -> None:
    async with await asyncio.start_server(lambda _, writer: silent.append(writer), "127.0.0.1", 0) as mute:
        silent: list[asyncio.StreamWriter] = []
        url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        with pytest.raises(TokenUnavailable) as caught:
            await Fetcher(proxy=lambda: EgressProxy.parse(url), connect_seconds=1).send(request(api))
        silent[0].transport.abort()
    assert str(caught.value) == (
        f"localhost is behind the proxy {url}, which has opened no way to it within 1 s; try again later"
    )


async def test_a_request_may_have_a_way_of_its_own(api: FakeUpstream) -> None:
    with ConnectProxy(api.port) as usual, ConnectProxy(api.port, login=LOGIN) as own:
        its = request(api, EgressProxy.parse(through_login(own)))
        assert (await fetcher(api, usual).send(its)).status == 200
        assert (await fetcher(api, None).send(its)).status == 200
    assert (len(usual.heads), len(own.heads)) == (0, 2)


async def test_plain_http_stays_on_this_machine() -> None:
    """A proxy would read what is in it."""
    with FakeUpstream() as plain, ConnectProxy(plain.port) as proxy:
        way = EgressProxy.parse(proxy.url)
        asked = refresh_request(Endpoints(token_url=f"{plain.url}/v1/oauth/token"), "sk-ant-ort01-planted")
        await Fetcher(proxy=lambda: way).send(asked)
    assert (len(proxy.heads), len(plain.requests)) == (0, 1)


# --- what a proxy on the way cannot do


async def test_a_proxy_that_opens_the_tls_is_found_out(api: FakeUpstream) -> None:
    with FakeUpstream(tls=True) as impostor, ConnectProxy(impostor.port) as proxy:
        told = await failure(api, proxy)
    assert told.startswith("localhost has a certificate that is not trusted")
    assert told.endswith("; check who answers in that name")  # waiting mends nothing
    assert impostor.requests == []


async def test_pins_hold_behind_a_proxy(api: FakeUpstream) -> None:
    guard = PinGuard(lambda: Pins.parse(f"localhost={PIN}"), enforced=lambda: True)
    with ConnectProxy(api.port) as proxy:
        assert "has no key of ccflare_upstream_pins" in await failure(api, proxy, pins=guard)


async def test_a_proxy_cannot_answer_in_the_hosts_place(api: FakeUpstream) -> None:
    """What it says in clear before TLS begins is no answer of the host's, whenever it is read."""
    with ConnectProxy(api.port) as proxy:
        proxy.injected = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        (answer,) = await asyncio.gather(fetch(api, proxy), return_exceptions=True)
    assert isinstance(answer, TokenUnavailable) or (isinstance(answer, Response) and answer.body == b'{"fine":true}')
