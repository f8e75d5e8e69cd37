"""Why a client that was connected would go past the proxy all the same. Pure. Values stay out: they may be secrets."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from ccflare_cli.companion.environment import leaves_out_api

PROVIDERS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
"""With one of these Claude Code asks another service than the API."""
NAMES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ANTHROPIC_BASE_URL", *PROVIDERS)
"""The variables that lead a client."""
_OFF = ("", "0", "false")


def reasons(own: Mapping[str, str], shell: Mapping[str, str], managed: Mapping[str, str], place: str) -> Iterator[str]:
    """Each reason as a clause.

    `own` are the variables of the client's settings, which win over the `shell`'s. `managed` are those that an
    administrator sets, which win over both. `place` is the proxy's host and port.
    """
    if overruled := [name for name in NAMES if name in managed]:
        yield f"an administrator's settings have {', '.join(overruled)}"
    found = {**{name: shell[name] for name in NAMES if name in shell}, **own}
    address = own.get("HTTPS_PROXY", "")
    if not address:
        yield "its settings do not have HTTPS_PROXY any more"
    elif _place(address) != place:
        yield f"its HTTPS_PROXY does not lead to {place}"
    if found.get("ANTHROPIC_BASE_URL"):
        where = "its settings have" if "ANTHROPIC_BASE_URL" in own else "this shell has"
        yield f"{where} ANTHROPIC_BASE_URL"
    for name in ("NO_PROXY", "no_proxy"):
        if any(leaves_out_api(entry) for entry in found.get(name, "").replace(",", " ").split()):
            yield f"{name} leaves out the API's host"
    yield from (f"{name} is set" for name in PROVIDERS if found.get(name, "").lower() not in _OFF)


def _place(address: str) -> str:
    try:
        return urlsplit(address).netloc.rpartition("@")[2]
    except ValueError:
        return ""
