"""What a client needs in its environment so that what it asks of the API goes through the proxy. Pure.

`ccflare env` prints it, and whatever starts a client or writes its settings takes it from here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ccflare_core.clients.client_runs import PREFIX as RUN
from ccflare_core.clients.keys import PREFIX as KEY_PREFIX

API_HOST = "api.anthropic.com"
PLACEHOLDER = "unused"
"""A client without a credential does not start. It is no secret: what no account answers goes on with it."""

CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
LEADING_ELSEWHERE = ("ANTHROPIC_BASE_URL", "HTTP_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
"""What would lead some requests past the proxy: a base URL, and what programs read instead of HTTPS_PROXY."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERY_HOST = "*"
_NO_PASSWORD = "-"  # noqa: S105 - no password
"""Without any some clients (Python's requests) leave out the user as well, and with it the run that they are in."""


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where the proxy is, and what a client says to it besides: a label, which is no secret, and a client key."""

    place: str
    """Host and port."""
    has_tls: bool = False
    label: str = ""
    key: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """As HTTPS_PROXY has it. A proxy that wants a key and does not get it is asked again for 20 s."""
        name = self.label or ("key" if self.key else "")
        user = f"{name}:{self.key or _NO_PASSWORD}@" if name else ""
        return f"{'https' if self.has_tls else 'http'}://{user}{self.place}"


class Variables(NamedTuple):
    """How a client's environment differs from the one that it would have."""

    set: Mapping[str, str]
    unset: tuple[str, ...]


def client_variables(
    address: ProxyAddress, authority: Path, bundle: Path | None, environ: Mapping[str, str], *, has_login: bool
) -> Variables:
    """What to change in `environ` for a client. With a login or a credential of its own that one stays.

    `authority` is mitmproxy's certificate, and `bundle` the file that has the system's authorities as well, which
    takes their place in Python programs.
    """
    wanted = {"HTTPS_PROXY": address.url, "NODE_EXTRA_CA_CERTS": str(authority)}
    if bundle is not None:
        wanted["SSL_CERT_FILE"] = str(bundle)
    wanted |= {"NODE_USE_ENV_PROXY": "1", "NO_PROXY": no_proxy(environ)}
    if not (has_login or has_credential(environ)):
        # A key of ours goes into the proxy's address alone: out of CLAUDE_CODE_OAUTH_TOKEN it would go upstream.
        wanted |= {"ANTHROPIC_AUTH_TOKEN": PLACEHOLDER, "CLAUDE_CODE_PROMPT_CACHE_TTL": "1h"}
    leading = (*LEADING_ELSEWHERE, "no_proxy")
    return Variables(wanted, tuple(name for name in leading if name in environ))


def has_credential(environ: Mapping[str, str]) -> bool:
    """Whether a client finds a credential of its own there: neither our placeholder nor a key of ours."""
    found = (environ.get(name, "").strip() for name in CREDENTIALS)
    return any(each and each != PLACEHOLDER and not each.startswith(KEY_PREFIX) for each in found)


def key_in(environ: Mapping[str, str]) -> str:
    """The client key that is in use already: in the proxy's address, or in the place of a credential; else "".

    So what was made from an environment of ours is made again from it.
    """
    found = (_said_to_proxy(environ)[1], *(environ.get(name, "").strip() for name in CREDENTIALS))
    return next((each for each in found if each.startswith(KEY_PREFIX)), "")


def label_in(environ: Mapping[str, str]) -> str:
    """The run that is told to the proxy already; "" if none is."""
    user, _ = _said_to_proxy(environ)
    return user if user.startswith(RUN) else ""


def _said_to_proxy(environ: Mapping[str, str]) -> tuple[str, str]:
    """The user and the password in the proxy's address."""
    address = next((environ[name] for name in ("https_proxy", "HTTPS_PROXY") if environ.get(name)), "")
    try:
        parts = urlsplit(address)
        return parts.username or "", parts.password or ""
    except ValueError:
        return "", ""


def no_proxy(environ: Mapping[str, str]) -> str:
    """This machine, and the hosts that the user leaves out, but for those that are the API's."""
    theirs = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = [each for each in theirs.replace(",", " ").split() if not leaves_out_api(each)]
    return ",".join(dict.fromkeys((*_LOOPBACK, *hosts)))


def leaves_out_api(entry: str) -> bool:
    """Whether an entry of NO_PROXY leads requests to the API past the proxy."""
    host = entry.lower().removesuffix(":443").lstrip("*").lstrip(".")
    return entry == _EVERY_HOST or host == API_HOST or (bool(host) and API_HOST.endswith(f".{host}"))
