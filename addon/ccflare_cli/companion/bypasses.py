"""Why a client that was connected would go past the proxy all the same. Pure. Values stay out: they may be secrets."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from ccflare_cli.companion.environment import leaves_out_api

PROVIDERS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
"""With one of these Claude Code asks another service than the API."""
_PROXY = ("HTTPS_PROXY", "https_proxy")
_LEAVING_OUT = ("NO_PROXY", "no_proxy")
NAMES = (*_PROXY, *_LEAVING_OUT, "ANTHROPIC_BASE_URL", *PROVIDERS)
"""The variables that lead a client."""
_OFF = ("", "0", "false")


def reasons(
    own: Mapping[str, str],
    shell: Mapping[str, str],
    managed: Mapping[str, str],
    place: str,
    project: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Each reason as a clause.

    `own` are the variables of the client's settings, which win over the `shell`'s. Those of the `project` in this
    folder win over both, and those that an administrator sets (`managed`) over all. `place` is the proxy's host and
    port.
    """
    if overruled := [name for name in NAMES if name in managed]:
        yield f"an administrator's settings have {', '.join(overruled)}"
    if leading := [name for name, value in (project or {}).items() if _leads_past(name, value, place)]:
        yield f"the settings of the project in this folder have {', '.join(leading)}"
    found = {**{name: shell[name] for name in NAMES if name in shell}, **own}
    address = own.get("HTTPS_PROXY", "")
    if not address:
        yield "its settings do not have HTTPS_PROXY any more"
    elif _place(address) != place:
        yield f"its HTTPS_PROXY does not lead to {place}"
    if found.get("ANTHROPIC_BASE_URL"):
        where = "its settings have" if "ANTHROPIC_BASE_URL" in own else "this shell has"
        yield f"{where} ANTHROPIC_BASE_URL"
    for name in _LEAVING_OUT:
        if _leads_past(name, found.get(name, ""), place):
            yield f"{name} leaves out the API's host"
    yield from (f"{name} is set" for name in PROVIDERS if _leads_past(name, found.get(name, ""), place))


def _leads_past(name: str, value: str, place: str) -> bool:
    """Whether a client with this value for the variable goes past the proxy."""
    if name in _LEAVING_OUT:
        return any(leaves_out_api(entry) for entry in value.replace(",", " ").split())
    if name in PROVIDERS:
        return value.lower() not in _OFF
    if name == "ANTHROPIC_BASE_URL":
        return bool(value)
    return name in _PROXY and _place(value) != place


def _place(address: str) -> str:
    try:
        return urlsplit(address).netloc.rpartition("@")[2]
    except ValueError:
        return ""
