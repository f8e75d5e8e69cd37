"""What makes mitmproxy faster for this one purpose. `ccflare_tuning=false` leaves all of it out.

Each gain is CPU per request at 16 kept connections and 1 KB, measured on mitmproxy 12.2.3.

`trim` (public means, 30 %): of mitmproxy's ~31 default addons this proxy needs 10. mitmproxy asks each of them at every
hook of every request and connection. An addon stays if the user has set one of its options.

`quicken_headers` (a patch, 6 %): mitmproxy looks up some forty header fields a request, and each look-up converts
every field's name and value through three static methods. Ours gives the same answers, and goes through the fields once
for as long as they stay as they are.

`quicken_options` (a patch, 1 %): mitmproxy reads some ten options a request, and copies each value twice, deeply. Ours
copies what can be changed.

`drop_legacy_log` (a private name, 3 %): for an event that is deprecated since mitmproxy 9 every log line wakes the
event loop and walks all addons. It stays if an addon listens.

`read_largely` (a patch; at 1 MB a sixth of plain mitmproxy's CPU): of what a client has sent mitmproxy takes 64 KB at a
time, and each portion goes through all layers. Ours are as large as what came, up to 256 KB.

`share_often` (public means): a thread that computes, such as the writer's, hands the interpreter on after half a
millisecond where Python's own default is five, for which the event loop waits each time. Shorter gains nothing more.

`spare_what_stays` (public means): a full collection of garbage goes through all objects, of which the start has made
130,000 that stay, and everything stands still for that: some 30 ms on a free machine, 140 on a busy one. Ours goes
through those that came since.
"""

import asyncio
import contextlib
import copy
import gc
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from mitmproxy import ctx, exceptions, optmanager
from mitmproxy.addonmanager import traverse
from mitmproxy.flow import Flow
from mitmproxy.http import Headers
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.types import Path

from ccflare_core.http.headers import Header

# Addons that do nothing for us, with the options that show that somebody wants them after all.
UNNEEDED: dict[str, tuple[str, ...]] = {
    "anticache": ("anticache",),
    "anticomp": ("anticomp",),
    "block": (),  # we refuse foreign clients ourselves, by default more of them
    "blocklist": ("block_list",),
    "browser": (),
    "disableh2c": (),
    "dnsresolver": ("dns_name_servers", "dns_use_hosts_file"),
    "dumper": ("flow_detail", "dumper_filter"),
    "maplocal": ("map_local",),
    "mapremote": ("map_remote",),
    "modifybody": ("modify_body",),
    "modifyheaders": ("modify_headers",),
    "onboarding": ("onboarding_host",),
    "proxyauth": ("proxyauth",),
    "stickyauth": ("stickyauth",),
    "stickycookie": ("stickycookie",),
    "stripdnshttpsrecords": (),
    "updatealtsvc": (),
    "upstreamauth": ("upstream_auth",),
}

FORBIDDEN = ("clientplayback", "serverplayback")
"""A client's replay goes through mitmproxy's own HTTP layer, past the pool; a server's answers in the gate's place.

Where flows are shown there is a replay of ours, see inspector/replay.py.
"""


async def forbid_replay(refused: Callable[[], None]) -> None:
    """Take the addons away that replay what was recorded. `refused` hears of each try."""
    for name in FORBIDDEN:
        addon: Any = ctx.master.addons.get(name)
        if addon is None:
            continue
        with contextlib.suppress(exceptions.AddonManagerError):
            ctx.master.addons.remove(addon)  # gone, but a `done` that is a coroutine is ours to await
        if hasattr(addon, "done"):
            await addon.done()

    def refuse(flows: Sequence[Flow]) -> None:
        refused()
        raise exceptions.CommandError("ccflare does not replay: a replay would go around its accounts or its gate")

    def refuse_file(path: Path) -> None:
        refuse([])

    for command in ("replay.client", "replay.server", "replay.server.add"):
        ctx.master.commands.add(command, refuse)  # mitmproxy keeps the commands of an addon that is gone
    ctx.master.commands.add("replay.server.file", refuse_file)


def apply() -> None:
    """All that makes it faster."""
    trim()
    quicken_headers()
    quicken_options()
    drop_legacy_log()
    read_largely()
    share_often()
    spare_what_stays()


def spare_what_stays() -> None:
    """Have collections of garbage leave out what the start has made."""
    gc.collect()
    gc.freeze()


def share_often() -> None:
    """Have the event loop wait less for threads that compute."""
    sys.setswitchinterval(0.0005)


PORTION = 256 * 1024
"""How much asyncio takes from a socket at a time."""


class LargeReader(asyncio.StreamReader):
    """Gives all that has come, whatever it is asked for."""

    def read(self, n: int = -1) -> Coroutine[Any, Any, bytes]:  # without a coroutine of its own around it
        """What there is, once there is something; nothing at the end."""
        return super().read(2 * PORTION)


def enlarge(reader: Any) -> None:
    """Have this reader give more at a time. At twice the limit it stops to take any."""
    reader.__class__, reader._limit = LargeReader, PORTION


