"""What makes mitmproxy faster for this one purpose, by public means only.

`trim`: of mitmproxy's ~31 default addons this proxy needs 10. mitmproxy asks each of them at every hook of every
request and connection; without the others a request costs 30 % less CPU. An addon stays if the user has set one of
its options. `ccflare_tuning=false` keeps them all.
"""

import contextlib
from typing import Any

from mitmproxy import ctx, exceptions

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
    "serverplayback": ("server_replay",),
    "stickyauth": ("stickyauth",),
    "stickycookie": ("stickycookie",),
    "stripdnshttpsrecords": (),
    "updatealtsvc": (),
    "upstreamauth": ("upstream_auth",),
}

FORBIDDEN = "clientplayback"
"""Replays go through mitmproxy's own HTTP layer, past the pool and its guard."""


async def forbid_replay() -> None:
    """Take the addon away that could send requests upstream without a lease."""
    addon: Any = ctx.master.addons.get(FORBIDDEN)
    if addon is not None:
        with contextlib.suppress(exceptions.AddonManagerError):
            ctx.master.addons.remove(addon)  # gone, but its `done` is a coroutine, which is ours to await
        await addon.done()


def trim() -> None:
    """Take away the default addons that nobody asked for."""
    for name, options in UNNEEDED.items():
        if not any(is_wanted(option) for option in options):
            _remove(name)


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
