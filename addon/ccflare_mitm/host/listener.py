"""When and where the proxy listens: only once the options are known, on loopback unless asked, and until it stops."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mitmproxy import ctx
from mitmproxy.addons import proxyserver as mitmproxys
from mitmproxy.proxy import mode_specs

from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError
from ccflare_core.http.origins import is_loopback, reachable
from ccflare_core.program import typed
from ccflare_mitm.host.closing import let_the_last_in
from ccflare_mitm.host.opening import BACKLOG

logger = logging.getLogger("ccflare")


def postpone() -> None:
    """Keep mitmproxy from listening before it knows our defaults; `listen` makes up for it.

    mitmproxy begins to bind to its own defaults, every interface and port 8080, one turn of the event loop before it
    loads scripts. Without an address to bind to it has got no further than looking up what "every interface" is, so
    that turn can be called off. With one it listens already, as the user has asked for, and is left to finish: what
    comes by it waits, see opening.py.
    """
    if any(hosts()):
        return
    for task in asyncio.all_tasks():
        if task.get_name() == "setup_servers":
            task.cancel()


def check_addresses(settings: Settings, has_keys: Callable[[], bool]) -> None:
    """Raise ConfigError if others than this machine could reach the proxy and nobody asked for that, or unsafely.

    `has_keys` is asked only if it matters.
    """
    for host in remote_hosts():
        where = f"listen_host: {host or 'every interface'} can be reached from other machines"
        if not settings.allow_remote:
            raise ConfigError(f"{where}; use 127.0.0.1, or set ccflare_allow_remote.")
        if not settings.requires_client_tls and not settings.insecure_remote:
            raise ConfigError(
                f"{where}, and client keys would travel in clear; set ccflare_client_tls to required, or "
                "ccflare_insecure_remote if a reverse proxy in front of it speaks TLS."
            )
        if not has_keys():
            raise ConfigError(f"{where}, and there is no client key yet; make one: `{typed('keys client add NAME')}`.")


def remote_hosts() -> list[str]:
    """The addresses among `hosts()` that other machines can reach."""
    return [host for host in hosts() if not is_loopback(host)]


def hosts() -> list[str]:
    """The address of each server to start, "" for every interface: a mode can name one of its own."""
    return [mode.listen_host(ctx.options.listen_host) for mode in modes()]


def ports() -> frozenset[int]:
    """The ports that the proxy listens on."""
    server: Any = ctx.master.addons.get("proxyserver")
    return frozenset(address[1] for instance in server.servers for address in instance.listen_addrs)


def listens_at() -> list[str]:
    """Each address that the proxy listens at, as host and port."""
    server: Any = ctx.master.addons.get("proxyserver")
    found = [address[:2] for instance in server.servers for address in instance.listen_addrs]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found]


def way_in() -> tuple[str, int] | None:
    """Host and port by which programs on this machine reach the proxy; None while it does not listen."""
    server: Any = ctx.master.addons.get("proxyserver")
    found = [address[:2] for instance in server.servers for address in instance.listen_addrs]
    if not found:
        return None
    host, port = next((each for each in found if ":" not in each[0]), found[0])
    return reachable(host), port


def local_address() -> str:
    """The same as in an address; mitmproxy's own while it does not listen."""
    host, port = way_in() or ("127.0.0.1", 8080)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_names() -> frozenset[str]:
    """This machine's name, and the names that the option `certs` has certificates for."""
    certificates = (spec.rpartition("=")[0].lower() for spec in ctx.options.certs)
    return frozenset({socket.gethostname().lower(), *certificates} - {"", "*"})


def addresses() -> set[tuple[str, int]]:
    """Where it is to listen, as far as the options are known."""
    return {(mode.listen_host(ctx.options.listen_host), mode.listen_port(ctx.options.listen_port)) for mode in modes()}


def forgive(early: set[tuple[str, int]]) -> None:
    """Have mitmproxy start all the same if it could not listen where, as the options turned out, it need not.

    With a host on the command line it has tried that with its own port before it knew ours; see `postpone`.
    """
    errors: list[logging.LogRecord] = ctx.master.addons.get("errorcheck").logger.has_errored
    for host, port in early - addresses():
        errors[:] = [error for error in errors if f"failed to listen on {host}:{port} " not in error.getMessage()]