def read_largely() -> None:
    """Have the connections of clients that come from now on read in larger portions."""
    handle_client = ConnectionHandler.handle_client

    def handle(self: ConnectionHandler) -> Coroutine[Any, Any, None]:
        reader: Any = self.transports[self.client].reader
        if isinstance(reader, asyncio.StreamReader):
            enlarge(reader)
        return handle_client(self)

    ConnectionHandler.handle_client = handle  # type: ignore[method-assign]


def trim() -> None:
    """Take away the default addons that nobody asked for."""
    for name, options in UNNEEDED.items():
        if not any(is_wanted(option) for option in options):
            _remove(name)


def drop_legacy_log() -> None:
    """Stop the `add_log` event that nobody listens to."""
    master: Any = ctx.master
    if not any(hasattr(addon, "add_log") for addon in traverse(master.addons.chain)):
        master._legacy_log_events.uninstall()


def quicken_headers() -> None:
    """Make a message's header fields cheap to take and to look up, with the results that mitmproxy's own code has."""
    headers: Any = Headers
    headers.__init__ = make_headers
    headers.get = get_header
    headers.get_all = get_all_headers
    headers.__getitem__ = getitem
    headers.__contains__ = has_header
    headers.__bytes__ = bytes_of
    headers._kconv = staticmethod(bytes.lower)  # what its own does by a call for each field, whenever one is set


_make = Headers.__init__
"""mitmproxy's own."""
_KEPT: Final = "_ccflare_values"
"""The attribute of Headers that has their fields, and what `read_values` says of those."""


@lru_cache(512)
def lower(name: str | bytes) -> bytes:
    """A field's name as it is compared."""
    return name.encode("utf-8", "surrogateescape").lower() if isinstance(name, str) else name.lower()


def make_headers(headers: Headers, fields: Iterable[Header] = (), **more: str | bytes) -> None:
    """As `Headers(fields, …)`."""
    if more:
        _make(headers, fields, **more)
        return
    headers.fields = tuple(map(tuple, fields))  # type: ignore[arg-type]  # pairs stay pairs
    for name, value in headers.fields:
        if type(name) is not bytes or type(value) is not bytes:
            _make(headers, headers.fields)  # which objects, or knows better
            return


def read_values(headers: Headers) -> dict[bytes, bytes]:
    """The fields by name in lower case, those of one name folded into one: read once for a head, and kept with it."""
    fields = headers.fields
    values = {name.lower(): value for name, value in fields}
    if len(values) != len(fields):  # some name comes twice
        values = {}
        for name, value in fields:
            key = name.lower()
            values[key] = values[key] + b", " + value if key in values else value
    vars(headers)[_KEPT] = (fields if type(fields) is tuple else None, values)
    return values


# A request asks for some fifty fields, so the ones below look themselves whether what is kept still holds.


def get_header(headers: Headers, name: str | bytes, default: Any = None) -> Any:
    """As `Headers.get`: the values of this field, folded into one."""
    known, values = vars(headers).get(_KEPT, _NOTHING_KEPT)
    if known is not headers.fields:
        values = read_values(headers)
    found = values.get(lower(name))
    return default if found is None else found.decode("utf-8", "surrogateescape")


def getitem(headers: Headers, name: str | bytes) -> str:
    """As `headers[name]`."""
    known, values = vars(headers).get(_KEPT, _NOTHING_KEPT)
    if known is not headers.fields:
        values = read_values(headers)
    if (found := values.get(lower(name))) is None:
        raise KeyError(name)
    return str(found.decode("utf-8", "surrogateescape"))


def has_header(headers: Headers, name: str | bytes) -> bool:
    """As `name in headers`."""
    known, values = vars(headers).get(_KEPT, _NOTHING_KEPT)
    if known is not headers.fields:
        values = read_values(headers)
    return lower(name) in values


def get_all_headers(headers: Headers, name: str | bytes) -> list[str]:
    """As `Headers.get_all`."""
    wanted = lower(name)
    return [value.decode("utf-8", "surrogateescape") for field, value in headers.fields if field.lower() == wanted]


def bytes_of(headers: Headers) -> bytes:
    """As `bytes(headers)`: how they stand in a head of HTTP/1."""
    return b"".join([b"%b: %b\r\n" % field for field in headers.fields])


_NOTHING_KEPT: Final[tuple[None, dict[bytes, bytes]]] = (None, {})


def quicken_options() -> None:
    """Make it cheap to read an option."""
    option: Any = optmanager._Option
    option.current = current_value


def current_value(option: Any) -> Any:
    """As `_Option.current`."""
    value = option._default if option.value is optmanager.unset else option.value
    return value if isinstance(value, _UNCHANGEABLE) else copy.deepcopy(value)


_UNCHANGEABLE: Final = (str, int, type(None))


def is_wanted(option: str) -> bool:
    """Whether somebody has set this option to something that its addon has to act on."""
    if option not in ctx.options:
        return False
    if option == "flow_detail":
        return int(ctx.options.flow_detail) > 0
    return bool(ctx.options._options[option].has_changed())


def _remove(name: str) -> None:
    addons: Any = ctx.master.addons
    if addon := addons.get(name):
        addons.remove(addon)
