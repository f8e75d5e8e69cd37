"""Opening tunnels: what was looked at is what is connected to, and each is counted and recorded until it ends."""

from ipaddress import ip_address

import pytest
from mitmproxy import http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from ccflare_core.clients.rate_limits import RateLimits
from ccflare_core.exchange.records import Record, TunnelEnded, TunnelOpened
from ccflare_core.http.addresses import Address
from ccflare_mitm.gate.destinations import Destinations
from ccflare_mitm.gate.tunnel_opener import TunnelOpener
from exchange_kit import Bench
from flow_kit import asked
from guard_kit import SECRET, a_gate, a_key, an_authenticator

PROOF = (b"proxy-authorization", b"Bearer " + SECRET.encode())


class Rebinding:
    """A resolver whose name leads to another place each time."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def __call__(self, host: str, port: int) -> tuple[Address, ...]:
        return (Address(ip_address(self.left.pop(0))),)


class Desk:
    """An opener for one client key that may have one tunnel at a time."""

    def __init__(self, *addresses: str, keyed: bool = True) -> None:
        bench, rates = Bench(), RateLimits(print)
        keys = (a_key(tunnels=True, concurrency=1),) if keyed else ()
        self.gate = a_gate(bench, an_authenticator(*keys), rates=rates)
        self.records: list[Record] = []
        self.opener = TunnelOpener(
            self.gate,
            Destinations(lambda: bench.exchanges.settings, lambda: {8080}, resolve=Rebinding(*addresses)),
            rates,
            self.records.append,
            run_id="run",
            wall=lambda: bench.clock.wall,
            records=lambda mode: mode is None,
        )

    async def connect(self, port: int = 443) -> http.HTTPFlow:
        flow = asked(method="CONNECT", address=("https", "name.test", port), headers=(PROOF,))
        await self.opener.connect(flow)
        flow.server_conn.address = ("name.test", port)
        return flow

    async def aim(self, flow: http.HTTPFlow) -> tuple[object, ...]:
        await self.opener.aim(ServerConnectionHookData(server=flow.server_conn, client=flow.client_conn))
        return (*(flow.server_conn.address or ()), flow.server_conn.error)


async def test_a_tunnel_is_connected_to_the_address_that_was_looked_at() -> None:
    flow = await (desk := Desk("1.1.1.1", "127.0.0.1")).connect()

    assert desk.gate.tunnels.is_open(flow.server_conn)
    assert await desk.aim(flow) == ("1.1.1.1", 443, None)


async def test_a_tunnel_is_recorded_and_counted_until_its_client_is_gone() -> None:
    desk = Desk("1.1.1.1", "8.8.8.8")
    first = await desk.connect()
    second = await desk.connect()
    assert second.response is not None
    assert second.response.status_code == 429
    assert [type(record) for record in desk.records] == [TunnelOpened]

    desk.gate.tunnels.left(first.client_conn)

    assert (await desk.connect()).response is None
    assert [type(record) for record in desk.records] == [TunnelOpened, TunnelEnded, TunnelOpened]


@pytest.mark.parametrize(("addresses", "status"), [(("10.0.0.1", "1.1.1.1"), 403), (("", "1.1.1.1"), 500)])
async def test_what_is_not_opened_counts_no_longer(addresses: tuple[str, str], status: int) -> None:
    desk = Desk(*addresses)
    flow = asked(method="CONNECT", address=("https", "name.test", 443), headers=(PROOF,))
    try:
        await desk.opener.connect(flow)
    except ValueError:  # "" is no address: an error inside
        assert status == 500
    assert flow.response is not None
    assert flow.response.status_code == status
    assert not desk.gate.tunnels.is_open(flow.server_conn)
    assert desk.records == []

    assert (await desk.connect()).response is None


async def test_a_client_that_left_meanwhile_has_no_tunnel() -> None:
    desk = Desk("1.1.1.1", "8.8.8.8")
    flow = asked(method="CONNECT", address=("https", "name.test", 443), headers=(PROOF,))
    flow.client_conn.timestamp_end = 1.0
    await desk.opener.connect(flow)

    assert not desk.gate.tunnels.is_open(flow.server_conn)
    assert (await desk.connect()).response is None


async def test_without_a_key_names_are_not_looked_up_nor_recorded() -> None:
    desk = Desk(keyed=False)
    flow = asked(method="CONNECT", address=("https", "name.test", 443))
    await desk.opener.connect(flow)
    flow.server_conn.address = ("name.test", 443)

    assert desk.gate.tunnels.is_open(flow.server_conn)
    assert desk.records == []
    assert await desk.aim(flow) == ("name.test", 443, None)


async def test_no_server_connection_leads_back_here() -> None:
    desk = Desk("127.0.0.1")
    flow = asked()
    flow.server_conn.address = ("name.test", 8080)

    assert await desk.aim(flow) == ("name.test", 8080, "it leads back to this proxy")


async def test_a_tunnel_that_could_not_be_opened_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("1.1.1.1", "10.0.0.1")
    flow = await desk.connect()
    flow.server_conn.error = "[Errno -2] Name or service not known"
    desk.opener.failed(ServerConnectionHookData(server=flow.server_conn, client=flow.client_conn))
    desk.gate.tunnels.left(flow.client_conn)
    await desk.connect()

    assert caplog.messages == [
        "no tunnel to name.test:443 for 127.0.0.1: no connection (its name is not known)",
        "no tunnel for 127.0.0.1: name.test is on this machine or in a private network, where the tunnels of client "
        "keys do not lead; ccflare_tunnel_targets can name it.",
    ]