async def check_free() -> None:
    """Raise ConfigError if several workers cannot listen where the options say, at one place and by themselves.

    They would share the port with any other program of the same user that shares it.
    """
    for host, port in addresses():
        if not port:
            raise ConfigError("each worker would have a port of its own; name one for all by -p")
        try:
            found = await asyncio.start_server(lambda *_: None, host, port, start_serving=False)
        except OSError as error:
            raise ConfigError(why_not(error, host, port)) from error
        found.close()


def modes() -> list[Any]:
    """What the proxy is to be, one server each."""
    return [mode_specs.ProxyMode.parse(spec) for spec in ctx.options.mode]


def open_servers() -> list[asyncio.Server]:
    """Those that listen already."""
    server: Any = ctx.master.addons.get("proxyserver")
    return [one for instance in server.servers for one in getattr(instance, "_servers", ()) if is_tcp(one)]


async def listen() -> None:
    """Listen as the options say. Raises ConfigError if that cannot be.

    What listens already, and where it should, goes on with all that is in its queue.
    """
    server: Any = ctx.master.addons.get("proxyserver")
    for mode in modes():
        mode.transport_protocol = mode_specs.TCP  # it is kept by mitmproxy's parser, and so the one that it starts
    known = server.servers._instances
    await close_udp(known.values())
    for spec in [spec for spec, instance in known.items() if not instance.is_running]:
        del known[spec]  # what was called off looks as if it had been started
    kept = [spec for spec, instance in known.items() if is_where_it_should_be(instance)]
    if len(kept) < len(known):
        await server.servers.update(kept)
    with told_by_us():
        await server.setup_servers()
    for instance in server.servers:
        if (error := instance.last_exception) is not None:
            host = instance.mode.listen_host(ctx.options.listen_host)
            raise ConfigError(why_not(error, host, instance.mode.listen_port(ctx.options.listen_port)))
    for listening in open_servers():
        for shared in listening.sockets:
            shared._sock.listen(BACKLOG)  # type: ignore[attr-defined]


@contextlib.contextmanager
def told_by_us() -> Iterator[None]:
    """Leave out what mitmproxy says of an address that it cannot listen on: two lines, with another remedy."""
    words = logging.getLogger(mitmproxys.__name__)

    def shows(record: logging.LogRecord) -> bool:
        return "failed to listen" not in record.getMessage()

    words.addFilter(shows)
    try:
        yield
    finally:
        words.removeFilter(shows)


def check_web_address() -> None:
    """Raise ConfigError if mitmweb's page cannot be at its address, of which mitmproxy itself says a traceback."""
    if "web_port" not in ctx.options:
        return
    host, port = ctx.options.web_host, ctx.options.web_port
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ConfigError(f"web_port: {why_not(error, host, port, '--web-port')}.") from error


def web_address() -> str:
    """Where this machine reaches mitmweb's page, without its token; "" in the other programs."""
    if "web_port" not in ctx.options:
        return ""
    host = ctx.options.web_host
    everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens by this
    host = everywhere.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{ctx.options.web_port}"


def why_not(error: Exception, host: str, port: int, option: str = "-p") -> str:
    """Why nothing can listen there, and what to do."""
    number = getattr(error, "errno", None) or 0
    if number == errno.EADDRINUSE:
        return f"port {port} is in use, something listens there already; stop that, or name another port by {option}"
    why = os.strerror(number) if number > 0 else "no such address"
    return f"nothing can listen on port {port} of {host or 'every interface'} ({why}); name another one by {option}"


async def close_udp(instances: Iterable[Any]) -> None:
    """Leave TCP alone: mitmproxy opens UDP too for `reverse:https://…` (HTTP/3), without our TLS, and for no need."""
    for instance in instances:
        udp = [one for one in instance._servers if not is_tcp(one)]
        instance._servers = [one for one in instance._servers if is_tcp(one)]
        for one in udp:
            one.close()
        await asyncio.gather(*(one.wait_closed() for one in udp))


def is_where_it_should_be(instance: Any) -> bool:
    """Whether a running server has the address that the options name by now."""
    host, port = instance.mode.listen_host(ctx.options.listen_host), instance.mode.listen_port(ctx.options.listen_port)
    return any(host in ("", address[0]) and port in (0, address[1]) for address in instance.listen_addrs)


def is_tcp(listening: object) -> bool:
    """Whether this is asyncio's and so TCP; UDP is mitmproxy's own."""
    return isinstance(listening, asyncio.Server)


async def stop_listening() -> None:
    """Take no more connections; those that are open, or have just come, go on."""
    server: Any = ctx.master.addons.get("proxyserver")
    await let_the_last_in(open_servers())
    await server.servers.update([])
