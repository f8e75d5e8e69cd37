"""The end of listening: who is in the kernel's queue is let in, and nobody after."""

import asyncio
import errno
import select
import socket

from ccflare_mitm.host.closing import let_the_last_in

CLIENTS = 150
"""More than asyncio takes from the queue in one turn."""


async def test_closing_serves_who_has_connected_and_refuses_who_comes_then() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, backlog=CLIENTS)
    address = server.sockets[0].getsockname()
    waiting = [socket.create_connection(address, 30) for _ in range(CLIENTS)]  # nobody has taken them yet
    late = socket.socket()
    late.setblocking(False)

    closing = asyncio.ensure_future(let_the_last_in([server]))
    await asyncio.sleep(0)
    begun = late.connect_ex(address)
    await closing
    server.close()

    assert [await asyncio.to_thread(client.recv, 5) for client in waiting] == [b"hello"] * CLIENTS
    assert begun == errno.EINPROGRESS
    await asyncio.to_thread(select.select, [], [late], [], 30)
    assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    for client in (*waiting, late):
        client.close()
